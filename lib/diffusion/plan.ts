/**
 * Planning: from a sampler, a schedule, a number of steps and the checkpoint's scheduler_config.json to the levels that
 * are walked. With no schedule named, this is what diffusers does for `X.from_config(config)`, X being the sampler's
 * scheduler class, rounding quirks included; a named schedule means what AUTOMATIC1111 and ComfyUI mean by it, where they
 * differ what the dialect says (see dialects.ts). `trailing` and `leading` are diffusers' timestep_spacing.
 */

import { counted } from "../base/counted.ts";
import { FormatError, UsageError } from "../base/errors.ts";
import { type Prediction, PREDICTIONS } from "./denoiser.ts";
import { type Beginning, BEGINNINGS, wholeWalk } from "./beginning.ts";
import { atWholeTimestep, type Dialect, HABITS, type SigmaList, sigmaList } from "./dialects.ts";
import { findSampler, type SamplerName, type ScheduleName } from "./names.ts";
import {
  alphasCumprod,
  BETA_SCHEDULES,
  BETAS,
  type BetaSchedule,
  exponential,
  karras,
  type Level,
  linspace,
  rescaleZeroTerminalSnr,
  sigmaOf,
  sigmasOf,
  timestepOf,
  ve,
  vp,
} from "./schedule.ts";

const SPACINGS = ["linspace", "leading", "trailing"] as const;
type Spacing = (typeof SPACINGS)[number];

/** What a scheduler_config.json says. What it leaves out takes the default of the sampler's scheduler class. */
export interface SchedulerConfig {
  /** The sampler that the checkpoint names, where it is one of ours. */
  readonly sampler?: SamplerName | undefined;
  readonly trainTimesteps?: number | undefined;
  readonly betaStart?: number | undefined;
  readonly betaEnd?: number | undefined;
  readonly betaSchedule?: BetaSchedule | undefined;
  readonly trainedBetas?: readonly number[] | undefined;
  readonly prediction?: Prediction | undefined;
  readonly spacing?: Spacing | undefined;
  /** Added to "leading" timesteps. The SD 1 and 2 pipelines of diffusers insist on 1, whatever the file says. */
  readonly stepsOffset?: number | undefined;
  readonly rescaleZeroSnr?: boolean | undefined;
  readonly setAlphaToOne?: boolean | undefined;
  readonly finalSigma?: "zero" | "sigma_min" | undefined;
  readonly sigmas?: "karras" | "exponential" | undefined;
  readonly lowerOrderFinal?: boolean | undefined;
  readonly eulerAtFinal?: boolean | undefined;
  readonly originalSteps?: number | undefined;
  readonly timestepScaling?: number | undefined;
  /** Settings of the file that no sampler here follows, as text, for a warning. */
  readonly unfollowed?: readonly string[] | undefined;
}

/** One stretch of the walk: x̂₀ is asked for at `at` (nearly always `from`), then x goes from `from` to `to`. */
export interface Interval {
  readonly at: Level;
  readonly from: Level;
  readonly to: Level;
  /** Where Heun and DPM2 ask a second time; absent where they do not. */
  readonly second?: Level;
}

/** What a sampler needs to know. */
export interface Plan {
  readonly sampler: SamplerName;
  /** As named; undefined for the checkpoint's own. */
  readonly schedule: ScheduleName | undefined;
  readonly prediction: Prediction;
  /** Standard normal noise times this is the initial x, where the walk begins with noise alone. */
  readonly initialScale: number;
  /** The noise of a picture that the walk begins with: x is alpha times its latents and sigma times the noise. */
  readonly start: Pick<Level, "alpha" | "sigma">;
  readonly intervals: readonly Interval[];
  /** The order of the multistep solvers in the last interval. */
  readonly finalOrder: 1 | 2;
  /** LCM's factor of timesteps in the boundary condition. */
  readonly timestepScaling: number;
  /** VE noise at the intervals' beginnings and at the end. */
  readonly sigmas: readonly number[];
  /** The same of the whole walk, of which one that begins with a picture is the end. */
  readonly wholeSigmas: readonly number[];
  /** The timesteps at which the network is called, in order; as many as calls. */
  readonly timesteps: readonly number[];
}

