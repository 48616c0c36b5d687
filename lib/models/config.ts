/**
 * What a model is made of, as data: read from diffusers' config.json files, or derived from tensor
 * shapes alone where a single file carries no configs; and what each family is used with. Every
 * number that the files leave open stands here with its source. An architecture that is not built
 * here is refused by name.
 *
 * Convention: names and shapes are diffusers' ("conv_in.weight" → [320, 4, 3, 3]), without the
 * component's prefix.
 */

import { FormatError } from "../base/errors.ts";
import { type Shape, show } from "../base/shape.ts";
import { type Activation, ACTIVATIONS } from "../nn/layers.ts";
import type { ClipConfig, ClipOutput } from "./clip.ts";
import { TAESD, type TaesdConfig } from "./taesd.ts";
import type { UnetConfig, UnetLevel } from "./unet.ts";
import type { VaeConfig } from "./vae.ts";

// ---- reading JSON

type Json = Readonly<Record<string, unknown>>;

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
const isNumber = (value: unknown): value is number =>
  typeof value === "number" && Number.isFinite(value);
const isCount = (value: unknown): value is number =>
  isNumber(value) && Number.isInteger(value) && value > 0;
const isString = (value: unknown): value is string => typeof value === "string";
const isBoolean = (value: unknown): value is boolean => typeof value === "boolean";

/** The fields of one config file, checked as they are read; null is as good as absent. */
class Fields {
  readonly #json: Json;
  constructor(json: unknown, readonly where: string) {
    if (!isObject(json)) throw new FormatError(`Cannot use ${where}: it is not a JSON object`);
    this.#json = json;
  }
  has(key: string): boolean {
    return this.raw(key) !== undefined;
  }
  raw(key: string): unknown {
    return this.#json[key] ?? undefined;
  }
  /** Whether the file says null, rather than nothing. */
  isNull(key: string): boolean {
    return this.#json[key] === null;
  }
  fail(key: string, expected: string): FormatError {
    const value = JSON.stringify(this.#json[key]) ?? "missing";
    return new FormatError(`Cannot use ${this.where}: "${key}" is ${value}, expected ${expected}`);
  }
  #read<T>(key: string, is: (v: unknown) => v is T, what: string, fallback: T | undefined): T {
    const value = this.raw(key) ?? fallback;
    if (!is(value)) throw this.fail(key, what);
    return value;
  }
  count(key: string, fallback?: number): number {
    return this.#read(key, isCount, "a positive whole number", fallback);
  }
  number(key: string, fallback?: number): number {
    return this.#read(key, isNumber, "a number", fallback);
  }
  string(key: string, fallback?: string): string {
    return this.#read(key, isString, "a text", fallback);
  }
  boolean(key: string, fallback?: boolean): boolean {
    return this.#read(key, isBoolean, "true or false", fallback);
  }
  /** One of the texts in `choices`. */
  choice<T extends string>(key: string, choices: readonly T[], fallback?: T): T {
    const value = this.string(key, fallback);
    const found = choices.find((choice) => choice === value);
    if (found === undefined) throw this.fail(key, `one of ${choices.join(", ")}`);
    return found;
  }
  counts(key: string): number[] {
    const value = this.raw(key);
    if (!Array.isArray(value) || value.length === 0 || !value.every(isCount)) {
      throw this.fail(key, "a list of positive whole numbers");
    }
    return value;
  }
  strings(key: string): string[] {
    const value = this.raw(key);
    if (!Array.isArray(value) || !value.every(isString)) throw this.fail(key, "a list of texts");
    return value;
  }
  /** One value for each level: a list of that length, or one value for all. */
  perLevel(key: string, levels: number, fallback: number): number[] {
    const value = this.raw(key) ?? fallback;
    const list = Array.isArray(value) ? value : Array.from({ length: levels }, () => value);
    if (list.length !== levels || !list.every(isCount)) {
      throw this.fail(key, `a positive whole number, or one for each of ${levels} levels`);
    }
    return list;
  }
}

/** Classes that users meet, by what they are called. */
const OTHER_CLASSES: Readonly<Record<string, string>> = {
  AsymmetricAutoencoderKL: "an asymmetric autoencoder",
  AutoencoderDC: "a deep compression autoencoder",
  AutoencoderKLTemporalDecoder: "the autoencoder of Stable Video Diffusion",
  ConsistencyDecoderVAE: "a consistency decoder",
  ControlNetModel: "a ControlNet",
  FluxTransformer2DModel: "Flux",
  HunyuanDiT2DModel: "Hunyuan-DiT",
  MotionAdapter: "an AnimateDiff motion adapter",
  PixArtTransformer2DModel: "PixArt",
  SD3Transformer2DModel: "Stable Diffusion 3",
  StableCascadeUNet: "Stable Cascade",
  T2IAdapter: "a T2I-Adapter",
  T5EncoderModel: "a T5 text encoder",
  UNet2DModel: "an unconditional U-Net",
  UNet3DConditionModel: "a text-to-video U-Net",
  UNetMotionModel: "AnimateDiff",
  UNetSpatioTemporalConditionModel: "Stable Video Diffusion",
};

