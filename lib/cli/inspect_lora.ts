/** What `ldm inspect` tells of a LoRA: which models it fits, what it changes of them, and how it was trained. */

import { counted } from "../base/counted.ts";
import sd1 from "../../fixtures/configs/sd15.json" with { type: "json" };
import sd2 from "../../fixtures/configs/sd2_inpainting.json" with { type: "json" };
import sdxl from "../../fixtures/configs/sdxl.json" with { type: "json" };
import { FormatError } from "../base/errors.ts";
import { type Shape, show } from "../base/shape.ts";
import { clipManifest, unetManifest } from "../engine/stages.ts";
import { openCheckpoint } from "../formats/checkpoint.ts";
import { LoraFile, type LoraMisfit, type LoraPart } from "../formats/lora.ts";
import { endOf, layerOf, LORA_COMPONENTS, type LoraComponent } from "../formats/lora_names.ts";
import { SafetensorsFile } from "../formats/safetensors.ts";
import { clipConfigFromJson, unetConfigFromJson } from "../models/config_from_json.ts";
import { FAMILIES, type Family } from "../models/family.ts";
import { checkpointShape, type Manifest } from "../nn/params.ts";
import { describeTensors } from "./inspect_file.ts";
import { aligned, count, named, type Report, shortened, tallied, tally } from "./listing.ts";
import { fileSize } from "./progress.ts";

/** Whether a path is a file that holds pairs of matrices, however they are named. */
export async function isLora(path: string): Promise<boolean> {
  const isFile = await Deno.stat(path).then((info) => info.isFile, () => false);
  if (!isFile || path.endsWith(".json")) return false;
  using file = await SafetensorsFile.open(path);
  return file.tensors.keys().some((name) => endOf(name)?.part === "down");
}

