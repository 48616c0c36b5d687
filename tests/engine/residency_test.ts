/** Which parts of a model are on the device when, what that takes, and that it changes no picture. */

import assert from "node:assert/strict";
import { cp } from "node:fs/promises";
import { join } from "node:path";
import { FormatError, MemoryError, UsageError } from "../../lib/base/errors.ts";
import { loadFirstStage, loadModel } from "../../lib/engine/load.ts";
import type { Latents, MemoryPlan, Model, ReadProgress } from "../../lib/engine/model.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { textToImage } from "../../lib/pipelines/text_to_image.ts";
import { fixture } from "../fixture.ts";
import { inFolder } from "../folders.ts";

const tiny = (name: string) => fixture(`tiny/${name}`);

const MIB = 2 ** 20;
const REQUEST = { prompt: "a fox", seed: 3, steps: 2, sampler: "euler", batchCount: 2 };
const RUN = {
  prompts: 2,
  tokens: 77,
  chunk: 77,
  sets: 1,
  changes: false,
  keeps: false,
  clipSkip: 1,
  encodes: false,
  tiling: "auto",
} as const;

/** Names of parts in the order in which they are read. */
function reader() {
  const reads: string[] = [];
  const progress: ReadProgress = (done, _, part) => {
    if (done === 0) reads.push(part);
  };
  return { reads, progress };
}

/** The bytes of all pictures of the request. */
async function pictures(model: Model, request = REQUEST): Promise<Uint8Array[]> {
  const made: Uint8Array[] = [];
  for await (const event of textToImage(model, request)) {
    if (event.kind === "image") made.push(event.image.data);
  }
  return made;
}

const bytesOf = ({ stages }: MemoryPlan, part: string) => {
  const stage = stages.find((one) => one.part === part);
  assert.ok(stage, `the plan has no ${part}`);
  return stage;
};

/** The most bytes in use while `work` runs. */
async function peakDuring(device: Device, work: () => Promise<unknown>): Promise<number> {
  device.resetPeak();
  await work();
  return device.memory.peak;
}

const waves = (length: number) => Float32Array.from({ length }, (_, i) => Math.sin(i * 0.37));

const latentsOf = (height: number, width: number): Latents => ({
  data: waves(4 * height * width),
  channels: 4,
  height,
  width,
});

for (const family of ["sd1", "sd2", "sdxl", "lcm"]) {
  for (const weights of ["f16", "f32"] as const) {
    Deno.test(`prepare foretells to the byte what each stage of the tiny ${family} model takes in ${weights}`, async () => {
      await using device = await openDevice();
      await using model = await loadModel(device, tiny(family), { lifetime: "run", weights });
      assert.equal(device.memory.live, 0);
      const [height, width] = [8, 12];
      const pixels = { height: height * model.factor, width: width * model.factor };
      const plan = model.prepare({ ...RUN, ...pixels, pictures: 1 });
      const total = (part: string) => {
        const { weights, beside, activations } = bytesOf(plan, part);
        assert.equal(beside, 0);
        return weights + activations;
      };
      const encoders = model.padTokens.map((_, i) => total(["text_encoder", "text_encoder_2"][i]));
      const ids = model.padTokens.map(() => Int32Array.from({ length: 77 }, (_, i) => i));
      const texts = await model.encodeText([ids, ids]);
      assert.equal(device.memory.peak, Math.max(...encoders));
      assert.equal(device.memory.live, 0);

      const { guidanceWidth, wantsSizes } = model;
      const conditions = texts.map((text) => ({
        text,
        ...(wantsSizes && { timeIds: [64, 96, 0, 0, 64, 96] }),
        ...(guidanceWidth !== undefined && { guidance: waves(guidanceWidth) }),
      }));
      const latents = latentsOf(height, width);
      const used = await peakDuring(device, async () => {
        using denoiser = model.denoiser({ height, width });
        await denoiser.predict(latents.data, 500, conditions);
        await denoiser.predict(latents.data, 400, conditions);
      });
      assert.equal(used, total("unet"));
      assert.equal(device.memory.live, 0);

      const decoding = await peakDuring(device, () => model.decodeImage(latents));
      assert.equal(decoding, total("decoder"));
      assert.equal(device.memory.live, 0);
      assert.equal(plan.peak, Math.max(...encoders, total("unet"), total("decoder")));
    });
  }
}

/** Whole; in bands because they are asked for; in bands because of the budget, a share of what the whole takes. */
const WAYS = [
  { name: "whole", tiling: "off", budget: Infinity },
  { name: "in bands", tiling: "on", budget: Infinity },
  { name: "in bands of a budget", tiling: "auto", budget: 0.7 },
  { name: "in bands of a tight budget", tiling: "auto", budget: 0.5 },
] as const;

/** Latents that bands make a difference for: TAESD's read many rows around them, and tiny channels do not fill textures. */
const STAGES = [
  { folder: "tiny/sd1", rows: 40, columns: 12, banded: "gpu" },
  { folder: "tiny/vae_f16", rows: 16, columns: 6, banded: "gpu" },
  { folder: "taesd", rows: 140, columns: 2, banded: "software" },
] as const;

