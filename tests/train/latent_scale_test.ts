import { ok } from "node:assert/strict";
import { join } from "node:path";
import { torchCpu } from "../../lib/base/random.ts";
import { loadFirstStage } from "../../lib/engine/load.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { AutoencoderCourse } from "../../lib/train/autoencoder.ts";
import { autoencoderConfig } from "../../lib/train/config.ts";
import type { ReadyExample } from "../../lib/train/examples.ts";
import { LatentSource } from "../../lib/train/latents.ts";
import { BEGINNING } from "../../lib/train/order.ts";
import { inFolder } from "../folders.ts";

/** Noise of a contrast; of none, all its latents are nearly the same, whatever norms do. */
function example(index: number, contrast: number): ReadyExample {
  const size = { width: 16, height: 16 };
  return {
    ...{ key: "", index, objects: [], original: size, next: BEGINNING },
    picture: {
      ...size,
      data: torchCpu(index).normal(16 * 16 * 3).map((v) => contrast * Math.tanh(v)),
      channels: 3,
      crop: { left: 0, top: 0, right: 1, bottom: 1 },
      ...{ cropLeft: 0, cropTop: 0, isFlipped: false },
    },
  };
}

function deviation(values: readonly number[]): number {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  return Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length);
}

Deno.test("AutoencoderCourse measures the latents' scale over all its pictures, and who loads the folder gets a deviation of 1", async () => {
  await inFolder(async (folder) => {
    await using device = await openDevice();
    const values = {
      run: { folder },
      data: { path: "unused", size: 16 },
      optimizer: { batch: 1, ema: 0 },
      discriminator: { weight: 0 },
      autoencoder: { ...{ f: 2, width: 8, groups: 4, layers: 1, channels: 3 }, attention: false },
    };
    const settings = autoencoderConfig([{ name: "the test", isTyped: false, values }]);
    const measured = [0, 0, 0.9, 1].map((contrast, i) => example(i, contrast));
    {
      using course = await AutoencoderCourse.make(device, settings, { shown: [], measured });
      await course.save(folder);
    }
    using stage = await loadFirstStage(device, join(folder, "vae"), { weights: "f32" });
    using latents = await LatentSource.open(stage, {
      size: 16,
      path: undefined,
      makeRoom: () => {},
    });
    const each = await latents.of(measured.map(({ picture }) => picture));
    const all = deviation(each.flatMap((some) => [...some]));
    ok(Math.abs(all - 1) < 1e-3, `all: ${all}`);
    const first = deviation([...each[0]]);
    ok(Math.abs(first - 1) > 0.1, `the first alone: ${first}`);
  });
});
