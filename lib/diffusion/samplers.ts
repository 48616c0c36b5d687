/**
 * Samplers: generators over host arrays that walk a plan from noise to a latent and yield every step.
 * Written in x = α·x₀ + σ·ε (`Level`), so one function serves VE and VP: Euler is DDIM in other coordinates.
 * They draw the same noise in the same order as diffusers' schedulers, and give the same latents.
 */

import type { NoiseSource } from "../base/random.ts";
import type { NoiseBetween } from "./brownian.ts";
import { type Denoise, type Latents, toEpsilon, toV, vToEpsilon, weigh } from "./denoiser.ts";
import type { SamplerName } from "./names.ts";
import type { Plan } from "./plan.ts";
import { type Level, sigmaOf } from "./schedule.ts";

/** One interval of the plan is done. */
export interface SamplingStep {
  /** Which interval, from 0; `plan.intervals.length` of them come. */
  readonly index: number;
  /** VE noise left in `x`. */
  readonly sigma: number;
  /** The latents at the interval's end; at the last step, the result. Not reused by the sampler: the caller may keep it. */
  readonly x: Latents;
  /** The network's latest guess of the clean latents, for previews. */
  readonly x0: Latents;
}

export type Sampling = AsyncGenerator<SamplingStep, void, undefined>;

export interface SamplingOptions {
  /** Where samplers that add noise take it: the stream that the initial noise came from. */
  readonly noise: NoiseSource;
  /** Where SDE samplers take it instead: noise of the way from one level to another. */
  readonly between?: NoiseBetween;
  /**
   * What takes the place of x at a level, before it is walked on: where a picture has a hole, what is around it stays what it
   * was. Absent: x itself.
   */
  readonly land?: (x: Latents, level: Level) => Latents;
  /** How much of the removed noise is put back fresh; by default the sampler's own, `USUAL_ETA`. */
  readonly eta?: number;
}

export type Sampler = (
  plan: Plan,
  denoise: Denoise,
  x: Latents,
  options: SamplingOptions,
) => Sampling;

/** Runs the plan's sampler from `x`: noise times `plan.initialScale`, or a picture with the noise of `plan.start`. */
export function sample(
  plan: Plan,
  denoise: Denoise,
  x: Latents,
  options: SamplingOptions,
): Sampling {
  return SAMPLERS[plan.sampler](plan, denoise, x, options);
}

/** The level after the last step, which has nothing to do with the plan's end: nothing comes after it. */
const CLEAN: Level = { alpha: 1, sigma: 0, timestep: 0 };

/** What x is at the beginning of the interval after one, as `SamplingOptions.land` has it. */
function landing({ intervals }: Plan, { land }: SamplingOptions) {
  return (x: Latents, index: number) => land?.(x, intervals[index + 1]?.at ?? CLEAN) ?? x;
}

/** The samplers that hear of `eta`, each with its own. */
export const USUAL_ETA = { euler: 0, euler_a: 1, dpmpp_2m: 0, dpmpp_2m_sde: 1, ddim: 0 } as const;

export const SAMPLERS: Readonly<Record<SamplerName, Sampler>> = {
  euler: firstOrder(USUAL_ETA.euler),
  euler_a: firstOrder(USUAL_ETA.euler_a),
  heun,
  dpm2,
  dpmpp_2m: dpmpp2m(USUAL_ETA.dpmpp_2m),
  dpmpp_2m_sde: dpmpp2m(USUAL_ETA.dpmpp_2m_sde),
  ddim: firstOrder(USUAL_ETA.ddim),
  pndm,
  lms,
  unipc,
  lcm,
};

/**
 * DDIM (Song et al. 2020, eq. 12 and 16), which in VE is Euler's method on the probability flow (Karras et al. 2022,
 * algorithm 1), and with eta 1 Euler ancestral.
 */
function firstOrder(usualEta: number): Sampler {
  return async function* (plan, denoise, x, options) {
    const { noise, eta = usualEta } = options;
    const land = landing(plan, options);
    for (const [index, { at, from, to }] of plan.intervals.entries()) {
      const x0 = await denoise(x, at);
      const fresh = eta * to.sigma * Math.sqrt(1 - (sigmaOf(to) / sigmaOf(from)) ** 2);
      const kept = Math.sqrt(to.sigma ** 2 - fresh ** 2);
      x = weigh([kept / from.sigma, x], [to.alpha - kept * from.alpha / from.sigma, x0]);
      if (eta > 0) x = weigh([1, x], [fresh, noise.normal(x.length)]);
      x = land(x, index);
      yield { index, sigma: sigmaOf(to), x, x0 };
    }
  };
}

