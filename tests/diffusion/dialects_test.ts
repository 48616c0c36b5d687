/** Schedules and walks as other tools mean them, against fixtures/make/dialects.py. */

import assert from "node:assert/strict";
import { betaQuantile } from "../../lib/diffusion/beta.ts";
import type { Dialect } from "../../lib/diffusion/dialects.ts";
import { SAMPLER_NAMES, SCHEDULE_NAMES } from "../../lib/diffusion/names.ts";
import { type PlanRequest, planSampling } from "../../lib/diffusion/plan.ts";
import { readGolden } from "../golden.ts";

const { tensors } = await readGolden("dialects");
const scheduler = { betaStart: 0.00085, betaEnd: 0.012, betaSchedule: "scaled_linear" } as const;
const STEPS = [1, 2, 5, 7, 10, 11, 20, 30];

const planned = (request: Partial<PlanRequest>) =>
  planSampling({ sampler: "euler", steps: 20, scheduler, ...request });

function near(actual: readonly number[], expected: Float32Array, label: string, tolerance = 2e-5) {
  assert.equal(actual.length, expected.length, label);
  for (const [i, value] of expected.entries()) {
    const error = Math.abs(actual[i] - value);
    assert.ok(error <= tolerance * Math.abs(value), `${label}, ${i}: ${actual[i]}, not ${value}`);
  }
}

for (const dialect of ["a1111", "comfyui"] as const) {
  Deno.test(`planSampling makes the noise levels of ${dialect}`, () => {
    let seen = 0;
    for (const schedule of SCHEDULE_NAMES) {
      for (const sdxl of [false, true]) {
        for (const steps of STEPS) {
          const name = `${dialect}.${schedule}${sdxl ? ".sdxl" : ""}.${steps}`;
          const expected = tensors.get(name);
          if (!expected) continue;
          const plan = planned({ dialect, schedule, sdxl, steps });
          near(plan.sigmas, expected, name);
          const timesteps = tensors.get(`${name}.timesteps`);
          // half-way between two, the last bit decides, and torch's differ from device to device
          const exact = planned({ dialect: "sdcpp", schedule, sdxl, steps }).timesteps;
          for (const [i, t] of timesteps?.entries() ?? []) {
            const isTie = Math.abs(exact[i] % 1 - 0.5) < 1e-3;
            const off = Math.abs(plan.timesteps[i] - t);
            assert.ok(
              off <= (isTie ? 1 : 0),
              `${name}: timestep ${i} is ${plan.timesteps[i]}, not ${t}`,
            );
          }
          seen++;
        }
      }
    }
    assert.equal(seen, (9 + 1) * STEPS.length);
  });
}

Deno.test("planSampling walks DDIM and PLMS from AUTOMATIC1111's timesteps to the lowest, which it does not call", () => {
  for (const steps of STEPS.slice(1)) {
    const expected = tensors.get(`a1111.ddim.${steps}`);
    assert.ok(expected);
    const ddim = planned({ dialect: "a1111", sampler: "ddim", steps });
    assert.deepEqual(ddim.timesteps, [...expected.slice(0, -1)]);
    assert.equal(ddim.intervals.at(-1)?.to.timestep, expected.at(-1));
    assert.ok(Math.abs(ddim.initialScale - 1) < 1e-6);
    const pndm = planned({ dialect: "a1111", sampler: "pndm", steps });
    const [first, second, ...rest] = ddim.timesteps;
    const again = second === undefined ? [first] : [first, second, second, ...rest];
    assert.deepEqual(pndm.timesteps, again);
  }
  assert.throws(
    () => planned({ dialect: "a1111", sampler: "ddim", steps: 1 }),
    /at least 2 were needed/,
  );
});

Deno.test("planSampling starts at σ, and as ComfyUI at √(1 + σ²) where the walk begins at the highest σ", () => {
  const scale = (dialect: Dialect, schedule: "karras" | "leading") => {
    const { initialScale, sigmas } = planned({ dialect, schedule, steps: 30 });
    return [initialScale, sigmas[0]];
  };
  for (const dialect of ["a1111", "sdcpp"] as const) {
    const [initial, sigma] = scale(dialect, "karras");
    assert.equal(initial, sigma);
  }
  const [initial, sigma] = scale("comfyui", "karras");
  assert.equal(initial, Math.hypot(1, sigma));
  const [lower, below] = scale("comfyui", "leading");
  assert.equal(lower, below);
});

Deno.test("planSampling calls ComfyUI's networks at whole timesteps, twice a step as well", () => {
  for (const sampler of SAMPLER_NAMES) {
    const { timesteps } = planned({ dialect: "comfyui", sampler, schedule: "karras" });
    assert.ok(timesteps.every(Number.isInteger), sampler);
    const fractional = planned({ dialect: "sdcpp", sampler, schedule: "karras" });
    assert.ok(!fractional.timesteps.every(Number.isInteger), sampler);
  }
});

Deno.test("betaQuantile equals scipy's", () => {
  for (const [a, b] of [[0.6, 0.6], [0.5, 2], [3, 1.5]]) {
    const expected = tensors.get(`beta.${a.toFixed(1)}.${b.toFixed(1)}`);
    assert.ok(expected);
    near(
      expected.keys().toArray().map((i) => betaQuantile(i / 64, a, b)),
      expected,
      `${a} ${b}`,
      1e-6,
    );
  }
});