export interface PlanRequest {
  readonly sampler: SamplerName;
  /** Leave it out for the checkpoint's own. */
  readonly schedule?: ScheduleName | undefined;
  /** Intervals of the whole walk, where `strength` means no others; PNDM walks one twice. */
  readonly steps: number;
  /** The walk begins with a picture, which is changed by so much of 1; absent: with noise. */
  readonly strength?: number | undefined;
  /** The network was distilled with its guidance: LCM takes its steps from a share of those it was distilled at. */
  readonly distilled?: boolean | undefined;
  readonly scheduler: SchedulerConfig;
  /** Whose schedules and samplers; diffusers' where absent. */
  readonly dialect?: Dialect | undefined;
  /** The checkpoint is an SDXL: Align Your Steps has other noise levels for it. */
  readonly sdxl?: boolean | undefined;
}

/** How diffusers' scheduler class of a sampler behaves. */
interface Manner {
  /** What its levels are: VE, or scaled to unit variance. */
  readonly level: (sigma: number, timestep: number) => Level;
  readonly spacing: Spacing;
  /** How it makes levels from timesteps. */
  readonly walk: (settings: Settings) => Interval[];
  /** How it begins late, where that is not to leave out the first intervals. */
  readonly late?: (
    settings: Settings,
    intervals: readonly Interval[],
    skipped: number,
  ) => Interval[];
  /** How it rounds the timesteps of Karras and exponential σ; absent where it ignores those settings. */
  readonly roundTimestep?: Readonly<Record<"karras" | "exponential", (t: number) => number>>;
  /** Whether it heeds rescale_betas_zero_snr. */
  readonly rescales: boolean;
  /** Whether it heeds final_sigmas_type. */
  readonly finalSigma: boolean;
  /** set_alpha_to_one where the file does not say. */
  readonly alphaToOne?: boolean;
  /** β where the file does not say. */
  readonly betas: { readonly schedule: BetaSchedule; readonly start: number; readonly end: number };
  /** Where a sampler evaluates twice: at the interval's end or in the middle of log σ. */
  readonly second?: (from: Level, to: Level, sigmas: Float32Array) => Level;
  /** Lists of σ are made one longer and lose the last but one (AUTOMATIC1111 and ComfyUI). */
  readonly dropsNextToLast?: true;
  /** Under lower_order_final, the last interval is of order 1 in plans of fewer steps than this. */
  readonly lowersFinalBelow?: number;
}

const SD_BETAS = { schedule: "linear", start: 0.00085, end: 0.012 } as const;
const DDPM_BETAS = { schedule: "linear", start: 0.0001, end: 0.02 } as const;
const same = (t: number) => t;
const AS_IS = { karras: same, exponential: same };

