/** Configs as diffusers and transformers write them, so that what is trained here loads there. */

import type { ClipConfig } from "./clip.ts";
import type { TaesdConfig } from "./taesd.ts";
import type { UnetConfig, UnetLevel } from "./unet.ts";
import type { VaeConfig } from "./vae.ts";

/** A number where all are the same, which older readers want, else a list. */
function together<T>(values: readonly T[]): T | readonly T[] {
  return values.every((value) => value === values[0]) ? values[0] : values;
}

/** Layers of a level's transformers: a number for all of them; 1 for a level without. */
function depthOf({ transformers }: UnetLevel): number | readonly number[] {
  return together(transformers.map((depth) => depth ?? 1));
}

/** How deep transformers are, level by level; the way up is said where it is not the way down backwards. */
function depthsJson({ down, up, mid }: UnetConfig): Record<string, unknown> {
  // the middle is as deep as the last level says, which may have no transformers itself
  const there = down.map((level, i) =>
    i === down.length - 1 && level.transformers.every((depth) => depth === undefined)
      ? mid?.transformer ?? 1
      : depthOf(level)
  );
  // diffusers' default is 1, which every level without transformers has
  const back = up.map((level, i) =>
    level.transformers.some((depth) => depth !== undefined) ? depthOf(level) : there.at(-1 - i)
  );
  const isMirror = back.every((depth, i) =>
    typeof depth === "number" && depth === there.at(-1 - i)
  );
  return {
    transformer_layers_per_block: there,
    ...(!isMirror && { reverse_transformer_layers_per_block: back }),
  };
}

/** config.json of diffusers' UNet2DConditionModel. */
export function unetJson(config: UnetConfig): Record<string, unknown> {
  const { down, up, addition } = config;
  const block = (kind: "Down" | "Up") => ({ transformers }: UnetLevel) =>
    transformers.some((depth) => depth !== undefined)
      ? `CrossAttn${kind}Block2D`
      : `${kind}Block2D`;
  return {
    _class_name: "UNet2DConditionModel",
    act_fn: "silu",
    ...(addition && {
      addition_embed_type: "text_time",
      addition_time_embed_dim: addition.timeWidth,
      projection_class_embeddings_input_dim: addition.inputWidth,
    }),
    attention_head_dim: down.map(({ heads }) => heads), // the number of heads, for all its name
    block_out_channels: down.map(({ channels }) => channels),
    conv_in_kernel: config.convInKernel,
    conv_out_kernel: config.convOutKernel,
    cross_attention_dim: config.contextWidth,
    down_block_types: down.map(block("Down")),
    downsample_padding: config.downsamplePadding,
    flip_sin_to_cos: config.flipSinToCos,
    freq_shift: config.freqShift,
    in_channels: config.inChannels,
    layers_per_block: together(down.map(({ transformers }) => transformers.length)),
    mid_block_type: middleOf(config),
    norm_eps: config.eps,
    norm_num_groups: config.groups,
    out_channels: config.outChannels,
    sample_size: config.sampleSize,
    ...(config.guidanceWidth !== undefined && { time_cond_proj_dim: config.guidanceWidth }),
    ...depthsJson(config),
    up_block_types: up.map(block("Up")),
    use_linear_projection: config.linearProjection,
  };
}

function middleOf({ mid }: UnetConfig): string | null {
  if (mid === undefined) return null;
  return mid.transformer === undefined ? "UNetMidBlock2D" : "UNetMidBlock2DCrossAttn";
}

/** config.json of diffusers' AutoencoderKL or VQModel. `sampleSize`: pixels of a side that it was trained at. */
export function vaeJson(config: VaeConfig, sampleSize: number): Record<string, unknown> {
  const levels = config.channels.length;
  const shared = {
    act_fn: "silu",
    block_out_channels: config.channels,
    down_block_types: Array(levels).fill("DownEncoderBlock2D"),
    up_block_types: Array(levels).fill("UpDecoderBlock2D"),
    in_channels: config.inChannels,
    out_channels: config.outChannels,
    latent_channels: config.latentChannels,
    layers_per_block: config.layers,
    norm_num_groups: config.groups,
    sample_size: sampleSize,
    scaling_factor: config.scalingFactor,
    mid_block_add_attention: config.midAttention,
  };
  const { quantConv, postQuantConv, shiftFactor } = config;
  return config.codes === undefined
    ? {
      _class_name: "AutoencoderKL",
      ...shared,
      ...(shiftFactor !== 0 && { shift_factor: shiftFactor }),
      use_post_quant_conv: postQuantConv,
      use_quant_conv: quantConv,
    }
    : {
      _class_name: "VQModel",
      ...shared,
      num_vq_embeddings: config.codes,
      vq_embed_dim: config.latentChannels,
    };
}