/** Heun's method, Karras et al. 2022, algorithm 1: the slope is the mean of those at both ends. VE. */
async function* heun(...[plan, denoise, x, options]: Parameters<Sampler>): Sampling {
  const land = landing(plan, options);
  for (const [index, { from, to, second }] of plan.intervals.entries()) {
    const dt = to.sigma - from.sigma;
    let x0 = await denoise(x, from);
    const d = toEpsilon(x0, x, from);
    const end = land(weigh([1, x], [dt, d]), index);
    if (second) {
      x0 = await denoise(end, second);
      x = land(weigh([1, x], [dt / 2, d], [dt / 2, toEpsilon(x0, end, second)]), index);
    } else x = end;
    yield { index, sigma: to.sigma, x, x0 };
  }
}

/** DPM-Solver-2 (Lu et al. 2022, algorithm 1) as k-diffusion's dpm_2: the slope is that at the middle of log σ. VE. */
async function* dpm2(...[plan, denoise, x, options]: Parameters<Sampler>): Sampling {
  const land = landing(plan, options);
  for (const [index, { from, to, second }] of plan.intervals.entries()) {
    let x0 = await denoise(x, from);
    let d = toEpsilon(x0, x, from);
    if (second) {
      // at the noise of the end already, as diffusers has it
      const middle = land(weigh([1, x], [second.sigma - from.sigma, d]), index);
      x0 = await denoise(middle, second);
      d = toEpsilon(x0, middle, second);
    }
    x = land(weigh([1, x], [to.sigma - from.sigma, d]), index);
    yield { index, sigma: to.sigma, x, x0 };
  }
}

/** Half the log signal-to-noise ratio: the time in which DPM-Solvers step. */
const lambdaOf = (level: Level) => -Math.log(sigmaOf(level));

/** DPM-Solver++(2M), Lu et al. 2022 (algorithm 2); with eta 1 SDE-DPM-Solver++(2M), its appendix on SDEs; midpoint. */
function dpmpp2m(usualEta: number): Sampler {
  return async function* (plan, denoise, x, options) {
    const { noise, between, eta = usualEta } = options;
    const land = landing(plan, options);
    let previous: { x0: Latents; lambda: number } | undefined;
    const last = plan.intervals.length - 1;
    for (const [index, { from, to }] of plan.intervals.entries()) {
      const x0 = await denoise(x, from);
      const lambda = lambdaOf(from);
      const h = lambdaOf(to) - lambda;
      const decay = eta > 0 ? Math.exp(-eta * h) : 1;
      const gain = to.alpha * (1 - Math.exp(-h) * decay);
      const fresh = () => between?.(sigmaOf(from), sigmaOf(to)) ?? noise.normal(x.length);
      const noisy: [number, Latents][] = eta > 0
        ? [[to.sigma * Math.sqrt(1 - decay * decay), fresh()]]
        : [];
      const secondOrder = previous && !(index === last && plan.finalOrder === 1);
      const ahead = secondOrder && previous ? h / (lambda - previous.lambda) / 2 : 0;
      x = weigh(
        [to.sigma / from.sigma * decay, x],
        [gain * (1 + ahead), x0],
        [-gain * ahead, previous?.x0 ?? x0],
        ...noisy,
      );
      previous = { x0, lambda };
      x = land(x, index);
      yield { index, sigma: sigmaOf(to), x, x0 };
    }
  };
}

/**
 * PLMS: pseudo linear multistep, Liu et al. 2022 (eq. 12, with the warm-up of Rombach et al. 2022 in place of Runge-Kutta):
 * the first interval is walked twice, the second time with the mean slope of both ends. History is kept of the
 * network's outputs, ε or v, as diffusers does.
 */
async function* pndm(...[plan, denoise, x, options]: Parameters<Sampler>): Sampling {
  const land = landing(plan, options);
  const isV = plan.prediction === "v_prediction";
  let history: Latents[] = []; // newest first
  const start = x;
  for (const [index, { at, from, to }] of plan.intervals.entries()) {
    const x0 = await denoise(x, at);
    const output = isV ? toV(x0, x, at) : toEpsilon(x0, x, at);
    const recent = [output, ...history].slice(0, 4);
    const weights = index === 1 ? [1 / 2, 1 / 2] : ADAMS_BASHFORTH[recent.length - 1];
    const mean = weigh(...weights.map((w, i) => [w, recent[i]] as const));
    if (index === 1) x = start;
    else history = recent;
    const eps = isV ? vToEpsilon(mean, x, from) : mean;
    const scale = to.alpha / from.alpha;
    x = land(weigh([scale, x], [to.sigma - from.sigma * scale, eps]), index);
    yield { index, sigma: sigmaOf(to), x, x0 };
  }
}
const ADAMS_BASHFORTH = [
  [1],
  [3 / 2, -1 / 2],
  [23 / 12, -16 / 12, 5 / 12],
  [55 / 24, -59 / 24, 37 / 24, -9 / 24],
] as const;

