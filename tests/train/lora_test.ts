import assert from "node:assert/strict";
import { join } from "node:path";
import { clipManifest, unetManifest } from "../../lib/engine/stages.ts";
import { loadModel } from "../../lib/engine/load.ts";
import { LoraFile } from "../../lib/formats/lora.ts";
import { type Parameters, readBack, type StoredParameter } from "../../lib/gpu/buffers.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { compile } from "../../lib/gpu/program.ts";
import { Graph } from "../../lib/graph/tensor.ts";
import { layersOf } from "../../lib/nn/lora.ts";
import { paramsOf, unstacked } from "../../lib/nn/params.ts";
import { BaseModel } from "../../lib/train/base_model.ts";
import { loraConfig, printConfig } from "../../lib/train/config.ts";
import { denoisingObjective, noisyInputs } from "../../lib/train/denoising.ts";
import { type LoopOptions, runCourse } from "../../lib/train/loop.ts";
import {
  besideObjective,
  isLowRank,
  LoraCourse,
  lowRanksOf,
  timesOfScheduler,
} from "../../lib/train/lora.ts";
import { fileOf } from "../../lib/train/lora_file.ts";
import { openDataset } from "../../lib/train/open_dataset.ts";
import type { AdamW } from "../../lib/train/optimizer.ts";
import { parseRecords } from "../../lib/train/record.ts";
import { Trainer } from "../../lib/train/trainer.ts";
import { fixture } from "../fixture.ts";
import { inFolder } from "../folders.ts";
import { readGolden } from "../golden.ts";
import { channelsFirst, channelsLast } from "../models/tiny.ts";
import { nmse } from "../tolerance.ts";
import { examplesOf, loopOptions } from "./runs.ts";

const SD1 = fixture("tiny/sd1");

/** As fixtures/make/lora.py. */
const SETTINGS: AdamW = { beta1: 0.5, beta2: 0.9, eps: 1e-8, weightDecay: 0.01, clip: 1, ema: 0 };
const RATE = 2e-3;
const STEPS = 10;
const SHAPE = [2, 4, 8, 8];

/** The tiny models, and the goldens of their training. */
const MODELS = {
  sd1: { golden: "lora_training", layers: 88 },
  sdxl: { golden: "lora_training_xl", layers: 108 },
} as const;

interface Case {
  readonly family: keyof typeof MODELS;
  readonly weights: "f16" | "f32";
  readonly steps: number;
  /** Of losses, relative. */
  readonly loss: number;
  /** NMSE of gradients. */
  readonly gradient: number;
  /** NMSE of weights after ten steps. */
  readonly later?: number;
}
const CASES: readonly Case[] = [
  // Gradients round a few hundred operations, of which norms lose digits; Adam divides by small ones, which loses more.
  { family: "sd1", weights: "f32", steps: STEPS, loss: 1e-4, gradient: 1e-8, later: 1e-6 },
  // Frozen weights that are rounded to 11 bits, each layer's errors upon those of the others.
  { family: "sd1", weights: "f16", steps: 1, loss: 1e-3, gradient: 1e-3 },
  // Two text encoders, what the second says of the whole text, and sizes of pictures.
  { family: "sdxl", weights: "f32", steps: 1, loss: 1e-4, gradient: 1e-8 },
];
const TEXTS = ["a photo of an astronaut riding a horse on mars", "a red fox in the snow"];

/** Every byte of some parameters; those in textures no kernel can write. */
async function bytesOf(device: Device, parameters: Parameters): Promise<Uint8Array[]> {
  const sources = [...parameters.values()].flatMap(({ resource, bytes }) =>
    resource.kind === "buffer" ? [{ buffer: resource.buffer, bytes }] : []
  );
  assert.ok(sources.length > 0);
  return (await readBack(device, sources)).map((buffer) => new Uint8Array(buffer));
}