function refuse(where: string, what: string, only: string): never {
  throw new FormatError(`Cannot use ${where}: it is ${what}, and only ${only} is supported`);
}

function checkClass(fields: Fields, expected: string): void {
  const found = fields.string("_class_name", expected);
  if (found !== expected) refuse(fields.where, OTHER_CLASSES[found] ?? `a ${found}`, expected);
}

/** Components that show that a pipeline is not a Stable Diffusion of the supported families. */
const OTHER_COMPONENTS: Readonly<Record<string, string>> = {
  transformer: "a diffusion transformer (such as Stable Diffusion 3, Flux or PixArt)",
  controlnet: "a ControlNet pipeline",
  motion_adapter: "an AnimateDiff pipeline",
  adapter: "a T2I-Adapter pipeline",
  prior: "a pipeline with a prior (such as Kandinsky or Stable Cascade)",
  image_normalizer: "an unCLIP pipeline",
  low_res_scheduler: "an upscaler pipeline",
  depth_estimator: "a depth-to-image pipeline",
};

/** Refuses a pipeline of another architecture by name. Throws `FormatError`. */
export function checkPipeline(json: unknown, where = "model_index.json"): void {
  const fields = new Fields(json, where);
  for (const [component, what] of Object.entries(OTHER_COMPONENTS)) {
    const entry = fields.raw(component);
    const present = Array.isArray(entry)
      ? entry.some((part) => part !== null)
      : entry !== undefined;
    if (present) refuse(where, what, "Stable Diffusion 1, 2 or XL");
  }
}

// ---- configs from config.json

/**
 * Options of UNet2DConditionModel that are built in one way only: the values that mean it, and what
 * others mean.
 */
const UNET_FIXED: readonly (readonly [string, readonly unknown[], string])[] = [
  ["addition_embed_type", [undefined, "text_time"], "another kind of added conditioning"],
  ["attention_type", [undefined, "default"], "GLIGEN's gated attention"],
  ["center_input_sample", [undefined, false], "centred input samples"],
  ["class_embed_type", [undefined], "class conditioning"],
  ["class_embeddings_concat", [undefined, false], "class conditioning"],
  ["cross_attention_norm", [undefined], "a norm in cross-attention"],
  ["dual_cross_attention", [undefined, false], "Versatile Diffusion's dual attention"],
  ["encoder_hid_dim", [undefined], "projected text states (Kandinsky, IP-Adapter)"],
  ["encoder_hid_dim_type", [undefined], "projected text states (Kandinsky, IP-Adapter)"],
  ["mid_block_only_cross_attention", [undefined, false], "levels without self-attention"],
  ["mid_block_scale_factor", [undefined, 1], "a scaled middle block"],
  ["num_attention_heads", [undefined], "an option that diffusers itself refuses"],
  ["num_class_embeds", [undefined], "class conditioning (as in the x4 upscaler)"],
  ["only_cross_attention", [undefined, false], "levels without self-attention"],
  ["resnet_out_scale_factor", [undefined, 1], "scaled resnets"],
  ["resnet_skip_time_act", [undefined, false], "a time embedding without its activation"],
  ["resnet_time_scale_shift", [undefined, "default"], "time conditioning by scale and shift"],
  ["time_embedding_act_fn", [undefined], "an activation after the time embedding"],
  ["time_embedding_dim", [undefined], "a time embedding of another width"],
  ["time_embedding_type", [undefined, "positional"], "Fourier time embeddings"],
  ["timestep_post_act", [undefined], "an activation after the time embedding"],
];

const BLOCKS: Readonly<Record<string, { readonly attends: boolean }>> = {
  DownBlock2D: { attends: false },
  CrossAttnDownBlock2D: { attends: true },
  UpBlock2D: { attends: false },
  CrossAttnUpBlock2D: { attends: true },
};

/**
 * What diffusers fixes in code rather than in config.json. The group norm that opens a transformer
 * and the layer norms: models/transformers/transformer_2d.py (norm_eps of `self.norm` is 1e-6) and
 * models/attention.py (norm_eps 1e-5 of BasicTransformerBlock); GEGLU's gate is the error
 * function's GELU (models/activations.py).
 */
const UNET_CODE = { transformerEps: 1e-6, layerEps: 1e-5, activation: "gelu" } as const;

/**
 * UNet2DConditionModel's config.json. Throws `FormatError` for what is malformed or not supported.
 */
