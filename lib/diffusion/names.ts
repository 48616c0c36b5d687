/**
 * The names of samplers and schedules: one of each is ours and is printed, every spelling of AUTOMATIC1111, ComfyUI,
 * stable-diffusion.cpp and diffusers is read. Spellings are compared without case, spaces and punctuation.
 */

import { UsageError } from "../base/errors.ts";
import { editDistance } from "../base/nearest.ts";

/** Samplers, as `ldm` prints them. */
export const SAMPLER_NAMES = [
  "euler",
  "euler_a",
  "heun",
  "dpm2",
  "dpmpp_2m",
  "dpmpp_2m_sde",
  "ddim",
  "pndm",
  "lms",
  "unipc",
  "lcm",
] as const;
/** One of `SAMPLER_NAMES`. */
export type SamplerName = (typeof SAMPLER_NAMES)[number];

/** Schedules, as `ldm` prints them: how the noise falls from step to step. */
export const SCHEDULE_NAMES = [
  "discrete",
  "karras",
  "exponential",
  "sgm_uniform",
  "simple",
  "beta",
  "kl_optimal",
  "ays",
  "trailing",
  "leading",
] as const;
/** One of `SCHEDULE_NAMES`. */
export type ScheduleName = (typeof SCHEDULE_NAMES)[number];

/** AUTOMATIC1111's labels, for infotext; its nearest where it has none. */
export const SAMPLER_LABELS: Readonly<Record<SamplerName, string>> = {
  euler: "Euler",
  euler_a: "Euler a",
  heun: "Heun",
  dpm2: "DPM2",
  dpmpp_2m: "DPM++ 2M",
  dpmpp_2m_sde: "DPM++ 2M SDE",
  ddim: "DDIM",
  pndm: "PLMS",
  lms: "LMS",
  unipc: "UniPC",
  lcm: "LCM",
};

/** AUTOMATIC1111's labels, for infotext; ours where it has none. */
export const SCHEDULE_LABELS: Readonly<Record<ScheduleName, string>> = {
  discrete: "Uniform",
  karras: "Karras",
  exponential: "Exponential",
  sgm_uniform: "SGM Uniform",
  simple: "Simple",
  beta: "Beta",
  kl_optimal: "KL Optimal",
  ays: "Align Your Steps",
  trailing: "Trailing",
  leading: "DDIM",
};

/** ComfyUI's names, for its graphs; its nearest where it has none. */
export const COMFYUI_SAMPLERS: Readonly<Record<SamplerName, string>> = {
  euler: "euler",
  euler_a: "euler_ancestral",
  heun: "heun",
  dpm2: "dpm_2",
  dpmpp_2m: "dpmpp_2m",
  dpmpp_2m_sde: "dpmpp_2m_sde",
  ddim: "ddim",
  pndm: "ipndm",
  lms: "lms",
  unipc: "uni_pc_bh2",
  lcm: "lcm",
};

/** ComfyUI's names, for its graphs; its nearest where it has none. */
export const COMFYUI_SCHEDULES: Readonly<Record<ScheduleName, string>> = {
  discrete: "normal",
  karras: "karras",
  exponential: "exponential",
  sgm_uniform: "sgm_uniform",
  simple: "simple",
  beta: "beta",
  kl_optimal: "kl_optimal",
  ays: "karras",
  trailing: "simple",
  leading: "ddim_uniform",
};

const SAMPLER_SPELLINGS: Readonly<Record<SamplerName, readonly string[]>> = {
  euler: ["EulerDiscrete", "k_euler"],
  euler_a: ["euler_ancestral", "EulerAncestralDiscrete", "k_euler_a", "k_euler_ancestral"],
  heun: ["HeunDiscrete", "k_heun"],
  dpm2: ["dpm_2", "KDPM2Discrete", "KDPM2", "k_dpm_2"],
  dpmpp_2m: ["dpm++2m", "dpm++_2m", "DPMSolverMultistep", "dpmsolver++", "k_dpmpp_2m"],
  dpmpp_2m_sde: ["dpm++2m_sde", "dpmpp_2m_sde_gpu", "sde-dpmsolver++"],
  ddim: ["ddim_uniform"],
  pndm: ["plms"],
  lms: ["LMSDiscrete", "k_lms"],
  unipc: ["uni_pc", "uni_pc_bh2", "UniPCMultistep"],
  lcm: [],
};

