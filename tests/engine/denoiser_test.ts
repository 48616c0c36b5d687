/** The denoiser as stages run it: what is kept of the prompts, and conditions in one run or one after another. */

import assert from "node:assert/strict";
import { MemoryError } from "../../lib/base/errors.ts";
import { architectureOf, manifestsOf } from "../../lib/engine/architecture.ts";
import type { Condition } from "../../lib/engine/model.ts";
import { Programs } from "../../lib/engine/programs.ts";
import { UnetRunner } from "../../lib/engine/stages.ts";
import { loadWeights, releaseWeights } from "../../lib/engine/weights.ts";
import { openCheckpoint, requireComponent } from "../../lib/formats/checkpoint.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { compile } from "../../lib/gpu/program.ts";
import { Graph } from "../../lib/graph/tensor.ts";
import { unet, type UnetConfig, unetInputs } from "../../lib/models/unet.ts";
import { paramsOf } from "../../lib/nn/params.ts";
import { fixture } from "../fixture.ts";
import { channelsFirst, channelsLast } from "../models/tiny.ts";
import { nmse } from "../tolerance.ts";

const tokens = 9;
interface Size {
  readonly height: number;
  readonly width: number;
}

/** Numbers around zero, of a seed. */
const waves = (length: number, seed: number) =>
  Float32Array.from({ length }, (_, i) => Math.sin(i * 0.37 + seed) + Math.cos(i * 1.7 * seed));

function conditionOf(config: UnetConfig, seed: number): Condition {
  const { addition, contextWidth, guidanceWidth } = config;
  const pooled = addition && addition.inputWidth - 6 * addition.timeWidth;
  return {
    text: {
      hidden: waves(tokens * contextWidth, seed),
      tokens,
      ...(pooled !== undefined && { pooled: waves(pooled, seed + 0.5) }),
    },
    ...(addition && { timeIds: [64, 48 + seed, 0, seed, 64, 48] }),
    ...(guidanceWidth !== undefined && { guidance: waves(guidanceWidth, seed) }),
  };
}

async function load(device: Device, folder: string) {
  const path = fixture(`tiny/${folder}`);
  await using checkpoint = await openCheckpoint(path);
  const architecture = await architectureOf(checkpoint);
  const manifest = manifestsOf(architecture).get("unet");
  assert.ok(manifest && architecture.unet);
  const options = { weights: "f32", progress: () => {} } as const;
  const weights = requireComponent(checkpoint, "unet");
  const { parameters } = await loadWeights(device, weights, manifest, "unet", path, options);
  const release = () => releaseWeights(device, parameters);
  return { config: architecture.unet, parameters, [Symbol.dispose]: release };
}

type Loaded = Awaited<ReturnType<typeof load>>;

/** The whole graph as one program on one condition, without anything kept. */
async function wholeUnet(device: Device, { config, parameters }: Loaded, { height, width }: Size) {
  const graph = new Graph();
  const inputs = unetInputs(graph, config, { batch: 1, height, width, tokens });
  const prediction = unet(paramsOf(graph, "unet"), config, inputs);
  const program = await compile(device, new Map([["prediction", prediction]]), parameters);
  const predict = async (
    x: Float32Array,
    timestep: number,
    { text, timeIds, guidance }: Condition,
  ) => {
    const results = await program.run({
      sample: channelsLast(x, [1, config.inChannels, height, width]),
      timestep: Float32Array.of(timestep),
      encoderHiddenStates: Float32Array.from(text.hidden),
      textEmbeds: Float32Array.from(text.pooled ?? []),
      timeIds: Float32Array.from(timeIds ?? []),
      timestepCond: Float32Array.from(guidance ?? []),
    });
    const data = Float64Array.from(results.get("prediction") ?? []);
    return Float32Array.from(channelsFirst(data, prediction.shape));
  };
  return { predict, [Symbol.dispose]: () => program[Symbol.dispose]() };
}

/** Rounding of another order of summation, between a batch of one and of two. */
const SAME = 1e-10;

