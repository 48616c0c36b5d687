/**
 * The first stage: the KL autoencoder of latent diffusion (Rombach et al. 2022) as diffusers'
 * AutoencoderKL names it, at any f = 2^m.
 *
 * Convention: pictures [n, h, w, 3] in −1 … 1, latents [n, h/f, w/f, latentChannels] in the
 * autoencoder's own scale (the denoiser's is `scalingFactor` times that). Each half is a list of
 * segments: `decode` and `encode` run them on whole pictures, a tiled executor runs the same
 * segments tile by tile and gets the same picture.
 *
 * Tiled execution. Values live as whole pictures between segments: x, the main stream, h, the
 * inside of a resnet, and the keys and values of attention. A segment reads some and writes one;
 * where a resnet keeps its width what it writes can take x's place (x is used at the written pixels
 * only). For each segment:
 *
 * 1. Cut the picture it writes into tiles. Tile [a, b) of one axis reads [a/zoom − before, b/zoom +
 *    after) of every value in `reads`, where before and after are the halo's, cut off at the edges of
 *    the picture, and all of every value in `readsWhole`. For zoom ½ any tile will do; for zoom 2, a
 *    and b must be even.
 * 2. `border` has a 1 on each side where the tile ends at the edge of the picture, and 0 elsewhere:
 *    there the segment pads with zeros, elsewhere it uses the halo.
 * 3. The tensor that `build` returns is the tile of the written value, without halo.
 * 4. Where the segment has `groups`, it wants the moments of its first value over the whole picture,
 *    [n, groups, 2] with mean and variance: merge those of the tiles as they are written (count, mean,
 *    sum of squared deviations, for each group of channels; in f64).
 */

import type { Padding } from "../graph/ops.ts";
import type { Tensor } from "../graph/tensor.ts";
import {
  around,
  conv2d,
  type GroupNorm,
  groupNorm,
  linear,
  module,
  same,
  silu,
  splitHeads,
  type Window,
} from "../nn/layers.ts";
import type { Params } from "../nn/params.ts";
import { quantize } from "./quantizer.ts";

/** What `decode` and `encode` build; `config_from_json.ts` or `config_from_shapes.ts` reads it. */
export interface VaeConfig {
  /** Of the picture that is encoded, and of the one that is decoded. */
  readonly inChannels: number;
  readonly outChannels: number;
  readonly latentChannels: number;
  /**
   * Learnt vectors that latents become (quantizer.ts); `undefined` is a KL autoencoder, whose encoder gives mean and log
   * variance of its latents.
   */
  readonly codes: number | undefined;
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

/** What lives between segments: the main stream, the inside of a resnet, and attention's operands. */
export type Value = "x" | "h" | "keys" | "values";

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
  /** Values of which every tile reads all; they come after `reads`. */
  readonly readsWhole: readonly Value[];
  /**
   * Without `moments` the norm takes those of its tensor, which is right for whole pictures only.
   */
  build(p: Params, inputs: readonly Tensor[], border: Padding, moments?: Tensor): Tensor;
}

/** The decoder for any latent z, which becomes the nearest codes first where there are some. */
export function decodeLatent(p: Params, config: VaeConfig, z: Tensor): Tensor {
  return p.graph.label(
    p.at("decoder").path,
    run(p, decoderSegments(config, { quantizes: true }), z),
  );
}

/** The decoder for a latent z, or for codes; `p` is the autoencoder's scope, e.g. "vae". */
export function decode(p: Params, config: VaeConfig, z: Tensor): Tensor {
  return p.graph.label(p.at("decoder").path, run(p, decoderSegments(config), z));
}

/** Mean and log variance of the latent, side by side: [n, h/f, w/f, 2 · latentChannels]; latents where there are codes. */
export function encode(p: Params, config: VaeConfig, picture: Tensor): Tensor {
  return p.graph.label(p.at("moments").path, run(p, encoderSegments(config), picture));
}

/** z → [n, f·h, f·w, outChannels], as segments. `quantizes`: z becomes the nearest codes first, where there are some. */
export function decoderSegments(
  config: VaeConfig,
  { quantizes = false }: { readonly quantizes?: boolean } = {},
): Segment[] {
  const { latentChannels, postQuantConv, layers, codes } = config;
  const channels = config.channels.toReversed();
  const first = (p: Params, latents: Tensor) => {
    const z = quantizes && codes !== undefined ? quantize(p, codes, latents).nearest : latents;
    return postQuantConv ? conv2d(p.at("post_quant_conv"), z, latentChannels, same(1)) : z;
  };
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

/** What `encode` gives, as segments. */
export function encoderSegments(config: VaeConfig): Segment[] {
  const { channels, latentChannels, codes, quantConv, layers } = config;
  const encoded = codes === undefined ? 2 * latentChannels : latentChannels;
  const top = channels[channels.length - 1];
  const last = quantConv
    ? (p: Params, y: Tensor) => conv2d(p.at("quant_conv"), y, encoded, same(1))
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
    exit("encoder", encoded, config, last),
  ];
}

/** Segments in order on a whole picture. */
function run(p: Params, segments: readonly Segment[], input: Tensor): Tensor {
  const values: Record<Value, Tensor> = { x: input, h: input, keys: input, values: input };
  for (const segment of segments) {
    const inputs = [...segment.reads, ...segment.readsWhole].map((value) => values[value]);
    values[segment.writes] = segment.build(p, inputs, around(1));
  }
  return values.x;
}

// ---- the segments

const POINTWISE = {
  reads: ["x"],
  writes: "x",
  groups: undefined,
  zoom: 1,
  readsWhole: [],
} as const;
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
  const both = { channels, groups: norm.groups, halo: around(1), zoom: 1, readsWhole: [] } as const;
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

/** Attention with one head over all pixels, added to x: keys, values, and then any rows of queries. */
function attentionOver(name: string, channels: number, norm: GroupNorm): Segment[] {
  const { groups } = norm;
  const tokens = (x: Tensor) => x.reshape([x.shape[0], x.shape[1] * x.shape[2], x.shape[3]]);
  const normed = (p: Params, x: Tensor, moments?: Tensor) =>
    groupNorm(p.at("group_norm"), x, norm, moments);
  const shared = { ...POINTWISE, channels, groups, halo: NO_HALO };
  const product = (of: "to_k" | "to_v", writes: "keys" | "values"): Segment => ({
    ...shared,
    name: `${name}.${of}`,
    writes,
    build: (p, [x], _, moments) =>
      linear(p.at(`${name}.${of}`), tokens(normed(p.at(name), x, moments)), channels)
        .reshape(x.shape),
  });
  return [
    product("to_k", "keys"),
    product("to_v", "values"),
    {
      ...shared,
      name,
      readsWhole: ["keys", "values"],
      build: (p, [x, keys, values], _, moments) => {
        const scope = p.at(name);
        return module(scope, () => {
          const queries = linear(scope.at("to_q"), tokens(normed(scope, x, moments)), channels);
          const [q, k, v] = [queries, tokens(keys), tokens(values)].map((y) => splitHeads(y, 1));
          const y = q.attention(k, v, { scale: 1 / Math.sqrt(channels), causal: false });
          return linear(scope.at("to_out.0"), y.reshape(x.shape), channels).add(x);
        });
      },
    },
  ];
}

function middle(name: string, channels: number, config: VaeConfig): Segment[] {
  return [
    ...resnet(`${name}.resnets.0`, channels, channels, config),
    ...(config.midAttention ? attentionOver(`${name}.attentions.0`, channels, config) : []),
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
