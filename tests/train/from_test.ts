import assert from "node:assert/strict";
import { join } from "node:path";
import { sizeOf } from "../../lib/base/shape.ts";
import { loadModel } from "../../lib/engine/load.ts";
import { SafetensorsFile } from "../../lib/formats/safetensors.ts";
import { parseSettings } from "../../lib/formats/settings.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { AutoencoderCourse } from "../../lib/train/autoencoder.ts";
import { autoencoderConfig, diffusionConfig, printConfig } from "../../lib/train/config.ts";
import { openConditioning } from "../../lib/train/conditioning.ts";
import type { Vocabulary } from "../../lib/train/dataset.ts";
import { noisyInputs } from "../../lib/train/denoising.ts";
import { DiffusionCourse } from "../../lib/train/diffusion.ts";
import type { ReadyExample } from "../../lib/train/examples.ts";
import { Start, withStart } from "../../lib/train/from.ts";
import { BEGINNING } from "../../lib/train/order.ts";
import { fixture } from "../fixture.ts";
import { inFolder } from "../folders.ts";
import { readGolden } from "../golden.ts";
import { channelsFirst, channelsLast, readTiny } from "../models/tiny.ts";
import { nmse } from "../tolerance.ts";
import { given, GRADIENT, near } from "./golden_run.ts";

const TINY = fixture("tiny/");

type Values = Readonly<Record<string, Readonly<Record<string, unknown>>>>;

/** Settings of a file. */
const source = (values: Values) => [{ name: `"a.toml"`, isTyped: false, values }];

async function diffusion(values: Values) {
  return diffusionConfig(
    await withStart(
      "diffusion",
      source({
        run: { folder: "unused" },
        data: { path: "unused", size: 32 },
        optimizer: { batch: 4, ema: 0 },
        ...values,
        diffusion: { cache_latents: false, ...values.diffusion },
      }),
    ),
  );
}

async function autoencoder(values: Values) {
  return autoencoderConfig(
    await withStart(
      "autoencoder",
      source({
        run: { folder: "unused" },
        data: { path: "unused", size: 16 },
        optimizer: { batch: 1, ema: 0 },
        discriminator: { weight: 0 },
        ...values,
      }),
    ),
  );
}

const NAMELESS: Vocabulary = { labels: [], objects: [] };

async function denoiserCourse(device: Device, values: Values, vocabulary = NAMELESS) {
  return await DiffusionCourse.make(device, await diffusion(values), { shown: [], vocabulary });
}

/** What a run shows that shows nothing. */
const PROBE = { shown: [], measured: [] };

/** Bytes of a file's tensors, by name. */
async function tensorsOf(path: string): Promise<Map<string, Uint8Array>> {
  using file = await SafetensorsFile.open(path);
  const tensors = new Map<string, Uint8Array>();
  for (const name of file.tensors.keys()) tensors.set(name, await file.read(name));
  return tensors;
}

const WEIGHTS = "diffusion_pytorch_model.safetensors";

Deno.test("withStart takes from a checkpoint what settings leave open; the settings print whole and read the same", async () => {
  const from = join(TINY, "sd1");
  const { unet, text, clip, diffusion: noise, data } = await diffusion({
    diffusion: { from, beta_end: 0.015 },
    optimizer: { lr: 1e-5 },
  });
  assert.deepEqual(unet, {
    ...{ width: 8, multipliers: [1, 2], layers: 2, attention: [0], depth: 1, heads: 2 },
    ...{ context: 32, groups: 4 },
  });
  assert.deepEqual(text, { width: 32, layers: 2, heads: 4, length: 77, vocabulary: 994 });
  assert.equal(clip.path, from);
  assert.equal(data.size, 32);
  const { first_stage, prediction, beta_schedule, beta_start, beta_end, timesteps } = noise;
  assert.deepEqual(
    { first_stage, prediction, beta_schedule, beta_start, beta_end, timesteps },
    {
      ...{ first_stage: from, prediction: "epsilon", beta_schedule: "scaled_linear" },
      ...{ beta_start: 0.00085, beta_end: 0.015, timesteps: 1000 },
    },
  );
  const second = await diffusion({ diffusion: { from: join(TINY, "sd2"), conditioner: ["clip"] } });
  assert.equal(second.diffusion.prediction, "v_prediction");
  assert.equal(second.unet.context, 32);
  assert.notEqual(second.text.width, 32); // is of no use there
  const printed = parseSettings(printConfig("diffusion", second), "its own");
  assert.deepEqual(diffusionConfig(await withStart("diffusion", [printed])), second);

  const { autoencoder: shape } = await autoencoder({
    autoencoder: { from: join(TINY, "vae_f16") },
  });
  assert.deepEqual(
    [shape.f, shape.channels, shape.width, shape.groups, shape.regulariser],
    [16, 4, 4, 2, "kl"],
  );
  assert.equal((await autoencoder({})).autoencoder.f, 8);
});