/** diffusers 0.42.1, schedulers/scheduling_*.py: one row per class. */
const MANNERS: Readonly<Record<SamplerName, Manner>> = {
  euler: {
    level: ve,
    spacing: "linspace",
    walk: walkFractional,
    roundTimestep: AS_IS,
    rescales: true,
    finalSigma: true,
    betas: DDPM_BETAS,
  },
  euler_a: {
    level: ve,
    spacing: "linspace",
    walk: walkFractional,
    rescales: true,
    finalSigma: false,
    betas: DDPM_BETAS,
  },
  heun: {
    level: ve,
    spacing: "linspace",
    walk: walkFractional,
    roundTimestep: AS_IS,
    rescales: false,
    finalSigma: false,
    betas: SD_BETAS,
    second: (_from, to) => to,
  },
  dpm2: {
    level: ve,
    spacing: "linspace",
    walk: walkFractional,
    roundTimestep: { karras: roundEven, exponential: same },
    rescales: false,
    finalSigma: false,
    betas: SD_BETAS,
    second: (from, to, sigmas) => {
      const sigma = f32(Math.sqrt(from.sigma * to.sigma));
      return ve(sigma, f32(timestepOf(sigmas, sigma)));
    },
    dropsNextToLast: true,
  },
  lms: {
    level: ve,
    spacing: "linspace",
    walk: walkFractional,
    roundTimestep: AS_IS,
    rescales: false,
    finalSigma: false,
    betas: DDPM_BETAS,
  },
  dpmpp_2m: {
    level: vp,
    spacing: "linspace",
    walk: walkSolver,
    roundTimestep: { karras: roundEven, exponential: Math.trunc },
    rescales: true,
    finalSigma: true,
    betas: DDPM_BETAS,
    lowersFinalBelow: 15,
  },
  dpmpp_2m_sde: {
    level: vp,
    spacing: "linspace",
    walk: walkSolver,
    roundTimestep: { karras: roundEven, exponential: Math.trunc },
    rescales: true,
    finalSigma: true,
    betas: DDPM_BETAS,
    lowersFinalBelow: 15,
  },
  unipc: {
    level: vp,
    spacing: "linspace",
    walk: walkSolver,
    roundTimestep: { karras: roundEven, exponential: Math.trunc },
    rescales: true,
    finalSigma: true,
    betas: DDPM_BETAS,
    dropsNextToLast: true,
    lowersFinalBelow: Infinity,
  },
  ddim: {
    level: vp,
    spacing: "leading",
    walk: walkBack,
    rescales: true,
    finalSigma: false,
    alphaToOne: true,
    betas: DDPM_BETAS,
  },
  pndm: {
    level: vp,
    spacing: "leading",
    walk: walkBack,
    late: walkTwice,
    rescales: false,
    finalSigma: false,
    alphaToOne: false,
    betas: DDPM_BETAS,
  },
  lcm: {
    level: vp,
    spacing: "leading",
    walk: walkLcm,
    rescales: true,
    finalSigma: false,
    betas: { ...SD_BETAS, schedule: "scaled_linear" },
  },
};

/** A request with every default filled in; steps are those of the whole walk. */
interface Settings extends PlanRequest {
  readonly beginning: Beginning;
  readonly manner: Manner;
  readonly spacing: Spacing;
  readonly offset: number;
  /** Karras or exponential σ because the checkpoint says so. */
  readonly list: "karras" | "exponential" | undefined;
  /** ᾱ by timestep. */
  readonly bars: Float32Array;
  /** VE σ by timestep, finite. */
  readonly sigmas: Float32Array;
  readonly dialect: Dialect;
}

const f32 = Math.fround;
/** What stands for ᾱ = 0 where σ must be finite: the smallest f16, σ ≈ 4096 (diffusers' choice). */
const TERMINAL_BAR = 2 ** -24;

/**
 * The plan for a sampler. Throws `UsageError` when the schedule cannot make this number of steps, or when a network
 * that predicts ε is asked to start from noise without signal.
 */
export function planSampling(request: PlanRequest): Plan {
  const settings = settle(request);
  const { sampler, schedule, steps, scheduler, manner, spacing, sigmas, dialect } = settings;
  const list = sigmaList(dialect, schedule);
  const habits = HABITS[list ? dialect : "diffusers"];
  const prediction = scheduler.prediction ?? "epsilon";
  const isCompVis = dialect === "a1111" && !schedule && COMPVIS.has(sampler);
  const whole = list
    ? walkList(settings, list)
    : isCompVis
    ? walkCompVis(settings)
    : manner.walk(settings);
  verify(settings, whole, prediction);
  const { walk, start } = begun(settings, whole, { isCompVis, isListed: list !== undefined });
  const intervals = walk.map((interval) => {
    const { from, to } = interval;
    const second = manner.second && to.sigma > 0 ? manner.second(from, to, sigmas) : undefined;
    const both = second ? { ...interval, second } : interval;
    return habits.wholeTimesteps ? atWholeTimesteps(sigmas, both) : both;
  });
  const first = intervals[0].from;
  const end = intervals[intervals.length - 1].to;
  const unitVariance = list
    ? habits.unitStart && first.sigma >= sigmas[sigmas.length - 1] * (1 - 1e-5)
    : manner.level === vp || spacing === "leading";
  const initialScale = unitVariance ? Math.hypot(first.alpha, first.sigma) : first.sigma;
  const lowered = !list && (scheduler.eulerAtFinal === true ||
    (scheduler.lowerOrderFinal !== false && steps < (manner.lowersFinalBelow ?? 0)));
  const endSigma = sigmaOf(end);
  return {
    sampler,
    schedule,
    prediction,
    initialScale,
    start: list ? { alpha: 1, sigma: initialScale } : start,
    intervals,
    finalOrder: end.sigma === 0 || lowered ? 1 : 2,
    timestepScaling: scheduler.timestepScaling ?? 10,
    sigmas: [...intervals.map(({ from }) => sigmaOf(from)), endSigma],
    wholeSigmas: [...whole.map(({ from }) => sigmaOf(from)), endSigma],
    timesteps: intervals.flatMap(({ at, second }) =>
      second ? [at.timestep, second.timestep] : [at.timestep]
    ),
  };
}

