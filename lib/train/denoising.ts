/**
 * The loss of the denoiser (Ho et al. 2020; Rombach et al. 2022, equation 2): noise is mixed into latents, the network
 * predicts ε, v or x₀, and the squared error is weighted by time (Hang et al. 2023, "Min-SNR").
 */

import { torchCpu } from "../base/random.ts";
import type { SchedulerConfig } from "../diffusion/plan.ts";
import { alphasCumprod, BETAS, rescaleZeroTerminalSnr } from "../diffusion/schedule.ts";
import type { Tensor } from "../graph/tensor.ts";
import { unet, type UnetConfig, type UnetInputs } from "../models/unet.ts";
import type { Params } from "../nn/params.ts";
import type { DiffusionConfig } from "./config.ts";
import { seedOf } from "./order.ts";
import type { Inputs, Objective } from "./trainer.ts";

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
function noised({ latents, noise, alpha, sigma }: NoisyLatents): Tensor {
  return latents.mul(alpha).add(noise.mul(sigma));
}

/** What the network should have said. */
const TARGETS: Readonly<Record<Target, (batch: NoisyLatents) => Tensor>> = {
  epsilon: ({ noise }) => noise,
  v_prediction: ({ latents, noise, alpha, sigma }) => noise.mul(alpha).sub(latents.mul(sigma)),
  sample: ({ latents }) => latents,
};

/** Mean over the batch of weight · mean squared error; `weight` is [n, 1, 1, 1]. A single number. */
function denoisingLoss(
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

/** What the denoiser is told beside noisy latents and time. */
export type UnetConditions = Omit<UnetInputs, "sample" | "timestep">;

/** Latents of one batch. */
export interface LatentSize {
  readonly batch: number;
  readonly height: number;
  readonly width: number;
}

/**
 * What a denoiser is trained for. Inputs of the graph, which `noisyInputs` gives: "latents" and "noise" [n, h, w, c],
 * "alpha", "sigma" and "weight" [n, 1, 1, 1], "timestep" [n]. `beside` [n, h, w, c′] are channels that the network sees
 * without noise, after the others.
 */
export function denoisingObjective(
  p: Params,
  config: UnetConfig,
  conditions: UnetConditions,
  { batch, height, width }: LatentSize,
  target: Target,
  beside?: Tensor,
): Objective {
  const { graph } = p;
  const picture = [batch, height, width, config.outChannels];
  const each = (name: string) => graph.input(name, [batch, 1, 1, 1]);
  const noisy: NoisyLatents = {
    latents: graph.input("latents", picture),
    noise: graph.input("noise", picture),
    alpha: each("alpha"),
    sigma: each("sigma"),
  };
  const seen = noised(noisy);
  const prediction = unet(p, config, {
    ...conditions,
    sample: beside ? graph.concat([seen, beside], 3) : seen,
    timestep: graph.input("timestep", [batch]),
  });
  return { loss: denoisingLoss(prediction, noisy, target, each("weight")) };
}

/** Arrays of one length, one after another. */
export function joined(parts: readonly Float32Array[]): Float32Array<ArrayBuffer> {
  const [{ length }] = parts;
  const all = new Float32Array(length * parts.length);
  parts.forEach((part, i) => all.set(part, i * length));
  return all;
}

/** Values of the inputs of `denoisingObjective` for latents [n, h, w, c]. `gamma` as for `minSnrWeight`. */
export function noisyInputs(
  latents: Float32Array<ArrayBuffer>,
  { timesteps, noise }: Draw,
  { alphas, sigmas }: Times,
  target: Target,
  gamma: number | undefined,
): Inputs {
  const by = (value: (t: number) => number) => Float32Array.from(timesteps, value);
  return {
    latents,
    noise,
    timestep: by((t) => t),
    alpha: by((t) => alphas[t]),
    sigma: by((t) => sigmas[t]),
    weight: by((t) => minSnrWeight(target, { alpha: alphas[t], sigma: sigmas[t] }, gamma)),
  };
}

/** The part of settings that says how noise grows. */
export type NoiseSettings = Pick<
  DiffusionConfig["diffusion"],
  | "prediction"
  | "beta_schedule"
  | "beta_start"
  | "beta_end"
  | "timesteps"
  | "zero_terminal_snr"
>;

/** Settings' names of schedules, as diffusers has them. */
const SCHEDULES = {
  linear: "linear",
  scaled_linear: "scaled_linear",
  cosine: "squaredcos_cap_v2",
} as const;

/** The settings that say what a scheduler's config says; diffusers' defaults where it says nothing. */
export function noiseSettingsOf(scheduler: SchedulerConfig): NoiseSettings {
  const { betaSchedule = "linear", betaStart = 0.0001, betaEnd = 0.02 } = scheduler;
  return {
    prediction: scheduler.prediction ?? "epsilon",
    beta_schedule: betaSchedule === "squaredcos_cap_v2" ? "cosine" : betaSchedule,
    beta_start: betaStart,
    beta_end: betaEnd,
    timesteps: scheduler.trainTimesteps ?? 1000,
    zero_terminal_snr: scheduler.rescaleZeroSnr ?? false,
  };
}

/** Shares of picture and noise at every time. */
export function timesOf(settings: NoiseSettings): Times {
  const { beta_schedule, beta_start, beta_end, timesteps, zero_terminal_snr } = settings;
  const betas = BETAS[SCHEDULES[beta_schedule]](beta_start, beta_end, timesteps);
  const bars = [...(zero_terminal_snr ? rescaleZeroTerminalSnr(betas) : alphasCumprod(betas))];
  return { alphas: bars.map(Math.sqrt), sigmas: bars.map((bar) => Math.sqrt(1 - bar)) };
}

/** scheduler_config.json of diffusers' DDIMScheduler, from which its other schedulers can be made. */
export function schedulerJson(settings: NoiseSettings): Record<string, unknown> {
  const { prediction, beta_schedule, beta_start, beta_end, timesteps, zero_terminal_snr } =
    settings;
  return {
    _class_name: "DDIMScheduler",
    beta_end,
    beta_schedule: SCHEDULES[beta_schedule],
    beta_start,
    clip_sample: false,
    num_train_timesteps: timesteps,
    prediction_type: prediction,
    rescale_betas_zero_snr: zero_terminal_snr,
    set_alpha_to_one: false,
    // Stable Diffusion's; without a rest of the picture the last time must be one that is sampled (Lin et al. 2023)
    steps_offset: zero_terminal_snr ? 0 : 1,
    timestep_spacing: zero_terminal_snr ? "trailing" : "leading",
    trained_betas: null,
  };
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
  const source = torchCpu(seedOf(seed, index));
  const timesteps = [...source.integers(0, times, batch)];
  return { timesteps, noise: source.normal(batch * numbers) };
}
