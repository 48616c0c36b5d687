/** `ldm inspect` of LoRAs, and of other files that are no checkpoints. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { describeOther } from "../../lib/cli/inspect_file.ts";
import { describeLora, isLora } from "../../lib/cli/inspect_lora.ts";
import type { Report } from "../../lib/cli/listing.ts";
import { writeLatents } from "../../lib/formats/latents.ts";
import { type TensorData, writeSafetensors } from "../../lib/formats/safetensors.ts";
import { inFolder } from "../folders.ts";
import { FIXTURES, ldm } from "./ldm.ts";

const KOHYA = join(FIXTURES, "lora", "kohya.safetensors");

const zeros = (name: string, shape: readonly number[]): TensorData => ({
  name,
  dtype: "F16",
  shape,
  data: new Uint8Array(2 * shape.reduce((a, b) => a * b, 1)),
});

/** Reports a LoRA of rank 2, zeros, of layers of such extents, and tensors beside. */
async function reportOf(
  layers: Readonly<Record<string, readonly [out: number, width: number]>>,
  others: readonly TensorData[] = [],
  metadata: Readonly<Record<string, string>> = {},
): Promise<Report> {
  return await inFolder(async (folder) => {
    const path = join(folder, "x.safetensors");
    const pairs = Object.entries(layers).flatMap(([name, [out, width]]) => [
      zeros(`${name}.lora_down.weight`, [2, width]),
      zeros(`${name}.lora_up.weight`, [out, 2]),
    ]);
    await writeSafetensors(path, [...pairs, ...others], metadata);
    return await describeLora(path);
  });
}

Deno.test("ldm inspect compares a LoRA with a checkpoint and counts what it changes", async () => {
  for (
    const [name, naming, alpha] of [["kohya", "kohya", 2], ["diffusers", "PEFT", 2], [
      "diffusers_old",
      "diffusers",
      4,
    ]] as const
  ) {
    const path = join(FIXTURES, "lora", `${name}.safetensors`);
    assert.ok(await isLora(path));
    const { json } = await describeLora(path, join(FIXTURES, "tiny", "sd1"));
    assert.deepEqual(
      [json.names, json.layers, json.fitting, json.unknown, json.misshapen],
      [[naming], 88, 88, [], []],
    );
    assert.deepEqual(json.components, [
      {
        ...{ name: "unet", layers: 78, ranks: [4], alphas: [alpha] },
        modules: { projection: 6, attention: 48, "feed-forward": 12, convolution: 12 },
        ...{ parameters: 16640, bytes: 33280, dtypes: { F16: 156 } },
      },
      {
        ...{ name: "text_encoder", layers: 10, ranks: [4], alphas: [alpha] },
        modules: { "feed-forward": 2, attention: 8 },
        ...{ parameters: 3328, bytes: 6656, dtypes: { F16: 20 } },
      },
    ]);
  }
  const inpaint = await describeLora(KOHYA, join(FIXTURES, "tiny", "inpaint"));
  assert.match(
    inpaint.text,
    /: a LoRA of whose 88 layers 51 fit "[^"]+inpaint", 75.4 kB, in kohya's/,
  );
  assert.match(inpaint.text, /^layers that are not there \(36\):\n( {2}lora_\S+\n){20} {2}…$/m);
});

Deno.test("a LoRA's family is that whose layers it fits", async () => {
  const attention = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn";
  const cases: readonly [Parameters<typeof reportOf>[0], readonly string[]][] = [
    [{ [`${attention}2_to_k`]: [640, 768] }, ["sd1"]],
    [{ [`${attention}2_to_k`]: [640, 1024] }, ["sd2"]],
    [{ [`${attention}2_to_k`]: [640, 2048] }, ["sdxl"]],
    [{ [`${attention}1_to_k`]: [640, 640] }, ["sd1", "sd2", "sdxl"]],
    [{ lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q: [1280, 1280] }, ["sdxl"]],
    [{ lora_te1_text_model_encoder_layers_3_self_attn_q_proj: [768, 768] }, ["sd1", "sdxl"]],
    [{ lora_te2_text_model_encoder_layers_31_mlp_fc1: [5120, 1280] }, ["sdxl"]],
    [{ lora_te_text_model_encoder_layers_22_mlp_fc1: [4096, 1024] }, ["sd2"]],
    [{ lora_unet_conv_in: [320, 36] }, ["sd1", "sd2", "sdxl"]],
    [{ [`${attention}2_to_k`]: [641, 768] }, []],
  ];
  for (const [layers, families] of cases) {
    const { json } = await reportOf(layers);
    assert.deepEqual(json.families, families, Object.keys(layers)[0]);
  }
});