/** The end of a walk that begins with a picture, and the noise of that; PNDM's second look at its first interval. */
function begun(
  settings: Settings,
  whole: readonly Interval[],
  { isCompVis, isListed }: { readonly isCompVis: boolean; readonly isListed: boolean },
): { readonly walk: Interval[]; readonly start: Level } {
  const { sampler, manner, beginning, strength } = settings;
  // of CompVis' timesteps, the picture's noise is that of the one above the first that is evaluated
  const isAbove = isCompVis && strength !== undefined;
  const skipped = isAbove ? whole.length + 2 - beginning.kept : beginning.skipped(whole.length);
  if (skipped >= whole.length) throw beginning.tooFew();
  const walk = manner.late && !isCompVis && !isListed
    ? manner.late(settings, whole, skipped)
    : secondLook(sampler, whole.slice(skipped));
  return { walk, start: isAbove ? whole[skipped - 1].from : walk[0].at };
}

function atWholeTimesteps(sigmas: Float32Array, interval: Interval): Interval {
  const { at, from, to, second } = interval;
  const whole = (level: Level) => atWholeTimestep(sigmas, level);
  return {
    at: whole(at),
    from: whole(from),
    to: whole(to),
    ...(second && { second: whole(second) }),
  };
}

function settle(request: PlanRequest): Settings {
  const { sampler, schedule, scheduler } = request;
  const count = scheduler.trainTimesteps ?? 1000;
  const dialect = request.dialect ?? "diffusers";
  const beginning = beginningOf(request, dialect);
  const { steps } = beginning;
  if (!Number.isInteger(steps) || steps < 1 || steps > count) {
    throw new UsageError(
      `Cannot sample in ${counted(steps, "step")}: a whole number from 1 to ${count} was needed`,
    );
  }
  const manner = MANNERS[sampler];
  const betas = scheduler.trainedBetas
    ? Float32Array.from(scheduler.trainedBetas)
    : BETAS[scheduler.betaSchedule ?? manner.betas.schedule](
      scheduler.betaStart ?? manner.betas.start,
      scheduler.betaEnd ?? manner.betas.end,
      count,
    );
  const isListed = sigmaList(dialect, schedule) !== undefined;
  const rescaled = scheduler.rescaleZeroSnr === true && (manner.rescales || isListed);
  const bars = rescaled ? rescaleZeroTerminalSnr(betas) : alphasCumprod(betas);
  const finite = rescaled ? bars.with(count - 1, TERMINAL_BAR) : bars;
  return {
    ...request,
    steps,
    beginning,
    manner,
    spacing: schedule === "trailing" || schedule === "leading"
      ? schedule
      : scheduler.spacing ?? manner.spacing,
    offset: scheduler.stepsOffset ?? 0,
    list: schedule === undefined && manner.roundTimestep ? scheduler.sigmas : undefined,
    bars,
    sigmas: sigmasOf(finite),
    dialect,
  };
}

/** Which walk is walked, and how much of it. LCM's own needs no longer one: it chooses its steps below the start. */
function beginningOf(
  { sampler, schedule, steps, strength, distilled }: PlanRequest,
  dialect: Dialect,
): Beginning {
  const isChosen = sampler === "lcm" && schedule === undefined && distilled === true;
  return strength === undefined || isChosen
    ? wholeWalk(steps)
    : BEGINNINGS[dialect](steps, strength);
}

