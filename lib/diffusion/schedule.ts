/**
 * Noise schedules: β → ᾱ → σ, and lists of σ to sample at.
 * Convention: a noisy latent is x = α·x₀ + σ·ε. Variance preserving (VP: α² + σ² = 1) and variance exploding
 * (VE: α = 1) are two scalings of the same thing; σ alone, without its α, always means VE: √((1 − ᾱ) / ᾱ).
 * What a checkpoint was trained with is stored in f32, rounded as torch rounds it: at the small end a last bit of ᾱ
 * is a percent-of-a-percent of σ.
 */

import type { ScheduleName } from "./names.ts";

/** One noise level: x = alpha·x₀ + sigma·ε, and the timestep by which the model knows it. */
export interface Level {
  readonly alpha: number;
  readonly sigma: number;
  /** May be fractional: the model's time embedding is continuous. */
  readonly timestep: number;
}

/** The level of VE noise σ. */
export function ve(sigma: number, timestep: number): Level {
  return { alpha: 1, sigma, timestep };
}

/** The level of VE noise σ, scaled to unit variance. */
export function vp(sigma: number, timestep: number): Level {
  const alpha = 1 / Math.sqrt(1 + sigma * sigma);
  return { alpha, sigma: sigma * alpha, timestep };
}

/** The VE noise of a level: infinite where there is no signal left. */
export function sigmaOf(level: Level): number {
  return level.sigma / level.alpha;
}

const f32 = Math.fround;

/** How β runs from `start` to `end` over the training timesteps. `scaled_linear` is CompVis' "linear": √β is linear. */
export const BETAS = {
  linear: (start, end, count) => linspaceF32(start, end, count),
  scaled_linear: (start, end, count) =>
    linspaceF32(Math.sqrt(start), Math.sqrt(end), count).map((root) => root * root),
  /** Nichol & Dhariwal 2021, eq. 17; start and end do not matter. */
  squaredcos_cap_v2: (_start, _end, count) => {
    const bar = (t: number) => Math.cos((t + 0.008) / 1.008 * Math.PI / 2) ** 2;
    return Float32Array.from(
      { length: count },
      (_, i) => Math.min(1 - bar((i + 1) / count) / bar(i / count), 0.999),
    );
  },
} as const satisfies Record<
  BetaSchedule,
  (start: number, end: number, count: number) => Float32Array
>;
export const BETA_SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"] as const;
export type BetaSchedule = (typeof BETA_SCHEDULES)[number];

/** torch.linspace in f32: from both ends to the middle, with fused multiply-adds. */
function linspaceF32(start: number, end: number, count: number): Float32Array {
  const [a, b] = [f32(start), f32(end)];
  const step = f32(f32(b - a) / (count - 1));
  return Float32Array.from(
    { length: count },
    (_, i) => i < count >> 1 ? a + step * i : b - step * (count - 1 - i),
  );
}

/** ᾱ by timestep: the running product of 1 − β. */
export function alphasCumprod(betas: Float32Array): Float32Array {
  let product = 1;
  return betas.map((beta) => product *= f32(1 - beta));
}

/** ᾱ rescaled so that the last timestep is pure noise (Lin et al. 2023, algorithm 1); the last ᾱ is exactly 0. */
export function rescaleZeroTerminalSnr(betas: Float32Array): Float32Array {
  const roots = alphasCumprod(betas).map(Math.sqrt);
  const [first, last] = [roots[0], roots[roots.length - 1]];
  const scale = f32(first / f32(first - last));
  const bars = roots.map((root) => f32(f32(root - last) * scale) ** 2);
  // Through β and back, as the reference does: the roundings are part of its schedule.
  return alphasCumprod(bars.map((bar, i) => f32(1 - (i === 0 ? bar : f32(bar / bars[i - 1])))));
}

/** σ (VE) by timestep, ascending. */
export function sigmasOf(alphasCumprod: Float32Array): Float32Array {
  return alphasCumprod.map((bar) => Math.sqrt(f32(f32(1 - bar) / bar)));
}

/** σ at a fractional timestep, interpolated in log σ as k-diffusion does. */
export function sigmaAt(sigmas: Float32Array, timestep: number): number {
  const low = Math.max(0, Math.min(Math.floor(timestep), sigmas.length - 2));
  const w = timestep - low;
  return Math.exp((1 - w) * Math.log(sigmas[low]) + w * Math.log(sigmas[low + 1]));
}

/** The fractional timestep of σ, interpolated in log σ, held within the table. */
export function timestepOf(sigmas: Float32Array, sigma: number): number {
  const log = Math.log(Math.max(sigma, 1e-10));
  const logs = (i: number) => f32(Math.log(sigmas[i]));
  let [low, above] = [0, sigmas.length]; // logs(low) ≤ log < logs(above)
  while (above - low > 1) {
    const middle = (low + above) >> 1;
    if (logs(middle) <= log) low = middle;
    else above = middle;
  }
  low = Math.min(low, sigmas.length - 2);
  const w = (log - logs(low)) / (logs(low + 1) - logs(low));
  return low + Math.min(1, Math.max(0, w));
}

/** `count` numbers from start to end, both included; `[start]` for one. */
export function linspace(start: number, end: number, count: number): number[] {
  const step = (end - start) / (count - 1);
  return Array.from(
    { length: count },
    (_, i) => i === 0 ? start : i === count - 1 ? end : start + i * step,
  );
}

/** Karras et al. 2022, eq. 5, with their ρ = 7: `count` values from high to low. */
export function karras(high: number, low: number, count: number): number[] {
  const rho = 7;
  const [a, b] = [high ** (1 / rho), low ** (1 / rho)];
  return linspace(0, 1, count).map((t) => (a + t * (b - a)) ** rho);
}

/** `count` values from high to low, log σ linear. */
export function exponential(high: number, low: number, count: number): number[] {
  return linspace(Math.log(high), Math.log(low), count).map(Math.exp);
}

/**
 * The schedules that are lists of σ, as AUTOMATIC1111 and ComfyUI mean their names: from the model's table (ascending)
 * to `count` levels, highest first, without the final 0. The others, `trailing` and `leading`, are ways to
 * space timesteps and differ from sampler to sampler: `plan.ts` has them.
 */
export const SIGMA_SCHEDULES = {
  discrete: (sigmas, count) => atTimesteps(sigmas, linspace(sigmas.length - 1, 0, count)),
  karras: (sigmas, count) => atSigmas(sigmas, karras(sigmas[sigmas.length - 1], sigmas[0], count)),
  exponential: (sigmas, count) =>
    atSigmas(sigmas, exponential(sigmas[sigmas.length - 1], sigmas[0], count)),
  sgm_uniform: (sigmas, count) =>
    atTimesteps(sigmas, linspace(sigmas.length - 1, 0, count + 1).slice(0, -1)),
  simple: (sigmas, count) =>
    atTimesteps(
      sigmas,
      Array.from({ length: count }, (_, i) =>
        sigmas.length - 1 - Math.trunc(i * (sigmas.length / count))),
    ),
} as const satisfies Partial<
  Record<ScheduleName, (sigmas: Float32Array, count: number) => Level[]>
>;

function atTimesteps(sigmas: Float32Array, timesteps: readonly number[]): Level[] {
  return timesteps.map((t) => ve(f32(sigmaAt(sigmas, t)), t));
}

function atSigmas(sigmas: Float32Array, list: readonly number[]): Level[] {
  return list.map((sigma) => ve(f32(sigma), timestepOf(sigmas, sigma)));
}
