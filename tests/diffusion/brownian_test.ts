/** Brownian trees against torchsde's (fixtures/make/brownian.py). */

import assert from "node:assert/strict";
import { torchCpu } from "../../lib/base/random.ts";
import { seedSequence } from "../../lib/base/seed_sequence.ts";
import { brownianNoise } from "../../lib/diffusion/brownian.ts";
import type { Denoise, Latents } from "../../lib/diffusion/denoiser.ts";
import { planSampling } from "../../lib/diffusion/plan.ts";
import { sample } from "../../lib/diffusion/samplers.ts";
import { readGolden, ulpDistance } from "../golden.ts";

interface Tree {
  readonly entropy: number;
  readonly shape: readonly number[];
  readonly levels: readonly number[];
}
interface Sequence {
  readonly entropy: number;
  readonly spawn_key: readonly number[];
  readonly pool_size: number;
}

const { tensors, integers, metadata } = await readGolden("brownian");
const trees: Readonly<Record<string, Tree>> = JSON.parse(metadata.get("trees") ?? "");
const sequences: readonly Sequence[] = JSON.parse(metadata.get("sequences") ?? "");

function treeOf({ entropy, shape, levels }: Tree) {
  return brownianNoise({
    seed: entropy,
    least: Math.min(...levels),
    most: Math.max(...levels),
    count: shape.reduce((a, b) => a * b, 1),
    source: torchCpu,
  });
}

Deno.test("seedSequence draws numpy's words, with and without a key, from pools of any size", () => {
  for (const [i, { entropy, spawn_key, pool_size }] of sequences.entries()) {
    const expected = Uint32Array.from(integers.get(`words.${i}`) ?? []);
    assert.ok(expected.length > 0);
    assert.deepEqual(seedSequence(entropy, spawn_key, pool_size, expected.length), expected);
  }
});

Deno.test("brownianNoise draws torchsde's numbers, whatever was asked before", () => {
  for (const [name, tree] of Object.entries(trees)) {
    const { levels } = tree;
    const between = treeOf(tree);
    const asked = levels.slice(1).map((_, i) => i);
    for (const i of asked) {
      const expected = tensors.get(`${name}.${i}`) ?? assert.fail(name);
      const worst = ulpDistance(between(levels[i], levels[i + 1]), expected);
      assert.ok(worst <= 2, `${name}.${i}: ${worst}`); // torch's roots are not always the nearest
    }
    // the path is the seed's, but for the last bits of sums
    const backward = treeOf(tree);
    for (const i of asked.reverse()) {
      const expected = tensors.get(`${name}.${i}`) ?? assert.fail(name);
      backward(levels[i], levels[i + 1]).forEach((value, j) =>
        assert.ok(Math.abs(value - expected[j]) < 1e-5)
      );
    }
  }
});

Deno.test("dpmpp_2m_sde walks as k-diffusion does where its noise is a tree's", async () => {
  const { levels } = trees.walk;
  const start = new Float32Array(tensors.get("walk.start") ?? assert.fail());
  const expected = tensors.get("walk.end") ?? assert.fail();
  const scheduler = { betaStart: 0.00085, betaEnd: 0.012, betaSchedule: "scaled_linear" } as const;
  const usual = planSampling({ sampler: "dpmpp_2m_sde", steps: levels.length, scheduler });
  const ends = [...levels, 0].map((sigma) => ({ alpha: 1, sigma, timestep: 0 }));
  const intervals = levels.map((_, i) => ({ at: ends[i], from: ends[i], to: ends[i + 1] }));
  const plan = { ...usual, finalOrder: 1 as const, intervals };
  const denoise: Denoise = (x, { sigma }) => Promise.resolve(x.map((v) => v / (1 + sigma ** 2)));
  const noise = { normal: () => assert.fail("noise of the stream") };
  let x: Latents = start;
  for await (const step of sample(plan, denoise, start, { noise, between: treeOf(trees.walk) })) {
    x = step.x;
  }
  const error = x.reduce((sum, value, i) => sum + (value - expected[i]) ** 2, 0);
  const size = expected.reduce((sum, value) => sum + value ** 2, 0);
  assert.ok(error / size < 1e-11, `${error / size}`);
});
