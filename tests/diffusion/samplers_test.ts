import assert from "node:assert/strict";
import { torchCpu } from "../../lib/base/random.ts";
import { denoiser, type Latents, weigh } from "../../lib/diffusion/denoiser.ts";
import { SAMPLER_NAMES, type SamplerName, SCHEDULE_NAMES } from "../../lib/diffusion/names.ts";
import { parseSchedulerConfig, type Plan, planSampling } from "../../lib/diffusion/plan.ts";
import { type Level, sigmaOf, ve, vp } from "../../lib/diffusion/schedule.ts";
import { sample, type SamplingOptions, type SamplingStep } from "../../lib/diffusion/samplers.ts";
import { readGolden } from "../golden.ts";

/** A run of one of diffusers' schedulers: fixtures/make/schedulers.py. */
interface Case {
  readonly sampler: SamplerName;
  readonly steps: number;
  readonly eta: number;
  readonly each: boolean;
  readonly config: Record<string, unknown>;
  readonly seed: number;
  readonly next: number;
  readonly initialScale: number;
  readonly evaluations: number;
  readonly sigmas: number;
}

const SIZE = 4 * 6 * 5;
const { tensors, metadata } = await readGolden("schedulers");
const cases: Case[] = JSON.parse(metadata.get("cases") ?? "[]");

/** The formula that stands for the network in fixtures/make/schedulers.py. */
function network(x: Latents, t: number): Latents {
  return x.map((v, i) => 0.6 * Math.tanh(v * Math.cos(t / 300)) + 0.1 * Math.sin(v + 0.01 * i));
}

/** All steps of a plan with that network, and the timesteps at which it was called. */
async function run(plan: Plan, options: SamplingOptions) {
  const timesteps: number[] = [];
  const denoise = denoiser(plan.prediction, (x, t) => {
    timesteps.push(t);
    return network(x, t);
  });
  const x = weigh([plan.initialScale, options.noise.normal(SIZE)]);
  const steps: SamplingStep[] = [];
  for await (const step of sample(plan, denoise, x, options)) steps.push(step);
  return { steps, timesteps };
}

/** The largest difference, in units of the largest expected magnitude. */
function relativeError(actual: ArrayLike<number>, expected: Float32Array): number {
  const scale = expected.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  return expected.reduce((m, v, i) => Math.max(m, Math.abs(v - actual[i])), 0) / scale;
}

/**
 * diffusers steps in f32, we in f64 rounded once a step. Its error is some units in the last place (u = 2⁻²⁴) of the
 * largest x it meets: `initialScale`, 1 in VP, 15 in VE, 4096 in VE with zero terminal SNR (where it loses three digits).
 * Measured: at most 3.7·u·(20 + scale), for pndm; any wrong coefficient shows far above that.
 */
const tolerance = (scale: number) => 4 * 2 ** -24 * (20 + scale);
/** Relative. torch's sqrt in the zero-SNR rescale comes from MKL and is not correctly rounded; elsewhere σ agrees to 1e-7. */
const SIGMA_ERROR = 5e-6;

for (const sampler of SAMPLER_NAMES) {
  Deno.test(`${sampler} gives the latents of diffusers' scheduler for every configuration`, async () => {
    let count = 0;
    for (const [i, c] of cases.entries()) {
      if (c.sampler !== sampler) continue;
      const label = `case ${i}, ${c.steps} steps, eta ${c.eta}, ${JSON.stringify(c.config)}`;
      const scheduler = parseSchedulerConfig(c.config);
      const plan = planSampling({ sampler, steps: c.steps, scheduler });
      const eta = sampler === "ddim" ? { eta: c.eta } : {};
      const noise = torchCpu(c.seed);
      const { steps, timesteps } = await run(plan, { noise, ...eta });
      assert.equal(noise.normal(16)[0], Math.fround(c.next), `noise drawn by ${label}`);

      const golden = tensors.get(`case.${i}`) ?? new Float32Array();
      let offset = 0;
      const take = (n: number) => golden.subarray(offset, offset += n);
      const final = take(SIZE);
      // 1e-4: fractional timesteps come out of f32 logarithms
      assert.ok(absoluteError(timesteps, take(c.evaluations)) <= 1e-4, `timesteps of ${label}`);
      assert.deepEqual(timesteps, plan.timesteps, `planned timesteps of ${label}`);
      if (c.sigmas > 0) assertSigmas(plan, take(c.sigmas), label);
      assert.ok(
        Math.abs(plan.initialScale / c.initialScale - 1) < 1e-6,
        `initial scale of ${label}`,
      );
      const allowed = tolerance(plan.initialScale);
      const error = relativeError(steps[steps.length - 1].x, final);
      assert.ok(error <= allowed, `${label}: ${error} > ${allowed}`);
      if (c.each) {
        const calls = calledBefore(plan);
        for (const [k, step] of steps.entries()) {
          const expected = golden.subarray(offset + (calls[k] - 1) * SIZE).subarray(0, SIZE);
          assert.ok(relativeError(step.x, expected) <= allowed, `step ${k} of ${label}`);
        }
      }
      count++;
    }
    assert.ok(count >= 8, `only ${count} cases`);
  });
}

