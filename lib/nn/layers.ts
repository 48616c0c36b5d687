/**
 * The layers that diffusion models are made of, as functions from scope and tensors to a tensor. A
 * layer names its weights where it uses them, under diffusers' names.
 *
 * Convention: channels last ([n, h, w, c] or [n, tokens, c]). What references disagree on (epsilon,
 * activation, padding, bias) is always an argument. Each layer labels its result with its scope, so
 * that `graph.labels.get("unet.mid_block.resnets.0.conv1")` is what diffusers' module of that name
 * returns.
 */

import { show } from "../base/shape.ts";
import type { Padding } from "../graph/ops.ts";
import type { Tensor } from "../graph/tensor.ts";
import { type Params, rowsOf, stacked } from "./params.ts";

/** Builds one module: its nodes carry the scope's name, its result the scope's label. */
export function module(p: Params, build: () => Tensor): Tensor {
  return p.graph.within(p.path, () => p.graph.label(p.path, build()));
}

const last = (x: Tensor) => x.shape[x.rank - 1];

// ---- activations

/** x · σ(x); also called swish. */
export function silu(x: Tensor): Tensor {
  return x.mul(x.sigmoid());
}

/** x · Φ(x), with the error function. */
export function gelu(x: Tensor): Tensor {
  return x.mul(x.mul(Math.SQRT1_2).erf().add(1)).mul(0.5);
}

/** OpenAI CLIP's x · σ(1.702 x). */
function quickGelu(x: Tensor): Tensor {
  return x.mul(x.mul(1.702).sigmoid());
}

/** ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))). */
function geluTanh(x: Tensor): Tensor {
  const inner = x.mul(x).mul(x).mul(0.044715).add(x).mul(Math.sqrt(2 / Math.PI));
  return x.mul(inner.tanh().add(1)).mul(0.5);
}

export function relu(x: Tensor): Tensor {
  return x.max(0);
}

/** By the names that configs use (transformers' ACT2FN and diffusers' get_activation). */
export const ACTIVATIONS = {
  silu,
  swish: silu,
  gelu,
  quick_gelu: quickGelu,
  gelu_new: geluTanh,
  gelu_pytorch_tanh: geluTanh,
  relu,
} as const satisfies Record<string, (x: Tensor) => Tensor>;
export type Activation = keyof typeof ACTIVATIONS;

// ---- products

/** x Wᵀ + b over the last axis: […, c] → […, width]. */
export function linear(p: Params, x: Tensor, width: number): Tensor {
  return module(p, () => {
    const y = x.matmul(p.get("weight", [width, last(x)], "linear"), { transposeB: true });
    return y.add(p.get("bias", [width], "vector"));
  });
}

/** x Wᵀ over the last axis: […, c] → […, width]. */
export function linearNoBias(p: Params, x: Tensor, width: number): Tensor {
  return module(
    p,
    () => x.matmul(p.get("weight", [width, last(x)], "linear"), { transposeB: true }),
  );
}

/** The products of one x with weights of several scopes, computed as one: […, c] → for each scope […, width]. */
function linears(
  scopes: readonly Params[],
  x: Tensor,
  width: number,
  options: { readonly bias: boolean },
): Tensor[] {
  const weight = stacked(scopes, "weight", [width, last(x)], "linear"); // [scopes · width, c]
  const y = x.matmul(weight, { transposeB: true });
  const all = options.bias ? y.add(stacked(scopes, "bias", [width], "vector")) : y;
  return scopes.map((p, i) =>
    p.graph.within(p.path, () => p.graph.label(p.path, all.slice(-1, i * width, (i + 1) * width)))
  );
}

/** How a convolution moves over its input. */
export interface Window {
  readonly kernel: number;
  readonly stride: number;
  readonly padding: Padding;
  readonly bias: boolean;
}

/** The same zero padding on all sides. */
export function around(n: number): Padding {
  return { top: n, bottom: n, left: n, right: n };
}

/** Odd kernels that keep height and width. */
export function same(kernel: number): Window {
  return { kernel, stride: 1, padding: around((kernel - 1) / 2), bias: true };
}

/** [n, h, w, c] → [n, h′, w′, channels]. */
export function conv2d(p: Params, x: Tensor, channels: number, window: Window): Tensor {
  const { kernel, stride, padding, bias } = window;
  return module(p, () => {
    const weight = p.get("weight", [channels, kernel, kernel, last(x)], "conv");
    const y = x.conv2d(weight, { stride, padding });
    return bias ? y.add(p.get("bias", [channels], "vector")) : y;
  });
}

// ---- norms

/** What a group norm needs to be told. */
export interface GroupNorm {
  readonly groups: number;
  readonly eps: number;
}

/**
 * (x − mean) / √(variance + eps) · weight + bias in groups of channels, over all pixels. `moments`
 * [n, groups, 2] replaces those of x where x is a part of a larger picture.
 */
