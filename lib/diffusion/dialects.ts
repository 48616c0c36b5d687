/**
 * What other tools mean by a schedule's name: lists of σ by k-diffusion's samplers, in which AUTOMATIC1111
 * (modules/sd_schedulers.py), ComfyUI (comfy/samplers.py) and stable-diffusion.cpp (denoiser.hpp) agree but for a few.
 */

import { betaQuantile } from "./beta.ts";
import type { ScheduleName } from "./names.ts";
import { type Level, linspace, SIGMA_SCHEDULES, timestepOf, ve } from "./schedule.ts";

/** Whose meaning a schedule has; "diffusers" are its schedulers where no schedule is named, and AUTOMATIC1111's lists. */
export type Dialect = "diffusers" | "a1111" | "comfyui" | "sdcpp";

export interface ListOptions {
  /** Align Your Steps has lists of its own for SDXL. */
  readonly sdxl: boolean;
}

/** From the model's σ (ascending) to `count` + 1 levels, highest first; the last is where the walk ends. VE. */
export type SigmaList = (sigmas: Float32Array, count: number, options: ListOptions) => Level[];

const f32 = Math.fround;

const levels = (sigmas: Float32Array, list: readonly number[]) =>
  list.map((sigma) => sigma === 0 ? ve(0, 0) : ve(f32(sigma), timestepOf(sigmas, f32(sigma))));

const toZero =
  (list: (sigmas: Float32Array, count: number) => Level[]): SigmaList => (sigmas, count) => [
    ...list(sigmas, count),
    ve(0, 0),
  ];

const SHARED = {
  discrete: toZero(SIGMA_SCHEDULES.discrete),
  karras: toZero(SIGMA_SCHEDULES.karras),
  exponential: toZero(SIGMA_SCHEDULES.exponential),
  sgm_uniform: toZero(SIGMA_SCHEDULES.sgm_uniform),
  simple: toZero(SIGMA_SCHEDULES.simple),
} as const satisfies Partial<Record<ScheduleName, SigmaList>>;

/** `ddim_uniform`: every so many-th timestep from 1 up; one more than asked for where 1000 is not a multiple. */
function everyStride(sigmas: Float32Array, count: number): Level[] {
  const stride = Math.max(1, Math.floor(sigmas.length / count));
  const timesteps = [];
  for (let t = 1; t < sigmas.length; t += stride) timesteps.unshift(t);
  return [...timesteps.map((t) => ve(sigmas[t], t)), ve(0, 0)];
}

/** Both parameters of the beta distribution, as every tool sets them. */
const BETA = 0.6;

/** AUTOMATIC1111: σ themselves are spaced by quantiles. */
function betaSigmas(sigmas: Float32Array, count: number): Level[] {
  const [low, high] = [sigmas[0], sigmas[sigmas.length - 1]];
  const list = linspace(0, 1, count)
    .map((p) => low + betaQuantile(1 - p, BETA, BETA) * (high - low));
  return levels(sigmas, [...list, 0]);
}

/** ComfyUI: timesteps are, rounded; those that come twice are taken once. */
function betaTimesteps(sigmas: Float32Array, count: number): Level[] {
  const last = sigmas.length - 1;
  const timesteps = Array.from(
    { length: count },
    (_, i) => Math.round(betaQuantile(1 - i / count, BETA, BETA) * last),
  );
  return [...[...new Set(timesteps)].map((t) => ve(sigmas[t], t)), ve(0, 0)];
}

/** Sabour et al. 2024, section 3 (KL optimal): atan σ falls evenly from the highest σ to the lowest, `points` of them. */
function evenAngles(sigmas: Float32Array, points: number): number[] {
  const [low, high] = [sigmas[0], sigmas[sigmas.length - 1]].map((sigma) => f32(Math.atan(sigma)));
  return linspace(0, 1, points).map((t) => Math.tan(t * low + (1 - t) * high));
}

/** Sabour et al. 2024, "Align Your Steps", by hand for ten steps. */
const ALIGNED = {
  sd: [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029],
  sdxl: [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.38, 0.234, 0.113, 0.029],
} as const;

/** So many of its points, log σ linear in between. */
function aligned(points: number, { sdxl }: ListOptions): number[] {
  const known = sdxl ? ALIGNED.sdxl : ALIGNED.sd;
  if (points === known.length) return [...known];
  return linspace(0, known.length - 1, points).map((at) => {
    const low = Math.min(Math.floor(at), known.length - 2);
    const w = at - low;
    return Math.exp((1 - w) * Math.log(known[low]) + w * Math.log(known[low + 1]));
  });
}

const A1111: Partial<Record<ScheduleName, SigmaList>> = {
  ...SHARED,
  beta: betaSigmas,
  // noise is left at the end
  kl_optimal: (sigmas, count) => levels(sigmas, evenAngles(sigmas, count + 1)),
  ays: (sigmas, count, options) => levels(sigmas, [...aligned(count, options), 0]),
};

const COMFYUI: Partial<Record<ScheduleName, SigmaList>> = {
  ...SHARED,
  leading: everyStride,
  beta: betaTimesteps,
  kl_optimal: (sigmas, count) => levels(sigmas, [...evenAngles(sigmas, count), 0]),
  ays: (sigmas, count, options) => levels(sigmas, [...aligned(count + 1, options).slice(0, -1), 0]),
};

const LISTS: Readonly<Record<Dialect, Partial<Record<ScheduleName, SigmaList>>>> = {
  diffusers: A1111,
  a1111: { ...A1111, leading: everyStride },
  comfyui: COMFYUI,
  sdcpp: COMFYUI,
};

/** The list that a schedule means; `undefined` where it is a way to space timesteps that depends on the sampler. */
export function sigmaList(
  dialect: Dialect,
  schedule: ScheduleName | undefined,
): SigmaList | undefined {
  return schedule && LISTS[dialect][schedule];
}

/** How a dialect's samplers treat levels of VE noise. */
export interface Habits {
  /** Networks are called at whole timesteps, that of the nearest log σ. */
  readonly wholeTimesteps: boolean;
  /** A walk from the highest σ starts at √(1 + σ²) times the noise: as if there were a picture below it. */
  readonly unitStart: boolean;
}

export const HABITS: Readonly<Record<Dialect, Habits>> = {
  diffusers: { wholeTimesteps: false, unitStart: false },
  a1111: { wholeTimesteps: false, unitStart: false },
  comfyui: { wholeTimesteps: true, unitStart: true },
  sdcpp: { wholeTimesteps: false, unitStart: false },
};

/** The level at the nearest whole timestep in log σ, in f32 as torch has it; the lower one of two as near. */
export function atWholeTimestep(sigmas: Float32Array, level: Level): Level {
  if (level.sigma === 0) return level;
  const log = (sigma: number) => f32(Math.log(f32(sigma)));
  const target = log(level.sigma / level.alpha);
  const low = Math.floor(timestepOf(sigmas, level.sigma / level.alpha));
  const distance = (t: number) => Math.abs(f32(target - log(sigmas[t])));
  const high = Math.min(low + 1, sigmas.length - 1);
  return { ...level, timestep: distance(high) < distance(low) ? high : low };
}
