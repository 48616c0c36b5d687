import assert from "node:assert/strict";
import { join } from "node:path";
import { FormatError } from "../../lib/base/errors.ts";
import type { Picture } from "../../lib/base/picture.ts";
import { torchCpu } from "../../lib/base/random.ts";
import { loadModel } from "../../lib/engine/load.ts";
import { SafetensorsFile } from "../../lib/formats/safetensors.ts";
import { resample } from "../../lib/formats/resample.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { type TextToImage, textToImage } from "../../lib/pipelines/text_to_image.ts";
import { holesAt, wantsMaps } from "../../lib/train/beside.ts";
import { pictureOf } from "../../lib/train/component.ts";
import type { Told } from "../../lib/train/conditioner.ts";
import { diffusionConfig, printConfig } from "../../lib/train/config.ts";
import { vocabularyOf, withDefaults } from "../../lib/train/dataset.ts";
import { DiffusionCourse } from "../../lib/train/diffusion.ts";
import type { ReadyExample } from "../../lib/train/examples.ts";
import type { FittedPicture } from "../../lib/train/images.ts";
import { initial } from "../../lib/train/initial.ts";
import { runCourse, type TrainingEvent } from "../../lib/train/loop.ts";
import { openDataset } from "../../lib/train/open_dataset.ts";
import { seedOf } from "../../lib/train/order.ts";
import { parseRecords } from "../../lib/train/record.ts";
import { fixture } from "../fixture.ts";
import { inFolder } from "../folders.ts";
import { examplesOf, loopOptions } from "./runs.ts";

type Values = Readonly<Record<string, Readonly<Record<string, unknown>>>>;

/** Settings of a run of seconds, in the space of a tiny first stage of f = 4. */
function settings(folder: string, data: string, steps: number, more: Values = {}) {
  const values: Values = {
    run: { folder, steps, save_every: 0, seed: 3 },
    data: { path: data, size: 32, flip: true },
    optimizer: { batch: 2, ema: 0.9, lr: 1e-3, accumulate: 2 },
    diffusion: { first_stage: fixture("tiny/sd1/vae"), conditioner: [] },
    unet: { width: 8, groups: 4, layers: 1, heads: 2, multipliers: [1, 2], attention: [0] },
    boxes: { vocabulary: 64, objects: 4, width: 8, heads: 2, layers: 1 },
    text: { width: 8, heads: 2, layers: 1, length: 8 },
    concat: {},
    sample: { every: 2, count: 1, steps: 2 },
  };
  const merged = Object.fromEntries(
    Object.entries(values).map(([section, each]) => [section, { ...each, ...more[section] }]),
  );
  merged.unet = { context: 8, ...merged.unet };
  return diffusionConfig([{ name: "the test", isTyped: false, values: merged }]);
}

async function train(
  config: ReturnType<typeof settings>,
  resume = false,
  after: (course: DiffusionCourse, shown: readonly ReadyExample[]) => Promise<void> = () =>
    Promise.resolve(),
): Promise<readonly TrainingEvent[]> {
  await using device = await openDevice();
  using dataset = withDefaults(await openDataset(config.data.path), {
    labels: [],
    caption: "a thing",
  });
  const from = examplesOf(dataset, config, { maps: wantsMaps(config) });
  const shown: ReadyExample[] = [];
  for await (const example of from()) if (shown.push(example) === 2) break;
  const vocabulary = await vocabularyOf(dataset);
  using course = await DiffusionCourse.make(device, config, { shown, vocabulary });
  const events: TrainingEvent[] = [];
  const options = loopOptions(config, printConfig("diffusion", config), device, { resume });
  for await (const event of runCourse(course, from, options)) events.push(event);
  await after(course, shown);
  return events;
}

/** Pictures with what is said of them. */
async function labelled(folder: string): Promise<string> {
  const data = join(folder, "data");
  await Deno.mkdir(data);
  const lines: string[] = [];
  for (const [i, name] of ["fox", "pizza", "rocket"].entries()) {
    await Deno.copyFile(fixture(`pictures/${name}.png`), join(data, `${name}.png`));
    // the map of a picture is another picture
    await Deno.copyFile(fixture("pictures/rocket.png"), join(data, `${name}.map.png`));
    const objects = { bbox: [[0.1, 0.1 * i, 0.5, 0.6]], categories: [name] };
    lines.push(JSON.stringify({ file_name: `${name}.png`, text: name, label: name, objects }));
  }
  await Deno.writeTextFile(join(data, "metadata.jsonl"), lines.join("\n"));
  return data;
}

