/** What a checkpoint is in another form: the tensors of its parts, and what configs say of them as diffusers has it. */

import { isDeepStrictEqual } from "node:util";
import { FormatError } from "../base/errors.ts";
import type { Checkpoint, ComponentName, Weights } from "../formats/checkpoint.ts";
import { tensorsOf, WEIGHT_FILES } from "../formats/diffusers_folder.ts";
import type { TensorData } from "../formats/safetensors.ts";
import { besideOf } from "../models/beside.ts";
import type { ClipConfig } from "../models/clip.ts";
import { unetConfigFromJson } from "../models/config_from_json.ts";
import { clipOutput, FAMILIES, type Family } from "../models/family.ts";
import {
  clipClass,
  clipJson,
  type Pipeline,
  pipelineJson,
  type Purpose,
  stableDiffusionJson,
  taesdJson,
  unetJson,
  vaeJson,
} from "../models/diffusers_json.ts";
import type { UnetConfig } from "../models/unet.ts";
import { type Architecture, configsOf, manifestsOf } from "./architecture.ts";
import { compare, requireMatch } from "./weights.ts";

/** A part's folder in a pipeline. */
export type PartFolder = "text_encoder" | "text_encoder_2" | "conditioner" | "unet" | "vae";

/** One component of a part: both halves of a TAESD are one part. */
export interface Piece {
  readonly component: ComponentName;
  /** Under diffusers' names. */
  readonly tensors: readonly TensorData[];
}

/** A part on its way into another form. */
export interface ConvertedPart {
  readonly name: PartFolder;
  /** What its config is called: "taesd" for a TAESD in the place of a VAE. */
  readonly config: string;
  readonly pieces: readonly Piece[];
  /** Contents of config.json. */
  readonly json: unknown;
  /** config.json as it was written, where it was. */
  readonly text: string | undefined;
  /** Library and class that model_index.json names. */
  readonly made: Pipeline[string];
  /** Name of its file of weights in a folder. */
  readonly file: string;
}

type Json = Readonly<Record<string, unknown>>;
const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** What a config says of each part, and what it is made of. */
interface Description {
  readonly name: PartFolder;
  /** Its config's name. */
  readonly config: string;
  readonly components: readonly ComponentName[];
  readonly library: "diffusers" | "transformers" | "ldm";
  readonly className: (architecture: Architecture) => string;
  /** config.json from what is known of the architecture; `undefined` where that does not have it. */
  readonly json: (architecture: Architecture) => Json | undefined;
  /** Whether a config that comes without its file is as good: transformers tells 1 from 1.0. */
  readonly keepsJson: boolean;
}

const textEncoder = (name: "text_encoder" | "text_encoder_2"): Description => ({
  name,
  config: name,
  components: [name],
  library: "transformers",
  className: ({ textEncoders }) => clipClass(textEncoders.get(name) ?? { projection: undefined }),
  json({ textEncoders, family = "sd1" }) {
    const config = textEncoders.get(name);
    const [first, second = first] = FAMILIES[family].padTokens;
    const pad = name === "text_encoder" ? first : second;
    return config && clipJson(config, {
      start: Math.max(0, config.eosTokenId - 1),
      padding: pad === 0 ? 0 : config.eosTokenId,
    });
  },
  keepsJson: false,
});

const DESCRIPTIONS: readonly Description[] = [
  textEncoder("text_encoder"),
  textEncoder("text_encoder_2"),
  {
    name: "conditioner",
    config: "conditioner",
    components: ["conditioner"],
    library: "ldm",
    className: () => "Conditioner",
    json: () => undefined,
    keepsJson: true,
  },
  {
    name: "unet",
    config: "unet",
    components: ["unet"],
    library: "diffusers",
    className: () => "UNet2DConditionModel",
    json: denoiserJson,
    keepsJson: true,
  },
  {
    name: "vae",
    config: "vae",
    components: ["vae"],
    library: "diffusers",
    className: ({ vae }) => vae?.codes === undefined ? "AutoencoderKL" : "VQModel",
    json: ({ vae, family = "sd1" }) => vae && vaeJson(vae, FAMILIES[family].size),
    keepsJson: true,
  },
  {
    name: "vae",
    config: "taesd",
    components: ["taesd_encoder", "taesd_decoder"],
    library: "diffusers",
    className: () => "AutoencoderTiny",
    json: ({ taesd }) => taesd && taesdJson(taesd),
    keepsJson: true,
  },
];