for (const kind of ["software", "gpu"] as const) {
  for (const folder of ["sd1", "sdxl", "lcm"]) {
    Deno.test(`UnetRunner predicts on a ${kind} device what the whole ${folder} UNet does, whichever conditions come`, async () => {
      await using device = await openDevice({ minimum: true, kind });
      using loaded = await load(device, folder);
      const { config, parameters } = loaded;
      const size = { height: 6, width: 10 };
      using whole = await wholeUnet(device, loaded, size);
      const before = device.memory.live;
      const [a, b, c] = [1, 2, 3].map((seed) => conditionOf(config, seed));
      const x = waves(config.inChannels * size.height * size.width, 4);
      {
        using runner = new UnetRunner(new Programs(device, parameters), config, size);
        const plan: readonly (readonly [number, readonly Condition[]])[] = [
          [900, [a, b]],
          [500, [a, b]],
          [500, [b, a]],
          [500, [b]],
          [100, [b, c]],
          [100, [{ ...b }, { ...c, text: { ...c.text, hidden: c.text.hidden.slice() } }]],
        ];
        for (const [step, [timestep, conditions]] of plan.entries()) {
          const predictions = await runner.predict(x, timestep, conditions);
          assert.equal(predictions.length, conditions.length);
          for (const [i, prediction] of predictions.entries()) {
            const expected = await whole.predict(x, timestep, conditions[i]);
            const error = nmse(prediction, expected);
            assert.ok(error < SAME, `step ${step}, condition ${i}: NMSE ${error}`);
          }
        }
        assert.ok(runner.bytes > 0 && device.memory.live >= before + runner.bytes);
      }
      assert.equal(device.memory.live, before);
    });
  }
}

Deno.test("UnetRunner runs conditions one after another where a batch exceeds the budget, with equal results", async () => {
  await using roomy = await openDevice({ minimum: true });
  using loaded = await load(roomy, "sd1");
  const { config } = loaded;
  const before = roomy.memory.live;
  const conditions = [1, 2].map((seed) => conditionOf(config, seed));
  const size = { height: 32, width: 40 };
  const x = waves(config.inChannels * size.height * size.width, 4);
  const predict = async (device: Device, { parameters }: Loaded, timesteps: readonly number[]) => {
    using runner = new UnetRunner(new Programs(device, parameters), config, size);
    const predictions: Float32Array[][] = [];
    for (const timestep of timesteps) {
      predictions.push(await runner.predict(x, timestep, conditions));
    }
    return { predictions, bytes: runner.bytes };
  };
  const steps = [800, 300];
  const batched = await predict(roomy, loaded, steps);

  await using tight = await openDevice({
    minimum: true,
    memoryBudget: before + batched.bytes - 1,
  });
  using again = await load(tight, "sd1");
  const single = await predict(tight, again, steps);
  assert.ok(single.bytes < batched.bytes);
  assert.ok(tight.memory.peak < before + batched.bytes);
  for (const [i, predictions] of batched.predictions.entries()) {
    for (const [j, prediction] of predictions.entries()) {
      const error = nmse(single.predictions[i][j], prediction);
      assert.ok(error < SAME, `step ${i}, condition ${j}: NMSE ${error}`);
    }
  }
  const [first, second] = single.predictions[0];
  assert.ok(nmse(first, second) > 1e-4, "the conditions do not differ");

  await using none = await openDevice({ minimum: true, memoryBudget: before + 1024 });
  using least = await load(none, "sd1");
  await assert.rejects(() => predict(none, least, steps), MemoryError);
  assert.equal(none.memory.live, before);
});

Deno.test("UnetRunner keeps what it needs of several lists of conditions, and computes again what was used longest ago", async () => {
  await using device = await openDevice({ minimum: true });
  using loaded = await load(device, "sd1");
  const { config, parameters } = loaded;
  const size = { height: 6, width: 10 };
  using whole = await wholeUnet(device, loaded, size);
  const programs = new Programs(device, parameters);
  let computed = 0;
  const compileOnce = programs.compile.bind(programs);
  programs.compile = (key, outputs, options) => {
    if (key.endsWith("what reads the prompts alone")) computed++;
    return compileOnce(key, outputs, options);
  };
  const [a, b, c] = [1, 2, 3].map((seed) => conditionOf(config, seed));
  const copy = { ...b, text: { ...b.text, hidden: b.text.hidden.slice() } };
  const x = waves(config.inChannels * size.height * size.width, 4);
  using runner = new UnetRunner(programs, config, { ...size, sets: 2 });
  const plan: readonly (readonly [readonly Condition[], number])[] = [
    [[a, b], 1],
    [[a, c], 2],
    [[a, b], 2],
    [[a, c], 2],
    [[c, a], 3], // in place of a and b
    [[a, c], 3],
    [[a, copy], 4],
    [[a, b], 4],
  ];
  for (const [step, [conditions, times]] of plan.entries()) {
    const predictions = await runner.predict(x, 500, conditions);
    assert.equal(computed, times, `step ${step}`);
    for (const [i, prediction] of predictions.entries()) {
      const error = nmse(prediction, await whole.predict(x, 500, conditions[i]));
      assert.ok(error < SAME, `step ${step}, condition ${i}: NMSE ${error}`);
    }
  }
});