Deno.test("ldm inspect tells what of a LoRA does not match, and how it was trained", async () => {
  const proj = "lora_unet_down_blocks_0_attentions_0_proj_in";
  const layers = {
    [proj]: [320, 320],
    lora_unet_down_blocks_0_attentions_0_proj_out: [320, 321],
    lora_unet_down_blocks_9_attentions_0_proj_out: [320, 320],
  } as const;
  const alpha: TensorData = {
    name: `${proj}.alpha`,
    dtype: "F32",
    shape: [],
    data: new Uint8Array(Float32Array.of(0.5).buffer),
  };
  const { text, json } = await reportOf(layers, [alpha, zeros("stray", [1])], {
    ss_sd_model_name: "fox.safetensors",
    ss_max_train_steps: "800",
    ss_noise_offset: "None",
  });
  assert.match(text, /a LoRA of whose 3 layers 1 fit Stable Diffusion 1 or Stable Diffusion 2, /);
  assert.match(text, /^trained with:\n {2}base model {2}fox\.safetensors\n {2}steps {7}800\nof /m);
  assert.match(
    text,
    /^of other extents \(1\):\n.*\[320, 2\] by \[2, 321\].* is \[320, 320, 1, 1\]$/m,
  );
  assert.match(text, /^layers that are not there \(1\):\n {2}lora_unet_down_blocks_9_/m);
  assert.match(text, /^belonging to no layer \(1\):\n {2}stray$/m);
  assert.match(text, /^ {2}unet {2}3 layers {2}rank 2 {2}alpha 0\.5, 2 {2}/m);
  assert.deepEqual(json.training, { "base model": "fox.safetensors", steps: "800" });
});

Deno.test("ldm inspect says why a LoRA of another kind is of no use", async () => {
  const layer = "lora_unet_down_blocks_0_attentions_0_proj_in";
  const { text, json } = await reportOf({ [layer]: [320, 320] }, [
    zeros(`${layer}.dora_scale`, [1]),
  ]);
  assert.match(text, /: a LoRA\n {2}1\.281 k numbers, 3 tensors, [\d.]+ kB, F16\n/);
  assert.match(text, /^not usable: .* it is a DoRA, which also scales weights/m);
  assert.equal(json.kind, "tensors");
});

Deno.test("ldm inspect says what files are that are no part of a model", () =>
  inFolder(async (folder) => {
    const path = join(folder, "x.safetensors");
    const kind = async (name: string, shape: readonly number[] = [2]) => {
      await writeSafetensors(path, [zeros(name, shape)]);
      return (await describeOther(path))?.json.what;
    };
    assert.equal(
      await kind("control_model.input_blocks.0.0.weight"),
      "a ControlNet, no part of Stable Diffusion 1, 2 or XL",
    );
    assert.match(String(await kind("clip_l", [4, 768])), /^a textual inversion embedding, /);
    assert.match(String(await kind("anything")), /^tensors, no part of /);
    assert.equal(await kind("first_stage_model.decoder.conv_in.weight"), undefined);
    assert.equal(await kind("encoder.conv_in.weight"), undefined);
    const latents = { data: new Float32Array(4), channels: 4, height: 1, width: 1 };
    await writeLatents(path, latents, {});
    assert.match(
      (await describeOther(path))?.text ?? "",
      /: latents, which `ldm decode` .*\n.*\n {2}latents {2}\[1, 4, 1, 1\] {2}F32$/,
    );
    const tokenizer = join(FIXTURES, "tiny", "sd1", "tokenizer");
    for (const each of [tokenizer, join(tokenizer, "vocab.json")]) {
      const { text } = await describeOther(each) ?? assert.fail();
      assert.match(
        text,
        /: a CLIP tokenizer of 994 tokens, prompts of 77\n {2}start <\|startoftext\|> \(992\), end/,
      );
    }
    assert.equal(await describeOther(folder), undefined);
  }));

Deno.test("ldm inspect prints a LoRA's report, and compares nothing else", async () => {
  const model = join(FIXTURES, "tiny", "sd1");
  const { code, stdout } = await ldm(["inspect", KOHYA, "-m", model]);
  assert.equal(code, 0);
  assert.match(stdout, /: a LoRA for "[^"]+sd1", 75\.4 kB, in kohya's names\n/);
  const other = await ldm(["inspect", model, "-m", model]);
  assert.deepEqual([other.code, other.stdout], [2, ""]);
  assert.match(other.stderr, /^ldm: Cannot compare "[^"]+" with "[^"]+": it is no LoRA file\n$/);
});