/** config.json of a UNet, and the assurance that it says all of it. Throws `FormatError` where diffusers has no words for it. */
function denoiserJson({ unet, family = "sd1", vae }: Architecture): Json | undefined {
  if (!unet) return undefined;
  const factor = 2 ** ((vae?.channels.length ?? 4) - 1);
  const sampleSize = unet.sampleSize ?? Math.ceil(FAMILIES[family].size / factor);
  const config: UnetConfig = { ...unet, sampleSize };
  // SD 2's attention exceeds f16: Stability's own configs say so
  const json = { ...unetJson(config), ...(family === "sd2" && { upcast_attention: true }) };
  if (isDeepStrictEqual(unetConfigFromJson(json), config)) return json;
  throw new FormatError(
    "Cannot describe this UNet as diffusers does: its transformers are as deep as no config.json can say",
  );
}

/** The parts of a checkpoint and the keys of tensors that no part needs. Throws `FormatError` where something is missing. */
export async function partsOf(
  checkpoint: Checkpoint,
  architecture: Architecture,
  /** Those that are wanted, as they are to be written. */
  components: ReadonlyMap<ComponentName, Weights>,
): Promise<{ readonly parts: ConvertedPart[]; readonly dropped: readonly string[] }> {
  const { path } = checkpoint;
  const manifests = manifestsOf(architecture);
  const parts: ConvertedPart[] = [];
  const dropped: string[] = [];
  for (const description of DESCRIPTIONS) {
    const { name, config, library, className, keepsJson } = description;
    const pieces: Piece[] = [];
    for (const component of description.components) {
      const weights = components.get(component);
      const manifest = manifests.get(component);
      if (!weights || !manifest) continue;
      const differences = compare(weights.infos, manifest, component);
      requireMatch(differences, component, path);
      dropped.push(...differences.unexpected.map(({ source }) => source));
      const strange = new Set(differences.unexpected.map((info) => info.name));
      const tensors = tensorsOf(weights);
      pieces.push({ component, tensors: tensors.filter((tensor) => !strange.has(tensor.name)) });
    }
    if (pieces.length === 0) continue;
    const text = await checkpoint.configText(pieces[0].component);
    const said = text !== undefined || keepsJson ? configsOf(checkpoint).get(config) : undefined;
    parts.push({
      name,
      config,
      pieces,
      json: said ?? description.json(architecture),
      text,
      made: [library, className(architecture)],
      file: WEIGHT_FILES[library === "transformers" ? "transformers" : "diffusers"],
    });
  }
  return { parts, dropped };
}

/**
 * The text encoder of a single file of SD 2 as folders have it: without the layer after the one whose states are used, and
 * without the projection.
 */
export function folderClip(family: Family | undefined, config: ClipConfig): ClipConfig {
  if (family !== "sd2") return config;
  const { skip } = clipOutput(family, config, 1);
  return { ...config, layers: config.layers - skip, projection: undefined };
}

/** scheduler_config.json. A family's own, which no file said, has a class of diffusers that knows all its settings. */
export function schedulerOf(checkpoint: Checkpoint, { scheduler, variant }: Architecture): unknown {
  if (configsOf(checkpoint).has("scheduler") || !isObject(scheduler)) return scheduler;
  const { rescale_betas_zero_snr: rescales, ...rest } = scheduler;
  // as the first LCM, LCM_Dreamshaper_v7, has it
  if (variant === "lcm") {
    return { ...rest, _class_name: "LCMScheduler", set_alpha_to_one: true, steps_offset: 0 };
  }
  if (rescales !== true) return rest;
  const named = rest._class_name;
  return {
    ...rest,
    _class_name: named === "PNDMScheduler" ? "DDIMScheduler" : named, // which has no such setting
    rescale_betas_zero_snr: true,
  };
}

/**
 * model_index.json: the checkpoint's own with these components and no others, else one for its family. Throws `FormatError`
 * where the UNet sees something that nothing explains.
 */
export function indexOf(
  path: string,
  { index, family, variant, unet, conditioner, zeroEmptyPrompt }: Architecture,
  components: Pipeline,
): Json {
  const beside = unet && besideOf(index, unet, path);
  if (isObject(index)) return withComponents(index, components);
  if (conditioner || (beside && beside.source !== "mask")) return pipelineJson(components);
  if (family === "sdxl") {
    const json = stableDiffusionJson(components, beside ? "xlInpaint" : "xl");
    return { ...json, force_zeros_for_empty_prompt: zeroEmptyPrompt };
  }
  const purpose: Purpose = beside ? "inpaint" : variant === "lcm" ? "lcm" : "text";
  return stableDiffusionJson(components, purpose);
}

/** An index with these components; others, such as a safety checker, are none. */
function withComponents(index: Json, components: Pipeline): Json {
  const others = Object.entries(index).map(([name, value]) => [
    name,
    Array.isArray(value) && !(name in components) ? [null, null] : value,
  ]);
  const json = { ...Object.fromEntries(others), ...components };
  return "safety_checker" in json ? { ...json, requires_safety_checker: false } : json;
}
