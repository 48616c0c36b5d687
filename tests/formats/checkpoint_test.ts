import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { basename } from "node:path";
import {
  type Checkpoint,
  type ComponentName,
  openCheckpoint,
  requireComponent,
  type Weights,
} from "../../lib/formats/checkpoint.ts";
import {
  type Family,
  type Naming,
  PLACES,
  type Relation,
  toOriginal,
} from "../../lib/formats/keys.ts";
import {
  FILE_BYTES,
  SafetensorsFile,
  type TensorData,
  writeSafetensors,
} from "../../lib/formats/safetensors.ts";
import { temporaryFolder } from "../folders.ts";
import { counting, failure, writeCounting } from "./made.ts";

const TINY = new URL("../../fixtures/tiny/", import.meta.url).pathname;
const FAMILIES: readonly Family[] = ["sd1", "sd2", "sdxl"];
const WEIGHTS = "diffusion_pytorch_model.safetensors";

/** A tensor of diffusers as a single file stores it: the inverse of each change, written out here once more. */
async function toFile(
  weights: Weights,
  relations: readonly Relation[],
  name: string,
): Promise<TensorData> {
  const { dtype, shape } = weights.infos.get(relations[0].diffusers)!;
  const sorted = relations.toSorted((a, b) => Number(a.change ?? 0) - Number(b.change ?? 0));
  const parts = await Promise.all(sorted.map((r) => weights.read(r.diffusers)));
  const data = Uint8Array.from(parts.flatMap(({ data }) => [...data]));
  const change = relations[0].change;
  if (change === undefined) return { name, dtype, shape, data };
  if (change === "squeeze") return { name, dtype, shape: [...shape, 1, 1], data };
  if (change !== "transpose") {
    return { name, dtype, shape: [shape[0] * 3, ...shape.slice(1)], data };
  }
  const [rows, columns] = shape;
  const size = FILE_BYTES[dtype];
  const turned = new Uint8Array(data.length);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const at = (r * columns + c) * size;
      turned.set(data.subarray(at, at + size), (c * rows + r) * size);
    }
  }
  return { name, dtype, shape: [columns, rows], data: turned };
}

/** A component's tensors under a prefix and the original names. */
async function originals(weights: Weights, naming: Naming, prefix: string): Promise<TensorData[]> {
  const { relations, unknown } = toOriginal(naming, [...weights.infos.keys()]);
  assert.deepEqual(unknown, []);
  const groups = Map.groupBy(relations, ({ original }) => original);
  return await Promise.all(
    [...groups].map(([key, relations]) => toFile(weights, relations, prefix + key)),
  );
}

/** A whole checkpoint as one file, with the things that real files have besides. */
async function writeSingle(checkpoint: Checkpoint, family: Family, path: string): Promise<void> {
  const tensors: TensorData[] = [];
  for (const { prefix, component, written } of PLACES) {
    if (!written.families.includes(family)) continue;
    const weights = checkpoint.components.get(component)!;
    tensors.push(...await originals(weights, written.naming, prefix));
  }
  const buffer = (name: string, shape: number[]) => ({
    name,
    dtype: "F32" as const,
    shape,
    data: new Uint8Array(counting(shape).buffer),
  });
  tensors.push(buffer("betas", [4]), buffer("model_ema.decay", []), buffer("alphas_cumprod", [4]));
  await writeSafetensors(path, tensors, { "modelspec.title": family });
}

async function assertSameWeights(
  actual: Weights,
  expected: Weights,
  what: string,
  extra: readonly string[] = [],
): Promise<void> {
  const names = [...expected.infos.keys(), ...extra];
  assert.deepEqual([...actual.infos.keys()].sort(), names.sort(), what);
  for (const [name, { dtype, shape }] of expected.infos) {
    const info = actual.infos.get(name)!;
    assert.deepEqual([info.dtype, info.shape], [dtype, shape], `${what} ${name}`);
    const [mine, theirs] = [await actual.read(name), await expected.read(name)];
    assert.ok(Buffer.from(mine.data).equals(theirs.data), `${what} ${name}: other bytes`);
  }
}