for (const { folder, rows, columns, banded } of STAGES) {
  for (const half of ["decode", "encode"] as const) {
    for (const { name, tiling, budget } of WAYS) {
      Deno.test(`prepare foretells to the byte what ${folder} takes to ${half} ${name}`, async () => {
        const path = fixture(folder === "taesd" ? "taesd/taesd_decoder.safetensors" : folder);
        const options = { lifetime: "run", weights: "f32" } as const;
        const plan = async (device: Device, memory: number) => {
          using stage = await loadFirstStage(device, path, options);
          const size = { height: rows * stage.factor, width: columns * stage.factor };
          const { stages: [{ weights, activations }], peak } = stage.prepare(half, size, {
            tiling,
          });
          assert.equal(peak, weights + activations);
          const picture = { ...size, data: waves(size.height * size.width * 3) };
          const latents = { ...latentsOf(rows, columns), channels: stage.latentChannels };
          device.resetPeak();
          if (memory < Infinity || tiling !== "auto") {
            if (half === "decode") await stage.decode(latents, { tiling });
            else await stage.encode(picture, { tiling });
            assert.equal(device.memory.peak, peak);
            assert.ok(peak <= memory);
            assert.equal(device.memory.live, 0);
          }
          return { weights, activations };
        };
        const kind = budget === Infinity ? "software" : banded;
        await using roomy = await openDevice({ kind });
        const { weights, activations } = await plan(roomy, Infinity);
        if (budget === Infinity) return;
        const memoryBudget = weights + Math.round(activations * budget);
        await using tight = await openDevice({ memoryBudget, kind });
        const small = await plan(tight, memoryBudget);
        assert.ok(small.activations < activations);
      });
    }
  }
}

Deno.test("a model for one run reads each part once, when it is needed, and frees it when nothing needs it", async () => {
  await using device = await openDevice();
  const { reads, progress } = reader();
  await using model = await loadModel(device, tiny("sd1"), { lifetime: "run", progress });
  assert.deepEqual(reads, []);
  const live: [string, number][] = [];
  for await (const event of textToImage(model, REQUEST)) {
    if (event.kind === "plan") assert.equal(event.memory.turns, false);
    live.push([event.kind, device.memory.live]);
  }
  assert.deepEqual(reads, ["text_encoder", "unet", "decoder"]);
  assert.deepEqual([live[0], live.at(-1)], [["plan", 0], ["done", 0]]);
});

Deno.test("parts take turns under a budget that they exceed together, with the same pictures", async () => {
  const reads: string[][] = [];
  const make = async (memoryBudget: number) => {
    await using device = await openDevice({ memoryBudget });
    const { reads: order, progress } = reader();
    await using model = await loadModel(device, tiny("sd1"), { lifetime: "run", progress });
    const made: Uint8Array[] = [];
    const plans: MemoryPlan[] = [];
    for await (const event of textToImage(model, REQUEST)) {
      if (event.kind === "plan") plans.push(event.memory);
      if (event.kind === "image") made.push(event.image.data);
    }
    const [plan] = plans;
    assert.equal(made.length, 2);
    assert.equal(device.memory.peak, plan.peak);
    assert.equal(device.memory.live, 0);
    reads.push(order);
    return { plan, made };
  };
  const roomy = await make(1e12);
  const enough = await make(roomy.plan.peak);
  const anew = await make(roomy.plan.peak - 1);
  const tight = await make(anew.plan.peak - 1);
  const least = await make(tight.plan.peak);
  const once = ["text_encoder", "unet", "decoder"];
  const turns = [...once, "unet", "decoder"];
  assert.deepEqual(reads, [once, once, once, turns, turns]);
  const all = [roomy, enough, anew, tight, least];
  // one denoiser for all pictures; one for each; weights that take turns as well
  assert.deepEqual(all.map(({ plan }) => plan.keeps), [true, true, false, false, false]);
  assert.deepEqual(all.map(({ plan }) => plan.turns), [false, false, false, true, true]);
  assert.ok(tight.plan.peak < anew.plan.peak && anew.plan.peak < roomy.plan.peak);
  for (const { made } of all) assert.deepEqual(made, roomy.made);
});

Deno.test("a model that is used again stays on the device where it fits, and takes turns where it does not", async () => {
  const use = async (options: { memoryBudget?: number }) => {
    await using device = await openDevice(options);
    const { reads, progress } = reader();
    await using model = await loadModel(device, tiny("sdxl"), { progress });
    const atOnce = reads.length;
    const first = await pictures(model, { ...REQUEST, batchCount: 1 });
    const again = await pictures(model, { ...REQUEST, batchCount: 1 });
    assert.deepEqual(again, first);
    const plan = model.prepare({ ...RUN, width: 64, height: 64, pictures: 1 });
    return { first, reads, atOnce, plan };
  };
  const all = ["text_encoder", "text_encoder_2", "unet", "decoder"];
  const roomy = await use({});
  assert.deepEqual([roomy.atOnce, roomy.reads], [5, [...all, "encoder"]]);
  const tight = await use({ memoryBudget: roomy.plan.peak - 1 });
  assert.deepEqual([tight.atOnce, tight.reads], [0, [...all, ...all]]);
  assert.deepEqual(tight.first, roomy.first);
});