const SCHEDULE_SPELLINGS: Readonly<Record<ScheduleName, readonly string[]>> = {
  discrete: ["normal", "uniform"],
  karras: ["use_karras_sigmas"],
  // AUTOMATIC1111's polyexponential has ρ = 1, which is the same
  exponential: ["use_exponential_sigmas", "polyexponential"],
  sgm_uniform: [],
  simple: [],
  beta: ["use_beta_sigmas"],
  kl_optimal: [],
  ays: ["AlignYourStepsScheduler", "AYS"],
  trailing: [],
  leading: ["ddim_uniform", "ddim"],
};

/** "DPM++ 2M" and "dpmpp_2m" are one spelling, "EulerDiscreteScheduler" is "EulerDiscrete". */
function fold(name: string): string {
  return name.toLowerCase().replaceAll("++", "pp").replace(/[^a-z0-9]/g, "").replace(
    /(?<=.)scheduler$/,
    "",
  );
}

function foldAll<Name extends string>(
  names: readonly Name[],
  tables: readonly Readonly<Record<Name, string | readonly string[]>>[],
): ReadonlyMap<string, Name> {
  const spellings = new Map<string, Name>();
  for (const name of names) {
    spellings.set(fold(name), name);
    for (const table of tables) {
      for (const spelling of [table[name]].flat()) spellings.set(fold(spelling), name);
    }
  }
  return spellings;
}
const SAMPLERS_FOLDED = foldAll(SAMPLER_NAMES, [SAMPLER_SPELLINGS, SAMPLER_LABELS]);
const SCHEDULES_FOLDED = foldAll(SCHEDULE_NAMES, [SCHEDULE_SPELLINGS, SCHEDULE_LABELS]);

/** A sampler by a spelling of its own, or `undefined`. */
export function findSampler(text: string): SamplerName | undefined {
  return SAMPLERS_FOLDED.get(fold(text));
}

/**
 * A sampler by any spelling. Old infotexts end it with the schedule ("DPM++ 2M Karras"), stable-diffusion.cpp's
 * too ("euler_a discrete"): then that is returned as well. Throws `UsageError` that names the nearest sampler.
 */
export function parseSampler(text: string): { sampler: SamplerName; schedule?: ScheduleName } {
  const sampler = findSampler(text);
  if (sampler) return { sampler };
  const folded = fold(text);
  for (const [ending, schedule] of SCHEDULES_FOLDED) {
    const head = folded.endsWith(ending) && SAMPLERS_FOLDED.get(folded.slice(0, -ending.length));
    if (head) return { sampler: head, schedule };
  }
  throw unknown("sampler", text, SAMPLER_NAMES, SAMPLERS_FOLDED);
}

/** A schedule by any spelling. Throws `UsageError` that names the nearest schedule. */
export function parseSchedule(text: string): ScheduleName {
  const schedule = SCHEDULES_FOLDED.get(fold(text));
  if (schedule) return schedule;
  throw unknown("schedule", text, SCHEDULE_NAMES, SCHEDULES_FOLDED);
}

function unknown<Name extends string>(
  kind: string,
  text: string,
  names: readonly Name[],
  spellings: ReadonlyMap<string, Name>,
): UsageError {
  const folded = fold(text);
  const distances = [...spellings].map(([spelling, name]) => ({
    name,
    d: editDistance(folded, spelling),
  }));
  const nearest = distances.reduce((a, b) => b.d < a.d ? b : a);
  // a name further off is no slip of the finger
  const isNear = nearest.d <= Math.max(1, folded.length * 0.4);
  const guess = isNear ? `did you mean "${nearest.name}"? There are` : "there are";
  return new UsageError(
    `Unknown ${kind} "${text}": ${guess} ${names.join(", ")}`,
  );
}