async function trainedAsPeft({ family, weights, steps, ...bounds }: Case): Promise<void> {
  const golden = await readGolden(MODELS[family].golden);
  const given = (name: string) =>
    Float32Array.from(golden.tensors.get(name) ?? assert.fail(`the golden has no ${name}`));
  const facts = (name: string) => JSON.parse(golden.metadata.get(name) ?? "null");
  await using device = await openDevice();
  using owned = new DisposableStack();
  const base = owned.use(await BaseModel.open(device, fixture(`tiny/${family}`), weights));
  const manifests = new Map([
    ["unet", unetManifest(base.unet)] as const,
    ...[...base.textEncoders].map(([name, clip]) => [name, clipManifest(name, clip)] as const),
  ]);
  const ranks = new Map(
    [...manifests].flatMap(([component, manifest]) =>
      layersOf(manifest, facts(component)).map((layer) =>
        [layer, { rank: facts("rank"), scale: facts("alpha") / facts("rank") }] as const
      )
    ),
  );
  const text = base.builtText();
  const graph = new Graph();
  const objective = denoisingObjective(
    paramsOf(graph, "unet"),
    base.unet,
    text.build(graph, 2),
    { batch: 2, height: 8, width: 8 },
    "epsilon",
  );
  const frozen = new Map<string, StoredParameter>();
  for (const [component, manifest] of manifests) {
    const { parameters } = owned.use(await base.weights(component, manifest, weights));
    for (const [name, stored] of parameters) frozen.set(name, stored);
  }
  const before = await bytesOf(device, frozen);
  const trainer = owned.use(
    await Trainer.make(device, besideObjective(objective, ranks), {
      isTrained: isLowRank,
      frozen,
      optimizer: SETTINGS,
      label: "a LoRA",
    }),
  );
  const { places } = trainer.vectors;
  assert.equal(places.size, 2 * MODELS[family].layers);
  const felt = [...golden.tensors.keys()].filter((name) => name.startsWith("gradient."));
  assert.deepEqual([...places.keys()].sort(), felt.map((name) => name.slice(9)).sort());
  trainer.vectors.write(
    "weight",
    new Map([...places].map(([name, { entry: { shape } }]) => {
      const values = given(`start.${name}`);
      const [co, kh, kw, ci] = shape;
      return [name, shape.length === 4 ? channelsLast(values, [co, ci, kh, kw]) : values];
    })),
  );
  const compare = async (vector: "weight" | "gradient", prefix: string, bound: number) => {
    for (const [name, values] of await trainer.vectors.read(vector)) {
      // softmax does not feel what is the same for all keys
      const { shape } = places.get(name)?.entry ?? assert.fail(name);
      const actual = shape.length === 4 ? channelsFirst(Float64Array.from(values), shape) : values;
      const error = nmse(actual, given(`${prefix}.${name}`));
      assert.ok(error <= bound, `${vector} of ${name}: NMSE ${error.toExponential(2)}`);
    }
  };
  const times = timesOfScheduler(base.scheduler);
  const latents = channelsLast(given("latents"), SHAPE);
  const sizes: readonly number[][] = facts("sizes") ?? [];
  const captions = TEXTS.map((text, i) => ({ text, sizes: sizes[i] ?? [] }));
  for (let t = 1; t <= steps; t++) {
    const timesteps = [...golden.integers.get(`timesteps.${t - 1}`) ?? assert.fail()];
    const noise = channelsLast(given(`noise.${t - 1}`), SHAPE);
    const told = await trainer.backward({
      ...noisyInputs(latents, { timesteps, noise }, times, "epsilon", undefined),
      ...await text.inputs(captions),
    });
    const [actual, expected] = [told.get("loss")?.[0] ?? NaN, given("losses")[t - 1]];
    assert.ok(
      Math.abs(actual - expected) <= bounds.loss * expected,
      `loss ${t}: ${actual}, ${expected}`,
    );
    if (t === 1) await compare("gradient", "gradient", bounds.gradient);
    await trainer.step(t, RATE);
  }
  if (bounds.later !== undefined) await compare("weight", "end", bounds.later);
  assert.deepEqual(await bytesOf(device, frozen), before);
}

for (const each of CASES) {
  Deno.test(`a LoRA of the ${each.family}'s UNet and text encoders, their weights ${each.weights}, trains as peft's does, and they stay`, () =>
    trainedAsPeft(each));
}

Deno.test("BaseModel tells a denoiser the same in the training graph as outside of it, nothing too", async () => {
  await using device = await openDevice();
  using base = await BaseModel.open(device, fixture("tiny/sdxl"), "f32");
  const captions = [undefined, { text: TEXTS[0], sizes: [1, 2, 3, 4, 5, 6] }];
  const expected = await base.encodedText().inputs(captions);
  const text = base.builtText();
  const graph = new Graph();
  const { encoderHiddenStates, textEmbeds = assert.fail(), timeIds } = text.build(graph, 2);
  assert.ok(timeIds);
  const parameters = new Map<string, StoredParameter>();
  using owned = new DisposableStack();
  for (const [name, clip] of base.textEncoders) {
    const weights = owned.use(await base.weights(name, clipManifest(name, clip), "f32"));
    for (const [key, stored] of weights.parameters) parameters.set(key, stored);
  }
  const outputs = unstacked([encoderHiddenStates, textEmbeds], parameters);
  const named = new Map([["states", outputs[0]], ["pooled", outputs[1]]]);
  using program = await compile(device, named, parameters);
  const inputs = await text.inputs(captions);
  assert.deepEqual(inputs.sizes, expected.sizes);
  const { sizes: _, ...others } = inputs;
  const results = await program.run(others);
  for (const name of ["states", "pooled"]) {
    const [actual, wanted] = [results.get(name) ?? assert.fail(), expected[name]];
    assert.ok(wanted.subarray(0, wanted.length / 2).every((value) => value === 0));
    assert.ok(nmse(actual, Float64Array.from(wanted)) < 1e-10, name);
    assert.ok(actual.subarray(0, actual.length / 2).every((value) => value === 0));
  }
});

const PICTURES = fixture("pictures");