function absoluteError(actual: ArrayLike<number>, expected: Float32Array): number {
  if (actual.length !== expected.length) return Infinity;
  return expected.reduce((m, v, i) => Math.max(m, Math.abs(v - actual[i])), 0);
}

/** diffusers' lists of Heun and KDPM2 repeat each σ but the first. */
function assertSigmas(plan: Plan, expected: Float32Array, label: string) {
  const repeated = plan.sampler === "heun" || plan.sampler === "dpm2";
  const once = expected.filter((sigma, i) => !repeated || i === 0 || sigma !== expected[i - 1]);
  assert.equal(plan.sigmas.length, once.length, `number of sigmas of ${label}`);
  plan.sigmas.forEach((sigma, i) =>
    assert.ok(
      Math.abs(sigma - once[i]) <= SIGMA_ERROR * once[i],
      `sigma ${i} of ${label}: ${sigma}, ${once[i]}`,
    )
  );
}

/** How often the network has been called when each interval is done. */
function calledBefore(plan: Plan): number[] {
  let calls = 0;
  return plan.intervals.map(({ second }) => calls += second ? 2 : 1);
}

Deno.test("sample ends without noise for every sampler with every named schedule", async () => {
  const scheduler = parseSchedulerConfig(cases[0].config);
  for (const sampler of SAMPLER_NAMES) {
    for (const schedule of SCHEDULE_NAMES) {
      const plan = planSampling({ sampler, schedule, steps: 6, scheduler });
      const { steps, timesteps } = await run(plan, { noise: torchCpu(1) });
      assert.equal(steps.length, plan.intervals.length);
      assert.equal(timesteps.length, plan.timesteps.length);
      const last = steps[steps.length - 1];
      assert.ok(last.x.every(Number.isFinite) && last.sigma < 0.03, `${sampler} ${schedule}`);
    }
  }
});

Deno.test("sample with a perfect denoiser returns the clean latents for every sampler and schedule", async () => {
  const clean = torchCpu(9).normal(SIZE);
  const scheduler = parseSchedulerConfig(cases[0].config);
  for (const sampler of SAMPLER_NAMES) {
    if (sampler === "lcm") continue; // its boundary condition keeps some of x near timestep 0
    for (const schedule of SCHEDULE_NAMES) {
      const plan = planSampling({ sampler, schedule, steps: 9, scheduler });
      const noise = torchCpu(2);
      const start = weigh([1, clean], [plan.initialScale, noise.normal(SIZE)]);
      let x = start;
      for await (const step of sample(plan, () => clean, start, { noise })) x = step.x;
      const { alpha, sigma } = plan.intervals[plan.intervals.length - 1].to;
      // What is left is the noise of the last level, which for ddim and pndm is that of ᾱ₀.
      const error = Math.max(...x.map((v, i) => Math.abs(v - alpha * clean[i])));
      assert.ok(error <= 5 * sigma + 1e-4, `${sampler} ${schedule}: ${error}`);
    }
  }
});

Deno.test("sample gives the same latents in VE as in VP", async () => {
  // heun, dpm2 and lms are written for VE alone
  const samplers = SAMPLER_NAMES.filter((name) => !["heun", "dpm2", "lms"].includes(name));
  for (const sampler of samplers) {
    const settings = {
      ...cases[0].config,
      set_alpha_to_one: true,
      prediction_type: "v_prediction",
    };
    const plan = planSampling({ sampler, steps: 8, scheduler: parseSchedulerConfig(settings) });
    const start = torchCpu(5).normal(SIZE);
    const results = await Promise.all([ve, vp].map(async (scaled) => {
      const convert = (level: Level) => scaled(sigmaOf(level), level.timestep);
      const intervals = plan.intervals.map(({ at, from, to }) => (
        { at: convert(at), from: convert(from), to: convert(to) }
      ));
      const { alpha, sigma } = intervals[0].from;
      const noise = torchCpu(6);
      let x = weigh([Math.hypot(alpha, sigma), start]);
      const denoise = denoiser("v_prediction", network);
      const eta = sampler === "ddim" ? { eta: 0.7 } : {};
      for await (const step of sample({ ...plan, intervals }, denoise, x, { noise, ...eta })) {
        x = step.x;
      }
      return x;
    }));
    const error = relativeError(results[0], results[1]);
    assert.ok(error <= tolerance(15), `${sampler}: ${error}`);
  }
});

Deno.test("sample leaves the latents that it was given and has yielded alone", async () => {
  const scheduler = parseSchedulerConfig(cases[0].config);
  for (const sampler of SAMPLER_NAMES) {
    const plan = planSampling({ sampler, steps: 4, scheduler });
    const start = torchCpu(3).normal(SIZE);
    const before = start.slice();
    const kept: [Latents, Latents][] = [];
    const denoise = denoiser(plan.prediction, network);
    for await (const { x } of sample(plan, denoise, start, { noise: torchCpu(4) })) {
      kept.push([x, x.slice()]);
    }
    assert.deepEqual(start, before, sampler);
    for (const [x, copy] of kept) assert.deepEqual(x, copy, sampler);
  }
});
