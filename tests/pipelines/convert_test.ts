import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { cp } from "node:fs/promises";
import { join } from "node:path";
import { toBf16, toF16 } from "../../lib/base/dtype.ts";
import { architectureOf } from "../../lib/engine/architecture.ts";
import { openCheckpoint } from "../../lib/formats/checkpoint.ts";
import { writeComponent } from "../../lib/formats/diffusers_folder.ts";
import { SafetensorsFile, writeSafetensors } from "../../lib/formats/safetensors.ts";
import { convertCheckpoint } from "../../lib/pipelines/convert.ts";
import { clipTokenizerFiles } from "../../lib/text/tokenizer_files.ts";
import { END } from "../../lib/text/vocabulary.ts";
import { fixture } from "../fixture.ts";
import { inFolder, names } from "../folders.ts";
import { inpaintingFolder } from "../inpainting.ts";

/** Every tensor of a checkpoint by component and name: type, shape and bytes. */
async function tensorsOf(path: string): Promise<Map<string, unknown>> {
  await using checkpoint = await openCheckpoint(path);
  const found = new Map<string, unknown>();
  for (const [component, weights] of checkpoint.components) {
    for (const { name, dtype, shape } of weights.infos.values()) {
      const { data } = await weights.read(name);
      found.set(`${component} ${name}`, { dtype, shape, data });
    }
  }
  return new Map([...found].sort(([a], [b]) => a < b ? -1 : 1));
}

/** The tensors of one file under its own keys. */
async function rawTensors(path: string): Promise<Map<string, unknown>> {
  using file = await SafetensorsFile.open(path);
  const found = new Map<string, unknown>();
  for (const { name, dtype, shape } of file.tensors.values()) {
    found.set(name, { dtype, shape, data: await file.read(name) });
  }
  return found;
}

/** What a checkpoint is, wherever it is and whatever its index says. */
async function whatIs(path: string) {
  await using checkpoint = await openCheckpoint(path);
  const { index: _, path: __, ...architecture } = await architectureOf(checkpoint);
  return architecture;
}

const FAMILIES = ["sd1", "sd2", "sdxl"] as const;

Deno.test("convertCheckpoint makes of one file the folder that diffusers has, and of the folder that file again", () =>
  inFolder(async (at) => {
    for (const family of FAMILIES) {
      const original = fixture(`tiny/${family}.safetensors`);
      const folder = join(at, family);
      const there = await convertCheckpoint(original, folder);
      const own = fixture(`tiny/${family}`);
      deepEqual(await tensorsOf(folder), await tensorsOf(own), family);
      deepEqual(await whatIs(folder), await whatIs(own), family);
      deepEqual(names(folder), names(own));
      for (const name of names(own).filter((name) => name.startsWith("tokenizer"))) {
        const read = async (path: string) =>
          JSON.parse(await Deno.readTextFile(join(path, name, "vocab.json")));
        deepEqual(await read(folder), await read(own));
      }
      const file = join(at, `${family}.safetensors`);
      const back = await convertCheckpoint(folder, file);
      deepEqual(back.dropped, []);
      equal(there.bytes, back.bytes);
      const [before, after] = [await rawTensors(original), await rawTensors(file)];
      deepEqual(
        [...after.keys()].sort(),
        [...before.keys()].filter(isNeeded(there.dropped)).sort(),
      );
      for (const [key, tensor] of after) deepEqual(tensor, before.get(key), key);
      deepEqual(await whatIs(file), await whatIs(original), family);
    }
  }));

const isNeeded = (dropped: readonly string[]) => (key: string) => !dropped.includes(key);

Deno.test("convertCheckpoint tells what it left out: moving averages, buffers, layers that nothing reads", () =>
  inFolder(async (at) => {
    const { dropped, parts, form } = await convertCheckpoint(
      fixture("tiny/sd2.safetensors"),
      join(at, "sd2"),
    );
    deepEqual(parts, ["text_encoder", "unet", "vae"]);
    equal(form, "folder");
    ok(dropped.includes("alphas_cumprod"));
    ok(dropped.includes("cond_stage_model.model.transformer.resblocks.2.ln_1.weight"));
  }));

