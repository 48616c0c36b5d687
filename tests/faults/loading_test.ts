/** Weights that are not what the model needs: each named in one sentence, and nothing left on the device. */

import assert from "node:assert/strict";
import { cp } from "node:fs/promises";
import { join } from "node:path";
import { FormatError } from "../../lib/base/errors.ts";
import { architectureOf, manifestsOf } from "../../lib/engine/architecture.ts";
import { loadModel } from "../../lib/engine/load.ts";
import { loadWeights } from "../../lib/engine/weights.ts";
import { openCheckpoint, requireComponent } from "../../lib/formats/checkpoint.ts";
import {
  SafetensorsFile,
  type TensorData,
  writeSafetensors,
} from "../../lib/formats/safetensors.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { textToImage } from "../../lib/pipelines/text_to_image.ts";
import { fixture } from "../fixture.ts";
import { inFolder } from "../folders.ts";

const SD1 = fixture("tiny/sd1");
const WEIGHTS = "unet/diffusion_pytorch_model.safetensors";
const CONV = "mid_block.resnets.0.conv1.weight";

/** Changes the tensors of the UNet. */
type Damage = (tensors: TensorData[]) => TensorData[];

const changed = (change: (tensor: TensorData) => TensorData): Damage => (tensors) =>
  tensors.map((tensor) => tensor.name === CONV ? change(tensor) : tensor);

/** The same tensor with one value replaced. */
const withValue = (at: number, value: number): Damage =>
  changed((tensor) => {
    if (typeof tensor.data === "function") throw new TypeError("tensors are read before");
    const data = tensor.data.slice();
    new Float32Array(data.buffer)[at] = value;
    return { ...tensor, data };
  });

/** A copy of the tiny SD 1 folder with a damaged UNet, for as long as `use` runs. */
async function withDamage<T>(damage: Damage, use: (path: string) => Promise<T>): Promise<T> {
  return await inFolder(async (folder) => {
    await cp(SD1, folder, { recursive: true });
    const tensors: TensorData[] = [];
    {
      using file = await SafetensorsFile.open(join(SD1, WEIGHTS));
      for (const { name, dtype, shape } of file.tensors.values()) {
        tensors.push({ name, dtype, shape, data: await file.read(name) });
      }
    }
    await writeSafetensors(join(folder, WEIGHTS), damage(tensors));
    return await use(folder);
  });
}

const REFUSED: Readonly<Record<string, { damage: Damage; says: RegExp }>> = {
  "a missing tensor": {
    damage: (tensors) => tensors.filter(({ name }) => name !== CONV),
    says: /Cannot load the unet of ".*": it lacks 1 tensor, "mid_block\.resnets\.0\.conv1\.weight"/,
  },
  "a misshapen tensor": {
    damage: changed((tensor) => ({ ...tensor, shape: [tensor.shape.reduce((a, b) => a * b, 1)] })),
    says:
      /"mid_block\.resnets\.0\.conv1\.weight" of ".*": its shape is \[\d+\], but the unet needs \[\d+, \d+, 3, 3\]/,
  },
  "a NaN": {
    damage: withValue(5, NaN),
    says: /conv1\.weight" of ".*": value 5 of \d+ is NaN, and weights must be finite/,
  },
  "an infinity": { damage: withValue(0, -Infinity), says: /value 0 of \d+ is -Infinity/ },
  "integers": {
    damage: changed((tensor) => ({ ...tensor, dtype: "I32" })),
    says: /its element type is I32, but weights are F32, F16 or BF16/,
  },
};

for (const [what, { damage, says }] of Object.entries(REFUSED)) {
  Deno.test(`loadModel refuses ${what} by name and frees what it had loaded`, async () => {
    await using device = await openDevice();
    await withDamage(damage, async (path) => {
      await assert.rejects(loadModel(device, path), (error) => {
        assert.ok(error instanceof FormatError, String(error));
        assert.match(error.message, says);
        assert.doesNotMatch(error.message, /\n/);
        return true;
      });
    });
    assert.equal(device.memory.live, 0);
  });
}

Deno.test("loadModel warns of tensors that the model does not use, naming them", async () => {
  await using device = await openDevice();
  const extra = {
    name: "mid_block.extra",
    dtype: "F32",
    shape: [1],
    data: new Uint8Array(4),
  } as const;
  await withDamage((tensors) => [...tensors, extra], async (path) => {
    await using model = await loadModel(device, path);
    assert.equal(model.warnings.length, 1);
    assert.match(model.warnings[0], /has 1 unused tensor: "mid_block\.extra"/);
  });
});

Deno.test("loadWeights keeps a tensor in f32 whose values f16 cannot hold", async () => {
  await using device = await openDevice();
  await withDamage(withValue(0, 1e6), async (path) => {
    await using checkpoint = await openCheckpoint(path);
    const manifest = manifestsOf(await architectureOf(checkpoint)).get("unet");
    assert.ok(manifest);
    const weights = requireComponent(checkpoint, "unet");
    const options = { weights: "f16", progress: () => {} } as const;
    const { parameters } = await loadWeights(device, weights, manifest, "unet", path, options);
    assert.equal(parameters.get(`unet.${CONV}`)?.layout.format, "panels32");
    assert.equal(parameters.get("unet.conv_out.weight")?.layout.format, "panels16");
  });
});

Deno.test("a part that turns out to have values beyond f16 is assembled again, and pictures are made", async () => {
  await using device = await openDevice();
  const request = { prompt: "a fox", seed: 1, steps: 1, width: 32, height: 32 };
  await withDamage(withValue(0, 1e5), async (path) => {
    await using model = await loadModel(device, path, { lifetime: "run" });
    const kinds: string[] = [];
    for await (const { kind } of textToImage(model, request)) kinds.push(kind);
    assert.ok(kinds.includes("image"));
  });
  assert.equal(device.memory.live, 0);
});

Deno.test("manifestsOf refuses a file whose widths do not divide into the groups that the family has", async () => {
  await inFolder(async (folder) => {
    const path = join(folder, "tiny.safetensors");
    using file = await SafetensorsFile.open(fixture("tiny/sd1.safetensors"));
    const tensors: TensorData[] = [];
    for (const { name, dtype, shape } of file.tensors.values()) {
      tensors.push({ name, dtype, shape, data: await file.read(name) });
    }
    await writeSafetensors(path, tensors); // without the metadata that names its groups
    await using checkpoint = await openCheckpoint(path);
    const architecture = await architectureOf(checkpoint);
    assert.throws(() => manifestsOf(architecture), (error) => {
      assert.ok(error instanceof FormatError);
      assert.match(
        error.message,
        /^Cannot use the unet of ".*tiny\.safetensors": [^\n]*8 channels do not divide/,
      );
      return true;
    });
  });
});