/** The class of transformers that a text encoder is. */
export function clipClass({ projection }: Pick<ClipConfig, "projection">): string {
  return projection === undefined ? "CLIPTextModel" : "CLIPTextModelWithProjection";
}

/** config.json of transformers' CLIPTextModel, or of the one with a projection. */
export function clipJson(
  config: ClipConfig,
  { start, padding }: { readonly start: number; readonly padding: number },
): Record<string, unknown> {
  return {
    architectures: [clipClass(config)],
    bos_token_id: start,
    eos_token_id: config.eosTokenId,
    hidden_act: config.activation,
    hidden_size: config.width,
    intermediate_size: config.intermediate,
    layer_norm_eps: config.eps,
    max_position_embeddings: config.positions,
    model_type: "clip_text_model",
    num_attention_heads: config.heads,
    num_hidden_layers: config.layers,
    pad_token_id: padding,
    projection_dim: config.projection ?? config.width,
    torch_dtype: "float32",
    vocab_size: config.vocabulary,
  };
}

/** config.json of diffusers' AutoencoderTiny. */
export function taesdJson(config: TaesdConfig): Record<string, unknown> {
  return {
    _class_name: "AutoencoderTiny",
    act_fn: "relu",
    decoder_block_out_channels: config.decoderBlocks.map(() => config.channels),
    encoder_block_out_channels: config.encoderBlocks.map(() => config.channels),
    force_upcast: false,
    in_channels: config.inChannels,
    latent_channels: config.latentChannels,
    latent_magnitude: 3,
    latent_shift: 0.5,
    num_decoder_blocks: config.decoderBlocks,
    num_encoder_blocks: config.encoderBlocks,
    out_channels: config.inChannels,
    scaling_factor: 1,
    upsample_fn: "nearest",
    upsampling_scaling_factor: 2,
  };
}

const NONE = [null, null] as const;

/** What a pipeline's folder holds: component → library and class. */
export type Pipeline = Readonly<Record<string, readonly [library: string, name: string]>>;

/** Whose form these have; its inpainting pipelines do not open without. */
const VERSION = { _diffusers_version: "0.42.1" } as const;

const UNWATCHED = {
  ...VERSION,
  feature_extractor: NONE,
  image_encoder: NONE,
  requires_safety_checker: false,
  safety_checker: NONE,
} as const;
const LARGE = { ...VERSION, feature_extractor: NONE, image_encoder: NONE } as const;

/** What a pipeline that reads text is for: pictures from text alone, in few steps, or with holes that it fills. */
const STABLE = {
  text: { _class_name: "StableDiffusionPipeline", ...UNWATCHED },
  lcm: { _class_name: "LatentConsistencyModelPipeline", ...UNWATCHED },
  inpaint: { _class_name: "StableDiffusionInpaintPipeline", ...UNWATCHED },
  xl: { _class_name: "StableDiffusionXLPipeline", ...LARGE },
  xlInpaint: { _class_name: "StableDiffusionXLInpaintPipeline", ...LARGE },
} as const;
export type Purpose = keyof typeof STABLE;

/** model_index.json of a pipeline that reads text, as diffusers has it. */
export function stableDiffusionJson(
  components: Pipeline,
  purpose: Purpose,
): Record<string, unknown> {
  return { ...STABLE[purpose], ...components };
}

/** model_index.json of any other: diffusers loads its components one by one. */
export function pipelineJson(components: Pipeline): Record<string, unknown> {
  return { _class_name: "DiffusionPipeline", ...components };
}