function verify(
  { sampler, schedule, steps }: Settings,
  intervals: readonly Interval[],
  prediction: Prediction,
): void {
  const falls = intervals.every(({ at, from, to }, i) =>
    sigmaOf(to) <= sigmaOf(from) &&
    (i + 1 === intervals.length || sigmaOf(intervals[i + 1].at) < sigmaOf(at))
  );
  if (!falls) {
    throw new UsageError(
      `Cannot sample in ${counted(steps, "step")} with ${sampler} and ${
        schedule ?? "the checkpoint's"
      } ` +
        `schedule: there are not so many different noise levels, ask for fewer steps`,
    );
  }
  if (intervals[0].from.alpha === 0 && prediction === "epsilon") {
    throw new UsageError(
      `Cannot sample with ${sampler} from a checkpoint that predicts noise and asks for a schedule that ` +
        `begins with nothing but noise (rescale_betas_zero_snr): v_prediction was needed, or another sampler`,
    );
  }
}

/** Levels one after another, to a last one that is not evaluated. */
function chain(levels: readonly Level[], end: Level): Interval[] {
  return levels.map((from, i) => ({ at: from, from, to: levels[i + 1] ?? end }));
}

/** A named list of σ; VE for every sampler. */
function walkList(
  { manner, steps, sigmas, sdxl = false }: Settings,
  list: SigmaList,
): Interval[] {
  const all = list(sigmas, manner.dropsNextToLast ? steps + 1 : steps, { sdxl });
  const end = all[all.length - 1];
  return chain(all.slice(0, manner.dropsNextToLast ? -2 : -1), end);
}

/** PNDM evaluates at the end of the first interval, and walks that again. */
function secondLook(sampler: SamplerName, [first, ...rest]: readonly Interval[]): Interval[] {
  const again = sampler === "pndm" && rest.length > 0 ? [{ ...first, at: first.to }] : [];
  return [first, ...again, ...rest];
}

/**
 * AUTOMATIC1111's DDIM and PLMS (modules/sd_samplers_timesteps.py): CompVis' timesteps, and the walk ends at the lowest of
 * them, which is never evaluated.
 */
function walkCompVis(settings: Settings): Interval[] {
  const { sampler, steps, bars } = settings;
  const stride = strideOf(settings);
  const timesteps: number[] = [];
  for (let t = 0; t < bars.length; t += stride) timesteps.unshift(Math.min(t + 1, bars.length - 1));
  if (timesteps.length < 2) {
    throw new UsageError(
      `Cannot sample in ${
        counted(steps, "step")
      } with ${sampler} as AUTOMATIC1111 does: at least 2 were needed`,
    );
  }
  const levels = timesteps.map((t) => levelAt(settings, t));
  return chain(levels.slice(0, -1), levels[levels.length - 1]);
}

/** Samplers that walk so there. */
const COMPVIS: ReadonlySet<SamplerName> = new Set(["ddim", "pndm"]);

/** k-diffusion's classes: fractional timesteps; Karras and exponential σ lie between the spaced ones. */
function walkFractional(settings: Settings): Interval[] {
  const timesteps = spaceTimesteps(settings, "fractional");
  const spaced = timesteps.map((t) => interpolate(settings.sigmas, t));
  return chainSigmas(settings, timesteps, spaced, spaced[0], spaced[spaced.length - 1]);
}

/** DPM-Solver and UniPC: timesteps as for one step more; Karras and exponential σ span all that was trained. */
function walkSolver(settings: Settings): Interval[] {
  const { sigmas } = settings;
  const timesteps = spaceTimesteps(settings, "solver");
  const spaced = timesteps.map((t) => interpolate(sigmas, t));
  return chainSigmas(settings, timesteps, spaced, sigmas[sigmas.length - 1], sigmas[0]);
}

const LISTS = { karras, exponential };

function chainSigmas(
  { manner, scheduler, list, sigmas, steps }: Settings,
  timesteps: readonly number[],
  spaced: readonly number[],
  high: number,
  low: number,
): Interval[] {
  const round = list && manner.roundTimestep?.[list];
  const levels = list && round
    ? LISTS[list](high, low, steps).map((s) => manner.level(f32(s), round(timestepOf(sigmas, s))))
    : spaced.map((s, i) => manner.level(f32(s), timesteps[i]));
  const end = manner.finalSigma && scheduler.finalSigma === "sigma_min" ? sigmas[0] : 0;
  return chain(levels, manner.level(end, 0));
}