/** Linear multistep of order 4 (Adams-Bashforth on uneven σ), k-diffusion's lms. VE. */
async function* lms(...[plan, denoise, x, options]: Parameters<Sampler>): Sampling {
  const land = landing(plan, options);
  let history: { d: Latents; sigma: number }[] = []; // newest first
  for (const [index, { from, to }] of plan.intervals.entries()) {
    const x0 = await denoise(x, from);
    history = [{ d: toEpsilon(x0, x, from), sigma: from.sigma }, ...history].slice(0, 4);
    const nodes = history.map(({ sigma }) => sigma);
    const slopes = history.map(({ d }, j) =>
      [integrateLagrange(nodes, j, from.sigma, to.sigma), d] as const
    );
    x = land(weigh([1, x], ...slopes), index);
    yield { index, sigma: to.sigma, x, x0 };
  }
}

/** ∫ₐᵇ of the Lagrange polynomial that is 1 at node j and 0 at the others; Simpson's rule is exact up to four nodes. */
function integrateLagrange(nodes: readonly number[], j: number, a: number, b: number): number {
  const at = (s: number) =>
    nodes.reduce((p, node, k) => k === j ? p : p * (s - node) / (nodes[j] - node), 1);
  return (b - a) / 6 * (at(a) + 4 * at((a + b) / 2) + at(b));
}

/** UniPC of order 2 with B(h) = eʰ − 1 ("bh2") on x₀: Zhao et al. 2023, algorithms 5 to 8. */
async function* unipc(...[plan, denoise, x, options]: Parameters<Sampler>): Sampling {
  const land = landing(plan, options);
  let history: { x0: Latents; lambda: number }[] = []; // newest first
  let before: { x: Latents; from: Level; order: 1 | 2 } | undefined; // where the last predictor started
  const last = plan.intervals.length - 1;
  for (const [index, { from, to }] of plan.intervals.entries()) {
    const x0 = await denoise(x, from);
    const lambda = lambdaOf(from);
    if (before) {
      // Corrector: the last interval again, now with x̂₀ at its end.
      const [m0, m1] = history;
      const h = lambda - m0.lambda;
      const b = Math.expm1(-h);
      const b1 = (b / -h - 1) / b;
      const b2 = ((b / -h - 1) / -h - 1 / 2) * 2 / b;
      const base = [[from.sigma / before.from.sigma, before.x], [-from.alpha * b, m0.x0]] as const;
      const terms: [number, Latents][] = [];
      if (before.order === 1) terms.push([1 / 2, x0], [-1 / 2, m0.x0]);
      else {
        const r = (m1.lambda - m0.lambda) / h;
        const rho = (b1 - b2) / (1 - r);
        terms.push([rho / r, m1.x0], [-rho / r, m0.x0], [b1 - rho, x0], [rho - b1, m0.x0]);
      }
      x = weigh(...base, ...terms.map(([w, t]) => [-from.alpha * b * w, t] as const));
    }
    history = [{ x0, lambda }, ...history].slice(0, 2);
    const order = history.length < 2 || (index === last && plan.finalOrder === 1) ? 1 : 2;
    before = { x, from, order };
    // Predictor.
    const h = lambdaOf(to) - lambda;
    const gain = -to.alpha * Math.expm1(-h);
    const ahead = order === 2 ? h / (lambda - history[1].lambda) / 2 : 0;
    x = weigh(
      [to.sigma / from.sigma, x],
      [gain * (1 + ahead), x0],
      [-gain * ahead, history[history.length - 1].x0],
    );
    x = land(x, index);
    yield { index, sigma: sigmaOf(to), x, x0 };
  }
}

/** Latent consistency sampling, Luo et al. 2023, algorithm 3: x̂₀ through the boundary condition, then fresh noise. */
async function* lcm(...[plan, denoise, x, options]: Parameters<Sampler>): Sampling {
  const { noise } = options;
  const land = landing(plan, options);
  const sigmaData = 0.5;
  for (const [index, { from, to }] of plan.intervals.entries()) {
    const guess = await denoise(x, from);
    const t = from.timestep * plan.timestepScaling;
    const skip = sigmaData ** 2 / (t ** 2 + sigmaData ** 2);
    const out = t / Math.sqrt(t ** 2 + sigmaData ** 2);
    const x0 = weigh([out, guess], [skip / Math.hypot(from.alpha, from.sigma), x]);
    const noisy = to.sigma > 0;
    x = land(noisy ? weigh([to.alpha, x0], [to.sigma, noise.normal(x.length)]) : x0, index);
    yield { index, sigma: sigmaOf(to), x, x0 };
  }
}
