/** LoRAs against diffusers: pictures of fixtures/make/lora.py, and what is folded into weights of each type. */

import assert from "node:assert/strict";
import { fromBf16, fromF16, toBf16, toF16 } from "../../lib/base/dtype.ts";
import { loadModel } from "../../lib/engine/load.ts";
import { type LoraChoice, Loras } from "../../lib/engine/lora.ts";
import type { Model } from "../../lib/engine/model.ts";
import type { Weights } from "../../lib/formats/checkpoint.ts";
import { SafetensorsFile, writeSafetensors } from "../../lib/formats/safetensors.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { textToImage } from "../../lib/pipelines/text_to_image.ts";
import { fixture } from "../fixture.ts";
import { inFolder } from "../folders.ts";
import { psnr } from "../pictures.ts";

const KOHYA = fixture("lora/kohya.safetensors");
/** Of an 8-bit picture, dB: f32 rounding through all steps, and f16 weights. */
const BOUNDS = { f32: 50, f16: 45 } as const;

async function picture(model: Model): Promise<Uint8Array> {
  const request = {
    prompt: "a photo of an astronaut riding a horse on mars",
    negativePrompt: "blurry, low quality",
    ...{ width: 96, height: 64, steps: 6, cfgScale: 7.5, seed: 7 },
    ...{ sampler: "euler", schedule: "leading" },
  };
  for await (const event of textToImage(model, request)) {
    if (event.kind === "image") return event.image.data;
  }
  return assert.fail("there was no picture");
}

for (const weights of ["f32", "f16"] as const) {
  Deno.test(`a LoRA gives diffusers' picture in ${weights}`, async () => {
    using golden = await SafetensorsFile.open(fixture("goldens/lora_pictures.safetensors"));
    await using device = await openDevice();
    const whole: LoraChoice = { path: KOHYA, multiplier: 1 };
    await using model = await loadModel(device, fixture("tiny/sd1"), { weights, loras: [whole] });
    const expect = async (name: string) => {
      const found = psnr(await picture(model), await golden.read(name));
      assert.ok(found >= BOUNDS[weights], `${name}: ${found.toFixed(1)} dB`);
    };
    assert.deepEqual(model.warnings, []);
    await expect("whole");
    if (weights === "f16") return;
    await model.useLoras([{ path: KOHYA, multiplier: 0.8 }]);
    await expect("share");
    const parts = ["kohya", "diffusers_old"].map((name) => fixture(`lora/${name}.safetensors`));
    await model.useLoras(parts.map((path) => ({ path, multiplier: 0.5 })));
    await expect("whole"); // two halves
    await model.useLoras([]);
    await expect("without");
  });
}

Deno.test("Model.useLoras refuses what is for other models and keeps what was in use", async () => {
  await using device = await openDevice();
  await using model = await loadModel(device, fixture("tiny/sd1"));
  await inFolder(async (folder) => {
    const path = `${folder}/other.safetensors`;
    const data = new Uint8Array(16);
    const layer = "lora_unet_down_blocks_5_attentions_0_proj_in";
    await writeSafetensors(path, [
      { name: `${layer}.lora_down.weight`, dtype: "F32", shape: [1, 4], data },
      { name: `${layer}.lora_up.weight`, dtype: "F32", shape: [4, 1], data },
    ]);
    const both = [{ path: KOHYA, multiplier: 1 }, { path, multiplier: 1 }];
    await assert.rejects(model.useLoras(both), /it has none of what that changes, 1 layer /);
    const denoiser = model.denoiser({ height: 8, width: 8 });
    const text = { hidden: new Float32Array(77 * 32), tokens: 77 };
    await denoiser.predict(new Float32Array(4 * 64), 1, [{ text }]);
    await assert.rejects(model.useLoras(both.slice(0, 1)), /unet cannot be changed while/);
    denoiser[Symbol.dispose]();
    assert.deepEqual(await model.useLoras(both.slice(0, 1)), []);
  });
});

const LAYER = "down_blocks.0.attentions.0.proj_in";

/** A component of one convolution of 8 by 8 channels. */
function weightsOf(dtype: "F32" | "F16" | "BF16", values: Float32Array): Weights {
  const encoded = { F32: values, F16: toF16(values), BF16: toBf16(values) }[dtype];
  const data = new Uint8Array(encoded.slice().buffer);
  const name = `${LAYER}.weight`;
  return {
    infos: new Map([[name, { name, dtype, shape: [8, 8, 1, 1], source: name }]]),
    read: () => Promise.resolve({ dtype, data: data.slice() }),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

Deno.test("Loras folds into weights of each type, bf16 as f32, into the reader's memory", async () => {
  const values = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));
  using file = await SafetensorsFile.open(KOHYA);
  const layer = "lora_unet_down_blocks_0_attentions_0_proj_in";
  const [down, up] = [
    await file.readTensor(`${layer}.lora_down.weight`),
    await file.readTensor(`${layer}.lora_up.weight`),
  ];
  const sumOf = (weights: Float32Array) =>
    weights.map((value, i) => {
      let sum = 0;
      for (let r = 0; r < 4; r++) sum += up[(i >> 3) * 4 + r] * down[r * 8 + i % 8];
      return value + 0.5 * 2 * sum;
    });
  const rounded = {
    F32: values,
    F16: fromF16(new Uint16Array(toF16(values).buffer)),
    BF16: fromBf16(toBf16(values)),
  };
  for (const dtype of ["F32", "F16", "BF16"] as const) {
    using loras = new Loras("a test");
    const weights = loras.over("unet", weightsOf(dtype, values));
    const name = `${LAYER}.weight`;
    assert.equal(weights.infos.get(name)?.dtype, dtype);
    const { changed, warnings } = await loras.use([{ path: KOHYA, multiplier: 2 }]);
    assert.deepEqual(changed, ["unet"]);
    assert.match(warnings[0], /changes 87 of 88 layers that "a test" does not have/);
    const type = dtype === "F16" ? "F16" : "F32";
    assert.equal(weights.infos.get(name)?.dtype, type);
    const into = new Uint8Array(1000);
    const read = await weights.read(name, into);
    assert.equal(read.dtype, type);
    assert.equal(read.data.buffer, into.buffer);
    const bytes = read.data.slice().buffer;
    const actual = type === "F16" ? fromF16(new Uint16Array(bytes)) : new Float32Array(bytes);
    const bound = type === "F16" ? 2 ** -10 : 1e-6;
    sumOf(rounded[dtype]).forEach((value, i) =>
      assert.ok(Math.abs(actual[i] - value) <= bound * Math.max(1, Math.abs(value)))
    );
  }
});
