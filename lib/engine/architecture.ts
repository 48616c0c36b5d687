/** What a checkpoint is: family and typed configs, from its config files where it has them, else from its tensors. */

import { FormatError } from "../base/errors.ts";
import type { Shape } from "../base/shape.ts";
import type { Checkpoint, ComponentName, Weights } from "../formats/checkpoint.ts";
import { toFloat32 } from "../formats/safetensors.ts";
import type { ClipConfig } from "../models/clip.ts";
import { type ConditionerConfig, conditionerFromJson } from "../models/conditioner.ts";
import { checkPipeline } from "../models/config_fields.ts";
import {
  clipConfigFromJson,
  taesdConfigFromJson,
  unetConfigFromJson,
  vaeConfigFromJson,
} from "../models/config_from_json.ts";
import {
  clipConfigFromShapes,
  taesdConfigFromShapes,
  unetConfigFromShapes,
  vaeConfigFromShapes,
} from "../models/config_from_shapes.ts";
import {
  FAMILIES,
  type Family,
  familyOf,
  predictionOf,
  SD2_PREDICTION_TENSOR,
  type Variant,
  variantOf,
} from "../models/family.ts";
import { type OwnDefaults, ownDefaults } from "../models/defaults.ts";
import type { TaesdConfig } from "../models/taesd.ts";
import type { UnetConfig } from "../models/unet.ts";
import type { VaeConfig } from "../models/vae.ts";
import type { Manifest } from "../nn/params.ts";
import { taesdManifest, vaeManifest } from "./first_stage.ts";
import { conditionerManifest } from "./conditioner.ts";
import { clipManifest, unetManifest } from "./stages.ts";

/** The configs of whatever components a checkpoint has. */
export interface Architecture {
  /** The checkpoint's, for errors. */
  readonly path: string;
  /** `undefined` without a UNet. */
  readonly family: Family | undefined;
  readonly variant: Variant;
  readonly unet: UnetConfig | undefined;
  readonly vae: VaeConfig | undefined;
  readonly taesd: TaesdConfig | undefined;
  readonly textEncoders: ReadonlyMap<"text_encoder" | "text_encoder_2", ClipConfig>;
  readonly conditioner: ConditionerConfig | undefined;
  /** Contents of scheduler_config.json, or the family's. */
  readonly scheduler: unknown;
  readonly zeroEmptyPrompt: boolean;
  /** What the pipeline's index says of how it is asked. */
  readonly defaults: Partial<OwnDefaults>;
  /** model_index.json, where there is one. */
  readonly index: unknown;
}

const TEXT_ENCODERS = ["text_encoder", "text_encoder_2"] as const;

/** Throws `FormatError` where the architecture is not supported, naming it. */
export async function architectureOf(checkpoint: Checkpoint): Promise<Architecture> {
  const { components, path } = checkpoint;
  const configs = configsOf(checkpoint);
  if (configs.has("model_index")) checkPipeline(configs.get("model_index"), path);
  const config = <T>(
    name: ComponentName,
    fromJson: (json: unknown, where: string) => T,
    fromShapes: (shapes: ReadonlyMap<string, Shape>, where: string) => T,
  ): T | undefined => {
    const weights = components.get(name);
    if (!weights) return undefined;
    if (!configs.has(name)) return fromShapes(shapesOf(weights), `the ${name} of "${path}"`);
    return fromJson(configs.get(name), `the ${name}'s config.json in "${path}"`);
  };
  const unet = config("unet", unetConfigFromJson, (s, w) => unetConfigFromShapes(s, {}, w));
  const family = unet && familyOf(unet);
  const scale = FAMILIES[family ?? "sd1"].latentScale;
  const vae = config(
    "vae",
    vaeConfigFromJson,
    (s, w) => vaeConfigFromShapes(s, { scalingFactor: scale }, w),
  );
  const textEncoders = new Map<(typeof TEXT_ENCODERS)[number], ClipConfig>();
  for (const name of TEXT_ENCODERS) {
    const clip = config(name, clipConfigFromJson, (s, w) => clipConfigFromShapes(s, {}, w));
    if (clip) textEncoders.set(name, clip);
  }
  const scheduler = configs.get("scheduler") ?? await familyScheduler(checkpoint, family, unet);
  return {
    path,
    family,
    variant: unet ? variantOf(unet, scheduler) : "base",
    unet,
    vae,
    taesd: tiny(checkpoint),
    textEncoders,
    conditioner: components.has("conditioner")
      ? conditionerFromJson(
        configs.get("conditioner"),
        `the conditioner's config.json in "${path}"`,
      )
      : undefined,
    scheduler,
    zeroEmptyPrompt: zeroesEmptyPrompt(configs.get("model_index"), family),
    defaults: ownDefaults(configs.get("model_index"), path),
    index: configs.get("model_index"),
  };
}

/**
 * Config files, else what a single file's metadata says under "config" (JSON: component → config), which small models
 * need because shapes tell neither heads nor groups.
 */