Deno.test("convertCheckpoint rounds all weights to a type, and refuses what is beyond f16", () =>
  inFolder(async (at) => {
    const vae = fixture("tiny/vae_f2");
    const [key] = (await rawTensors(`${vae}/diffusion_pytorch_model.safetensors`)).keys();
    using file = await SafetensorsFile.open(`${vae}/diffusion_pytorch_model.safetensors`);
    const values = await file.readTensor(key);
    const rounded = { f16: ["F16", toF16(values)], bf16: ["BF16", toBf16(values)] } as const;
    for (const dtype of ["f16", "bf16"] as const) {
      const path = join(at, dtype);
      await convertCheckpoint(vae, path, { dtype });
      using made = await SafetensorsFile.open(`${path}/diffusion_pytorch_model.safetensors`);
      const [name, expected] = rounded[dtype];
      deepEqual(new Set([...made.tensors.values()].map((each) => each.dtype)), new Set([name]));
      deepEqual(await made.read(key), new Uint8Array(expected.buffer));
    }
    const large = join(at, "large");
    await Deno.mkdir(large);
    await Deno.copyFile(`${vae}/config.json`, `${large}/config.json`);
    const tensors = [...file.tensors.values()].map(({ name, dtype, shape }) => ({
      name,
      dtype,
      shape,
      data: async () => {
        const data = await file.read(name);
        if (name === key) new Float32Array(data.buffer)[0] = 70000;
        return data;
      },
    }));
    await writeSafetensors(`${large}/diffusion_pytorch_model.safetensors`, tensors);
    await rejects(convertCheckpoint(large, join(at, "x"), { dtype: "f16" }), {
      name: "FormatError",
      message: `Cannot convert "${key}" to f16: it holds 70000, and the largest f16 is 65504; ` +
        `bf16 holds such numbers, as f32 does`,
    });
    deepEqual(names(at), ["bf16", "f16", "large"]);
    await convertCheckpoint(large, join(at, "x"), { dtype: "bf16" });
  }));

Deno.test("convertCheckpoint turns a lone first stage into one file and back, and a TAESD's two files into a folder", () =>
  inFolder(async (at) => {
    const cases = [["tiny/vae_f16", "vae"], ["taesd/taesd_decoder.safetensors", "taesd"]];
    for (const [name, called] of cases) {
      const own = fixture(name);
      const [file, folder] = [join(at, `${called}.safetensors`), join(at, called)];
      await convertCheckpoint(own, file);
      await convertCheckpoint(file, folder);
      for (const made of [file, folder]) {
        deepEqual(await tensorsOf(made), await tensorsOf(own));
        deepEqual(await whatIs(made), await whatIs(own));
      }
      deepEqual(names(folder), ["config.json", "diffusion_pytorch_model.safetensors"]);
    }
    const keys = [...(await rawTensors(join(at, "vae.safetensors"))).keys()];
    ok(keys.includes("encoder.mid.attn_1.q.weight"));
    ok((await rawTensors(join(at, "taesd.safetensors"))).has("decoder.1.weight"));
  }));

Deno.test("convertCheckpoint gives a checkpoint another first stage", () =>
  inFolder(async (at) => {
    const sd1 = fixture("tiny/sd1.safetensors");
    const folder = join(at, "folder");
    await convertCheckpoint(sd1, folder, { vae: fixture("taesd/taesd_decoder.safetensors") });
    const { taesd, vae } = await whatIs(folder);
    ok(taesd && !vae);
    const index = JSON.parse(await Deno.readTextFile(join(folder, "model_index.json")));
    deepEqual(index.vae, ["diffusers", "AutoencoderTiny"]);
    const file = join(at, "file.safetensors");
    await rejects(convertCheckpoint(folder, file), /its first stage is a TAESD/);
    await convertCheckpoint(folder, file, { vae: fixture("tiny/vae_f16") });
    deepEqual((await whatIs(file)).vae, (await whatIs(fixture("tiny/vae_f16"))).vae);
    equal((await whatIs(file)).taesd, undefined);
    const wrong = fixture("tiny/sd1/unet");
    await rejects(convertCheckpoint(sd1, join(at, "x"), { vae: wrong }), /it holds none/);
  }));