const stateAt = (folder: string, step: number) =>
  Deno.readFileSync(join(folder, "checkpoints", `${step}`, "state.safetensors"));

Deno.test("DiffusionCourse goes on after two steps as if nothing had been between, bit for bit", async () => {
  await inFolder(async (folder) => {
    const data = await labelled(folder);
    const [whole, parts] = [join(folder, "whole"), join(folder, "parts")];
    const more = { diffusion: { conditioner: ["class", "boxes"], caption_dropout: 0.5 } };
    await train(settings(whole, data, 4, more));
    await train(settings(parts, data, 2, more));
    const cache = Deno.statSync(join(parts, "latents.bin")).size;
    await train(settings(parts, data, 4, more), true);
    assert.deepEqual(stateAt(parts, 4), stateAt(whole, 4));
    const losses = parseRecords(Deno.readTextFileSync(join(whole, "log.ndjson")))
      .map(({ loss }) => loss);
    assert.equal(new Set(losses).size, 4);
    // three pictures and their mirror images: nothing is encoded twice
    const records = (Deno.statSync(join(parts, "latents.bin")).size - 16) / (32 + 4 * 8 * 8 * 4);
    assert.ok(Number.isInteger(records) && records <= 6 && records >= 3, `${records} records`);
    assert.ok(cache > 16);
  });
});

/** `shown`: the example whose second picture training's sample is made with. */
type Work = (sampled: Uint8Array, make: Make, shown: ReadyExample) => Promise<void>;
type Make = (request: Partial<TextToImage>) => Promise<Uint8Array>;

/** A picture as training samples it, and how the folder's model makes some. */
async function bothWays(
  told: Told,
  more: Values,
  work: Work,
): Promise<void> {
  await inFolder((folder) => bothWaysIn(folder, told, more, work));
}

async function bothWaysIn(
  folder: string,
  told: Told,
  more: Values,
  work: Work,
): Promise<void> {
  await labelled(folder);
  const config = settings(join(folder, "run"), join(folder, "data"), 1, {
    ...more,
    optimizer: { ema: 0 },
    sample: { every: 0, steps: 3, cfg_scale: 4, seed: 5 },
  });
  let sampled: Picture | undefined;
  let first: ReadyExample | undefined;
  await train(config, false, async (course, [shown]) => {
    first = shown;
    const { vectors } = course.trainers.denoiser;
    // conditions begin with no say: these let them have one
    const loud = [...await vectors.read("weight")]
      .filter(([name]) => /(proj_out|conv_out|embedding)\.weight$/.test(name))
      .map(([name, values]) => [name, torchCpu(1).normal(values.length)] as const);
    vectors.write("weight", new Map(loud));
    await course.save(config.run.folder);
    [sampled] = await course.pictures([told]);
  });
  await using device = await openDevice();
  await using model = await loadModel(device, config.run.folder, { weights: "f32" });
  const make: Make = async (request) => {
    // steps and guidance are the run's own, which the folder tells
    const all = { prompt: "", seed: 5, sampler: "ddim", ...request };
    for await (const event of textToImage(model, { ...all, schedule: "leading" })) {
      if (event.kind === "image") return event.image.data;
    }
    return assert.fail("no picture");
  };
  await work(sampled?.data ?? assert.fail(), make, first ?? assert.fail());
}

/** The largest distance of two pictures' bytes. */
const distance = (a: Uint8Array, b: Uint8Array) =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);

/** At one and a half times the size, and twice as wide as high, what is asked for still counts. */
async function larger(make: Make, request: Partial<TextToImage>): Promise<void> {
  for (const [width, height] of [[48, 48], [64, 32]]) {
    const picture = await make({ ...request, width, height });
    assert.equal(picture.length, width * height * 3);
    const other = await make({ width, height });
    assert.ok(distance(picture, other) > 1);
  }
}

