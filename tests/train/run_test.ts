import assert from "node:assert/strict";
import { join } from "node:path";
import { openDevice } from "../../lib/gpu/device.ts";
import { AutoencoderCourse } from "../../lib/train/autoencoder.ts";
import { autoencoderConfig, printConfig } from "../../lib/train/config.ts";
import type { ReadyExample } from "../../lib/train/examples.ts";
import { type LoopOptions, runCourse, type TrainingEvent } from "../../lib/train/loop.ts";
import { openDataset } from "../../lib/train/open_dataset.ts";
import { parseRecords } from "../../lib/train/record.ts";
import { fixture } from "../fixture.ts";
import { inFolder } from "../folders.ts";
import { examplesOf, loopOptions } from "./runs.ts";

const PICTURES = fixture("pictures");

/** Settings of a run of seconds. */
function settings(folder: string, steps: number, perceptual = "") {
  return autoencoderConfig([{
    name: "the test",
    isTyped: false,
    values: {
      run: { folder, steps, save_every: 0, seed: 3 },
      data: { path: PICTURES, size: 16, crop: "random", flip: true },
      optimizer: { batch: 2, ema: 0.9, lr: 1e-3, accumulate: 2 },
      autoencoder: { f: 2, width: 8, groups: 4, layers: 1, channels: 3, perceptual },
      discriminator: { width: 8, layers: 1, start: 3 },
      sample: { every: 0, count: 2 },
    },
  }]);
}

async function train(
  folder: string,
  steps: number,
  more: Partial<LoopOptions> = {},
  spoil?: (examples: readonly ReadyExample[], step: number) => void,
  perceptual?: string,
): Promise<TrainingEvent[]> {
  const config = settings(folder, steps, perceptual);
  await using device = await openDevice();
  using dataset = await openDataset(PICTURES);
  const from = examplesOf(dataset, config);
  const probe: ReadyExample[] = [];
  for await (const example of from()) if (probe.push(example) === 2) break;
  using course = await AutoencoderCourse.make(device, config, { shown: probe, measured: probe });
  const watched = {
    trainers: course.trainers,
    sample: () => course.sample(),
    memory: course.memory,
    save: (folder: string) => course.save(folder),
    backward: (taken: readonly ReadyExample[], at: { index: number; step: number }) => {
      spoil?.(taken, at.step);
      return course.backward(taken, at);
    },
  };
  const events: TrainingEvent[] = [];
  const options = loopOptions(config, printConfig("autoencoder", config), device, more);
  for await (const event of runCourse(watched, from, options)) events.push(event);
  return events;
}

const stateAt = (folder: string, step: number) =>
  Deno.readFile(join(folder, "checkpoints", `${step}`, "state.safetensors"));

Deno.test("runCourse goes on after two steps as if nothing had been between, bit for bit", async () => {
  await inFolder(async (folder) => {
    const [whole, parts] = [join(folder, "whole"), join(folder, "parts")];
    await train(whole, 4);
    await train(parts, 2);
    const resumed = await train(parts, 4, { resume: true });
    assert.deepEqual(resumed.slice(0, 2).map(({ kind }) => kind), ["planned", "resumed"]);
    assert.deepEqual(resumed[1], { kind: "resumed", step: 2 });
    assert.deepEqual(await stateAt(parts, 4), await stateAt(whole, 4));
    for (const name of ["config.json", "diffusion_pytorch_model.safetensors"]) {
      const [a, b] = [whole, parts].map((run) => Deno.readFileSync(join(run, "vae", name)));
      assert.deepEqual(a, b);
    }
    const losses = (run: string) =>
      parseRecords(Deno.readTextFileSync(join(run, "log.ndjson"))).map((
        { step, loss, losses },
      ) => [step, loss, losses]);
    assert.deepEqual(losses(parts), losses(whole));
    const judged = losses(whole).map(([step, , each]) => [step, "discriminator" in Object(each)]);
    // it learns from when it counts
    assert.deepEqual(judged, [[1, false], [2, false], [3, true], [4, true]]);
    await assert.rejects(train(whole, 8), /it holds a run of 4 steps; --resume goes on with it/);
  });
});

Deno.test("runCourse skips the step of a spoilt example, says so, and goes on", async () => {
  await inFolder(async (folder) => {
    const spoil = (examples: readonly ReadyExample[], step: number) => {
      if (step === 2) examples[0].picture.data[7] = NaN;
    };
    await train(folder, 3, { keep: 1 }, spoil);
    const records = parseRecords(Deno.readTextFileSync(join(folder, "log.ndjson")));
    assert.deepEqual(records.map(({ skipped }) => skipped), [undefined, true, undefined]);
    assert.equal(records[1].loss, null);
    assert.ok(records[2].loss !== null && records[2].loss < 2);
  });
});

Deno.test("runCourse stops with a checkpoint when it is told to; parts of the loss are noted and drawn", async () => {
  await inFolder(async (folder) => {
    const controller = new AbortController();
    const stop = (_: unknown, step: number) => {
      if (step === 2) controller.abort();
    };
    const weights = fixture("goldens/lpips_vgg.safetensors");
    const events = await train(folder, 9, { signal: controller.signal }, stop, weights);
    assert.deepEqual(events.at(-1), { kind: "stopped", step: 2 });
    assert.ok(await stateAt(folder, 2));
    const [{ loss, losses }] = parseRecords(Deno.readTextFileSync(join(folder, "log.ndjson")));
    const { pixel, perceptual, regularisation } = losses ?? {};
    assert.ok(loss && pixel && perceptual && regularisation);
    assert.ok(Math.abs(loss - (pixel + perceptual + 1e-6 * regularisation)) < 1e-5 * loss);
    const drawn = Deno.readTextFileSync(join(folder, "loss.svg"));
    for (const name of ["loss", "pixel", "perceptual"]) assert.ok(drawn.includes(`>${name} `));
  });
});