Deno.test("convertCheckpoint folds LoRAs in: W + x·α/rank·B·A", () =>
  inFolder(async (at) => {
    const path = fixture("lora/kohya.safetensors");
    const file = join(at, "folded.safetensors");
    const base = fixture("tiny/sd1.safetensors");
    await convertCheckpoint(base, file, { loras: [{ path, multiplier: 0.5 }] });
    using lora = await SafetensorsFile.open(path);
    using before = await SafetensorsFile.open(base);
    using after = await SafetensorsFile.open(file);
    const layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k";
    const key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight";
    const down = await lora.readTensor(`${layer}.lora_down.weight`);
    const up = await lora.readTensor(`${layer}.lora_up.weight`);
    const [alpha] = await lora.readTensor(`${layer}.alpha`);
    const [rank, width] = lora.entry(`${layer}.lora_down.weight`).shape;
    const [plain, folded] = [await before.readTensor(key), await after.readTensor(key)];
    let moved = 0;
    for (const [i, value] of folded.entries()) {
      const [o, c] = [Math.floor(i / width), i % width];
      let sum = 0;
      for (let r = 0; r < rank; r++) sum += up[o * rank + r] * down[r * width + c];
      const expected = plain[i] + 0.5 * (alpha / rank) * sum;
      ok(Math.abs(value - expected) < 1e-6, `${i}: ${value}, not ${expected}`);
      moved = Math.max(moved, Math.abs(value - plain[i]));
    }
    ok(moved > 1e-3, `nothing was added (at most ${moved})`);
    const unchanged = "first_stage_model.decoder.conv_in.weight";
    deepEqual(await after.read(unchanged), await before.read(unchanged));
  }));

Deno.test("convertCheckpoint replaces nothing unless it is told to, and nothing that is not a checkpoint's", () =>
  inFolder(async (at) => {
    const vae = fixture("tiny/vae_f2");
    const [file, folder] = [join(at, "vae.safetensors"), join(at, "vae")];
    await convertCheckpoint(vae, file);
    await convertCheckpoint(vae, folder);
    for (const path of [file, folder]) {
      await rejects(convertCheckpoint(vae, path), {
        name: "FileError",
        message: `Cannot write "${path}": it exists already; --overwrite replaces it`,
      });
      await rejects(convertCheckpoint(path, path, { overwrite: true }), /the same place/);
      await convertCheckpoint(fixture("tiny/vae_f16"), path, { overwrite: true });
      deepEqual(await whatIs(path), await whatIs(fixture("tiny/vae_f16")));
    }
    const inside = join(folder, "diffusion_pytorch_model.safetensors");
    await rejects(convertCheckpoint(inside, folder, { overwrite: true }), /the same place/);
    await Deno.writeTextFile(join(folder, "diary.txt"), "dear diary");
    await rejects(
      convertCheckpoint(vae, folder, { overwrite: true }),
      /it holds "diary.txt", which is no part of a checkpoint and would be lost/,
    );
    await rejects(
      convertCheckpoint(vae, folder, { form: "file", overwrite: true }),
      /it is a folder, a file was needed/,
    );
    deepEqual(names(at), ["vae", "vae.safetensors"]);
  }));

