/**
 * AdamW with decoupled weight decay (Loshchilov & Hutter 2019), clipping by the global norm, and an exponential moving
 * average of the weights, as a graph over flat vectors: all parameters of a group are one operand. Arithmetic and order
 * of operations are torch's (torch.optim.AdamW, clip_grad_norm_), so that runs can be compared.
 *
 * Vectors lie as [rows, WIDTH] so that sums of millions of squares are short sums of short sums.
 */

import { Graph, type Tensor } from "../graph/tensor.ts";

/** What stays the same during a run. */
export interface AdamW {
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly weightDecay: number;
  /** The norm that all gradients together are scaled down to; `undefined` leaves them. */
  readonly clip: number | undefined;
}

/** Numbers of a row of a flat vector. */
export const WIDTH = 256;

/** The flat vectors of a group of parameters. */
export const VECTORS = ["weight", "moment1", "moment2", "average", "gradient"] as const;
export type VectorName = typeof VECTORS[number];

/** What a step is told, one number each. */
export interface Scalars {
  /** Learning rate. */
  readonly rate: number;
  /** 1 − β₁ᵗ of step t, counted from 1. */
  readonly correction1: number;
  /** √(1 − β₂ᵗ). */
  readonly correction2: number;
  /** What gradients are multiplied by: their mean over micro-steps, clipped. */
  readonly scale: number;
  /** 1 − the share of the average that stays. */
  readonly renewal: number;
}

/** Σ g², a single number, for the global norm. */
export function squaresOf(rows: number): Tensor {
  const g = new Graph().input("gradient", [rows, WIDTH]);
  return g.mul(g).sum([1]).sum([0]);
}

/** The gradient of several micro-steps together. */
export function accumulated(rows: number): Tensor {
  const graph = new Graph();
  return graph.input("total", [rows, WIDTH]).add(graph.input("gradient", [rows, WIDTH]));
}

/** The vectors after a step, from those before, the gradient and `Scalars`. */
export function adamW(
  rows: number,
  { beta1, beta2, eps, weightDecay }: AdamW,
): Readonly<Record<Exclude<VectorName, "gradient">, Tensor>> {
  const graph = new Graph();
  const vector = (name: VectorName) => graph.input(name, [rows, WIDTH]);
  const scalar = (name: keyof Scalars) => graph.input(name, [1, 1]);
  const rate = scalar("rate");
  const g = vector("gradient").mul(scalar("scale"));
  const m = vector("moment1");
  const moment1 = m.add(g.sub(m).mul(1 - beta1));
  const moment2 = vector("moment2").mul(beta2).add(g.mul(g).mul(1 - beta2));
  const denominator = moment2.sqrt().div(scalar("correction2")).add(eps);
  const step = moment1.div(denominator).mul(rate.div(scalar("correction1")));
  const decay = graph.constant(1).sub(rate.mul(weightDecay));
  const weight = vector("weight").mul(decay).sub(step);
  const average = vector("average");
  return {
    weight,
    moment1,
    moment2,
    average: average.add(weight.sub(average).mul(scalar("renewal"))),
  };
}

/** What step t, counted from 1, is told. `squares`: Σ of all squares of gradients summed over `count` micro-steps. */
export function scalarsAt(
  t: number,
  { beta1, beta2, clip }: AdamW,
  { rate, squares, count, emaDecay }: {
    readonly rate: number;
    readonly squares: number;
    readonly count: number;
    readonly emaDecay: number;
  },
): Scalars & { readonly norm: number } {
  const norm = Math.sqrt(squares) / count;
  const clipped = clip === undefined ? 1 : Math.min(1, clip / (norm + 1e-6));
  return {
    norm,
    rate,
    correction1: 1 - beta1 ** t,
    correction2: Math.sqrt(1 - beta2 ** t),
    scale: clipped / count,
    renewal: 1 - emaDecayAt(emaDecay, t),
  };
}

/** Share of the average that stays after step t, counted from 1: it follows fast at first (diffusers' EMAModel). */
export function emaDecayAt(decay: number, t: number): number {
  return Math.max(0, Math.min(decay, (1 + t) / (10 + t)));
}