export function unetConfigFromJson(json: unknown, where = "unet/config.json"): UnetConfig {
  const fields = new Fields(json, where);
  checkClass(fields, "UNet2DConditionModel");
  for (const [key, allowed, what] of UNET_FIXED) {
    const value = fields.raw(key);
    const all = Array.isArray(value) ? value : [value];
    if (!all.every((v) => allowed.includes(v))) {
      refuse(
        where,
        `a UNet with ${what} ("${key}")`,
        "UNet2DConditionModel of Stable Diffusion 1, 2 and XL",
      );
    }
  }
  fields.choice("act_fn", ["silu", "swish"], "silu");
  const channels = fields.counts("block_out_channels");
  const levels = channels.length;
  const resnets = fields.perLevel("layers_per_block", levels, 2);
  // The number of heads, whatever it is called (github.com/huggingface/diffusers/issues/2011).
  const heads = fields.perLevel("attention_head_dim", levels, 8);
  const contextWidths = fields.perLevel("cross_attention_dim", levels, 1280);
  if (contextWidths.some((width) => width !== contextWidths[0])) {
    throw fields.fail("cross_attention_dim", "the same width at every level");
  }
  const depths = transformerDepths(fields, levels);
  const level = (type: string, at: number, count: number, depth: Depth): UnetLevel => ({
    channels: channels[at],
    heads: heads[at],
    transformers: BLOCKS[type].attends
      ? depthsOf(fields, depth, count)
      : Array.from({ length: count }, () => undefined),
  });
  const downTypes = blockTypes(fields, "down_block_types", "Down", levels);
  const upTypes = blockTypes(fields, "up_block_types", "Up", levels);
  const down = downTypes.map((type, i) => level(type, i, resnets[i], depths.down[i]));
  const up = upTypes.map((type, i) => {
    const at = levels - 1 - i;
    return level(type, at, resnets[at] + 1, depths.up[i]);
  });
  const divisor = fields.count("norm_num_groups", 32);
  const odd = channels.find((c) => c % divisor !== 0);
  if (odd !== undefined) throw fields.fail("norm_num_groups", `a divisor of ${odd} channels`);
  for (const { channels, heads, transformers } of down) {
    if (channels % heads !== 0 && transformers.some((t) => t !== undefined)) {
      throw fields.fail("attention_head_dim", `a divisor of ${channels} channels`);
    }
  }
  return {
    ...UNET_CODE,
    inChannels: fields.count("in_channels", 4),
    outChannels: fields.count("out_channels", 4),
    down,
    mid: middleOf(fields, heads[levels - 1], depths.down[levels - 1]),
    up,
    contextWidth: contextWidths[0],
    groups: divisor,
    eps: fields.number("norm_eps", 1e-5),
    linearProjection: fields.boolean("use_linear_projection", false),
    flipSinToCos: fields.boolean("flip_sin_to_cos", true),
    freqShift: fields.number("freq_shift", 0),
    convInKernel: oddCount(fields, "conv_in_kernel"),
    convOutKernel: oddCount(fields, "conv_out_kernel"),
    downsamplePadding: fields.number("downsample_padding", 1) === 0 ? 0 : 1,
    guidanceWidth: fields.has("time_cond_proj_dim")
      ? fields.count("time_cond_proj_dim")
      : undefined,
    addition: additionOf(fields, contextWidths[0]),
    sampleSize: fields.has("sample_size") ? largestOf(fields, "sample_size") : undefined,
  };
}

/** Layers of the transformers of one level: for each resnet, or one number for all. */
type Depth = number | readonly number[];

function isDepth(value: unknown): value is Depth {
  const isDepthNumber = (v: unknown) => isNumber(v) && Number.isInteger(v) && v >= 0;
  return isDepthNumber(value) || (Array.isArray(value) && value.every(isDepthNumber));
}

function transformerDepths(fields: Fields, levels: number): { down: Depth[]; up: Depth[] } {
  const read = (key: string): Depth[] => {
    const value = fields.raw(key) ?? 1;
    const list = Array.isArray(value) ? value : Array.from({ length: levels }, () => value);
    if (list.length !== levels || !list.every(isDepth)) {
      throw fields.fail(key, `a number of layers, or one for each of ${levels} levels`);
    }
    return list;
  };
  const [there, back] = ["transformer_layers_per_block", "reverse_transformer_layers_per_block"];
  const down = read(there);
  if (fields.has(back)) return { down, up: read(back) };
  if (down.some((depth) => typeof depth !== "number")) {
    throw fields.fail(back, "a list for the way up");
  }
  return { down, up: down.toReversed() };
}

function depthsOf(fields: Fields, depth: Depth, resnets: number): readonly number[] {
  const list = typeof depth === "number" ? Array.from({ length: resnets }, () => depth) : depth;
  if (list.length < resnets) {
    throw fields.fail("transformer_layers_per_block", `${resnets} numbers where a level is a list`);
  }
  return list.slice(0, resnets);
}

function blockTypes(fields: Fields, key: string, kind: "Down" | "Up", levels: number): string[] {
  const types = fields.strings(key);
  if (types.length !== levels) throw fields.fail(key, `as many as levels, which are ${levels}`);
  const unknown = types.find((type) => !(type in BLOCKS) || !type.includes(kind));
  if (unknown !== undefined) {
    refuse(fields.where, `a UNet with ${unknown}`, `${kind}Block2D or CrossAttn${kind}Block2D`);
  }
  return types;
}