Deno.test("convertCheckpoint leaves nothing behind when it is stopped, and what was there as it was", () =>
  inFolder(async (at) => {
    for (const name of ["sd1", "sd1.safetensors"]) {
      const path = join(at, name);
      await convertCheckpoint(fixture("tiny/sd1"), path);
      const before = await tensorsOf(path);
      const stop = new AbortController();
      const work = convertCheckpoint(fixture("tiny/sd1"), path, {
        ...{ overwrite: true, dtype: "f16", signal: stop.signal },
        progress: (done, of) => done > of / 2 && stop.abort(new Error("enough")),
      });
      await rejects(work, /enough/);
      deepEqual(await tensorsOf(path), before);
    }
    deepEqual(names(at), ["sd1", "sd1.safetensors"]);
  }));

Deno.test("convertCheckpoint tells what a single file cannot hold", () =>
  inFolder(async (at) => {
    const file = join(at, "x.safetensors");
    const options = { tokenizer: fixture("clip") };
    await rejects(convertCheckpoint(fixture("tiny/sd1"), file, options), { name: "UsageError" });
    const [half] = ["taesd/taesd_decoder.safetensors"].map(fixture);
    const alone = join(at, "decoder.safetensors");
    await Deno.copyFile(half, alone);
    await rejects(convertCheckpoint(alone, join(at, "y")), /one half of a TAESD/);
  }));

Deno.test("convertCheckpoint takes the tokenizer that it is given, and tells transformers the type of weights", () =>
  inFolder(async (at) => {
    const folder = join(at, "sdxl");
    const tokenizer = fixture("tiny/sd1/tokenizer");
    await convertCheckpoint(fixture("tiny/sdxl.safetensors"), folder, { tokenizer, dtype: "bf16" });
    const text = await Deno.readTextFile(join(folder, "text_encoder_2", "config.json"));
    const { torch_dtype: type, architectures: [name] } = JSON.parse(text);
    deepEqual([type, name], ["bfloat16", "CLIPTextModelWithProjection"]);
    const merges = (path: string) => Deno.readTextFile(join(path, "merges.txt"));
    for (const [name, pad] of [["tokenizer", "<|endoftext|>"], ["tokenizer_2", "!"]]) {
      equal(await merges(join(folder, name)), await merges(tokenizer));
      const special = await Deno.readTextFile(join(folder, name, "special_tokens_map.json"));
      equal(JSON.parse(special).pad_token, pad);
    }
    const nothing = { tokenizer: fixture("taesd") };
    await rejects(
      convertCheckpoint(fixture("tiny/sd1.safetensors"), join(at, "x"), nothing),
      /vocab\.json and merges\.txt was needed/,
    );
  }));

Deno.test("convertCheckpoint knows a model that fills holes by its channels, as published files have nothing else", () =>
  inFolder(async (at) => {
    const own = await inpaintingFolder(at);
    const [file, folder] = [join(at, "file.safetensors"), join(at, "folder")];
    await convertCheckpoint(own, file);
    // without what says how it was made, as published files are
    using inside = await SafetensorsFile.open(file);
    const { config = "", ...metadata } = Object.fromEntries(inside.metadata);
    const { model_index: _, ...configs } = JSON.parse(config);
    const tensors = [...inside.tensors.values()].map((entry) => ({
      ...entry,
      data: () => inside.read(entry.name),
    }));
    const bare = join(at, "bare.safetensors");
    await writeSafetensors(bare, tensors, { ...metadata, config: JSON.stringify(configs) });
    await convertCheckpoint(bare, folder);
    deepEqual(await tensorsOf(folder), await tensorsOf(own));
    const index = JSON.parse(await Deno.readTextFile(join(folder, "model_index.json")));
    equal(index._class_name, "StableDiffusionInpaintPipeline");
    deepEqual(index.unet, ["diffusers", "UNet2DConditionModel"]);
  }));

