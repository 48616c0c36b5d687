/**
 * The denoiser: the U-Net of latent diffusion (Rombach et al. 2022) as diffusers'
 * UNet2DConditionModel names it: SD 1, SD 2, SDXL, their Turbo, LCM and pruned forms, inpainting
 * forms with more input channels.
 *
 * Convention: pictures are [n, h, w, c]; h and w are arbitrary: where a level's size is odd,
 * upsampling is cut to the size of the skip connection, which is what diffusers' resize to that
 * size amounts to.
 */

import { show } from "../base/shape.ts";
import type { Graph, Tensor } from "../graph/tensor.ts";
import {
  type Activation,
  attention,
  type AttentionNames,
  conv2d,
  geglu,
  type GroupNorm,
  groupNorm,
  layerNorm,
  linear,
  linearNoBias,
  module,
  same,
  silu,
  sinusoid,
  timeMlp,
  type Window,
} from "../nn/layers.ts";
import type { Params } from "../nn/params.ts";

/** One resolution of the U. */
export interface UnetLevel {
  readonly channels: number;
  readonly heads: number;
  /** One entry a resnet: layers of the transformer after it, `undefined` where none follows. */
  readonly transformers: readonly (number | undefined)[];
}

/** What `unet` builds; `config_from_json.ts` or `config_from_shapes.ts` reads it. */
export interface UnetConfig {
  readonly inChannels: number;
  readonly outChannels: number;
  /** From the largest picture to the smallest. */
  readonly down: readonly UnetLevel[];
  /**
   * Two resnets with a transformer between them, one resnet where the transformer is missing, or
   * nothing.
   */
  readonly mid: { readonly heads: number; readonly transformer: number | undefined } | undefined;
  /** From the smallest picture to the largest. */
  readonly up: readonly UnetLevel[];
  readonly contextWidth: number;
  readonly groups: number;
  /** Of the group norms in resnets and before the last convolution. */
  readonly eps: number;
  /** Of the group norm that opens a transformer. */
  readonly transformerEps: number;
  /** Of the layer norms in transformer blocks. */
  readonly layerEps: number;
  /** Of the gate in transformer blocks. */
  readonly activation: Activation;
  /**
   * Whether a transformer's first and last product are linear layers (SD 2, SDXL) or 1×1
   * convolutions.
   */
  readonly linearProjection: boolean;
  readonly flipSinToCos: boolean;
  readonly freqShift: number;
  readonly convInKernel: number;
  readonly convOutKernel: number;
  /** Downsampling pads all sides by 1, or right and bottom only where this is 0. */
  readonly downsamplePadding: 0 | 1;
  /** Width of the embedded guidance scale (LCM). */
  readonly guidanceWidth: number | undefined;
  /**
   * SDXL's pooled text and size conditioning: sinusoid width of each number, and width of both
   * together.
   */
  readonly addition: { readonly timeWidth: number; readonly inputWidth: number } | undefined;
  /** Latent height and width that the model was trained at. */
  readonly sampleSize: number | undefined;
}

export interface UnetInputs {
  /** [n, h, w, inChannels], scaled for the network. */
  readonly sample: Tensor;
  /** [n]; need not be whole numbers. */
  readonly timestep: Tensor;
  /** Text states [n, tokens, contextWidth]. */
  readonly encoderHiddenStates: Tensor;
  /** SDXL: pooled text [n, width]. */
  readonly textEmbeds?: Tensor;
  /** SDXL: original height, width, crop top, left, target height, width: [n, 6]. */
  readonly timeIds?: Tensor;
  /** LCM: the embedded guidance scale [n, guidanceWidth]. */
  readonly timestepCond?: Tensor;
}

const NAMES: AttentionNames = { q: "to_q", k: "to_k", v: "to_v", out: "to_out.0", bias: false };

/**
 * The prediction (ε, v or x₀) [n, h, w, outChannels]. Throws `RangeError` on inputs that do not fit
 * the config.
 */