function middleOf(fields: Fields, heads: number, depth: Depth): UnetConfig["mid"] {
  // null means none; a config without the key means the default.
  if (fields.isNull("mid_block_type")) return undefined;
  const kinds = ["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"] as const;
  const type = fields.choice("mid_block_type", kinds, "UNetMidBlock2DCrossAttn");
  if (type === "UNetMidBlock2D") return { heads, transformer: undefined };
  return { heads, transformer: typeof depth === "number" ? depth : depth[0] };
}

function additionOf(fields: Fields, contextWidth: number): UnetConfig["addition"] {
  if (!fields.has("addition_embed_type")) return undefined;
  return checkAddition(
    {
      timeWidth: fields.count("addition_time_embed_dim"),
      inputWidth: fields.count("projection_class_embeddings_input_dim"),
    },
    contextWidth,
    fields.where,
  );
}

/** The refiner conditions on an aesthetic score: five numbers, where SDXL has six. */
function checkAddition(
  addition: NonNullable<UnetConfig["addition"]>,
  contextWidth: number,
  where: string,
): NonNullable<UnetConfig["addition"]> {
  const { timeWidth, inputWidth } = addition;
  if (timeWidth === 256 && inputWidth === 2560 && contextWidth === 1280) {
    refuse(where, "the SDXL refiner", "the SDXL base model");
  }
  if (inputWidth <= 6 * timeWidth) {
    throw new FormatError(
      `Cannot use ${where}: its added conditioning is ${inputWidth} wide, expected more than 6 × ${timeWidth}`,
    );
  }
  return addition;
}

function oddCount(fields: Fields, key: string): number {
  const value = fields.count(key, 3);
  if (value % 2 === 0) throw fields.fail(key, "an odd number");
  return value;
}

/** A number, or the largest of a list of them (height and width). */
function largestOf(fields: Fields, key: string): number {
  return Array.isArray(fields.raw(key)) ? Math.max(...fields.counts(key)) : fields.count(key);
}

/** Every norm of the autoencoder: models/autoencoders/vae.py passes 1e-6 to each. */
const VAE_EPS = 1e-6;

const AUTOENCODERS = ["AutoencoderKL", "VQModel"] as const;

/** Entries of a VQModel's codebook; `undefined` for an AutoencoderKL. */
function codesOf(fields: Fields): number | undefined {
  const found = fields.string("_class_name", "AutoencoderKL");
  if (!AUTOENCODERS.some((name) => name === found)) {
    refuse(fields.where, OTHER_CLASSES[found] ?? `a ${found}`, AUTOENCODERS.join(" or "));
  }
  if (found === "AutoencoderKL") return undefined;
  fields.choice("norm_type", ["group"], "group");
  const channels = fields.count("latent_channels", 3);
  if (fields.count("vq_embed_dim", channels) !== channels) {
    throw fields.fail("vq_embed_dim", `as many as latent_channels, which are ${channels}`);
  }
  return fields.count("num_vq_embeddings", 256);
}

/** AutoencoderKL's or VQModel's config.json. Throws `FormatError` for what is malformed or not supported. */
export function vaeConfigFromJson(json: unknown, where = "vae/config.json"): VaeConfig {
  const fields = new Fields(json, where);
  const codes = codesOf(fields);
  fields.choice("act_fn", ["silu", "swish"], "silu");
  const channels = fields.counts("block_out_channels");
  for (
    const [key, known] of [["down_block_types", "DownEncoderBlock2D"], [
      "up_block_types",
      "UpDecoderBlock2D",
    ]]
  ) {
    const types = fields.strings(key);
    const unknown = types.find((type) => type !== known);
    if (unknown !== undefined) refuse(where, `an autoencoder with ${unknown}`, known);
    if (types.length !== channels.length) {
      throw fields.fail(key, `as many as levels, which are ${channels.length}`);
    }
  }
  if (fields.has("latents_mean") || fields.has("latents_std")) {
    refuse(where, "an autoencoder with a mean for each latent channel", "one scaling factor");
  }
  const groups = fields.count("norm_num_groups", 32);
  const odd = channels.find((c) => c % groups !== 0);
  if (odd !== undefined) throw fields.fail("norm_num_groups", `a divisor of ${odd} channels`);
  return {
    inChannels: fields.count("in_channels", 3),
    outChannels: fields.count("out_channels", 3),
    latentChannels: fields.count("latent_channels", codes === undefined ? 4 : 3),
    codes,
    channels,
    layers: fields.count("layers_per_block", 1),
    groups,
    eps: VAE_EPS,
    midAttention: fields.boolean("mid_block_add_attention", true),
    quantConv: fields.boolean("use_quant_conv", true),
    postQuantConv: fields.boolean("use_post_quant_conv", true),
    // AutoencoderKL's default; old SD 1 configs lack it.
    scalingFactor: fields.number("scaling_factor", 0.18215),
    shiftFactor: fields.number("shift_factor", 0),
  };
}

/**
 * CLIPTextModel's or CLIPTextModelWithProjection's config.json. Throws `FormatError` for what is
 * malformed or not supported.
 */