Deno.test("convertCheckpoint copies folders of models that are told classes, which no single file holds", () =>
  inFolder(async (at) => {
    const own = join(at, "own");
    await convertCheckpoint(fixture("tiny/sd1"), own);
    await Deno.remove(join(own, "text_encoder"), { recursive: true });
    const config = {
      _class_name: "LatentDiffusionConditioner",
      width: 32,
      classes: ["fox", "hen"],
    };
    const table = new Uint8Array(new Float32Array(3 * 32).fill(0.5).buffer);
    const name = "class_embedding.weight";
    const tensor = { name, dtype: "F32", shape: [3, 32], data: table } as const;
    await writeComponent(join(own, "conditioner"), config, [tensor], "diffusion_pytorch_model");
    const index = {
      _class_name: "DiffusionPipeline",
      conditioner: ["ldm", "Conditioner"],
      safety_checker: ["stable_diffusion", "StableDiffusionSafetyChecker"],
      _defaults: { steps: 3, cfg_scale: 2 },
    };
    await Deno.writeTextFile(join(own, "model_index.json"), JSON.stringify(index));
    await rejects(
      convertCheckpoint(own, join(at, "x.safetensors")),
      /it is told classes or boxes, for which such files have no place; only a folder holds it/,
    );
    const copy = join(at, "copy");
    await convertCheckpoint(own, copy, { dtype: "f16" });
    deepEqual((await whatIs(copy)).conditioner, (await whatIs(own)).conditioner);
    const made = JSON.parse(await Deno.readTextFile(join(copy, "model_index.json")));
    deepEqual(made.safety_checker, [null, null]);
    deepEqual(made._defaults, index._defaults);
    deepEqual(names(copy), ["conditioner", "model_index.json", "scheduler", "unet", "vae"]);
  }));

Deno.test("convertCheckpoint says in a file of SD 1 or XL that its network predicts velocities", () =>
  inFolder(async (at) => {
    const own = join(at, "own");
    await convertCheckpoint(fixture("tiny/sdxl"), own);
    const path = join(own, "scheduler", "scheduler_config.json");
    const scheduler = JSON.parse(await Deno.readTextFile(path));
    const said = { prediction_type: "v_prediction", rescale_betas_zero_snr: true };
    await Deno.writeTextFile(path, JSON.stringify({ ...scheduler, ...said }));
    const file = join(at, "file.safetensors");
    await convertCheckpoint(own, file);
    const keys = (await rawTensors(file)).keys().toArray();
    ok(keys.includes("v_pred") && keys.includes("ztsnr"));
    const again = join(at, "again.safetensors");
    await convertCheckpoint(file, again);
    deepEqual(await rawTensors(again), await rawTensors(file));
  }));

Deno.test("convertCheckpoint takes a tokenizer along in a file's metadata, where it is not CLIP's", () =>
  inFolder(async (at) => {
    const file = join(at, "file.safetensors");
    await convertCheckpoint(fixture("tiny/sd1"), file);
    await using own = await openCheckpoint(fixture("tiny/sd1"));
    await using made = await openCheckpoint(file);
    deepEqual(await made.tokenizerFiles("tokenizer"), await own.tokenizerFiles("tokenizer"));
    // with all of CLIP's tokens there is nothing to be said
    const usual = join(at, "usual");
    await cp(fixture("tiny/sd1"), usual, { recursive: true });
    const { vocab, merges } = clipTokenizerFiles(77, END);
    await Deno.writeTextFile(join(usual, "tokenizer", "vocab.json"), vocab);
    await Deno.writeTextFile(join(usual, "tokenizer", "merges.txt"), merges);
    await convertCheckpoint(usual, file, { overwrite: true });
    await using plain = await openCheckpoint(file);
    equal(plain.metadata.has("tokenizer_files"), false);
    const vae = fixture("tiny/vae_f2/diffusion_pytorch_model.safetensors");
    using weights = await SafetensorsFile.open(vae);
    const [entry] = weights.tensors.values();
    const tensor = { ...entry, name: "first_stage_model.encoder.conv_in.weight" };
    const data = () => weights.read(entry.name);
    await writeSafetensors(file, [{ ...tensor, data }], { tokenizer_files: '{"vocab": 3}' });
    await using broken = await openCheckpoint(file);
    await rejects(broken.tokenizerFiles("tokenizer"), /a vocabulary and merges were needed/);
  }));
