import assert from "node:assert/strict";
import {
  alphasCumprod,
  BETAS,
  exponential,
  karras,
  rescaleZeroTerminalSnr,
  SIGMA_SCHEDULES,
  sigmaAt,
  sigmaOf,
  sigmasOf,
  timestepOf,
  ve,
  vp,
} from "../../lib/diffusion/schedule.ts";
import { readGolden } from "../golden.ts";

const { tensors } = await readGolden("schedulers");
const SD = alphasCumprod(BETAS.scaled_linear(0.00085, 0.012, 1000));
const SIGMAS = sigmasOf(SD);

Deno.test("BETAS and alphasCumprod equal torch's tables to the last bit", () => {
  assert.deepEqual(SD, tensors.get("bars.sd"));
  assert.deepEqual(alphasCumprod(BETAS.linear(0.0001, 0.02, 1000)), tensors.get("bars.linear"));
  assert.deepEqual(alphasCumprod(BETAS.squaredcos_cap_v2(0, 0, 1000)), tensors.get("bars.cosine"));
  assert.deepEqual(
    alphasCumprod(BETAS.scaled_linear(0.0015, 0.0195, 1000)),
    tensors.get("bars.ldm"),
  );
});

Deno.test("rescaleZeroTerminalSnr ends in exactly nothing and equals diffusers'", () => {
  const bars = rescaleZeroTerminalSnr(BETAS.scaled_linear(0.00085, 0.012, 1000));
  const expected = tensors.get("bars.zero") ?? new Float32Array();
  assert.equal(bars[999], 0);
  assert.equal(expected[999], 0);
  // 5e-6: torch's sqrt comes from MKL and is not correctly rounded
  bars.forEach((bar, t) => assert.ok(Math.abs(bar - expected[t]) <= 5e-6 * expected[t], `ᾱ ${t}`));
});

Deno.test("sigmasOf gives the known range of Stable Diffusion 1", () => {
  assert.equal(SIGMAS[0].toFixed(4), "0.0292");
  assert.equal(SIGMAS[999].toFixed(4), "14.6146");
});

Deno.test("sigmaAt and timestepOf are inverse, and hold at the ends", () => {
  for (const t of [0, 0.25, 1, 17.5, 500, 998.75, 999]) {
    assert.ok(Math.abs(timestepOf(SIGMAS, sigmaAt(SIGMAS, t)) - t) < 1e-4, `${t}`);
  }
  assert.equal(timestepOf(SIGMAS, 0), 0);
  assert.equal(timestepOf(SIGMAS, 1e9), 999);
  assert.equal(Math.fround(sigmaAt(SIGMAS, 999)), SIGMAS[999]);
});

Deno.test("ve and vp are one noise level at two scales", () => {
  for (const sigma of [0, 0.03, 1, 14.6]) {
    const level = vp(sigma, 7);
    assert.ok(Math.abs(level.alpha ** 2 + level.sigma ** 2 - 1) < 1e-12);
    assert.ok(Math.abs(sigmaOf(level) - sigmaOf(ve(sigma, 7))) < 1e-12);
    assert.equal(level.timestep, 7);
  }
  assert.equal(sigmaOf({ alpha: 0, sigma: 1, timestep: 999 }), Infinity);
});

Deno.test("karras and exponential equal k-diffusion's formulas", () => {
  // numpy: (10**(1/7) + linspace(0,1,5) * (0.1**(1/7) - 10**(1/7)))**7; exp(linspace(log(10), log(0.1), 5))
  const expected = {
    karras: [10, 4.0701, 1.4507, 0.4325, 0.1],
    exponential: [10, 3.1623, 1, 0.3162, 0.1],
  };
  assert.deepEqual(exponential(10, 0.1, 5).map((s) => Number(s.toFixed(4))), expected.exponential);
  assert.deepEqual(karras(10, 0.1, 5).map((s) => Number(s.toFixed(4))), expected.karras);
});

Deno.test("SIGMA_SCHEDULES place the model's timesteps where A1111 and ComfyUI place them", () => {
  const timesteps = (name: keyof typeof SIGMA_SCHEDULES, count: number) =>
    SIGMA_SCHEDULES[name](SIGMAS, count).map(({ timestep }) => Math.round(timestep * 100) / 100);
  assert.deepEqual(timesteps("discrete", 4), [999, 666, 333, 0]);
  assert.deepEqual(timesteps("sgm_uniform", 4), [999, 749.25, 499.5, 249.75]);
  assert.deepEqual(timesteps("simple", 4), [999, 749, 499, 249]);
  assert.deepEqual(timesteps("simple", 3), [999, 666, 333]);
  for (const name of ["karras", "exponential"] as const) {
    const levels = SIGMA_SCHEDULES[name](SIGMAS, 10);
    assert.equal(Math.round(levels[0].timestep), 999);
    assert.equal(Math.round(levels[9].timestep), 0);
    assert.ok(
      Math.abs(levels[0].sigma - SIGMAS[999]) < 1e-5 &&
        Math.abs(levels[9].sigma - SIGMAS[0]) < 1e-7,
    );
  }
});