export function clipConfigFromJson(json: unknown, where = "text_encoder/config.json"): ClipConfig {
  const outer = new Fields(json, where);
  const fields = outer.has("text_config") ? new Fields(outer.raw("text_config"), where) : outer;
  const [name] = outer.has("architectures") ? outer.strings("architectures") : ["CLIPTextModel"];
  if (!["CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel"].includes(name)) {
    refuse(where, OTHER_CLASSES[name] ?? `a ${name}`, "CLIP's text model");
  }
  const activations = Object.keys(ACTIVATIONS).filter(isActivation);
  const [width, heads] = [fields.count("hidden_size"), fields.count("num_attention_heads")];
  if (width % heads !== 0) throw fields.fail("num_attention_heads", `a divisor of ${width}`);
  return {
    vocabulary: fields.count("vocab_size"),
    positions: fields.count("max_position_embeddings"),
    width,
    layers: fields.count("num_hidden_layers"),
    heads,
    intermediate: fields.count("intermediate_size"),
    activation: fields.choice("hidden_act", activations),
    eps: fields.number("layer_norm_eps"),
    projection: name === "CLIPTextModelWithProjection" ? fields.count("projection_dim") : undefined,
    eosTokenId: fields.count("eos_token_id"),
  };
}

function isActivation(name: string): name is Activation {
  return name in ACTIVATIONS;
}

/** AutoencoderTiny's config.json. Throws `FormatError` for what is malformed or not supported. */
export function taesdConfigFromJson(json: unknown, where = "taesd/config.json"): TaesdConfig {
  const fields = new Fields(json, where);
  checkClass(fields, "AutoencoderTiny");
  fields.choice("act_fn", ["relu"], "relu");
  fields.choice("upsample_fn", ["nearest"], "nearest");
  const counts = (key: string, fallback: readonly number[]) =>
    fields.has(key) ? fields.counts(key) : fallback;
  const widths = ["encoder_block_out_channels", "decoder_block_out_channels"]
    .flatMap((key) => counts(key, TAESD.encoderBlocks.map(() => TAESD.channels)));
  if (widths.some((width) => width !== widths[0])) {
    throw fields.fail("decoder_block_out_channels", "the same width everywhere");
  }
  if (fields.number("scaling_factor", 1) !== 1) throw fields.fail("scaling_factor", "1");
  return {
    inChannels: fields.count("in_channels", 3),
    latentChannels: fields.count("latent_channels", 4),
    channels: widths[0],
    encoderBlocks: counts("num_encoder_blocks", TAESD.encoderBlocks),
    decoderBlocks: counts("num_decoder_blocks", TAESD.decoderBlocks),
  };
}

/** What a network can be trained to predict. */
export type Prediction = "epsilon" | "v_prediction" | "sample";

// ---- configs from shapes

/** diffusers' names and shapes of one component, e.g. of the tensors of a single file. */
export type Shapes = ReadonlyMap<string, Shape>;

/** Names that only other architectures have. */
const OTHER_NAMES: readonly (readonly [RegExp, string])[] = [
  [/(^|\.)lora_(up|down|A|B)\b|\.lora_|(^|\.)lora_te/, "a LoRA"],
  [/(^|\.)joint_blocks\./, "Stable Diffusion 3"],
  [/(^|\.)(double_blocks|single_transformer_blocks|single_blocks)\./, "Flux"],
  [/motion_modules\./, "AnimateDiff"],
  [
    /(^|\.)(time_mixer|temporal_transformer_blocks|time_stack|spatial_res_block)\b/,
    "Stable Video Diffusion",
  ],
  [/controlnet_cond_embedding|input_hint_block|(^|\.)control_model\./, "a ControlNet"],
  [/(^|\.)(class_embedding|label_emb)\./, "a UNet with class conditioning"],
  [/(^|\.)position_net\./, "GLIGEN"],
  [
    /(^|\.)(encoder_hid_proj|add_k_proj)\b/,
    "a UNet with projected text states (Kandinsky, IP-Adapter)",
  ],
];

/** Refuses by name what names of tensors give away. Throws `FormatError`. */
export function checkNames(names: Iterable<string>, where: string): void {
  for (const name of names) {
    const other = OTHER_NAMES.find(([pattern]) => pattern.test(name));
    if (other) refuse(where, `${other[1]} ("${name}")`, "Stable Diffusion 1, 2 or XL");
  }
}

/**
 * What shapes do not tell; what is missing is the released models' (given with each `…FromShapes`).
 */
export interface Hints {
  /**
   * Heads at each level of the UNet, from the largest picture to the smallest; or of the text
   * encoder.
   */
  readonly heads?: readonly number[];
  readonly groups?: number;
  /** SDXL: width of the embedding of each size. */
  readonly timeWidth?: number;
  readonly activation?: Activation;
  readonly scalingFactor?: number;
}

