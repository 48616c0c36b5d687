import assert from "node:assert/strict";
import { torchCpu } from "../../lib/base/random.ts";
import {
  denoiser,
  guidanceEmbedding,
  guide,
  type Latents,
  modelInput,
  PREDICTIONS,
  rescaleGuidance,
  toEpsilon,
  toV,
  toX0,
  vToEpsilon,
  weigh,
} from "../../lib/diffusion/denoiser.ts";
import { type Level, ve, vp } from "../../lib/diffusion/schedule.ts";
import { readGolden } from "../golden.ts";

const { tensors } = await readGolden("schedulers");
const golden = (name: string): Latents => new Float32Array(tensors.get(name) ?? []);

/** Equal to within `bound` of the larger of 1 and the values. */
function assertClose(actual: Latents, expected: Latents, bound: number, label: string) {
  assert.equal(actual.length, expected.length);
  actual.forEach((v, i) =>
    assert.ok(
      Math.abs(v - expected[i]) <= bound * Math.max(1, Math.abs(expected[i])),
      `${label} [${i}]: ${v}, expected ${expected[i]}`,
    )
  );
}

const LEVELS: Record<string, Level> = {
  "VE, SD 1's last": ve(14.6146, 999),
  "VE, small": ve(0.0292, 0),
  "VE, zero-SNR stand-in": ve(4096, 999),
  "VP, middle": vp(1.5, 500),
  "VP, small": vp(0.0292, 0),
  "VP, nothing but noise": { alpha: 0, sigma: 1, timestep: 999 },
};
const noise = torchCpu(1);
const [x0, eps] = [noise.normal(64), noise.normal(64)];

/** The three predictions that a perfect network makes of x₀ and ε at a level. */
function perfect({ alpha, sigma }: Level) {
  const norm = Math.hypot(alpha, sigma);
  return {
    epsilon: eps,
    sample: x0,
    v_prediction: weigh([alpha / norm, eps], [-sigma / norm, x0]),
  };
}

Deno.test("toX0 inverts what ε, v and x₀ are defined to be, at every level", () => {
  for (const [name, level] of Object.entries(LEVELS)) {
    const x = weigh([level.alpha, x0], [level.sigma, eps]);
    for (const prediction of PREDICTIONS) {
      if (prediction === "epsilon" && level.alpha === 0) continue; // ε says nothing there
      const got = toX0(prediction, perfect(level)[prediction], x, level);
      // x = x₀ + σ·ε is rounded to f32: σ/α units in the last place of ε come back as x₀
      assertClose(got, x0, 4e-7 * (1 + level.sigma / (level.alpha || 1)), `${prediction}, ${name}`);
    }
  }
});

Deno.test("toEpsilon, toV and vToEpsilon are what ε and v are defined to be", () => {
  for (const [name, level] of Object.entries(LEVELS)) {
    const x = weigh([level.alpha, x0], [level.sigma, eps]);
    const bound = 4e-7 * (1 + 4 * Math.hypot(level.alpha, level.sigma) / level.sigma);
    const v = perfect(level).v_prediction;
    assertClose(toEpsilon(x0, x, level), eps, bound, `epsilon, ${name}`);
    assertClose(toV(x0, x, level), v, bound, `v, ${name}`);
    assertClose(vToEpsilon(v, x, level), eps, bound, `v to epsilon, ${name}`);
  }
});

Deno.test("denoiser gives the network unit-variance input and the level's timestep", async () => {
  for (const [name, level] of Object.entries(LEVELS)) {
    const x = weigh([level.alpha, x0], [level.sigma, eps]);
    const denoise = denoiser("sample", (input, timestep) => {
      assert.equal(timestep, level.timestep);
      assertClose(input, weigh([1 / Math.hypot(level.alpha, level.sigma), x]), 1e-7, name);
      return x0;
    });
    assert.equal(await denoise(x, level), x0);
    assertClose(
      modelInput(x, level),
      modelInput(weigh([3, x]), { ...level, alpha: 3 * level.alpha, sigma: 3 * level.sigma }),
      1e-6,
      name,
    );
  }
});

Deno.test("guide and rescaleGuidance equal diffusers'", () => {
  const [cond, uncond] = [golden("guidance.cond"), golden("guidance.uncond")];
  const guided = guide(uncond, cond, 7.5);
  assertClose(guided, golden("guidance.guided"), 1e-6, "guided");
  assertClose(rescaleGuidance(guided, cond, 0.7), golden("guidance.rescaled"), 1e-6, "rescaled");
  assert.deepEqual(guide(uncond, cond, 1), cond);
  assert.deepEqual(rescaleGuidance(guided, cond, 0), guided);
});

Deno.test("guidanceEmbedding equals diffusers' get_guidance_scale_embedding", () => {
  for (const [w, width] of [[7.5, 256], [0, 32], [1.3, 512]]) {
    // 1e-3: arguments of thousands in f32 are known to 2e-4, and a last bit of the reference's exp moves them as much
    const expected = golden(`embedding.${w === 0 ? "0.0" : w}.${width}`);
    assertClose(guidanceEmbedding(w, width), expected, 1e-3, `w ${w}`);
  }
});