export function unet(p: Params, config: UnetConfig, inputs: UnetInputs): Tensor {
  checkInputs(config, inputs);
  const { groups, eps } = config;
  const context = inputs.encoderHiddenStates;
  const time = silu(timeEmbedding(p, config, inputs)); // [n, 4·c]
  const transformed = (block: Params, j: number, x: Tensor, level: UnetLevel) => {
    const depth = level.transformers[j];
    x = resnet(block.at(`resnets.${j}`), x, time, level.channels, config);
    if (depth === undefined) return x;
    return transformer(block.at(`attentions.${j}`), x, context, depth, level.heads, config);
  };

  let x = conv2d(
    p.at("conv_in"),
    inputs.sample,
    config.down[0].channels,
    same(config.convInKernel),
  );
  const skips = [x];
  for (const [i, level] of config.down.entries()) {
    const block = p.at(`down_blocks.${i}`);
    for (const j of level.transformers.keys()) {
      x = transformed(block, j, x, level);
      skips.push(x);
    }
    if (i === config.down.length - 1) break;
    x = conv2d(block.at("downsamplers.0.conv"), x, level.channels, halving(config));
    skips.push(p.graph.label(block.at("downsamplers.0").path, x));
  }

  if (config.mid) x = middle(p.at("mid_block"), config, config.mid, x, time, context);

  for (const [i, level] of config.up.entries()) {
    const block = p.at(`up_blocks.${i}`);
    for (const j of level.transformers.keys()) {
      x = p.graph.concat([x, pop(skips)], 3);
      x = transformed(block, j, x, level);
    }
    if (i === config.up.length - 1) break;
    const [, h, w] = skips[skips.length - 1].shape;
    x = x.upsample(2).slice(1, 0, h).slice(2, 0, w);
    x = conv2d(block.at("upsamplers.0.conv"), x, level.channels, same(3));
    p.graph.label(block.at("upsamplers.0").path, x);
  }

  const norm = groupNorm(p.at("conv_norm_out"), x, { groups, eps });
  const out = conv2d(p.at("conv_out"), silu(norm), config.outChannels, same(config.convOutKernel));
  return p.graph.label(p.path, out);
}

/** Time, and where the model has them guidance, pooled text and sizes: [n, 4·c]. */
function timeEmbedding(p: Params, config: UnetConfig, inputs: UnetInputs): Tensor {
  const { flipSinToCos, freqShift, addition } = config;
  const { timestep, timestepCond, textEmbeds, timeIds } = inputs;
  const c = config.down[0].channels;
  let t = sinusoid(timestep, { width: c, flipSinToCos, freqShift }); // [n, c]
  p.graph.label(p.at("time_proj").path, t);
  if (timestepCond) t = t.add(linearNoBias(p.at("time_embedding.cond_proj"), timestepCond, c));
  const embedding = timeMlp(p.at("time_embedding"), t, 4 * c);
  if (!addition || !textEmbeds || !timeIds) return embedding;
  const [n, count] = timeIds.shape;
  const sizes = sinusoid(timeIds, { width: addition.timeWidth, flipSinToCos, freqShift });
  p.graph.label(p.at("add_time_proj").path, sizes);
  const added = p.graph.concat([textEmbeds, sizes.reshape([n, count * addition.timeWidth])], 1);
  return embedding.add(timeMlp(p.at("add_embedding"), added, 4 * c));
}

function middle(
  p: Params,
  config: UnetConfig,
  mid: NonNullable<UnetConfig["mid"]>,
  x: Tensor,
  time: Tensor,
  context: Tensor,
): Tensor {
  const c = x.shape[3];
  return module(p, () => {
    x = resnet(p.at("resnets.0"), x, time, c, config);
    if (mid.transformer === undefined) return x;
    x = transformer(p.at("attentions.0"), x, context, mid.transformer, mid.heads, config);
    return resnet(p.at("resnets.1"), x, time, c, config);
  });
}

/**
 * norm, SiLU, convolution; plus time; norm, SiLU, convolution; plus x. `time` is after its SiLU:
 * [n, 4·c].
 */
function resnet(p: Params, x: Tensor, time: Tensor, channels: number, norm: GroupNorm): Tensor {
  const [n, , , c] = x.shape;
  return module(p, () => {
    let h = conv2d(p.at("conv1"), silu(groupNorm(p.at("norm1"), x, norm)), channels, same(3));
    h = h.add(linear(p.at("time_emb_proj"), time, channels).reshape([n, 1, 1, channels]));
    h = conv2d(p.at("conv2"), silu(groupNorm(p.at("norm2"), h, norm)), channels, same(3));
    return h.add(c === channels ? x : conv2d(p.at("conv_shortcut"), x, channels, same(1)));
  });
}

/** A stack of transformer blocks over the pixels, around which x is carried. */
function transformer(
  p: Params,
  x: Tensor,
  context: Tensor,
  depth: number,
  heads: number,
  config: UnetConfig,
): Tensor {
  const [n, h, w, c] = x.shape;
  const { groups, transformerEps: eps, linearProjection } = config;
  const project = (name: string, y: Tensor) =>
    linearProjection
      ? linear(p.at(name), y.reshape([n, h * w, c]), c)
      : conv2d(p.at(name), y.reshape([n, h, w, c]), c, same(1));
  return module(p, () => {
    let y = project("proj_in", groupNorm(p.at("norm"), x, { groups, eps })).reshape([n, h * w, c]);
    for (let k = 0; k < depth; k++) {
      y = block(p.at(`transformer_blocks.${k}`), y, context, heads, config);
    }
    return project("proj_out", y).reshape([n, h, w, c]).add(x);
  });
}