/** Reads dimensions by name and counts numbered scopes. */
class Survey {
  readonly #scopes = new Set<string>();
  constructor(readonly shapes: Shapes, readonly where: string) {
    for (const name of shapes.keys()) {
      for (let at = name.indexOf("."); at >= 0; at = name.indexOf(".", at + 1)) {
        this.#scopes.add(name.slice(0, at));
      }
    }
  }
  /** Whether there is a parameter inside this scope. */
  has(scope: string): boolean {
    return this.#scopes.has(scope);
  }
  /** Numbered scopes `prefix.0`, `prefix.1`, … */
  count(prefix: string): number {
    let n = 0;
    while (this.has(`${prefix}.${n}`)) n++;
    return n;
  }
  shape(name: string): Shape {
    const shape = this.shapes.get(name);
    if (shape) return shape;
    throw new FormatError(
      `Cannot tell the architecture of ${this.where} from its tensors: "${name}" is missing`,
    );
  }
  size(name: string, axis: number): number {
    const shape = this.shape(name);
    if (axis < shape.length) return shape[axis];
    throw new FormatError(
      `Cannot tell the architecture of ${this.where} from its tensors: "${name}" is ${show(shape)}`,
    );
  }
}

/**
 * A UNet by its tensors. Not in the shapes, and the same in all released models of the families: 32
 * groups, epsilon 1e-5, cosines first, and the width 256 of each of SDXL's sizes (their
 * config.json); 8 heads at each level where transformers open with a convolution (SD 1), heads of
 * 64 channels where they open with a linear layer (SD 2, SDXL). Throws `FormatError` for what is
 * missing or not supported.
 */
export function unetConfigFromShapes(
  shapes: Shapes,
  hints: Hints = {},
  where = "the UNet",
): UnetConfig {
  checkNames(shapes.keys(), where);
  const survey = new Survey(shapes, where);
  const attentions = [...shapes.keys()].filter((name) => name.endsWith(".attn2.to_k.weight"));
  if (attentions.length === 0) {
    refuse(where, "a UNet without cross-attention", "a text-conditioned UNet");
  }
  const contextWidth = survey.size(attentions[0], 1);
  const projections = [...shapes].filter(([name]) => name.endsWith(".proj_in.weight"));
  const linearProjection = projections.some(([, shape]) => shape.length === 2);
  for (const [name, shape] of shapes) {
    if (name.endsWith(".attn1.to_k.weight") && shape[0] !== shape[1]) {
      refuse(
        where,
        `a UNet with levels without self-attention ("${name}")`,
        "Stable Diffusion 1, 2 or XL",
      );
    }
  }
  const levels = survey.count("down_blocks");
  const headsOf = (channels: number, i: number) =>
    hints.heads?.[i] ?? (linearProjection ? Math.max(1, Math.round(channels / 64)) : 8);
  const level = (block: string, i: number): UnetLevel => {
    const channels = survey.size(`${block}.resnets.0.conv2.weight`, 0);
    return {
      channels,
      heads: headsOf(channels, i),
      transformers: Array.from({ length: survey.count(`${block}.resnets`) }, (_, j) => {
        const transformer = `${block}.attentions.${j}`;
        return survey.has(transformer)
          ? survey.count(`${transformer}.transformer_blocks`)
          : undefined;
      }),
    };
  };
  const down = Array.from({ length: levels }, (_, i) => level(`down_blocks.${i}`, i));
  const up = Array.from({ length: levels }, (_, i) => level(`up_blocks.${i}`, levels - 1 - i));
  return {
    ...UNET_CODE,
    inChannels: survey.size("conv_in.weight", 1),
    outChannels: survey.size("conv_out.weight", 0),
    down,
    mid: survey.has("mid_block")
      ? {
        heads: down[levels - 1].heads,
        transformer: survey.has("mid_block.attentions.0")
          ? survey.count("mid_block.attentions.0.transformer_blocks")
          : undefined,
      }
      : undefined,
    up,
    contextWidth,
    groups: hints.groups ?? 32,
    eps: 1e-5,
    linearProjection,
    flipSinToCos: true,
    freqShift: 0,
    convInKernel: survey.size("conv_in.weight", 2),
    convOutKernel: survey.size("conv_out.weight", 2),
    downsamplePadding: 1,
    guidanceWidth: survey.has("time_embedding.cond_proj")
      ? survey.size("time_embedding.cond_proj.weight", 1)
      : undefined,
    addition: survey.has("add_embedding")
      ? checkAddition(
        {
          timeWidth: hints.timeWidth ?? 256,
          inputWidth: survey.size("add_embedding.linear_1.weight", 1),
        },
        contextWidth,
        where,
      )
      : undefined,
    sampleSize: undefined,
  };
}

/**
 * An autoencoder by its tensors; a file may hold one half. Not in the shapes: 32 groups, and the
 * scale of the latents, which is the denoiser's affair (`FAMILIES[family].latentScale`). Throws
 * `FormatError` for what is missing.
 */
