/**
 * Prompts that are weighted, long, scheduled and composed, against fixtures/make/weighted.py, which applies the formulas of
 * AUTOMATIC1111 and ComfyUI to transformers' states and walks with diffusers' networks.
 */

import assert from "node:assert/strict";
import { loadModel } from "../../lib/engine/load.ts";
import type { Model } from "../../lib/engine/model.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { noisesOf } from "../../lib/pipelines/noise.ts";
import {
  type TextToImage,
  textToImage,
  textToImagePipeline,
} from "../../lib/pipelines/text_to_image.ts";
import { fixture } from "../fixture.ts";
import { readGolden } from "../golden.ts";
import { withScheduler } from "../pictures.ts";
import { nmse } from "../tolerance.ts";

interface Entry {
  readonly family: string;
  readonly scheduler: unknown;
  readonly request: TextToImage;
}

const { tensors, metadata } = await readGolden("weighted");
const entries: Record<string, Entry> = JSON.parse(metadata.get("entries") ?? "{}");

/** f32 rounding through all steps; what a wrong weight or span moves is above 1e-4. */
const BOUND = 1e-7;

async function latentsOf(model: Model, request: TextToImage): Promise<Float32Array[]> {
  const found: Float32Array[] = [];
  for await (const event of textToImage(model, request)) {
    if (event.kind === "image") found.push(event.latents.data);
  }
  return found;
}

for (const family of ["sd1", "sdxl"]) {
  Deno.test(`textToImage weights, joins, schedules and composes prompts as the tools do, with the tiny ${family} model`, async (t) => {
    await using device = await openDevice();
    await using model = await loadModel(device, fixture(`tiny/${family}`), { weights: "f32" });
    for (const [name, entry] of Object.entries(entries)) {
      if (entry.family !== family) continue;
      await t.step(name, async () => {
        const asked = withScheduler(model, entry.scheduler);
        const latents = await latentsOf(asked, entry.request);
        const expected = tensors.get(`${name}.latents`);
        assert.ok(expected);
        const size = expected.length / latents.length;
        for (const [i, found] of latents.entries()) {
          const error = nmse(found, expected.subarray(i * size, (i + 1) * size));
          assert.ok(error <= BOUND, `picture ${i}: NMSE ${error.toExponential(2)}`);
        }
        assert.equal(size, latents[0].length);
      });
    }
  });
}

Deno.test("noisesOf gives each picture its share of the draws for a whole batch, or a stream of its own", () => {
  const one = { rng: "cpu", samplerRng: undefined, batchSeeds: "one", batchCount: 3 } as const;
  const { seed = 0 } = entries.batch.request;
  for (let picture = 0; picture < 3; picture++) {
    const { first, later } = noisesOf(one, seed, picture);
    for (let call = 0; call < 3; call++) {
      const all = tensors.get(`batch.noise.${call}`);
      assert.ok(all);
      const size = all.length / 3;
      const drawn = (call === 0 ? first : later).normal(size);
      assert.deepEqual(drawn, all.slice(picture * size, (picture + 1) * size));
    }
  }
  const each = noisesOf({ ...one, batchSeeds: "each" }, seed, 2).first.normal(192);
  assert.deepEqual(each, noisesOf({ ...one, batchCount: 1 }, seed, 0).first.normal(192));
  // a generator of its own begins at the same seed
  const other = noisesOf({ ...one, batchCount: 1, samplerRng: "cuda" }, seed, 0);
  const cuda = noisesOf({ ...one, batchCount: 1, rng: "cuda" }, seed, 0).first.normal(16);
  other.first.normal(192);
  assert.deepEqual(other.later.normal(16), cuda);
});

Deno.test("textToImage reads a plain prompt alike in every language, to the bit", async () => {
  await using device = await openDevice();
  await using model = await loadModel(device, fixture("tiny/sdxl"));
  using pipeline = textToImagePipeline(model);
  const pictures: Float32Array[] = [];
  for (const weighting of ["none", "a1111", "comfy"] as const) {
    const request = {
      ...{ prompt: "a fox, in snow", negativePrompt: "blurry", width: 32, height: 32 },
      ...{ steps: 2, seed: 5, weighting },
    };
    for await (const event of pipeline.run(request)) {
      if (event.kind === "image") pictures.push(event.floats.data);
    }
  }
  assert.deepEqual(pictures[1], pictures[0]);
  assert.deepEqual(pictures[2], pictures[0]);
});