/** `model` is the checkpoint to compare it with; where there is none, it is compared with each family. */
export async function describeLora(path: string, model?: string): Promise<Report> {
  let file: LoraFile;
  try {
    file = await LoraFile.open(path);
  } catch (error) {
    if (error instanceof FormatError) return await describeTensors(path, "a LoRA", error.message);
    throw error;
  }
  using lora = file;
  const parts = await lora.parts();
  const fit = model === undefined
    ? familiesThatFit(lora)
    : { families: undefined, titles: [`"${model}"`], ...fitOf(lora, await layersOf(model)) };
  const { size } = await Deno.stat(path);
  const components = LORA_COMPONENTS.flatMap((component) => {
    const mine = parts.filter((part) => part.component === component);
    return mine.length === 0 ? [] : [summary(component, mine)];
  });
  const training = trainingOf(lora.metadata);
  const { fitting } = fit;
  const { dialects, strays, metadata } = lora;
  return {
    json: {
      kind: "lora",
      path,
      bytes: size,
      names: dialects,
      families: fit.families,
      layers: lora.size,
      fitting,
      components,
      training: Object.fromEntries(training),
      unknown: fit.unknown,
      misshapen: fit.misfits,
      strays,
      metadata: Object.fromEntries(metadata),
    },
    text: [
      `${path}: a LoRA${titleOf(fit.titles, fitting, lora.size)}, ${fileSize(size)}, in ${
        dialects.map((dialect) => `${dialect}'s`).join(" and ")
      } names`,
      ...aligned(components.map(row)),
      ...(training.length > 0
        ? ["trained with:", ...aligned(training.map(([name, value]) => [name, shortened(value)]))]
        : []),
      ...named("of other extents", fit.misfits.map(aboutMisfit), MANY),
      ...named("layers that are not there", fit.unknown, MANY),
      ...named("belonging to no layer", strays, MANY),
    ].join("\n"),
  };
}

/** Which model it is for, and how much of it fits. */
function titleOf(titles: readonly string[], fitting: number, layers: number): string {
  if (titles.length === 0) {
    return " for no family that is known (`-m` compares it with a checkpoint)";
  }
  const model = titles.join(" or ");
  if (fitting === layers) return ` for ${model}`;
  return ` of whose ${layers} layers ${fitting} fit ${model}`;
}

/** Names that are shown in a list. */
const MANY = 20;

function aboutMisfit({ source, up, down, expected }: LoraMisfit): string {
  return `${source}: ${show(up)} by ${show(down)}, that layer's weight is ${show(expected)}`;
}

// ---- what it fits

/** Layers of each component, without ".weight", and their weights' shapes. */
type Layers = ReadonlyMap<LoraComponent, ReadonlyMap<string, Shape>>;

interface Fit {
  /** How many layers do. */
  readonly fitting: number;
  /** Layers that the model does not have, by the file's names. */
  readonly unknown: readonly string[];
  readonly misfits: readonly LoraMisfit[];
}

function fitOf(lora: LoraFile, layers: Layers): Fit {
  const found = [...layers].map(([component, shapes]) => lora.compare(component, shapes));
  const misfits = found.flatMap((each) => each.misfits);
  const fitting = found.flatMap(({ layers }) => [...layers.values()]);
  const unknown = lora.sourcesBut(new Set([...fitting, ...misfits].map(sourceOf)));
  return { fitting: fitting.length, unknown, misfits };
}

function sourceOf({ source }: { readonly source: string }): string {
  return source;
}

/** The families whose layers it fits best: several where it changes only what they have in common. */
function familiesThatFit(
  lora: LoraFile,
): Fit & { readonly families: readonly Family[]; readonly titles: readonly string[] } {
  const fits = FAMILY_NAMES.map((family) => ({
    family,
    ...fitOf(lora, new Map(CONFIGS[family]().map(withoutSuffix))),
  }));
  const most = Math.max(...fits.map(({ fitting }) => fitting));
  if (most === 0) return { fitting: 0, unknown: [], misfits: [], families: [], titles: [] };
  const best = fits.filter(({ fitting }) => fitting === most);
  const families = best.map(({ family }) => family);
  return { ...best[0], families, titles: families.map((family) => FAMILIES[family].title) };
}

const FAMILY_NAMES: readonly Family[] = ["sd1", "sd2", "sdxl"];

/** What LoRAs of each family change. The configs at hand for SD 2 are of its inpainting model. */
const CONFIGS: Readonly<Record<Family, () => readonly (readonly [LoraComponent, Manifest])[]>> = {
  sd1: () => [
    ["unet", unetManifest(unetConfigFromJson(sd1.unet))],
    ["text_encoder", clipManifest("text_encoder", clipConfigFromJson(sd1.text_encoder))],
  ],
  sd2: () => [
    ["unet", unetManifest(unetConfigFromJson({ ...sd2.unet, in_channels: 4 }))],
    ["text_encoder", clipManifest("text_encoder", clipConfigFromJson(sd2.text_encoder))],
  ],
  sdxl: () => [
    ["unet", unetManifest(unetConfigFromJson(sdxl.unet))],
    ["text_encoder", clipManifest("text_encoder", clipConfigFromJson(sdxl.text_encoder))],
    ["text_encoder_2", clipManifest("text_encoder_2", clipConfigFromJson(sdxl.text_encoder_2))],
  ],
};

function withoutSuffix(
  [component, manifest]: readonly [LoraComponent, Manifest],
): [LoraComponent, ReadonlyMap<string, Shape>] {
  const shapes = manifest.values().map((entry) =>
    [entry.name.slice(component.length + 1), checkpointShape(entry)] as const
  );
  return [component, weightsIn(shapes)];
}

/** The layers that a checkpoint has. */
async function layersOf(path: string): Promise<Layers> {
  await using checkpoint = await openCheckpoint(path);
  const layers = new Map<LoraComponent, ReadonlyMap<string, Shape>>();
  for (const component of LORA_COMPONENTS) {
    const weights = checkpoint.components.get(component);
    if (!weights) continue;
    layers.set(
      component,
      weightsIn(weights.infos.values().map(({ name, shape }) => [name, shape] as const)),
    );
  }
  return layers;
}

const WEIGHT = ".weight";

function weightsIn(
  shapes: Iterable<readonly [name: string, shape: Shape]>,
): ReadonlyMap<string, Shape> {
  return new Map(
    [...shapes].flatMap(([name, shape]) =>
      name.endsWith(WEIGHT) ? [[name.slice(0, -WEIGHT.length), shape] as const] : []
    ),
  );
}

// ---- what it changes

/** Kinds of layers, by their names with underscores; the first that fits counts. */
const KINDS: readonly (readonly [RegExp, string])[] = [
  [/attn[12]_|self_attn_/, "attention"],
  [/_ff_net_|_mlp_fc/, "feed-forward"],
  [/proj_(in|out)$/, "projection"],
  [/resnets|conv|(in|out|emb)_layers|_op$/, "convolution"],
];

function kindOf({ source }: LoraPart): string {
  const { layer = source } = layerOf(source) ?? {};
  return KINDS.find(([pattern]) => pattern.test(layer))?.[1] ?? "other";
}

function summary(name: LoraComponent, parts: readonly LoraPart[]) {
  const rising = (values: readonly number[]) => [...new Set(values)].sort((a, b) => a - b);
  return {
    name,
    layers: parts.length,
    modules: tally(parts.map(kindOf)),
    ranks: rising(parts.map(({ rank }) => rank)),
    alphas: rising(parts.map(({ alpha }) => alpha)),
    parameters: parts.reduce((sum, { parameters }) => sum + parameters, 0),
    bytes: parts.reduce((sum, { bytes }) => sum + bytes, 0),
    dtypes: tally(parts.flatMap(({ dtypes }) => dtypes)),
  };
}

function row(
  { name, layers, modules, ranks, alphas, parameters, dtypes }: ReturnType<typeof summary>,
): string[] {
  return [
    name,
    counted(layers, "layer"),
    `rank ${range(ranks)}`,
    `alpha ${range(alphas)}`,
    counted(parameters, "parameter", count(parameters)),
    tallied(dtypes),
    tallied(modules),
  ];
}

/** Rising numbers: "4", "4, 8", "1 to 64". */
function range(values: readonly number[]): string {
  return values.length > 3 ? `${values[0]} to ${values.at(-1)}` : values.join(", ");
}

// ---- how it was trained

/** What trainers write, of that what a user asks for, and as what it is told. The names are kohya's. */
const TRAINING: readonly (readonly [key: string, title: string])[] = [
  ["modelspec.title", "title"],
  ["modelspec.author", "author"],
  ["modelspec.trigger_phrase", "trigger"],
  ["ss_sd_model_name", "base model"],
  ["ss_base_model_version", "version"],
  ["modelspec.architecture", "architecture"],
  ["ss_network_module", "network"],
  ["ss_network_args", "network's arguments"],
  ["ss_resolution", "resolution"],
  ["ss_num_train_images", "pictures"],
  ["ss_max_train_steps", "steps"],
  ["ss_steps", "steps made"],
  ["ss_num_epochs", "epochs"],
  ["ss_total_batch_size", "batch"],
  ["ss_learning_rate", "rate"],
  ["ss_unet_lr", "rate of the UNet"],
  ["ss_text_encoder_lr", "rate of the text encoder"],
  ["ss_optimizer", "optimizer"],
  ["ss_lr_scheduler", "schedule of the rate"],
  ["ss_min_snr_gamma", "min-SNR gamma"],
  ["ss_noise_offset", "noise offset"],
  ["ss_clip_skip", "clip skip"],
  ["ss_seed", "seed"],
  ["ss_training_comment", "comment"],
];

function trainingOf(metadata: ReadonlyMap<string, string>): [title: string, value: string][] {
  return TRAINING.flatMap(([key, title]) => {
    const value = metadata.get(key)?.trim();
    return value === undefined || ["", "None", "null", "{}"].includes(value)
      ? []
      : [[title, value]];
  });
}