/** DDIM: a step goes back by a fixed number of timesteps, wherever the next one starts. */
function walkBack(settings: Settings): Interval[] {
  const stride = strideOf(settings);
  return spaceTimesteps(settings, "whole").map((t) => {
    const from = levelAt(settings, t);
    return { at: from, from, to: levelAt(settings, t - stride) };
  });
}

/**
 * PNDM: as DDIM, with the second evaluation of the first interval after it. diffusers cuts its list of timesteps, in which
 * the second one stands twice, and takes the two that are left first for these: where the walk begins later than at the
 * second, the third evaluation is of latents of the noise before, and its interval is walked without them having got there.
 */
function walkTwice(
  settings: Settings,
  intervals: readonly Interval[],
  skipped: number,
): Interval[] {
  const [first, second, ...rest] = intervals;
  const listed = second ? [first, second, second, ...rest] : [first];
  return listed.slice(skipped).map((interval, i) =>
    i === 1
      ? {
        at: interval.at,
        from: levelAt(settings, interval.at.timestep + strideOf(settings)),
        to: interval.at,
      }
      : interval
  );
}

/** LCM: of the timesteps that it was distilled at, evenly chosen ones; ends without noise. */
function walkLcm(settings: Settings): Interval[] {
  const { steps, scheduler, schedule, bars, strength = 1, distilled } = settings;
  const clean = { alpha: 1, sigma: 0, timestep: 0 };
  if (schedule !== undefined) {
    return chain(spaceTimesteps(settings, "whole").map((t) => levelAt(settings, t)), clean);
  }
  const original = scheduler.originalSteps ?? 50;
  const most = distilled ? Math.trunc(original * strength) : original;
  if (steps > most) {
    throw new UsageError(
      `Cannot sample in ${
        counted(steps, "step")
      } with lcm: the checkpoint was distilled for at most ${original}` +
        (most < original ? `, of which strength ${strength} leaves ${most}` : ""),
    );
  }
  const stride = Math.floor(bars.length / original);
  const chosen = Array.from(
    { length: steps },
    (_, i) => most - Math.floor(i * (most / steps)),
  );
  return chain(chosen.map((k) => levelAt(settings, k * stride - 1)), clean);
}

function strideOf({ bars, steps }: Settings): number {
  return Math.floor(bars.length / steps);
}

/** The VP level of a whole timestep; below the first one, that of the end. */
function levelAt({ bars, manner, scheduler, steps }: Settings, timestep: number): Level {
  if (timestep >= bars.length) {
    throw new UsageError(
      `Cannot sample in ${
        counted(steps, "step")
      }: timestep ${timestep} does not exist, ask for fewer steps`,
    );
  }
  const end = scheduler.setAlphaToOne ?? manner.alphaToOne ? 1 : bars[0];
  const bar = timestep < 0 ? end : bars[timestep];
  return { alpha: Math.sqrt(bar), sigma: Math.sqrt(f32(1 - bar)), timestep };
}

/** Timesteps, highest first. diffusers has three ways of each spacing. */
function spaceTimesteps(
  { spacing, steps, offset, bars }: Settings,
  way: "fractional" | "whole" | "solver",
): number[] {
  const count = bars.length;
  const points = way === "solver" ? steps + 1 : steps; // the lowest of one more is left out
  switch (spacing) {
    case "linspace": {
      const all = linspace(0, count - 1, points).reverse().slice(0, steps);
      return all.map(way === "fractional" ? f32 : roundEven);
    }
    case "leading": {
      const stride = Math.floor(count / points);
      return Array.from({ length: steps }, (_, i) => (points - 1 - i) * stride + offset);
    }
    case "trailing": {
      const stride = count - (count - count / steps); // numpy's arange steps by its first difference
      return Array.from({ length: steps }, (_, i) => roundEven(count - i * stride) - 1);
    }
    default:
      return spacing satisfies never;
  }
}

