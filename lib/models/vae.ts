/**
 * The first stage: the KL autoencoder of latent diffusion (Rombach et al. 2022) as diffusers'
 * AutoencoderKL names it, at any f = 2^m.
 *
 * Convention: pictures [n, h, w, 3] in −1 … 1, latents [n, h/f, w/f, latentChannels] in the
 * autoencoder's own scale (the denoiser's is `scalingFactor` times that). Each half is a list of
 * segments: `decode` and `encode` run them on whole pictures, a tiled executor runs the same
 * segments tile by tile and gets the same picture.
 *
 * Tiled execution. Two values live as whole pictures between segments: x, the main stream, and h,
 * the inside of a resnet. A segment reads one or both and writes one to a new picture, so at most
 * three exist at a time; a segment that reads h and x may write over x where the widths agree,
 * since it uses x at the written pixels only. For each segment:
 *
 * 1. Cut the picture it writes into tiles. Tile [a, b) of one axis reads [a/zoom − before, b/zoom +
 *    after) of every value in `reads`, where before and after are the halo's, cut off at the edges
 *    of the picture. For zoom ½ any tile will do; for zoom 2, a and b must be even.
 * 2. `border` has a 1 on each side where the tile ends at the edge of the picture, and 0 elsewhere:
 *    there the segment pads with zeros, elsewhere it uses the halo.
 * 3. The tensor that `build` returns is the tile of the written value, without halo.
 * 4. Where the next segment has `groups`, merge the moments of what is being written (count, mean,
 *    sum of squared deviations, for each group of channels over the whole picture; in f64). They
 *    are the next segment's `moments`, [n, groups, 2] with mean and variance. The next segment's
 *    norm is always over the value that this one writes.
 *
 * A `whole` segment (attention) is run on the whole picture as one tile; its `border` is all ones.
 */

import type { Padding } from "../graph/ops.ts";
import type { Tensor } from "../graph/tensor.ts";
import {
  around,
  attention,
  type AttentionNames,
  conv2d,
  type GroupNorm,
  groupNorm,
  module,
  same,
  silu,
  type Window,
} from "../nn/layers.ts";
import type { Params } from "../nn/params.ts";

/** What `decode` and `encode` build; `config.ts` reads it from config.json or from shapes. */
export interface VaeConfig {
  /** Of the picture that is encoded, and of the one that is decoded. */
  readonly inChannels: number;
  readonly outChannels: number;
  readonly latentChannels: number;
  /** From the largest picture to the smallest; f is 2^(length − 1). */
  readonly channels: readonly number[];
  /** Resnets a level in the encoder; the decoder has one more. */
  readonly layers: number;
  readonly groups: number;
  /** Of every norm. */
  readonly eps: number;
  /** Whether the smallest level has attention. */
  readonly midAttention: boolean;
  readonly quantConv: boolean;
  readonly postQuantConv: boolean;
  /** Latents of the denoiser = (latents − shiftFactor) · scalingFactor. */
  readonly scalingFactor: number;
  readonly shiftFactor: number;
}

/** Pixels of the picture to one of the latent, along one side. */
export function factorOf(config: VaeConfig): number {
  return 2 ** (config.channels.length - 1);
}

/** The two values between segments: the main stream, and the inside of a resnet. */
export type Value = "x" | "h";

/**
 * A part of the autoencoder between two points where it needs statistics of the whole picture; see
 * the head of this file.
 */
export interface Segment {
  /** diffusers' path of the module that it computes, or of its first half. */
  readonly name: string;
  /** The first is the one that is normalised. All have the same height and width. */
  readonly reads: readonly Value[];
  readonly writes: Value;
  /** Of the value it writes. */
  readonly channels: number;
  /** Groups of the norm that opens it; `undefined` where it has none. */
  readonly groups: number | undefined;
  /** Pixels that it needs around what it reads. */
  readonly halo: Padding;
  /** Height and width of what it writes, to those of what it reads. */
  readonly zoom: 0.5 | 1 | 2;
  /** Whether every pixel it writes depends on every pixel it reads. */
  readonly whole: boolean;
  /**
   * Without `moments` the norm takes those of its tensor, which is right for whole pictures only.
   */
  build(p: Params, inputs: readonly Tensor[], border: Padding, moments?: Tensor): Tensor;
}