export function groupNorm(p: Params, x: Tensor, norm: GroupNorm, moments?: Tensor): Tensor {
  return module(p, () => {
    const [weight, bias] = [
      p.get("weight", [last(x)], "vector"),
      p.get("bias", [last(x)], "vector"),
    ];
    const { groups, eps } = norm;
    return x.groupNormalize(moments ?? x.groupMoments(groups), weight, bias, { groups, eps });
  });
}

/** Over the last axis. */
export function layerNorm(p: Params, x: Tensor, eps: number): Tensor {
  return module(p, () => {
    const [weight, bias] = [
      p.get("weight", [last(x)], "vector"),
      p.get("bias", [last(x)], "vector"),
    ];
    return x.layerNorm(weight, bias, { eps });
  });
}

// ---- attention

/**
 * [n, t, c] → [n, t, heads, c / heads]. Throws `RangeError` where the heads do not divide the
 * channels.
 */
export function splitHeads(x: Tensor, heads: number): Tensor {
  const [n, t, c] = x.shape;
  if (c % heads !== 0) throw new RangeError(`${heads} heads do not divide ${show(x.shape)}`);
  return x.reshape([n, t, heads, c / heads]); // [n, t, heads, d]
}

/** The names that a library gives an attention's four products, and where they have a bias. */
export interface AttentionNames {
  readonly q: string;
  readonly k: string;
  readonly v: string;
  readonly out: string;
  /** Of q, k and v; `out` always has one. */
  readonly bias: boolean;
}

/** Keys and values [n, s, heads, d] of a context [n, s, c]; they depend on nothing else. */
function keysAndValues(
  p: Params,
  context: Tensor,
  width: number,
  heads: number,
  names: AttentionNames,
): readonly [Tensor, Tensor] {
  const [k, v] = linears([p.at(names.k), p.at(names.v)], context, width, names);
  return [splitHeads(k, heads), splitHeads(v, heads)];
}

/**
 * Multi-head attention of x [n, t, c] to `context` [n, s, c′] → [n, t, c]; scale 1/√d (Vaswani et
 * al. 2017). `causal`: token i sees tokens 0 … i.
 */
export function attention(
  p: Params,
  x: Tensor,
  context: Tensor,
  heads: number,
  names: AttentionNames,
  options: { readonly causal: boolean },
): Tensor {
  return module(p, () => {
    const [n, t, c] = x.shape;
    const [q, k, v] = context === x
      ? linears([names.q, names.k, names.v].map((name) => p.at(name)), x, c, names)
        .map((y) => splitHeads(y, heads))
      : [
        splitHeads((names.bias ? linear : linearNoBias)(p.at(names.q), x, c), heads),
        ...keysAndValues(p, context, c, heads, names),
      ];
    const scale = 1 / Math.sqrt(c / heads);
    const y = q.attention(k, v, { scale, causal: options.causal }).reshape([n, t, c]);
    return linear(p.at(names.out), y, c);
  });
}

/**
 * Shazeer 2020's gated GELU: the first half of a product, times the GELU of the second: […, c] →
 * […, width]. The halves are two products, so that the second is multiplied while it is computed.
 */
export function geglu(p: Params, x: Tensor, width: number, activation: Activation): Tensor {
  const proj = p.at("proj");
  const half = (begin: number) => {
    const rows = [begin, begin + width] as const;
    const weight = rowsOf(proj, "weight", [2 * width, last(x)], "linear", rows);
    const bias = rowsOf(proj, "bias", [2 * width], "vector", rows);
    return x.matmul(weight, { transposeB: true }).add(bias);
  };
  return module(p, () => {
    const [value, gate] = [half(0), half(width)];
    p.graph.label(proj.path, p.graph.concat([value, gate], -1));
    return value.mul(ACTIVATIONS[activation](gate));
  });
}

// ---- time

/** How a number becomes a row of sines and cosines. */
export interface Sinusoid {
  readonly width: number;
  /** Cosines before sines. */
  readonly flipSinToCos: boolean;
  /** Frequencies are 10000^(−i / (width/2 − freqShift)). */
  readonly freqShift: number;
}

/**
 * Sinusoidal embedding [n] → [n, width] (Vaswani et al. 2017; as diffusers'
 * get_timestep_embedding). An odd width ends with a zero. Frequencies are computed in f64 and
 * rounded to f32.
 */
export function sinusoid(t: Tensor, { width, flipSinToCos, freqShift }: Sinusoid): Tensor {
  const half = Math.floor(width / 2);
  const rate = -Math.log(10000) / (half - freqShift);
  const frequencies = Array.from({ length: half }, (_, i) => Math.fround(Math.exp(rate * i)));
  const angle = t.reshape([t.size, 1]).mul(t.graph.constant(frequencies, [1, half])); // [n, half]
  const parts = flipSinToCos ? [angle.cos(), angle.sin()] : [angle.sin(), angle.cos()];
  return t.graph.concat(parts, 1).pad([0, 0], [0, width % 2]);
}

/** linear → SiLU → linear: [n, c] → [n, width], diffusers' TimestepEmbedding. */
export function timeMlp(p: Params, x: Tensor, width: number): Tensor {
  return module(p, () => linear(p.at("linear_2"), silu(linear(p.at("linear_1"), x, width)), width));
}