/**
 * Self-attention, cross-attention and a gated MLP, each on a layer norm and added to x [n, t, c].
 */
function block(p: Params, x: Tensor, context: Tensor, heads: number, config: UnetConfig): Tensor {
  const { layerEps: eps, activation } = config;
  const c = x.shape[2];
  return module(p, () => {
    const a = layerNorm(p.at("norm1"), x, eps);
    const y = x.add(attention(p.at("attn1"), a, a, heads, NAMES, { causal: false }));
    const b = layerNorm(p.at("norm2"), y, eps);
    const z = y.add(attention(p.at("attn2"), b, context, heads, NAMES, { causal: false }));
    const ff = p.at("ff");
    const gated = geglu(ff.at("net.0"), layerNorm(p.at("norm3"), z, eps), 4 * c, activation);
    return z.add(module(ff, () => linear(ff.at("net.2"), gated, c)));
  });
}

function halving({ downsamplePadding }: UnetConfig): Window {
  const before = downsamplePadding;
  const padding = { top: before, bottom: 1, left: before, right: 1 };
  return { kernel: 3, stride: 2, padding, bias: true };
}

function pop(skips: Tensor[]): Tensor {
  const skip = skips.pop();
  if (!skip) {
    throw new RangeError(
      "Cannot build the UNet: its up blocks have more resnets than its down blocks feed",
    );
  }
  return skip;
}

function checkInputs(config: UnetConfig, inputs: UnetInputs): void {
  const { sample, timestep, encoderHiddenStates: context, textEmbeds, timeIds } = inputs;
  const n = sample.shape[0];
  const need = (fact: boolean, sentence: string) => {
    if (!fact) throw new RangeError(`Cannot build the UNet: ${sentence}`);
  };
  need(
    sample.rank === 4 && sample.shape[3] === config.inChannels,
    `the sample is ${show(sample.shape)}, expected [n, h, w, ${config.inChannels}]`,
  );
  need(timestep.size === n, `there are ${timestep.size} timesteps for a batch of ${n}`);
  need(
    context.rank === 3 && context.shape[0] === n && context.shape[2] === config.contextWidth,
    `the text states are ${show(context.shape)}, expected [${n}, tokens, ${config.contextWidth}]`,
  );
  need(
    (config.guidanceWidth !== undefined) === (inputs.timestepCond !== undefined),
    config.guidanceWidth === undefined
      ? "it has no embedding of the guidance scale, yet one is given"
      : `it needs the embedded guidance scale [${n}, ${config.guidanceWidth}]`,
  );
  if (config.addition === undefined) {
    need(!textEmbeds && !timeIds, "it has no pooled text conditioning, yet one is given");
    return;
  }
  const { timeWidth, inputWidth } = config.addition;
  const given = (textEmbeds?.shape[1] ?? 0) + (timeIds?.shape[1] ?? 0) * timeWidth;
  need(
    textEmbeds !== undefined && timeIds !== undefined && given === inputWidth,
    `pooled text and sizes are ${given} wide, expected ${inputWidth}`,
  );
}

/**
 * The inputs of `unet` as graph inputs of the same names, for `batch` latents of `height` ×
 * `width`.
 */
export function unetInputs(
  graph: Graph,
  config: UnetConfig,
  size: {
    readonly batch: number;
    readonly height: number;
    readonly width: number;
    readonly tokens: number;
  },
): UnetInputs {
  const { batch, height, width, tokens } = size;
  const { addition, guidanceWidth } = config;
  return {
    sample: graph.input("sample", [batch, height, width, config.inChannels]),
    timestep: graph.input("timestep", [batch]),
    encoderHiddenStates: graph.input("encoderHiddenStates", [batch, tokens, config.contextWidth]),
    ...(addition && {
      textEmbeds: graph.input("textEmbeds", [
        batch,
        addition.inputWidth - TIME_IDS * addition.timeWidth,
      ]),
      timeIds: graph.input("timeIds", [batch, TIME_IDS]),
    }),
    ...(guidanceWidth !== undefined && {
      timestepCond: graph.input("timestepCond", [batch, guidanceWidth]),
    }),
  };
}

/** Numbers in SDXL's size conditioning (Podell et al. 2023, section 2.2). */
const TIME_IDS = 6;
