/** Configs as diffusers and transformers write them, so that what is trained here loads there. */

import type { ClipConfig } from "./clip.ts";
import type { TaesdConfig } from "./taesd.ts";
import type { UnetConfig, UnetLevel } from "./unet.ts";
import type { VaeConfig } from "./vae.ts";

/** config.json of diffusers' UNet2DConditionModel; levels have as many transformer layers in every block. */
export function unetJson(config: UnetConfig): Record<string, unknown> {
  const { down, up, mid } = config;
  const block = (kind: "Down" | "Up") => ({ transformers }: UnetLevel) =>
    transformers.some((depth) => depth !== undefined)
      ? `CrossAttn${kind}Block2D`
      : `${kind}Block2D`;
  const depths = down.map(({ transformers }) => transformers[0] ?? mid?.transformer ?? 1);
  return {
    _class_name: "UNet2DConditionModel",
    act_fn: "silu",
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
    layers_per_block: down[0].transformers.length,
    mid_block_type: mid ? "UNetMidBlock2DCrossAttn" : null,
    norm_eps: config.eps,
    norm_num_groups: config.groups,
    out_channels: config.outChannels,
    sample_size: config.sampleSize,
    transformer_layers_per_block: depths,
    up_block_types: up.map(block("Up")),
    use_linear_projection: config.linearProjection,
  };
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

/** config.json of transformers' CLIPTextModel. */
export function clipJson(
  config: ClipConfig,
  { start, padding }: { readonly start: number; readonly padding: number },
): Record<string, unknown> {
  return {
    architectures: ["CLIPTextModel"],
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
    projection_dim: config.width,
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

const STABLE = {
  text: "StableDiffusionPipeline",
  inpaint: "StableDiffusionInpaintPipeline",
} as const;

/** model_index.json of a pipeline that reads text, and where it is for that fills holes, as diffusers has it. */
export function stableDiffusionJson(
  components: Pipeline,
  purpose: keyof typeof STABLE,
): Record<string, unknown> {
  return {
    _class_name: STABLE[purpose],
    feature_extractor: NONE,
    image_encoder: NONE,
    requires_safety_checker: false,
    safety_checker: NONE,
    ...components,
  };
}

/** model_index.json of any other: diffusers loads its components one by one. */
export function pipelineJson(components: Pipeline): Record<string, unknown> {
  return { _class_name: "DiffusionPipeline", ...components };
}