Deno.test("parts that stayed for a small picture take turns for a large one, and stay again for a small one", async () => {
  const size = { width: 64, height: 64, pictures: 1 };
  const large = { ...REQUEST, batchCount: 1, width: 128, height: 160 };
  const small = { ...REQUEST, batchCount: 1 };
  await using roomy = await openDevice();
  await using all = await loadModel(roomy, tiny("sd1"));
  const memoryBudget = all.prepare({ ...RUN, ...size }).peak;
  const expected = [await pictures(all, small), await pictures(all, large)];
  await using device = await openDevice({ memoryBudget });
  const { reads, progress } = reader();
  await using model = await loadModel(device, tiny("sd1"), { progress });
  assert.deepEqual(await pictures(model, small), expected[0]);
  assert.equal(reads.splice(0).length, 4);
  assert.deepEqual(await pictures(model, large), expected[1]);
  assert.deepEqual(reads.splice(0), ["unet", "decoder"]);
  assert.deepEqual(await pictures(model, small), expected[0]);
  assert.deepEqual(await pictures(model, small), expected[0]);
  assert.deepEqual(reads, ["text_encoder", "unet", "decoder"]);
});

Deno.test("prepare refuses with both numbers what does not fit even alone, and nothing is read", async () => {
  const size = { width: 64, height: 64, pictures: 1 };
  await using roomy = await openDevice();
  await using model = await loadModel(roomy, tiny("sd1"), { lifetime: "run" });
  const { weights } = bytesOf(model.prepare({ ...RUN, ...size }), "unet");
  const need = Math.ceil(weights / MIB);
  const refusals: readonly (readonly [number, RegExp])[] = [
    [
      weights - 1,
      new RegExp(
        `^Cannot make pictures of 64×64 pixels with ".*": the weights of the unet take ${need} MiB, ` +
          `and the memory budget is ${need} MiB; raise --memory-budget$`,
      ),
    ],
    [
      weights + 4096,
      /^Cannot run the UNet on latents of 16×16: it needs \d+ MiB beside \d+ MiB in use, and the memory budget is \d+ MiB/,
    ],
  ];
  for (const [memoryBudget, says] of refusals) {
    await using device = await openDevice({ memoryBudget });
    const { reads, progress } = reader();
    await using small = await loadModel(device, tiny("sd1"), { lifetime: "run", progress });
    await assert.rejects(pictures(small), (error) => {
      assert.ok(error instanceof MemoryError, String(error));
      assert.match(error.message, says);
      return true;
    });
    assert.deepEqual([reads, device.memory.peak], [[], 0]);
  }
});

Deno.test("textToImage refuses a request that makes no sense before anything is read", async () => {
  await using device = await openDevice();
  const { reads, progress } = reader();
  await using model = await loadModel(device, tiny("sd1"), { lifetime: "run", progress });
  for (const wrong of [{ width: 65 }, { steps: 0 }, { sampler: "none" }, { seed: -2 }]) {
    await assert.rejects(pictures(model, { ...REQUEST, ...wrong }), UsageError);
  }
  assert.deepEqual([reads, device.memory.peak], [[], 0]);
});

Deno.test("a part whose file was changed since the model was opened is refused by name", async () => {
  await inFolder(async (folder) => {
    await cp(tiny("sd1"), folder, { recursive: true });
    await using device = await openDevice();
    await using model = await loadModel(device, folder, { lifetime: "run" });
    const file = join(folder, "vae", "diffusion_pytorch_model.safetensors");
    await Deno.utime(file, new Date(), new Date(2001, 1, 1));
    await assert.rejects(pictures(model, { ...REQUEST, batchCount: 1 }), (error) => {
      assert.ok(error instanceof FormatError, String(error));
      assert.match(error.message, /"[^"]*vae[^"]*": it was changed while it was open, before/);
      return true;
    });
    assert.equal(device.memory.live, 0);
  });
});

Deno.test("pipelines are compiled while the weights that they read stream in", async () => {
  await using device = await openDevice();
  const counts = new Map<string, number>();
  const progress = (done: number, of: number, part: string) => {
    if (done === of) counts.set(part, device.pipelineCount);
  };
  await using model = await loadModel(device, tiny("sd1"), { lifetime: "run", progress });
  const afterwards: number[] = [];
  for await (const { kind } of textToImage(model, { ...REQUEST, batchCount: 1 })) {
    if (kind === "step" || kind === "image") afterwards.push(device.pipelineCount);
  }
  assert.deepEqual(afterwards, [counts.get("unet"), counts.get("unet"), counts.get("decoder")]);
  assert.ok((counts.get("text_encoder") ?? 0) > 5);
});
