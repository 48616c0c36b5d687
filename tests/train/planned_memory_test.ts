/** Every kind of run takes what it says that it will, and less where it is told to. */

import assert from "node:assert/strict";
import { MemoryError } from "../../lib/base/errors.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { AutoencoderCourse } from "../../lib/train/autoencoder.ts";
import { autoencoderConfig, diffusionConfig, loraConfig } from "../../lib/train/config.ts";
import { DiffusionCourse } from "../../lib/train/diffusion.ts";
import { examples, type ReadyExample } from "../../lib/train/examples.ts";
import { type Course, runCourse } from "../../lib/train/loop.ts";
import { LoraCourse } from "../../lib/train/lora.ts";
import { openDataset } from "../../lib/train/open_dataset.ts";
import type { Position } from "../../lib/train/order.ts";
import { fixture } from "../fixture.ts";
import { inFolder } from "../folders.ts";

const MIB = 2 ** 20;
const SIZE = 32;

type Values = Readonly<Record<string, Readonly<Record<string, unknown>>>>;
const given = (folder: string, values: Values) => [{
  name: "the test",
  isTyped: false,
  values: {
    run: { folder },
    data: { path: fixture("pictures"), size: SIZE, caption: "a thing" },
    optimizer: { batch: 2, accumulate: 2 },
    ...values,
  },
}];
const sample = { count: 1, steps: 2, cfg_scale: 2, prompts: ["a thing"] };

type Ready = Course & Disposable;
const RUNS: Readonly<
  Record<string, (device: Device, folder: string, shown: ReadyExample[]) => Promise<Ready>>
> = {
  "an autoencoder and its discriminator": (device, folder, shown) =>
    AutoencoderCourse.make(
      device,
      autoencoderConfig(given(folder, {
        autoencoder: { f: 4, width: 8, groups: 4, layers: 1 },
        discriminator: { start: 1, width: 8, layers: 2 },
      })),
      { shown, measured: shown },
    ),
  "a denoiser and its text encoder": (device, folder, shown) =>
    DiffusionCourse.make(
      device,
      diffusionConfig(given(folder, {
        diffusion: { first_stage: fixture("tiny/sd1/vae") },
        unet: {
          ...{ width: 16, groups: 4, layers: 1, heads: 2, context: 8 },
          ...{ multipliers: [1, 2], attention: [0] },
        },
        text: { width: 8, heads: 2, layers: 1, length: 8 },
        sample,
      })),
      { shown, vocabulary: { labels: [], objects: [] } },
    ),
  "a LoRA": (device, folder, shown) =>
    LoraCourse.make(
      device,
      loraConfig(given(folder, { lora: { model: fixture("tiny/sd1") }, sample })),
      { shown },
    ),
};

/** Two steps with a sample and checkpoints; what was planned, and what was on the device after each step. */
async function run(make: (typeof RUNS)[string], memoryBudget: number) {
  return await inFolder(async (folder) => {
    await using device = await openDevice({ memoryBudget });
    using dataset = await openDataset(fixture("pictures"));
    const from = (position?: Position) =>
      examples(dataset, {
        ...{ width: SIZE, height: SIZE, channels: 3, seed: 1, threads: 0, position },
        ...{ crop: "centre", flip: false, filter: "bilinear" },
      });
    const shown: ReadyExample[] = [];
    for await (const example of from()) if (shown.push(example) === 1) break;
    using course = await make(device, folder, shown);
    const { frozen, trained, step } = course.memory;
    const taken: number[] = [];
    const losses: (number | null)[] = [];
    const loop = runCourse(course, from, {
      ...{ folder, config: "", seed: 0, steps: 2, batch: 2, accumulate: 2, keep: 0, resume: false },
      rate: { lr: 1e-3, schedule: "constant", warmup: 0, final: 0 },
      ...{ saveEvery: 1, sampleEvery: 1 },
      memory: () => (taken.push(device.memory.live), device.memory.live),
    });
    for await (const event of loop) {
      if (event.kind !== "step") continue;
      const { record } = event;
      assert.equal(record.planned_mib, Math.ceil((frozen + trained + step) / MIB));
      losses.push(record.loss);
    }
    return { frozen, trained, step, taken, losses };
  });
}

for (const [name, make] of Object.entries(RUNS)) {
  Deno.test(`${name} takes the memory that was planned, and does the same in less`, async () => {
    const { frozen, trained, step, taken, losses } = await run(make, Infinity);
    const planned = frozen + trained + step;
    assert.deepEqual(taken, [planned, planned]);
    const less = Math.floor(planned - step * 0.4);
    const small = await run(make, less);
    assert.equal(small.trained, trained);
    assert.ok(small.step <= step * 0.6);
    assert.deepEqual(small.taken, [1, 2].map(() => small.frozen + small.trained + small.step));
    assert.ok(small.taken[0] <= less);
    assert.deepEqual(small.losses, losses);
  });
}

Deno.test("Trainer refuses with both numbers what does not fit, however much is computed again", async () => {
  const make = RUNS["an autoencoder and its discriminator"];
  const refused = async (memoryBudget: number, what: string) => {
    await using device = await openDevice({ memoryBudget });
    await assert.rejects(make(device, "run", []), (error) => {
      assert.ok(error instanceof MemoryError);
      assert.match(
        error.message,
        new RegExp(
          `^Cannot do the training of the \\w+ within \\d+ MiB: \\d+ MiB are in use, and ${what}, .*, takes \\d+ MiB; raise `,
        ),
      );
      return true;
    });
    assert.equal(device.memory.live, 0);
  };
  await using device = await openDevice();
  using course = await make(device, "run", []);
  const { vae, discriminator } = course.trainers;
  await refused(discriminator.memory.trained / 8, "what is trained");
  // all but the step that is planned last
  const { memory: { trained } } = course;
  const beside = trained + discriminator.memory.step;
  assert.ok(vae.memory.step > MIB / 2);
  await refused(beside + MIB / 16, "a step");
});
