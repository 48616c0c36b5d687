/**
 * What a step of AdamW with decoupled weight decay (Loshchilov & Hutter 2019) is told: clipping by the global norm as
 * torch's clip_grad_norm_, corrections of the moments as torch.optim.AdamW, and how much of the weights' average is renewed.
 */

import type { Scalars } from "../gpu/adamw.ts";

/** What stays the same during a run. */
export interface AdamW {
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly weightDecay: number;
  /** The norm that all gradients together are scaled down to; `undefined` leaves them. */
  readonly clip: number | undefined;
  /** Decay of the weights' average; 0: there is none. */
  readonly ema: number;
}

/** Numbers of a row of a flat vector. */
export const WIDTH = 256;

/** The flat vectors of a group of parameters; the average is last, as it may be missing. */
const VECTORS = ["weight", "moment1", "moment2", "gradient", "average"] as const;
export type VectorName = typeof VECTORS[number];

/** Those that a run has. */
export function vectorsOf({ ema }: Pick<AdamW, "ema">): readonly VectorName[] {
  return ema > 0 ? VECTORS : VECTORS.slice(0, -1);
}

/** What step t, counted from 1, is told. `squares`: Σ of all squares of gradients summed over `count` micro-steps. */
export function scalarsAt(
  t: number,
  { beta1, beta2, clip, ema }: AdamW,
  { rate, squares, count }: {
    readonly rate: number;
    readonly squares: number;
    readonly count: number;
  },
): { readonly norm: number; readonly scalars: Scalars } {
  const norm = Math.sqrt(squares) / count;
  const clipped = clip === undefined ? 1 : Math.min(1, clip / (norm + 1e-6));
  const scalars = {
    rate,
    correction1: 1 - beta1 ** t,
    correction2: Math.sqrt(1 - beta2 ** t),
    scale: clipped / count,
    renewal: 1 - emaDecayAt(ema, t),
  };
  return { norm, scalars };
}

/** Share of the average that stays after step t, counted from 1: it follows fast at first (diffusers' EMAModel). */
export function emaDecayAt(decay: number, t: number): number {
  return Math.max(0, Math.min(decay, (1 + t) / (10 + t)));
}