/** The decoder for a latent z; `p` is the autoencoder's scope, e.g. "vae". */
export function decode(p: Params, config: VaeConfig, z: Tensor): Tensor {
  return p.graph.label(p.at("decoder").path, run(p, decoderSegments(config), z));
}

/** Mean and log variance of the latent, side by side: [n, h/f, w/f, 2 · latentChannels]. */
export function encode(p: Params, config: VaeConfig, picture: Tensor): Tensor {
  return p.graph.label(p.at("moments").path, run(p, encoderSegments(config), picture));
}

/** z → [n, f·h, f·w, outChannels], as segments. */
export function decoderSegments(config: VaeConfig): Segment[] {
  const { latentChannels, postQuantConv, layers } = config;
  const channels = config.channels.toReversed();
  const first = postQuantConv
    ? (p: Params, z: Tensor) => conv2d(p.at("post_quant_conv"), z, latentChannels, same(1))
    : (_: Params, z: Tensor) => z;
  return [
    entrance("decoder.conv_in", channels[0], first),
    ...middle("decoder.mid_block", channels[0], config),
    ...channels.flatMap((c, i) => [
      ...range(layers + 1).flatMap((j) =>
        resnet(
          `decoder.up_blocks.${i}.resnets.${j}`,
          j > 0 || i === 0 ? c : channels[i - 1],
          c,
          config,
        )
      ),
      ...(i === channels.length - 1 ? [] : [doubling(`decoder.up_blocks.${i}.upsamplers.0`, c)]),
    ]),
    exit("decoder", config.outChannels, config, (_, y) => y),
  ];
}

/** Picture → [n, h/f, w/f, 2 · latentChannels], as segments. */
export function encoderSegments(config: VaeConfig): Segment[] {
  const { channels, latentChannels, quantConv, layers } = config;
  const top = channels[channels.length - 1];
  const last = quantConv
    ? (p: Params, y: Tensor) => conv2d(p.at("quant_conv"), y, 2 * latentChannels, same(1))
    : (_: Params, y: Tensor) => y;
  return [
    entrance("encoder.conv_in", channels[0], (_, x) => x),
    ...channels.flatMap((c, i) => [
      ...range(layers).flatMap((j) =>
        resnet(
          `encoder.down_blocks.${i}.resnets.${j}`,
          j > 0 || i === 0 ? c : channels[i - 1],
          c,
          config,
        )
      ),
      ...(i === channels.length - 1 ? [] : [halving(`encoder.down_blocks.${i}.downsamplers.0`, c)]),
    ]),
    ...middle("encoder.mid_block", top, config),
    exit("encoder", 2 * latentChannels, config, last),
  ];
}

/** Segments in order on a whole picture. */
function run(p: Params, segments: readonly Segment[], input: Tensor): Tensor {
  const values = { x: input, h: input };
  for (const segment of segments) {
    values[segment.writes] = segment.build(p, segment.reads.map((v) => values[v]), around(1));
  }
  return values.x;
}

// ---- the segments

const POINTWISE = { reads: ["x"], writes: "x", groups: undefined, zoom: 1, whole: false } as const;
const NO_HALO = around(0);

/**
 * A 3×3 convolution that pads where the tile ends with the picture, and uses its halo elsewhere.
 */
function padded(border: Padding): Window {
  return { kernel: 3, stride: 1, padding: border, bias: true };
}

/** Cuts `by` pixels off every side that has a halo. */
function crop(x: Tensor, border: Padding, by: number): Tensor {
  const [, h, w] = x.shape;
  const cut = (side: number) => (1 - side) * by;
  return x.slice(1, cut(border.top), h - cut(border.bottom))
    .slice(2, cut(border.left), w - cut(border.right));
}

function entrance(
  name: string,
  channels: number,
  before: (p: Params, x: Tensor) => Tensor,
): Segment {
  return {
    ...POINTWISE,
    name,
    channels,
    halo: around(1),
    build: (p, [x], border) => conv2d(p.at(name), before(p, x), channels, padded(border)),
  };
}