Deno.test("what cannot be gone on from is refused in a sentence", async () => {
  await using device = await openDevice();
  const from = join(TINY, "sd1");
  const cases: [Values, RegExp][] = [
    [
      { diffusion: { from, conditioner: ["clip"] }, unet: { width: 16 } },
      /^FormatError: Cannot go on from ".*sd1" with unet\.width = 16: it has 8; leave that setting out$/,
    ],
    [
      { diffusion: { from, conditioner: ["text"] }, text: { layers: 3 } },
      /with text\.layers = 3: it has 2; leave/,
    ],
    [
      { diffusion: { from: join(TINY, "sdxl"), conditioner: [] } },
      /its denoiser is told the sizes of pictures \(SDXL\).*; ldm train lora does$/,
    ],
    [{ diffusion: { from: join(TINY, "lcm"), conditioner: [] } }, /is told the guidance \(LCM\)/],
    [
      { diffusion: { from: join(TINY, "vae_f2") } },
      /^FormatError: Cannot go on from .*: it holds no/,
    ],
    [
      { diffusion: { from: join(TINY, "sd2"), conditioner: ["text"] } },
      /with conditioner = text: its text encoder has another activation .*; with conditioner = clip/,
    ],
    [
      { diffusion: { from: join(TINY, "pruned/unet"), conditioner: [] } },
      /diffusion\.first_stage is missing/,
    ],
    [{ diffusion: { from: join(TINY, "nothing") } }, /^FileError: Cannot open the checkpoint/],
  ];
  for (const [values, message] of cases) {
    await assert.rejects(denoiserCourse(device, values), message);
  }
  await assert.rejects(
    autoencoder({ autoencoder: { from: join(TINY, "sd1/unet") } }),
    /: it holds no KL or VQ autoencoder$/,
  );
  const other = await autoencoder({ autoencoder: { from: join(TINY, "vae_f2"), layers: 2 } });
  await assert.rejects(
    AutoencoderCourse.make(device, other, PROBE),
    /with autoencoder\.layers = 2: it has 1; leave that setting out$/,
  );
  assert.equal(device.memory.live, 0);
});

Deno.test("DiffusionCourse goes on from a checkpoint and its text encoder with torch's loss and gradients", async () => {
  const golden = await readGolden("fine_tuning");
  await using device = await openDevice();
  const values = { diffusion: { from: join(TINY, "sd1"), conditioner: ["text"] } };
  using course = await denoiserCourse(device, values);
  using start = await Start.open(values.diffusion.from);
  const files = await start.tokenizerFiles();
  using conditioning = await openConditioning(device, await diffusion(values), NAMELESS, files);
  assert.match(course.notes.join(), /^begins with the weights of ".*sd1": unet, text_encoder$/);
  const { denoiser } = course.trainers;
  const bars = [...given(golden, "bars")];
  const times = { alphas: bars.map(Math.sqrt), sigmas: bars.map((bar) => Math.sqrt(1 - bar)) };
  const order = (name: string) => channelsLast(given(golden, name), [4, 4, 8, 8]);
  const draw = { timesteps: [0, 1, 2, 3], noise: order("noise") };
  const captions: string[] = JSON.parse(golden.metadata.get("captions") ?? "[]");
  const told = captions.map((text) => text === "" ? undefined : { text });
  const { loss } = Object.fromEntries(
    await denoiser.backward({
      ...noisyInputs(order("latents"), draw, times, "epsilon", undefined),
      timestep: Float32Array.from(golden.integers.get("timesteps") ?? []),
      ...await conditioning.inputs(told, 0),
    }),
  );
  near(loss[0], given(golden, "loss")[0], 1e-5, "loss");
  const found = await denoiser.vectors.read("gradient");
  for (
    const [key, name] of [
      ["gradient.unet", "unet.conv_in.weight"],
      ["gradient.text_encoder", "text_encoder.text_model.encoder.layers.0.self_attn.v_proj.weight"],
    ]
  ) {
    const values = found.get(name) ?? assert.fail(name);
    const { shape } = denoiser.vectors.places.get(name)?.entry ?? assert.fail(name);
    const actual = shape.length === 4 ? channelsFirst(Float64Array.from(values), shape) : values;
    assert.ok(nmse(actual, given(golden, key)) <= GRADIENT, name);
  }
});

Deno.test("DiffusionCourse leaves first stage and text encoder as they are, bytewise, and widens the denoiser", async () => {
  await inFolder(async (folder) => {
    await using device = await openDevice();
    const from = join(TINY, "sd1");
    using course = await denoiserCourse(device, {
      diffusion: { from, conditioner: ["clip", "concat"] },
      concat: { source: "mask" },
      optimizer: { batch: 1, ema: 0 },
    });
    assert.match(
      course.notes[1],
      /does not see the 5 channels beside latents yet: they begin with/,
    );
    await course.save(folder);
    for (const [part, file] of [["vae", WEIGHTS], ["text_encoder", "model.safetensors"]]) {
      const original = await tensorsOf(join(TINY, "sd1", part, file));
      original.delete("text_model.embeddings.position_ids"); // no weight
      assert.deepEqual(await tensorsOf(join(folder, part, file)), original);
      const [before, after] = [join(TINY, "sd1"), folder].map((path) =>
        Deno.readTextFile(join(path, part, "config.json"))
      );
      assert.equal(await after, await before); // 1.0 stays 1.0
    }
    const { shapes, values } = await readTiny("tiny/sd1", "unet");
    const { vectors } = course.trainers.denoiser;
    const read = await vectors.read("weight");
    assert.equal(read.size, shapes.size);
    for (const [name, weight] of read) {
      const expected = values[name];
      if (name !== "unet.conv_in.weight") assert.deepEqual(weight, expected, name);
      else {
        const rows = Array.from({ length: sizeOf([8, 3, 3]) }, (_, i) => [
          ...Float32Array.from(expected).subarray(4 * i, 4 * i + 4),
          ...Array(5).fill(0),
        ]);
        assert.deepEqual([...weight], rows.flat());
      }
    }
    await using model = await loadModel(device, folder, { weights: "f32" });
    assert.equal(model.beside?.source, "mask");
  });
});