export function configsOf({ configs, metadata, path }: Checkpoint): ReadonlyMap<string, unknown> {
  const text = metadata.get("config");
  if (configs.size > 0 || text === undefined) return configs;
  try {
    return new Map(Object.entries(JSON.parse(text)));
  } catch (cause) {
    throw new FormatError(`Cannot use the "config" in the metadata of "${path}": it is not JSON`, {
      cause,
    });
  }
}

function shapesOf(weights: Weights): Map<string, Shape> {
  return new Map([...weights.infos].map(([name, { shape }]) => [name, shape]));
}

function tiny(checkpoint: Checkpoint): TaesdConfig | undefined {
  const { components, path } = checkpoint;
  const configs = configsOf(checkpoint);
  const halves = (["taesd_encoder", "taesd_decoder"] as const).flatMap((name) => {
    const weights = components.get(name);
    return weights ? [...shapesOf(weights)] : [];
  });
  if (halves.length === 0) return undefined;
  return configs.has("taesd")
    ? taesdConfigFromJson(configs.get("taesd"), `the config.json of "${path}"`)
    : taesdConfigFromShapes(new Map(halves), `"${path}"`);
}

/**
 * The autoencoder of another checkpoint for a denoiser's family: a bare one does not tell its scale, and serves the family
 * that it is taken for.
 */
export function autoencoderFor(
  vae: VaeConfig,
  checkpoint: Checkpoint,
  family: Family | undefined,
): VaeConfig {
  if (family === undefined || configsOf(checkpoint).has("vae")) return vae;
  return { ...vae, scalingFactor: FAMILIES[family].latentScale };
}

/** SDXL's pipelines take zeros for an empty negative prompt unless their index says otherwise. */
function zeroesEmptyPrompt(index: unknown, family: Family | undefined): boolean {
  if (typeof index === "object" && index !== null && "force_zeros_for_empty_prompt" in index) {
    return index.force_zeros_for_empty_prompt === true;
  }
  return family === "sdxl";
}

/** The family's training schedule with the prediction that the file's own evidence tells. */
async function familyScheduler(
  { components, ignored, unexpected, metadata, path }: Checkpoint,
  family: Family | undefined,
  unet: UnetConfig | undefined,
): Promise<unknown> {
  const weights = components.get("unet");
  if (!weights || !unet || !family) return FAMILIES.sd1.scheduler;
  let bias: Float32Array | undefined;
  if (family === "sd2" && weights.infos.has(SD2_PREDICTION_TENSOR)) {
    const { dtype, data } = await weights.read(SD2_PREDICTION_TENSOR);
    bias = toFloat32(dtype, data, `${SD2_PREDICTION_TENSOR} of "${path}"`);
  }
  const { prediction, rescaleBetasZeroSnr } = predictionOf(family, {
    names: new Set([...weights.infos.keys(), ...ignored, ...unexpected]),
    metadata,
    inChannels: unet.inChannels,
    ...(bias && { bias }),
  });
  return {
    ...FAMILIES[family].scheduler,
    prediction_type: prediction,
    rescale_betas_zero_snr: rescaleBetasZeroSnr,
  };
}

/** The manifest of each component that a checkpoint has. Throws `FormatError` where sizes do not fit one another. */
export function manifestsOf(architecture: Architecture): Map<ComponentName, Manifest> {
  const { unet, vae, taesd, textEncoders, conditioner, path } = architecture;
  const manifests = new Map<ComponentName, Manifest>();
  const add = (name: ComponentName, make: () => Manifest) => {
    try {
      manifests.set(name, make());
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new FormatError(`Cannot use the ${name} of "${path}": ${error.message}`, {
        cause: error,
      });
    }
  };
  for (const [name, config] of textEncoders) add(name, () => clipManifest(name, config));
  if (conditioner) add("conditioner", () => conditionerManifest(conditioner));
  if (unet) add("unet", () => unetManifest(unet));
  if (vae) add("vae", () => vaeManifest(vae));
  if (taesd) {
    add("taesd_encoder", () => taesdManifest("encoder", taesd));
    add("taesd_decoder", () => taesdManifest("decoder", taesd));
  }
  return manifests;
}

/** Throws `FormatError` naming the components that making pictures from text needs and the checkpoint lacks. */
export function requirePipeline(
  architecture: Architecture,
  path: string,
): { family: Family; unet: UnetConfig } {
  const { family, unet, textEncoders, conditioner } = architecture;
  const wanted = family === "sdxl" ? 2 : conditioner ? 0 : 1;
  const lacks = [
    ...(unet ? [] : ["a UNet"]),
    ...(textEncoders.size < wanted ? [wanted === 2 ? "two text encoders" : "a text encoder"] : []),
  ];
  if (!family || !unet || lacks.length > 0) {
    throw new FormatError(
      `Cannot make pictures with "${path}": it lacks ${
        lacks.join(" and ")
      }; a whole checkpoint is needed (the component alone can be given as --vae or --taesd)`,
    );
  }
  return { family, unet };
}