Deno.test("what was trained with text makes the same picture in training and from its folder", async () => {
  const more = { diffusion: { conditioner: ["text"] } };
  await bothWays({ text: "a fox" }, more, async (sampled, make) => {
    assert.ok(distance(await make({ prompt: "a fox" }), sampled) <= 1);
    assert.ok(distance(await make({ prompt: "rocket" }), sampled) > 1);
    await larger(make, { prompt: "a fox" });
  });
});

Deno.test("what was trained with classes and boxes makes the same picture in training and from its folder", async () => {
  const more = { diffusion: { conditioner: ["class", "boxes"] } };
  const boxes = [{ label: "fox", left: 0.1, top: 0.2, right: 0.5, bottom: 0.9 }];
  const told = { label: "pizza", objects: boxes };
  await bothWays(told, more, async (sampled, make) => {
    assert.ok(distance(await make({ label: "pizza", boxes }), sampled) <= 1);
    assert.ok(distance(await make({ label: "rocket", boxes }), sampled) > 1);
    await larger(make, { label: "pizza", boxes });
    const moved = [{ ...boxes[0], left: 0.4, right: 0.8 }];
    assert.ok(distance(await make({ label: "pizza", boxes: moved }), sampled) > 1);
    await assert.rejects(make({ label: "pizzas" }), /no such class; did you mean "pizza"\?$/);
    await assert.rejects(make({ boxes: [{ ...boxes[0], label: "dog" }] }), /no such class; it/);
  });
});

Deno.test("what was trained without a condition makes the same picture in training and from its folder", async () => {
  await bothWays({}, {}, async (sampled, make) => {
    assert.ok(distance(await make({}), sampled) <= 1);
    await assert.rejects(make({ label: "fox" }), /it knows no classes$/);
  });
});

const concat = (source: string): Values => ({
  diffusion: { conditioner: ["concat"] },
  concat: { source, factor: 2 },
});

/** What an example shows, as bytes. */
const bytesOf = (side: FittedPicture) => pictureOf(side.data, side.width, side.channels);

Deno.test("what was trained with small pictures makes the same picture in training and from its folder", async () => {
  await bothWays({}, concat("low"), async (sampled, make, { picture }) => {
    const small = resample(bytesOf(picture), 16, 16, "bicubic");
    assert.ok(distance(await make({ second: { source: "low", picture: small } }), sampled) <= 1);
    const other = { ...small, data: small.data.toReversed() };
    assert.ok(distance(await make({ second: { source: "low", picture: other } }), sampled) > 1);
  });
});

Deno.test("what was trained with holes makes the same picture in training and from its folder", async () => {
  // pictures are made with a draw of what is around a hole, as diffusers makes them: here there is nothing to draw
  const { diffusion, ...rest } = concat("mask");
  const more = { ...rest, diffusion: { ...diffusion, first_stage: fixture("model/emoji/vae") } };
  await bothWays({}, more, async (sampled, make, { picture: shown }) => {
    const cells = holesAt(4, seedOf(5, 0));
    const cell = (i: number) => cells[Math.floor(i / 32 / 8) * 4 + Math.floor(i % 32 / 8)];
    const data = Uint8Array.from({ length: 32 * 32 }, (_, i) => cell(i) * 255);
    const mask = { width: 32, height: 32, channels: 1, data } as const;
    const picture = bytesOf(shown);
    const second = { source: "mask", picture, mask, keep: false } as const;
    assert.ok(distance(await make({ second }), sampled) <= 1);
    const other = { ...mask, data: data.map((v) => 255 - v) };
    assert.ok(distance(await make({ second: { ...second, mask: other } }), sampled) > 1);
  });
});

Deno.test("what was trained with maps makes the same picture in training and from its folder", async () => {
  await bothWays({}, concat("map"), async (sampled, make, { map }) => {
    const picture = bytesOf(map ?? assert.fail());
    assert.ok(distance(await make({ second: { source: "map", picture } }), sampled) <= 1);
    const other = { ...picture, data: picture.data.toReversed() };
    assert.ok(distance(await make({ second: { source: "map", picture: other } }), sampled) > 1);
    const wide = await make({ second: { source: "map", picture }, width: 48, height: 30 });
    assert.equal(wide.length, 48 * 30 * 3);
  });
});

