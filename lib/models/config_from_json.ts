/**
 * What a model is made of, read from diffusers' config.json files. Every number that the files leave open stands here
 * with its source. An architecture that is not built here is refused by name.
 */

import { FormatError } from "../base/errors.ts";
import { type Activation, ACTIVATIONS } from "../nn/layers.ts";
import type { ClipConfig } from "./clip.ts";
import { checkClass, Fields, isNumber, OTHER_CLASSES, refuse } from "./config_fields.ts";
import { TAESD, type TaesdConfig } from "./taesd.ts";
import type { UnetConfig, UnetLevel } from "./unet.ts";
import type { VaeConfig } from "./vae.ts";

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
export const UNET_CODE = { transformerEps: 1e-6, layerEps: 1e-5, activation: "gelu" } as const;

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
export function checkAddition(
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
export const VAE_EPS = 1e-6;

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