Deno.test("openCheckpoint reads a folder's components, configs, scheduler and tokenizers", async () => {
  for (const family of FAMILIES) {
    await using checkpoint = await openCheckpoint(TINY + family);
    const second = family === "sdxl";
    assert.equal(checkpoint.kind, "folder");
    assert.deepEqual(
      [...checkpoint.components.keys()],
      ["text_encoder", ...(second ? ["text_encoder_2"] : []), "unet", "vae"],
    );
    const configs = ["model_index", ...checkpoint.components.keys(), "scheduler", "tokenizer"];
    if (second) configs.push("tokenizer_2");
    assert.deepEqual([...checkpoint.configs.keys()], configs);
    assert.deepEqual(checkpoint.unexpected, []);
    const files = await checkpoint.tokenizerFiles("tokenizer");
    assert.equal(typeof JSON.parse(files!.vocab), "object");
    assert.match(files!.merges, /^#version/);
    assert.ok(files!.config && files!.specialTokens);
    assert.equal((await checkpoint.tokenizerFiles("tokenizer_2")) !== undefined, second);
    const embedding = checkpoint.components.get("text_encoder")!.infos.get(
      "text_model.embeddings.token_embedding.weight",
    )!;
    const { data } = await checkpoint.components.get("text_encoder")!.read(embedding.name);
    assert.equal(
      data.length,
      embedding.shape[0] * embedding.shape[1] * FILE_BYTES[embedding.dtype],
    );
  }
});

Deno.test("openCheckpoint gives a single file's tensors the names and bytes that the folder gives them", async () => {
  await using folder = await temporaryFolder();
  for (const family of FAMILIES) {
    const path = folder.at(`${family}.safetensors`);
    await using expected = await openCheckpoint(TINY + family);
    await writeSingle(expected, family, path);
    await using single = await openCheckpoint(path);
    assert.equal(single.kind, "file");
    assert.deepEqual([...single.ignored].sort(), ["alphas_cumprod", "betas", "model_ema.decay"]);
    assert.deepEqual(single.unexpected, []);
    assert.equal(single.metadata.get("modelspec.title"), family);
    assert.deepEqual([...single.components.keys()].sort(), [...expected.components.keys()].sort());
    for (const [name, weights] of expected.components) {
      await assertSameWeights(single.components.get(name)!, weights, `${family} ${name}`);
    }
  }
});

Deno.test("openCheckpoint gives the tensors of a folder to the single file that fixtures/make wrote of it", async () => {
  for (const family of FAMILIES) {
    await using expected = await openCheckpoint(TINY + family);
    await using single = await openCheckpoint(`${TINY}${family}.safetensors`);
    assert.deepEqual(single.unexpected, []);
    assert.deepEqual([...single.components.keys()].sort(), [...expected.components.keys()].sort());
    for (const [name, weights] of expected.components) {
      const mine = requireComponent(single, name);
      const extra = [...mine.infos.keys()].filter((key) => !weights.infos.has(key));
      if (family === "sd2" && name === "text_encoder") {
        // real SD 2 files carry a last layer and a projection that the pipeline never uses
        const last = /^(text_model\.encoder\.layers\.2\.|text_projection\.weight$)/;
        assert.deepEqual([extra.length, extra.filter((key) => !last.test(key))], [17, []]);
      } else assert.deepEqual(extra, []);
      await assertSameWeights(mine, weights, `${family} ${name}`, extra);
    }
  }
});

Deno.test("openCheckpoint reads a stand-alone VAE under each of its namings", async () => {
  await using folder = await temporaryFolder();
  await using expected = await openCheckpoint(`${TINY}vae_f16`);
  assert.deepEqual([...expected.configs.keys()], ["vae"]);
  const vae = requireComponent(expected, "vae");
  for (const prefix of ["", "first_stage_model.", "vae."]) {
    const path = folder.at("vae.safetensors");
    await writeSafetensors(path, await originals(vae, "vae", prefix));
    await using single = await openCheckpoint(path);
    assert.equal(single.kind, "component");
    await assertSameWeights(requireComponent(single, "vae"), vae, prefix);
  }
  await using beside = await openCheckpoint(`${TINY}vae_f16/${WEIGHTS}`);
  assert.deepEqual([...beside.configs.keys()], ["vae"], "the config next to a component's file");
  await assertSameWeights(requireComponent(beside, "vae"), vae, "diffusers' names");

  // as diffusers before 0.13 wrote it
  using file = await SafetensorsFile.open(`${TINY}vae_f16/${WEIGHTS}`);
  const old = { to_q: "query", to_k: "key", to_v: "value", "to_out.0": "proj_attn" };
  const tensors = await Promise.all(
    file.tensors.values().toArray().map(async (entry) => {
      let name = entry.name;
      for (const [now, then] of Object.entries(old)) name = name.replace(`.${now}.`, `.${then}.`);
      return { ...entry, name, data: await file.read(entry.name) };
    }),
  );
  await writeSafetensors(folder.at("old.safetensors"), tensors);
  await using renamed = await openCheckpoint(folder.at("old.safetensors"));
  await assertSameWeights(requireComponent(renamed, "vae"), vae, "old names");
});

Deno.test("openCheckpoint reads a UNet alone, with and without prefix and in either naming", async () => {
  await using folder = await temporaryFolder();
  for (const model of ["sdxl", "lcm", "pruned"]) {
    await using expected = await openCheckpoint(`${TINY}${model}/unet`);
    const unet = requireComponent(expected, "unet");
    for (const prefix of ["", "model.diffusion_model."]) {
      const path = folder.at("unet.safetensors");
      await writeSafetensors(path, await originals(unet, "unet", prefix));
      await using single = await openCheckpoint(path);
      await assertSameWeights(requireComponent(single, "unet"), unet, `${model} ${prefix}`);
    }
  }
});

/** Both halves of a small TAESD as the original files name them. */
const TAESD_ENCODER = { "0.weight": [8, 3, 3, 3], "0.bias": [8], "1.conv.0.weight": [8, 8, 3, 3] };
const TAESD_DECODER = { "1.weight": [8, 4, 3, 3], "1.bias": [8], "3.conv.0.weight": [8, 8, 3, 3] };

Deno.test("openCheckpoint finds both halves of a TAESD from either file, from their folder and in one file", async () => {
  await using folder = await temporaryFolder();
  await writeCounting(folder.at("taesd_encoder.safetensors"), TAESD_ENCODER, "F16");
  await writeCounting(folder.at("taesd_decoder.safetensors"), TAESD_DECODER, "F16");
  const both = (prefix: (half: string) => string, shift: number) => {
    const entries = (half: string, shapes: Record<string, number[]>, by: number) =>
      Object.entries(shapes).map(([key, shape]) => {
        const name = key.replace(/^\d+/, (i) => `${prefix(half)}${Number(i) - by}`);
        return { name, shape, values: counting(shape, key.length) };
      });
    return [...entries("encoder", TAESD_ENCODER, 0), ...entries("decoder", TAESD_DECODER, shift)]
      .map(
        ({ name, shape, values }) => ({
          name,
          dtype: "F16" as const,
          shape,
          data: new Uint8Array(new Float16Array(values).buffer),
        }),
      );
  };
  await Deno.mkdir(folder.at("one"));
  await writeSafetensors(folder.at("one", "new.safetensors"), both((half) => `${half}.layers.`, 1));
  await writeSafetensors(folder.at("one", "old.safetensors"), both((half) => `${half}.`, 0));
  await Deno.mkdir(folder.at("diffusers"));
  await Deno.writeTextFile(
    folder.at("diffusers", "config.json"),
    `{"_class_name":"AutoencoderTiny"}`,
  );
  await Deno.copyFile(folder.at("one", "new.safetensors"), folder.at("diffusers", WEIGHTS));

  const paths = [
    folder.path,
    folder.at("taesd_encoder.safetensors"),
    folder.at("taesd_decoder.safetensors"),
    folder.at("one", "new.safetensors"),
    folder.at("one", "old.safetensors"),
    folder.at("diffusers"),
  ];
  await using expected = await openCheckpoint(paths[0]);
  assert.deepEqual(
    [...expected.components.values()].flatMap((weights) => [...weights.infos.keys()]).sort(),
    [
      "decoder.layers.0.bias",
      "decoder.layers.0.weight",
      "decoder.layers.2.conv.0.weight",
      "encoder.layers.0.bias",
      "encoder.layers.0.weight",
      "encoder.layers.1.conv.0.weight",
    ],
  );
  for (const path of paths) {
    await using checkpoint = await openCheckpoint(path);
    assert.deepEqual([checkpoint.kind, checkpoint.unexpected], ["component", []]);
    for (const half of ["taesd_encoder", "taesd_decoder"] as const) {
      const weights = requireComponent(checkpoint, half);
      await assertSameWeights(weights, requireComponent(expected, half), `${half} of ${path}`);
    }
  }
  await Deno.remove(folder.at("taesd_encoder.safetensors"));
  await using half = await openCheckpoint(folder.at("taesd_decoder.safetensors"));
  assert.deepEqual([...half.components.keys()], ["taesd_decoder"]);
});

/** Splits a component's weights into two shards with an index. */
async function shard(folder: string, from: string, index: string): Promise<string[]> {
  using file = await SafetensorsFile.open(`${from}/${WEIGHTS}`);
  const shards = ["x-00001-of-00002.safetensors", "x-00002-of-00002.safetensors"];
  const parts: TensorData[][] = [[], []];
  const map: Record<string, string> = {};
  let i = 0;
  for (const entry of file.tensors.values()) {
    const n = i++ % 2;
    parts[n].push({ ...entry, data: await file.read(entry.name) });
    map[entry.name] = shards[n];
  }
  await Deno.mkdir(folder, { recursive: true });
  await Promise.all(shards.map((name, n) => writeSafetensors(`${folder}/${name}`, parts[n])));
  await Deno.copyFile(`${from}/config.json`, `${folder}/config.json`);
  await Deno.writeTextFile(`${folder}/${index}`, JSON.stringify({ weight_map: map }));
  return shards;
}

Deno.test("openCheckpoint joins shards, in a folder or by their index", async () => {
  await using folder = await temporaryFolder();
  await using expected = await openCheckpoint(`${TINY}vae_f2`);
  const vae = requireComponent(expected, "vae");
  for (const index of [`${WEIGHTS}.index.json`, `${WEIGHTS}.index.fp16.json`]) {
    const at = folder.at(index);
    await shard(at, `${TINY}vae_f2`, index);
    for (const path of [at, `${at}/${index}`]) {
      await using sharded = await openCheckpoint(path);
      await assertSameWeights(requireComponent(sharded, "vae"), vae, path);
    }
  }
});

Deno.test("openCheckpoint prefers full weights, then fp16, and takes the variant that is asked for", async () => {
  await using folder = await temporaryFolder();
  await Deno.copyFile(`${TINY}vae_f2/config.json`, folder.at("config.json"));
  const kept = async (variant?: string) => {
    const options = variant === undefined ? {} : { variant };
    await using checkpoint = await openCheckpoint(folder.path, options);
    return [...requireComponent(checkpoint, "vae").infos.keys()];
  };
  const put = (name: string, mark: string) =>
    writeCounting(folder.at(name), { [`encoder.mid_block.${mark}`]: [1] });
  await put("diffusion_pytorch_model.non_ema.safetensors", "non_ema");
  assert.deepEqual(await kept(), ["encoder.mid_block.non_ema"]);
  await put("diffusion_pytorch_model.fp16.safetensors", "half");
  assert.deepEqual(await kept(), ["encoder.mid_block.half"]);
  await put(WEIGHTS, "full");
  assert.deepEqual(await kept(), ["encoder.mid_block.full"]);
  assert.deepEqual(await kept("fp16"), ["encoder.mid_block.half"]);
  assert.deepEqual(await kept("non_ema"), ["encoder.mid_block.non_ema"]);
  assert.deepEqual(await kept("bf16"), ["encoder.mid_block.full"]);
});

Deno.test("openCheckpoint keeps unknown tensors of a component apart and names the rest unexpected", async () => {
  await using folder = await temporaryFolder();
  await writeCounting(folder.at("x.safetensors"), {
    "model.diffusion_model.input_blocks.0.0.weight": [4, 4, 3, 3],
    "model.diffusion_model.input_blocks.1.0.in_layers.0.weight": [4],
    "model.diffusion_model.surprise": [2],
    "cond_stage_model.transformer.embeddings.token_embedding.weight": [9, 4],
    "depth_model.weight": [1],
    "betas": [3],
  });
  await using checkpoint = await openCheckpoint(folder.at("x.safetensors"));
  assert.deepEqual([...checkpoint.unexpected], ["depth_model.weight"]);
  assert.deepEqual([...checkpoint.ignored], ["betas"]);
  const { infos } = requireComponent(checkpoint, "unet");
  assert.equal(infos.get("unknown:surprise")?.source, "model.diffusion_model.surprise");
  assert.equal(infos.size, 3);
  const text = requireComponent(checkpoint, "text_encoder").infos;
  assert.deepEqual([...text.keys()], ["text_model.embeddings.token_embedding.weight"]);
});

Deno.test("Weights.read fills the caller's buffer, also for split and turned tensors", async () => {
  await using folder = await temporaryFolder();
  await writeCounting(folder.at("x.safetensors"), {
    "conditioner.embedders.1.model.token_embedding.weight": [3, 2],
    "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight": [6, 2],
    "conditioner.embedders.1.model.text_projection": [2, 3],
  });
  await using checkpoint = await openCheckpoint(folder.at("x.safetensors"));
  const weights = requireComponent(checkpoint, "text_encoder_2");
  const into = new Uint8Array(64);
  const read = async (name: string) => {
    const { data } = await weights.read(name, into);
    assert.equal(data.buffer, into.buffer);
    return [...new Float32Array(data.slice().buffer)];
  };
  const whole = [
    ...counting(
      [12],
      "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight".length,
    ),
  ];
  const at = "text_model.encoder.layers.0.self_attn";
  assert.deepEqual(await read(`${at}.q_proj.weight`), whole.slice(0, 4));
  assert.deepEqual(await read(`${at}.k_proj.weight`), whole.slice(4, 8));
  assert.deepEqual(await read(`${at}.v_proj.weight`), whole.slice(8));
  const [a, b, c, d, e, f] = counting([6], "conditioner.embedders.1.model.text_projection".length);
  assert.deepEqual(await read("text_projection.weight"), [a, d, b, e, c, f]);
  assert.deepEqual(weights.infos.get("text_projection.weight")?.shape, [3, 2]);
  assert.match(await failure(weights.read("none"), "FormatError"), /"none"/);
});

Deno.test("disposing components closes a shared file with the last of them", async () => {
  await using folder = await temporaryFolder();
  const path = folder.at("x.safetensors");
  await writeCounting(path, {
    "model.diffusion_model.input_blocks.0.0.weight": [1],
    "first_stage_model.encoder.conv_in.weight": [1],
  });
  await using checkpoint = await openCheckpoint(path);
  const [unet, vae] = (["unet", "vae"] as ComponentName[]).map((n) =>
    requireComponent(checkpoint, n)
  );
  await unet[Symbol.asyncDispose]();
  await unet[Symbol.asyncDispose]();
  assert.equal((await vae.read("encoder.conv_in.weight")).data.length, 4);
  await vae[Symbol.asyncDispose]();
  assert.match(await failure(vae.read("encoder.conv_in.weight"), "FormatError"), /is closed/);
});

// ---- refusals

const refused = async (path: string) => {
  const message = await failure(openCheckpoint(path), "FormatError");
  return message.replaceAll(path, basename(path));
};

Deno.test("openCheckpoint refuses folders that are none, or lack configs or weights, with the remedy", async () => {
  await using folder = await temporaryFolder();
  assert.match(
    await failure(openCheckpoint(folder.at("none")), "FileError"),
    /^Cannot open the checkpoint .*no such/,
  );
  assert.match(
    await refused(folder.path),
    /neither model_index.json nor config.json nor a \.safetensors/,
  );
  await writeCounting(folder.at("model.safetensors"), { a: [1] });
  assert.match(await refused(folder.path), /give one of its files, as .*model\.safetensors/);

  const pipeline = folder.at("pipeline");
  await Deno.mkdir(`${pipeline}/unet`, { recursive: true });
  await Deno.copyFile(`${TINY}sd1/unet/${WEIGHTS}`, `${pipeline}/unet/${WEIGHTS}`);
  assert.match(
    await refused(pipeline),
    /its folder "unet" has no config\.json; download or copy it again/,
  );
  await Deno.copyFile(`${TINY}sd1/unet/config.json`, `${pipeline}/unet/config.json`);
  {
    await using checkpoint = await openCheckpoint(pipeline);
    assert.throws(
      () => requireComponent(checkpoint, "vae"),
      /it has no autoencoder \(vae\), which is needed, only unet$/,
    );
  }
  await Deno.rename(`${pipeline}/unet/${WEIGHTS}`, `${pipeline}/unet/diffusion_pytorch_model.bin`);
  assert.match(
    await failure(openCheckpoint(pipeline), "FormatError"),
    /are a pickle \("diffusion_pytorch_model\.bin"\)/,
  );
  await Deno.remove(`${pipeline}/unet/diffusion_pytorch_model.bin`);
  assert.match(
    await failure(openCheckpoint(pipeline), "FormatError"),
    /unet": it has no \.safetensors file/,
  );
  await Deno.writeTextFile(`${pipeline}/unet/config.json`, "{");
  assert.match(
    await failure(openCheckpoint(pipeline), "FormatError"),
    /config\.json": it is not JSON/,
  );
  await Deno.writeTextFile(
    `${pipeline}/unet/config.json`,
    `{"_class_name":"UNet3DConditionModel"}`,
  );
  assert.match(
    await refused(pipeline),
    /its unet is a UNet3DConditionModel; a Stable Diffusion 1, 2 or XL/,
  );
});

Deno.test("openCheckpoint refuses other pipelines and other kinds of model by name", async () => {
  await using folder = await temporaryFolder();
  const index = {
    _class_name: "FluxPipeline",
    transformer: ["diffusers", "FluxTransformer2DModel"],
  };
  await Deno.writeTextFile(folder.at("model_index.json"), JSON.stringify(index));
  assert.match(await refused(folder.path), /it is a FluxPipeline around FluxTransformer2DModel/);
  const path = folder.at("x.safetensors");
  await writeCounting(path, { "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": [1] });
  assert.match(
    await refused(path),
    /it is a LoRA, which is an addition to a model; a Stable Diffusion/,
  );
  await writeCounting(path, { "some.thing": [1], "else": [2] });
  assert.match(await refused(path), /it has 2 tensors \("\S+" …\) of no known architecture/);
  await writeCounting(path, { betas: [3] });
  assert.match(await refused(path), /holds no weights/);
});

Deno.test("openCheckpoint refuses misshapen fused tensors and two tensors of one name", async () => {
  await using folder = await temporaryFolder();
  const path = folder.at("x.safetensors");
  const prefix = "cond_stage_model.model.";
  await writeCounting(path, { [`${prefix}transformer.resblocks.0.attn.in_proj_weight`]: [4, 2] });
  assert.match(
    await refused(path),
    /in_proj_weight" has shape \[4, 2\], it needs a multiple of three rows/,
  );
  await writeCounting(path, {
    [`${prefix}text_projection`]: [4],
    [`${prefix}transformer.resblocks.0.ln_1.bias`]: [1],
  });
  assert.match(await refused(path), /text_projection" has shape \[4\], it needs two dimensions/);
  await writeCounting(path, { "first_stage_model.encoder.mid.attn_1.q.weight": [4, 4, 3, 3] });
  assert.match(await refused(path), /it needs \[o, i\] or \[o, i, 1, 1\]/);
  const twice = ["text_projection", "text_projection.weight", "transformer.resblocks.0.ln_1.bias"];
  await writeCounting(path, Object.fromEntries(twice.map((key) => [prefix + key, [2, 2]])));
  assert.match(await refused(path), /both are "text_projection.weight"/);
});

Deno.test("openCheckpoint refuses shard indexes that lie", async () => {
  await using folder = await temporaryFolder();
  const name = `${WEIGHTS}.index.json`;
  const [first] = await shard(folder.path, `${TINY}vae_f2`, name);
  const good = JSON.parse(await Deno.readTextFile(folder.at(name)));
  const write = (map: unknown) =>
    Deno.writeTextFile(folder.at(name), JSON.stringify({ weight_map: map }));
  const message = () => failure(openCheckpoint(folder.path), "FormatError");
  await write({ ...good.weight_map, "not.there": first });
  assert.match(
    await message(),
    /promises "not\.there" in "x-00001-of-00002\.safetensors", which has no such/,
  );
  for (
    const place of [
      "../x.safetensors",
      "/etc/passwd",
      "a\\b.safetensors",
      ".safetensors/..",
      5,
      null,
    ]
  ) {
    await write({ "a": place });
    assert.match(await message(), /into .*, no \.safetensors file next to it/);
  }
  await write([]);
  assert.match(await message(), /has no weight_map/);
  await write(good.weight_map);
  await Deno.copyFile(folder.at(first), folder.at("copy.safetensors"));
  const [any] = Object.keys(good.weight_map);
  await write({ ...good.weight_map, [any]: "copy.safetensors" });
  assert.match(await message(), /is in ".*" and in ".*"/);
  await write(good.weight_map);
  await Deno.remove(folder.at(first));
  assert.match(await message(), /its shard "x-00001-of-00002\.safetensors" is missing/);
});

Deno.test("openCheckpoint closes what it had opened when it fails", async () => {
  await using folder = await temporaryFolder();
  const count = async () => (await Array.fromAsync(Deno.readDir("/proc/self/fd"))).length;
  const before = await count();
  await writeCounting(folder.at("x.safetensors"), { "some.thing": [1] });
  for (let i = 0; i < 20; i++) await refused(folder.at("x.safetensors"));
  assert.ok(await count() < before + 10);
});