/**
 * norm, SiLU, convolution, twice, and x added: two segments, since the second norm needs the first
 * one's result.
 */
function resnet(name: string, from: number, channels: number, norm: GroupNorm): Segment[] {
  const half = (number: 1 | 2) => (p: Params, x: Tensor, border: Padding, moments?: Tensor) => {
    const y = silu(groupNorm(p.at(`${name}.norm${number}`), x, norm, moments));
    return conv2d(p.at(`${name}.conv${number}`), y, channels, padded(border));
  };
  const both = { channels, groups: norm.groups, halo: around(1), zoom: 1, whole: false } as const;
  return [
    {
      ...both,
      name: `${name}.conv1`,
      reads: ["x"],
      writes: "h",
      build: (p, [x], border, moments) => half(1)(p, x, border, moments),
    },
    {
      ...both,
      name,
      reads: ["h", "x"],
      writes: "x",
      build: (p, [h, x], border, moments) =>
        module(p.at(name), () => {
          const inner = crop(x, border, 1);
          const shortcut = from === channels
            ? inner
            : conv2d(p.at(`${name}.conv_shortcut`), inner, channels, same(1));
          return half(2)(p, h, border, moments).add(shortcut);
        }),
    },
  ];
}

const NAMES: AttentionNames = { q: "to_q", k: "to_k", v: "to_v", out: "to_out.0", bias: true };

/** Attention with one head over all pixels, added to x. */
function attentionOver(name: string, channels: number, { groups, eps }: GroupNorm): Segment {
  return {
    ...POINTWISE,
    name,
    channels,
    groups,
    halo: NO_HALO,
    whole: true,
    build: (p, [x], _, moments) => {
      const [n, h, w, c] = x.shape;
      const scope = p.at(name);
      return module(scope, () => {
        const y = groupNorm(scope.at("group_norm"), x, { groups, eps }, moments)
          .reshape([n, h * w, c]);
        return attention(scope, y, y, 1, NAMES, { causal: false }).reshape(x.shape).add(x);
      });
    },
  };
}

function middle(name: string, channels: number, config: VaeConfig): Segment[] {
  return [
    ...resnet(`${name}.resnets.0`, channels, channels, config),
    ...(config.midAttention ? [attentionOver(`${name}.attentions.0`, channels, config)] : []),
    ...resnet(`${name}.resnets.1`, channels, channels, config),
  ];
}

/**
 * Nearest-neighbour enlargement, then a convolution. A halo pixel becomes two: one for the
 * convolution, one cut off.
 */
function doubling(name: string, channels: number): Segment {
  return {
    ...POINTWISE,
    name,
    channels,
    halo: around(1),
    zoom: 2,
    build: (p, [x], border) => {
      const y = conv2d(p.at(`${name}.conv`), x.upsample(2), channels, padded(border));
      return p.graph.label(p.at(name).path, crop(y, border, 1));
    },
  };
}

/**
 * A strided convolution that looks right and down only: original code pads the right and the bottom
 * side.
 */
function halving(name: string, channels: number): Segment {
  return {
    ...POINTWISE,
    name,
    channels,
    halo: { top: 0, bottom: 1, left: 0, right: 1 },
    zoom: 0.5,
    build: (p, [x], { bottom, right }) => {
      const padding = { top: 0, bottom, left: 0, right };
      const window = { kernel: 3, stride: 2, padding, bias: true };
      return p.graph.label(p.at(name).path, conv2d(p.at(`${name}.conv`), x, channels, window));
    },
  };
}

/** norm, SiLU, convolution, and what comes after them pixel by pixel. */
function exit(
  scope: string,
  channels: number,
  norm: GroupNorm,
  after: (p: Params, y: Tensor) => Tensor,
): Segment {
  return {
    ...POINTWISE,
    name: `${scope}.conv_out`,
    channels,
    groups: norm.groups,
    halo: around(1),
    build: (p, [x], border, moments) => {
      const y = silu(groupNorm(p.at(`${scope}.conv_norm_out`), x, norm, moments));
      return after(p, conv2d(p.at(`${scope}.conv_out`), y, channels, padded(border)));
    },
  };
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);