/** Settings of a run of seconds. */
function settings(folder: string, steps: number, lora: Readonly<Record<string, unknown>> = {}) {
  return loraConfig([{
    name: "the test",
    isTyped: false,
    values: {
      run: { folder, steps, save_every: 0, seed: 3 },
      data: { path: PICTURES, size: 16, caption: "a fox" },
      optimizer: { batch: 2, lr: 1e-2, clip: 0 },
      lora: { model: SD1, rank: 2, alpha: 1, caption_dropout: 0.5, min_snr: 5, ...lora },
      sample: { every: 2, count: 1, steps: 2, cfg_scale: 2, prompts: ["a fox", "a rocket"] },
    },
  }]);
}

async function train(folder: string, steps: number, more: Partial<LoopOptions> = {}) {
  const config = settings(folder, steps);
  await using device = await openDevice();
  using dataset = await openDataset(PICTURES);
  const from = examplesOf(dataset, config, { threads: 0 });
  using course = await LoraCourse.make(device, config, { shown: [] });
  const samples: string[] = [];
  const options = loopOptions(config, printConfig("lora", config), device, more);
  for await (const event of runCourse(course, from, options)) {
    if (event.kind === "sample") samples.push(event.path);
  }
  return samples;
}

Deno.test("LoraCourse goes on after two steps bit for bit; its file changes what a model draws", async () => {
  await inFolder(async (folder) => {
    const [whole, parts] = [join(folder, "whole"), join(folder, "parts")];
    await train(whole, 4);
    await train(parts, 2);
    const samples = await train(parts, 4, { resume: true });
    const bytes = (...path: string[]) => Deno.readFile(join(folder, ...path));
    assert.deepEqual(
      await bytes("parts", "checkpoints", "4", "state.safetensors"),
      await bytes("whole", "checkpoints", "4", "state.safetensors"),
    );
    assert.equal(samples.length, 1);
    assert.deepEqual(
      await Deno.readFile(samples[0]),
      await bytes("whole", "samples", samples[0].split("/").at(-1) ?? ""),
    );
    const losses = parseRecords(await Deno.readTextFile(join(whole, "log.ndjson")));
    assert.ok(losses.every(({ loss }) => loss !== null && Number.isFinite(loss)));

    const path = join(whole, fileOf("kohya", whole));
    assert.equal(path, join(whole, "whole.safetensors"));
    using file = await LoraFile.open(path);
    assert.equal(file.metadata.get("ss_base_model_version"), "sd_v1");
    assert.equal(file.metadata.get("ss_network_dim"), "2");
    await using device = await openDevice();
    const states = [new Int32Array(77).fill(5)];
    const predict = async (multiplier: number) => {
      const loras = [{ path, multiplier }];
      await using model = await loadModel(device, SD1, { weights: "f32", loras });
      assert.deepEqual(model.warnings, []);
      const [text] = await model.encodeText([states]);
      using denoiser = model.denoiser({ height: 4, width: 4 });
      return await denoiser.predict(new Float32Array(64).fill(0.5), 500, [{ text }]);
    };
    const [[none], [one]] = [await predict(0), await predict(1)];
    assert.ok(nmse(one, none) > 1e-6, "the LoRA changes nothing");
  });
});

Deno.test("LoraCourse refuses layers that there are not and sizes that do not halve, before anything is read", async () => {
  await using device = await openDevice();
  await inFolder(async (folder) => {
    const bad = settings(folder, 1, { targets: ["to_q", "to_w"] });
    await assert.rejects(
      LoraCourse.make(device, bad, { shown: [] }),
      /it has no layer whose name ends in "to_w", which lora.targets names/,
    );
    const odd = settings(folder, 1);
    await assert.rejects(
      LoraCourse.make(device, { ...odd, data: { ...odd.data, size: 20 } }, { shown: [] }),
      /data.size must be a multiple of 8/,
    );
  });
});

Deno.test("lowRanksOf takes attention of text encoders along where that is asked for, with alpha over rank", async () => {
  await using device = await openDevice();
  using base = await BaseModel.open(device, SD1, "f32");
  const manifests = new Map([
    ["unet", unetManifest(base.unet)],
    [
      "text_encoder",
      clipManifest("text_encoder", base.textEncoders.get("text_encoder") ?? assert.fail()),
    ],
  ]);
  const ranks = (more: Readonly<Record<string, unknown>>) =>
    lowRanksOf(settings("run", 1, { targets: ["to_q"], ...more }), manifests, "a model");
  const alone = ranks({});
  assert.ok([...alone.keys()].every((layer) => layer.startsWith("unet.")));
  assert.deepEqual([...new Set(alone.values())], [{ rank: 2, scale: 0.5 }]);
  const both = [...ranks({ text_encoder: true, alpha: 0 })];
  const added = both.filter(([layer]) => !alone.has(layer));
  assert.deepEqual(
    added,
    [0, 1].map((i) => [
      `text_encoder.text_model.encoder.layers.${i}.self_attn.q_proj`,
      { rank: 2, scale: 1 },
    ]),
  );
});