export function vaeConfigFromShapes(
  shapes: Shapes,
  hints: Hints & { readonly scalingFactor: number },
  where = "the autoencoder",
): VaeConfig {
  checkNames(shapes.keys(), where);
  const survey = new Survey(shapes, where);
  const decodes = survey.has("decoder");
  const half = decodes ? "decoder.up_blocks" : "encoder.down_blocks";
  const widths = Array.from(
    { length: survey.count(half) },
    (_, i) => survey.size(`${half}.${i}.resnets.0.conv2.weight`, 0),
  );
  const latentChannels = decodes
    ? survey.size("decoder.conv_in.weight", 1)
    : survey.size("encoder.conv_out.weight", 0) / 2;
  return {
    inChannels: survey.has("encoder") ? survey.size("encoder.conv_in.weight", 1) : 3,
    outChannels: decodes ? survey.size("decoder.conv_out.weight", 0) : 3,
    latentChannels,
    codes: undefined,
    channels: decodes ? widths.toReversed() : widths,
    layers: survey.count(`${half}.0.resnets`) - (decodes ? 1 : 0),
    groups: hints.groups ?? 32,
    eps: VAE_EPS,
    midAttention: survey.has(`${decodes ? "decoder" : "encoder"}.mid_block.attentions`),
    quantConv: survey.has("quant_conv"),
    postQuantConv: survey.has("post_quant_conv"),
    scalingFactor: hints.scalingFactor,
    shiftFactor: 0,
  };
}

/**
 * A CLIP text model by its tensors. Not in the shapes: heads of 64 channels, epsilon 1e-5, and
 * OpenAI's quick GELU at width 768 (ViT-L/14) but OpenCLIP's GELU at other widths (their
 * config.json). Throws `FormatError` for what is missing.
 */
export function clipConfigFromShapes(
  shapes: Shapes,
  hints: Hints = {},
  where = "the text encoder",
): ClipConfig {
  checkNames(shapes.keys(), where);
  const survey = new Survey(shapes, where);
  const table = "text_model.embeddings.token_embedding.weight";
  const [vocabulary, width] = [survey.size(table, 0), survey.size(table, 1)];
  return {
    vocabulary,
    positions: survey.size("text_model.embeddings.position_embedding.weight", 0),
    width,
    layers: survey.count("text_model.encoder.layers"),
    heads: hints.heads?.[0] ?? Math.max(1, Math.round(width / 64)),
    intermediate: survey.size("text_model.encoder.layers.0.mlp.fc1.weight", 0),
    activation: hints.activation ?? (width === 768 ? "quick_gelu" : "gelu"),
    eps: 1e-5,
    projection: survey.has("text_projection")
      ? survey.size("text_projection.weight", 0)
      : undefined,
    eosTokenId: vocabulary - 1,
  };
}

/** A TAESD by its tensors ("decoder.layers.1.conv.0.weight" …), of either half or both. */
export function taesdConfigFromShapes(shapes: Shapes, where = "the tiny autoencoder"): TaesdConfig {
  checkNames(shapes.keys(), where);
  const survey = new Survey(shapes, where);
  const decodes = survey.has("decoder");
  const first = decodes ? "decoder.layers.0.weight" : "encoder.layers.0.weight";
  return {
    ...TAESD,
    channels: survey.size(first, 0),
    latentChannels: decodes
      ? survey.size(first, 1)
      : survey.size(`encoder.layers.${survey.count("encoder.layers") - 1}.weight`, 0),
  };
}

// ---- families

/** Whose original files and defaults a model has. */
export type Family = "sd1" | "sd2" | "sdxl";
/** How a family's model was distilled: few steps, and guidance inside the network or none. */
export type Variant = "base" | "lcm" | "turbo";

/** The family of a UNet: SDXL has pooled conditioning, SD 2 linear projections. */
export function familyOf(config: UnetConfig): Family {
  if (config.addition) return "sdxl";
  return config.linearProjection ? "sd2" : "sd1";
}

/**
 * LCM embeds the guidance scale; Turbo (and Lightning) models come with trailing timesteps.
 * `scheduler` is the contents of scheduler_config.json.
 */
export function variantOf(config: UnetConfig, scheduler: unknown): Variant {
  if (config.guidanceWidth !== undefined) return "lcm";
  if (typeof scheduler !== "object" || scheduler === null) return "base";
  const fields = new Fields(scheduler, "scheduler_config.json");
  if (fields.raw("_class_name") === "LCMScheduler") return "lcm";
  const trailing = fields.raw("timestep_spacing") === "trailing";
  return trailing && fields.raw("rescale_betas_zero_snr") !== true ? "turbo" : "base";
}

/** What a person gets who asks for nothing in particular. */
export interface Defaults {
  /** Sampling steps. */
  readonly steps: number;
  /** 1 is no guidance. */
  readonly cfgScale: number;
  /** Names as in lib/diffusion. */
  readonly sampler: string;
  /** Likewise. */
  readonly schedule: string;
}

export interface FamilyFacts {
  readonly title: string;
  readonly defaults: Defaults;
  /** Pixels along one side that it was trained at, where the config does not say. */
  readonly size: number;
  /** Scale of the latents, for files without configs. */
  readonly latentScale: number;
  /** Contents of scheduler_config.json, for files without configs. */
  readonly scheduler: Readonly<Record<string, unknown>>;
  /** Id that each tokenizer pads with: end of text, or "!". */
  readonly padTokens: readonly number[];
}

/**
 * All of Stable Diffusion: CompVis' v1-inference.yaml, Stability's v2-inference.yaml and
 * sd_xl_base.yaml.
 */
