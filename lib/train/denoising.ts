/**
 * The loss of the denoiser (Ho et al. 2020; Rombach et al. 2022, equation 2): noise is mixed into latents, the network
 * predicts ε, v or x₀, and the squared error is weighted by time (Hang et al. 2023, "Min-SNR").
 */

import { torchCpu } from "../base/random.ts";
import type { Tensor } from "../graph/tensor.ts";

export type Target = "epsilon" | "v_prediction" | "sample";

/** A batch of latents as graph inputs; all but the first two are [n, 1, 1, 1]. */
export interface NoisyLatents {
  /** [n, h, w, c], in the denoiser's scale. */
  readonly latents: Tensor;
  /** [n, h, w, c] */
  readonly noise: Tensor;
  /** Share of the latents. */
  readonly alpha: Tensor;
  /** Share of the noise. */
  readonly sigma: Tensor;
}

/** What the network sees: α x₀ + σ ε. */
export function noised({ latents, noise, alpha, sigma }: NoisyLatents): Tensor {
  return latents.mul(alpha).add(noise.mul(sigma));
}

/** What the network should have said. */
const TARGETS: Readonly<Record<Target, (batch: NoisyLatents) => Tensor>> = {
  epsilon: ({ noise }) => noise,
  v_prediction: ({ latents, noise, alpha, sigma }) => noise.mul(alpha).sub(latents.mul(sigma)),
  sample: ({ latents }) => latents,
};

/** Mean over the batch of weight · mean squared error; `weight` is [n, 1, 1, 1]. A single number. */
export function denoisingLoss(
  prediction: Tensor,
  batch: NoisyLatents,
  target: Target,
  weight: Tensor,
): Tensor {
  const error = prediction.sub(TARGETS[target](batch));
  return error.mul(error).mul(weight).mean([0, 1, 2, 3]).reshape([]);
}

/**
 * Weight of a time by its signal-to-noise ratio α²/σ²: min(snr, γ), in the units of the prediction's own error.
 * `undefined` weighs all times alike.
 */
export function minSnrWeight(
  target: Target,
  { alpha, sigma }: { readonly alpha: number; readonly sigma: number },
  gamma: number | undefined,
): number {
  if (gamma === undefined) return 1;
  const snr = (alpha / sigma) ** 2;
  const least = Math.min(snr, gamma);
  switch (target) {
    case "epsilon":
      return snr === 0 ? 0 : least / snr;
    case "v_prediction":
      return least / (snr + 1);
    case "sample":
      return least;
  }
}

/** ᾱ of every time, as √ᾱ and √(1 − ᾱ). */
export interface Times {
  readonly alphas: readonly number[];
  readonly sigmas: readonly number[];
}

/** What is drawn for one batch. */
export interface Draw {
  readonly timesteps: readonly number[];
  readonly noise: Float32Array<ArrayBuffer>;
}

/**
 * Times and noise of micro-step `index` of a run: they depend on seed and index alone, so that a run goes on after an
 * interruption as if there had been none.
 */
export function drawAt(
  seed: number,
  index: number,
  { batch, numbers, times }: {
    readonly batch: number;
    /** Numbers of the latents of one picture. */
    readonly numbers: number;
    readonly times: number;
  },
): Draw {
  const source = torchCpu(seedAt(seed, index));
  const timesteps = [...source.integers(0, times, batch)];
  return { timesteps, noise: source.normal(batch * numbers) };
}

/** A seed for step `index` of what is seeded by `seed`; neighbours have nothing in common (finaliser of MurmurHash3). */
export function seedAt(seed: number, index: number): number {
  let h = Math.imul(seed, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca77);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
