/** Walks that begin with a picture, counted as each tool counts them. */

import assert from "node:assert/strict";
import { UsageError } from "../../lib/base/errors.ts";
import { BEGINNINGS } from "../../lib/diffusion/beginning.ts";
import { type PlanRequest, planSampling } from "../../lib/diffusion/plan.ts";

const scheduler = { betaStart: 0.00085, betaEnd: 0.012, betaSchedule: "scaled_linear" } as const;
const planned = (request: Partial<PlanRequest>) =>
  planSampling({ sampler: "euler", schedule: "karras", steps: 20, scheduler, ...request });

Deno.test("BEGINNINGS keep as many steps as each tool walks", () => {
  const kept = (strength: number) =>
    Object.values(BEGINNINGS).map((of) => of(20, strength)).map((b) => [b.steps, b.kept]);
  assert.deepEqual(Object.keys(BEGINNINGS), ["diffusers", "a1111", "sdcpp", "comfyui"]);
  assert.deepEqual(kept(0.75), [[20, 15], [20, 16], [20, 16], [26, 20]]);
  assert.deepEqual(kept(0.29), [[20, 5], [20, 6], [20, 6], [68, 20]]);
  assert.deepEqual(kept(1), [[20, 20], [20, 20], [20, 20], [20, 20]]);
  // 0.29 · 100 is below 29 in f64, not in f32
  assert.deepEqual([BEGINNINGS.a1111(100, 0.29).kept, BEGINNINGS.sdcpp(100, 0.29).kept], [29, 30]);
  assert.equal(BEGINNINGS.a1111(20, 0).kept, 1);
  assert.throws(() => BEGINNINGS.diffusers(20, 0.04), /by strength 0.04 in 20 steps: no step of/);
  assert.throws(() => BEGINNINGS.comfyui(20, 0), UsageError);
  assert.throws(() => BEGINNINGS.comfyui(20, 0.01), /the last steps of 2000: 1000 are the most/);
});

Deno.test("planSampling walks the end of a list of noise levels, from a picture with the first of them", () => {
  const whole = planned({ dialect: "a1111" }).sigmas;
  for (const [dialect, from] of [["diffusers", 5], ["a1111", 4], ["sdcpp", 4]] as const) {
    const plan = planned({ dialect, strength: 0.75 });
    assert.deepEqual(plan.sigmas, whole.slice(from), dialect);
    assert.deepEqual(plan.wholeSigmas, whole);
    assert.deepEqual(plan.start, { alpha: 1, sigma: whole[from] });
  }
  const comfy = planned({ dialect: "comfyui", strength: 0.75 });
  assert.deepEqual(comfy.sigmas, planned({ dialect: "comfyui", steps: 26 }).sigmas.slice(-21));
  assert.equal(comfy.start.sigma, comfy.sigmas[0]);
  const all = planned({ dialect: "comfyui", strength: 1 });
  assert.equal(all.start.sigma, Math.hypot(1, whole[0]));
  // DPM2 leaves out the level before the last, of one more
  const dpm2 = planned({ dialect: "comfyui", sampler: "dpm2", strength: 0.5 });
  assert.equal(dpm2.intervals.length, 20);
});

Deno.test("planSampling begins DDIM and PLMS below the picture's noise where AUTOMATIC1111 does", () => {
  const walk = { dialect: "a1111", schedule: undefined, strength: 0.75 } as const;
  const whole = planned({ ...walk, sampler: "ddim", strength: undefined });
  const ddim = planned({ ...walk, sampler: "ddim" });
  assert.deepEqual([ddim.timesteps[0], ddim.timesteps.length], [701, 14]);
  assert.equal(ddim.timesteps.at(-1), 51);
  assert.deepEqual(ddim.start, whole.intervals.find(({ at }) => at.timestep === 751)?.from);
  const plms = planned({ ...walk, sampler: "pndm" });
  assert.deepEqual(plms.timesteps.slice(0, 3), [701, 651, 651]);
  assert.throws(() => planned({ ...walk, sampler: "ddim", strength: 0.05 }), UsageError);
});

Deno.test("planSampling takes a distilled model's steps from a share of those it was distilled at", () => {
  const walk = { sampler: "lcm", schedule: undefined, steps: 4, distilled: true } as const;
  assert.deepEqual(planned({ ...walk, strength: 0.6 }).timesteps, [599, 459, 299, 159]);
  assert.deepEqual(planned({ ...walk, strength: 1 }).timesteps, planned(walk).timesteps);
  assert.throws(() => planned({ ...walk, strength: 0.05 }), /of which strength 0.05 leaves 2/);
});