Deno.test("DiffusionCourse trains with holes beside the latents and goes on as if nothing had been between", async () => {
  await inFolder(async (folder) => {
    const data = await labelled(folder);
    const [whole, parts] = [join(folder, "whole"), join(folder, "parts")];
    await train(settings(whole, data, 2, concat("mask")));
    await train(settings(parts, data, 1, concat("mask")));
    await train(settings(parts, data, 2, concat("mask")), true);
    assert.deepEqual(stateAt(parts, 2), stateAt(whole, 2));
  });
});

Deno.test("DiffusionCourse says which picture has no map", async () => {
  await inFolder(async (folder) => {
    const data = await labelled(folder);
    for (const name of ["fox", "pizza", "rocket"]) await Deno.remove(join(data, `${name}.map.png`));
    const error = /source = "map": "(fox|pizza|rocket)\.png" has no map; metadata name one/;
    await assert.rejects(train(settings(join(folder, "run"), data, 1, concat("map"))), error);
  });
});

Deno.test("holesAt leaves something and takes something, in another place for another seed", () => {
  const masks = Array.from({ length: 20 }, (_, seed) => holesAt(16, seed));
  for (const mask of masks) {
    const holes = mask.reduce((sum, value) => sum + value, 0);
    assert.ok(holes >= 4 && holes < 256 && mask.every((value) => value === 0 || value === 1));
  }
  assert.ok(new Set(masks.map(String)).size > 15);
});

Deno.test("DiffusionCourse leaves a frozen conditioner as it began, and saves it", async () => {
  await inFolder(async (folder) => {
    const data = await labelled(folder);
    const more = { diffusion: { conditioner: ["class"], train_conditioner: false } };
    const run = join(folder, "run");
    await train(settings(run, data, 2, more));
    const path = join(run, "conditioner", "diffusion_pytorch_model.safetensors");
    using file = await SafetensorsFile.open(path);
    const name = "class_embedding.weight";
    assert.deepEqual([...file.tensors.keys()], [name]);
    const entry = { name: `conditioner.${name}`, shape: [4, 8], readers: [] };
    assert.deepEqual(await file.readTensor(name), initial({ ...entry, role: "embedding" }, 3));
  });
});

Deno.test("DiffusionCourse writes f16 where that is asked for, and a text encoder of no more words than are", async () => {
  await inFolder(async (folder) => {
    const data = await labelled(folder);
    const diffusion = { conditioner: ["text"] };
    const more = { run: { dtype: "f16" }, diffusion, text: { vocabulary: 600 } };
    const run = join(folder, "run");
    await train(settings(run, data, 1, more));
    for (const path of ["unet/diffusion_pytorch_model", "text_encoder/model"]) {
      using file = await SafetensorsFile.open(join(run, `${path}.safetensors`));
      const dtypes = new Set([...file.tensors.values()].map(({ dtype }) => dtype));
      assert.deepEqual([...dtypes], ["F16"], path);
    }
    const config = JSON.parse(await Deno.readTextFile(join(run, "text_encoder", "config.json")));
    assert.equal(config.vocab_size, 600);
    const words = await Deno.readTextFile(join(run, "tokenizer", "vocab.json"));
    assert.equal(Object.keys(JSON.parse(words)).length, 600);
  });
});

Deno.test("DiffusionCourse refuses settings that do not fit together, each in a sentence", async () => {
  await inFolder(async (folder) => {
    const data = await labelled(folder);
    const refused = async (more: Values, reason: RegExp) =>
      await assert.rejects(train(settings(folder, data, 1, more)), (error) => {
        assert.ok(error instanceof FormatError);
        assert.match(error.message, reason);
        return true;
      });
    await refused({ data: { size: 30 } }, /data\.size must be a multiple of 4$/);
    await refused({ diffusion: { zero_terminal_snr: true } }, /use prediction = "v_prediction"$/);
    await refused(
      { diffusion: { conditioner: ["text"] }, unet: { context: 16 } },
      /tokens of 16 numbers \(unet\.context\) with text\.width, which gives 8: they must be equal$/,
    );
    await refused({ unet: { heads: 3, attention: [], context: 9 } }, /has 16 channels, .* is 3$/);
    await refused({ diffusion: { first_stage: fixture("tiny/sd1/unet") } }, /first stage/);
  });
});