/** Linear in σ between whole timesteps. */
function interpolate(sigmas: Float32Array, timestep: number): number {
  if (timestep >= sigmas.length - 1) return sigmas[sigmas.length - 1];
  const low = Math.floor(timestep);
  return sigmas[low] + (sigmas[low + 1] - sigmas[low]) * (timestep - low);
}

/** To the nearest whole number, halves to the even one: numpy's and torch's round. */
function roundEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

/** Settings that we do not follow, and the values at which that makes no difference. */
const UNFOLLOWED: Readonly<Record<string, readonly unknown[]>> = {
  thresholding: [false],
  use_beta_sigmas: [false],
  use_lu_lambdas: [false],
  use_flow_sigmas: [false],
  interpolation_type: ["linear"],
  timestep_type: ["discrete"],
  sigma_min: [],
  sigma_max: [],
  solver_order: [2],
  solver_type: ["midpoint", "bh2"],
  algorithm_type: ["dpmsolver++", "sde-dpmsolver++"],
  predict_x0: [true],
};

/**
 * Reads the parsed JSON of a scheduler_config.json. Unknown keys are skipped, as is clip_sample, which diffusers'
 * Stable Diffusion pipelines switch off. Throws `FormatError` for a value that cannot be.
 */
export function parseSchedulerConfig(json: unknown): SchedulerConfig {
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new FormatError(`Cannot use scheduler_config.json: a JSON object was needed`);
  }
  const values = new Map(Object.entries(json).filter(([, value]) => value !== null));
  const wrong = (key: string, needed: string) =>
    new FormatError(
      `Cannot use scheduler_config.json: ${key} is ${
        JSON.stringify(values.get(key))
      }, ${needed} was needed`,
    );
  const number = (key: string) => {
    const value: unknown = values.get(key);
    if (value === undefined || typeof value === "number") return value;
    throw wrong(key, "a number");
  };
  const flag = (key: string) => {
    const value: unknown = values.get(key);
    if (value === undefined || typeof value === "boolean") return value;
    throw wrong(key, "true or false");
  };
  const choice = <T extends string>(key: string, choices: readonly T[]) => {
    const value: unknown = values.get(key);
    const found = choices.find((each) => each === value);
    if (value === undefined || found !== undefined) return found;
    throw wrong(key, `one of ${choices.join(", ")}`);
  };
  const numbers = (key: string) => {
    const value: unknown = values.get(key);
    if (value === undefined) return value;
    if (Array.isArray(value) && value.every((each) => typeof each === "number")) return value;
    throw wrong(key, "a list of numbers");
  };
  const trainedBetas = numbers("trained_betas");
  const named = findSampler(String(values.get("_class_name") ?? ""));
  return {
    sampler: named === "dpmpp_2m" && values.get("algorithm_type") === "sde-dpmsolver++"
      ? "dpmpp_2m_sde"
      : named,
    trainTimesteps: trainedBetas?.length ?? number("num_train_timesteps"),
    betaStart: number("beta_start"),
    betaEnd: number("beta_end"),
    betaSchedule: choice("beta_schedule", BETA_SCHEDULES),
    trainedBetas,
    prediction: choice("prediction_type", PREDICTIONS),
    spacing: choice("timestep_spacing", SPACINGS),
    stepsOffset: number("steps_offset"),
    rescaleZeroSnr: flag("rescale_betas_zero_snr"),
    setAlphaToOne: flag("set_alpha_to_one"),
    finalSigma: choice("final_sigmas_type", ["zero", "sigma_min"]),
    sigmas: flag("use_karras_sigmas")
      ? "karras"
      : flag("use_exponential_sigmas")
      ? "exponential"
      : undefined,
    lowerOrderFinal: flag("lower_order_final"),
    eulerAtFinal: flag("euler_at_final"),
    originalSteps: number("original_inference_steps"),
    timestepScaling: number("timestep_scaling"),
    unfollowed: Object.entries(UNFOLLOWED)
      .filter(([key, harmless]) => values.has(key) && !harmless.includes(values.get(key)))
      .map(([key]) => `${key}: ${JSON.stringify(values.get(key))}`),
  };
}