const TRAINING = {
  _class_name: "PNDMScheduler",
  num_train_timesteps: 1000,
  beta_start: 0.00085,
  beta_end: 0.012,
  beta_schedule: "scaled_linear",
  clip_sample: false,
  prediction_type: "epsilon",
  timestep_spacing: "leading",
  steps_offset: 1,
  set_alpha_to_one: false,
  skip_prk_steps: true,
};

/**
 * The families. Defaults: SD 1 as A1111 has them; SD 2 as in Stability's own script; SDXL as in
 * diffusers' pipeline. Latent scales and schedulers: the models' own configs. Padding: their
 * tokenizer_config.json and special_tokens_map.json.
 */
export const FAMILIES: Readonly<Record<Family, FamilyFacts>> = {
  sd1: {
    title: "Stable Diffusion 1",
    defaults: { steps: 20, cfgScale: 7, sampler: "dpmpp_2m", schedule: "karras" },
    size: 512,
    latentScale: 0.18215,
    scheduler: TRAINING,
    padTokens: [49407],
  },
  sd2: {
    title: "Stable Diffusion 2",
    defaults: { steps: 50, cfgScale: 9, sampler: "ddim", schedule: "leading" },
    size: 768,
    latentScale: 0.18215,
    scheduler: { ...TRAINING, _class_name: "DDIMScheduler", prediction_type: "v_prediction" },
    padTokens: [0],
  },
  sdxl: {
    title: "Stable Diffusion XL",
    defaults: { steps: 50, cfgScale: 5, sampler: "euler", schedule: "leading" },
    size: 1024,
    latentScale: 0.13025,
    scheduler: { ...TRAINING, _class_name: "EulerDiscreteScheduler" },
    padTokens: [49407, 0],
  },
};

/**
 * What the distilled variants change; LCM's guidance is embedded (Luo et al. 2023), Turbo's is none
 * (Sauer et al. 2023).
 */
const VARIANTS: Readonly<Record<Variant, Partial<Defaults>>> = {
  base: {},
  lcm: { steps: 4, cfgScale: 8.5, sampler: "lcm", schedule: "leading" },
  turbo: { steps: 1, cfgScale: 1, sampler: "euler_a", schedule: "trailing" },
};

export function defaultsOf(family: Family, variant: Variant): Defaults {
  return { ...FAMILIES[family].defaults, ...VARIANTS[variant] };
}

/**
 * Which states of each text encoder condition the denoiser. `clipSkip` counts from 1, the family's
 * own layer, downward (diffusers' clip_skip plus one). SD 1: last layer, normed. SD 2: the
 * penultimate of OpenCLIP's 24, normed; diffusers' folders keep 23, of which it is the last, and no
 * projection. SDXL: the penultimate of both encoders, not normed.
 */
export function clipOutput(family: Family, config: ClipConfig, clipSkip: number): ClipOutput {
  const complete = config.layers === 24 || config.projection !== undefined;
  const own = family === "sdxl" || (family === "sd2" && complete) ? 1 : 0;
  return { skip: own + clipSkip - 1, finalNorm: family !== "sdxl" };
}

/**
 * Where ComfyUI's `supported_models.py` looks to tell v-prediction from ε-prediction in SD 2 files.
 */
export const SD2_PREDICTION_TENSOR = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias";

/** What a file without configs tells about its training. */
export interface Evidence {
  /** Names of all tensors, also those that belong to no component. */
  readonly names: ReadonlySet<string>;
  /** `__metadata__` of the file. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Input channels of the UNet. */
  readonly inChannels: number;
  /** The values of `SD2_PREDICTION_TENSOR`, where the UNet has it. */
  readonly bias?: ArrayLike<number>;
}

/**
 * What a single file's UNet predicts, and whether its schedule ends in pure noise. In this order:
 * `modelspec.predict_key` of its metadata (Stability's model specification), an empty tensor named
 * `v_pred` (with `ztsnr` for the schedule; the convention of SDXL fine-tunes), and for SD 2 with
 * four input channels the spread of one bias: above 0.09 is v-prediction, a heuristic of ComfyUI.
 * Otherwise ε.
 */
export function predictionOf(
  family: Family,
  evidence: Evidence,
): { readonly prediction: Prediction; readonly rescaleBetasZeroSnr: boolean } {
  const { names, metadata, inChannels, bias } = evidence;
  const said = metadata.get("modelspec.predict_key") ?? metadata.get("modelspec.prediction_type");
  const rescaleBetasZeroSnr = names.has("ztsnr");
  const found = (prediction: Prediction) => ({ prediction, rescaleBetasZeroSnr });
  if (said === "v" || said === "v_prediction") return found("v_prediction");
  if (said === "epsilon") return found("epsilon");
  if (names.has("v_pred")) return found("v_prediction");
  if (family !== "sd2" || inChannels !== 4) return found("epsilon");
  if (bias === undefined) return found("v_prediction");
  const values = Array.from(bias);
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length;
  return found(Math.sqrt(variance) > 0.09 ? "v_prediction" : "epsilon");
}