Deno.test("DiffusionCourse goes on from its own folder: classes where they are the same, else new ones", async () => {
  await inFolder(async (folder) => {
    await using device = await openDevice();
    const vocabulary = { labels: ["fox", "pizza"], objects: [] };
    const values = { conditioner: ["class"], caption_dropout: 0 };
    const small = { batch: 1, ema: 0 };
    const shape = { width: 8, groups: 4, layers: 1, heads: 2, multipliers: [1], attention: [0] };
    {
      using course = await denoiserCourse(device, {
        run: { folder, seed: 5 },
        diffusion: { ...values, first_stage: join(TINY, "sd1/vae"), prediction: "v_prediction" },
        unet: { ...shape, context: 8 },
        optimizer: small,
      }, vocabulary);
      await course.save(folder);
    }
    const again = { diffusion: { ...values, from: folder }, optimizer: small };
    const saved = new Map<string, Uint8Array>(
      (await Promise.all(
        ["unet", "conditioner"].map(async (part) =>
          [...await tensorsOf(join(folder, part, WEIGHTS))].map(([name, bytes]) =>
            [`${part}.${name}`, bytes] as const
          )
        ),
      )).flat(),
    );
    const sameOf = async (course: DiffusionCourse) => {
      const same = [...await course.trainers.denoiser.vectors.read("weight")].filter(
        ([name, weight]) => {
          const bytes = saved.get(name) ?? assert.fail(name);
          const values = new Float32Array(bytes.slice().buffer);
          return nmse(values.toSorted(), weight.toSorted()) === 0; // whatever their order is
        },
      );
      return new Set(same.map(([name]) => name));
    };
    assert.equal((await diffusion(again)).diffusion.prediction, "v_prediction");
    {
      using course = await denoiserCourse(device, again, vocabulary);
      assert.deepEqual(await sameOf(course), new Set(saved.keys()));
    }
    using course = await denoiserCourse(device, again, { ...vocabulary, labels: ["cat", "dog"] });
    assert.match(course.notes[1], /^".*" has no conditioner for this: it begins anew$/);
    const same = await sameOf(course);
    assert.equal(same.has("conditioner.class_embedding.weight"), false);
    assert.equal(same.size, saved.size - 1);
  });
});

Deno.test("AutoencoderCourse goes on from a KL or VQ autoencoder, whose latents keep their scale", async () => {
  await inFolder(async (folder) => {
    await using device = await openDevice();
    const check = async (from: string, as: string, to: string) => {
      const settings = await autoencoder({ autoencoder: { from } });
      using course = await AutoencoderCourse.make(device, settings, PROBE);
      await course.save(to);
      const [before, after] = await Promise.all(
        [as, join(to, "vae")].map((path) => tensorsOf(join(path, WEIGHTS))),
      );
      assert.deepEqual(after, before);
      const json = async (path: string) =>
        JSON.parse(await Deno.readTextFile(join(path, "config.json")));
      const saved = await json(join(to, "vae"));
      const { scaling_factor, block_out_channels } = await json(as);
      assert.deepEqual([saved.scaling_factor, saved.block_out_channels], [
        scaling_factor,
        block_out_channels,
      ]);
    };
    await check(join(TINY, "sd1.safetensors"), join(TINY, "sd1/vae"), join(folder, "kl"));
    const settings = await autoencoder({
      autoencoder: {
        ...{ regulariser: "vq", codebook: 8, channels: 3, f: 2, width: 8, groups: 4, layers: 1 },
        attention: false,
      },
    });
    {
      const size = { width: 16, height: 16 };
      const example: ReadyExample = {
        ...{ key: "", index: 0, objects: [], original: size, next: BEGINNING },
        picture: {
          ...size,
          data: new Float32Array(16 * 16 * 3).map((_, i) => Math.sin(i)),
          channels: 3,
          crop: { left: 0, top: 0, right: 1, bottom: 1 },
          ...{ cropLeft: 0, cropTop: 0, isFlipped: false },
        },
      };
      const probe = { shown: [], measured: [example] };
      using course = await AutoencoderCourse.make(device, settings, probe);
      await course.save(folder);
    }
    await check(join(folder, "vae"), join(folder, "vae"), join(folder, "again"));
  });
});
