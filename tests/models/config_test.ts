/** Configs from JSON and from shapes, against published numbers and key lists; what is refused. */

import assert from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import { sameShape, type Shape, show, sizeOf } from "../../lib/base/shape.ts";
import { Graph } from "../../lib/graph/tensor.ts";
import { type ClipConfig, clipInputs, clipText } from "../../lib/models/clip.ts";
import { checkPipeline } from "../../lib/models/config_fields.ts";
import {
  clipConfigFromJson,
  unetConfigFromJson,
  vaeConfigFromJson,
} from "../../lib/models/config_from_json.ts";
import {
  checkNames,
  clipConfigFromShapes,
  unetConfigFromShapes,
  vaeConfigFromShapes,
} from "../../lib/models/config_from_shapes.ts";
import {
  clipOutput,
  defaultsOf,
  FAMILIES,
  type Family,
  familyOf,
  predictionOf,
  variantOf,
} from "../../lib/models/family.ts";
import { unet, type UnetConfig, unetInputs } from "../../lib/models/unet.ts";
import { decode, encode, type VaeConfig } from "../../lib/models/vae.ts";
import { checkpointShape, type Manifest, manifestOf, paramsOf } from "../../lib/nn/params.ts";
import { readTiny } from "./tiny.ts";

type Json = Record<string, Record<string, unknown>>;

/** fixtures/configs/<name>.json: the published config files of one repository, by component. */
async function published(name: string): Promise<Json> {
  const path = new URL(`../../fixtures/configs/${name}.json`, import.meta.url);
  return JSON.parse(await Deno.readTextFile(path));
}

/** fixtures/keys/<name>.json.gz: what fixtures/make/keys.py wrote. */
async function keysOf(
  name: string,
): Promise<{ diffusers: Record<string, Record<string, number[]>> }> {
  const path = new URL(`../../fixtures/keys/${name}.json.gz`, import.meta.url);
  const bytes = new Blob([await Deno.readFile(path)]).stream();
  return JSON.parse(await new Response(bytes.pipeThrough(new DecompressionStream("gzip"))).text());
}

function unetManifest(config: UnetConfig): Manifest {
  const graph = new Graph();
  unet(
    paramsOf(graph),
    config,
    unetInputs(graph, config, { batch: 2, height: 64, width: 64, tokens: 77 }),
  );
  return manifestOf(graph);
}

function vaeManifest(config: VaeConfig): Manifest {
  const graph = new Graph();
  decode(paramsOf(graph), config, graph.input("z", [1, 8, 8, config.latentChannels]));
  encode(paramsOf(graph), config, graph.input("picture", [1, 64, 64, config.inChannels]));
  return manifestOf(graph);
}

function clipManifest(config: ClipConfig): Manifest {
  const graph = new Graph();
  const { tokens } = clipInputs(graph, 2, 77);
  clipText(paramsOf(graph), config, tokens, { skip: 0, finalNorm: true });
  return manifestOf(graph);
}

const parameters = (manifest: Manifest) =>
  manifest.values().reduce((sum, { shape }) => sum + sizeOf(shape), 0);

function shapesOf(manifest: Manifest): Map<string, Shape> {
  return new Map(manifest.values().map((entry) => [entry.name, checkpointShape(entry)]));
}

// ---- against published models

Deno.test("configs of published repositories have as many parameters as torch counts on its meta device", async () => {
  const sd1 = await published("sd15");
  const sd2 = await published("sd2_inpainting");
  const sdxl = await published("sdxl");
  assert.equal(parameters(unetManifest(unetConfigFromJson(sd1.unet))), 859_520_964);
  assert.equal(parameters(vaeManifest(vaeConfigFromJson(sd1.vae))), 83_653_863);
  assert.equal(parameters(clipManifest(clipConfigFromJson(sd1.text_encoder))), 123_060_480);
  assert.equal(parameters(unetManifest(unetConfigFromJson(sd2.unet))), 865_925_124);
  assert.equal(
    parameters(unetManifest(unetConfigFromJson({ ...sd2.unet, in_channels: 4 }))),
    865_910_724,
  );
  assert.equal(parameters(clipManifest(clipConfigFromJson(sd2.text_encoder))), 340_387_840);
  assert.equal(parameters(unetManifest(unetConfigFromJson(sdxl.unet))), 2_567_463_684);
  assert.equal(parameters(vaeManifest(vaeConfigFromJson(sdxl.vae))), 83_653_863);
  assert.equal(parameters(clipManifest(clipConfigFromJson(sdxl.text_encoder_2))), 694_659_840);
});

const REAL: readonly (readonly [keys: string, config: string, Family])[] = [
  ["sd15", "sd15", "sd1"],
  ["sd21", "sd2_inpainting", "sd2"],
  ["sdxl", "sdxl", "sdxl"],
];

function assertSameKeys(manifest: Manifest, keys: Record<string, number[]>, what: string): void {
  const shapes = shapesOf(manifest);
  for (const [name, shape] of Object.entries(keys)) {
    const built = shapes.get(name);
    assert.ok(built, `${what}: the model has no ${name}`);
    assert.ok(
      sameShape(built, shape),
      `${what}: ${name} is ${show(built)}, expected ${show(shape)}`,
    );
  }
  for (const name of shapes.keys()) {
    assert.ok(name in keys, `${what}: the checkpoint has no ${name}`);
  }
}

for (const [keys, config, family] of REAL) {
  Deno.test(`manifests equal the key lists of ${keys} in both directions`, async () => {
    const json = await published(config);
    const { diffusers } = await keysOf(keys);
    const unetJson = { ...json.unet, in_channels: 4 };
    assertSameKeys(unetManifest(unetConfigFromJson(unetJson)), diffusers.unet, "unet");
    assertSameKeys(vaeManifest(vaeConfigFromJson(json.vae)), diffusers.vae, "vae");
    for (const name of ["text_encoder", "text_encoder_2"].filter((name) => name in diffusers)) {
      assertSameKeys(clipManifest(clipConfigFromJson(json[name])), diffusers[name], name);
    }
  });

  Deno.test(`configs derived from the shapes of ${keys} equal those of its config files`, async () => {
    const json = await published(config);
    const { diffusers } = await keysOf(keys);
    const shapes = (name: string) => new Map(Object.entries(diffusers[name]));
    const derived = unetConfigFromShapes(shapes("unet"));
    assert.equal(familyOf(derived), family);
    assert.deepEqual(derived, {
      ...unetConfigFromJson({ ...json.unet, in_channels: 4 }),
      sampleSize: undefined,
    });
    const { latentScale } = FAMILIES[family];
    assert.deepEqual(
      vaeConfigFromShapes(shapes("vae"), { scalingFactor: latentScale }),
      vaeConfigFromJson(json.vae),
    );
    for (const name of ["text_encoder", "text_encoder_2"].filter((name) => name in diffusers)) {
      const eosTokenId = 49407; // the configs have the old mistake
      assert.deepEqual(
        clipConfigFromShapes(shapes(name)),
        { ...clipConfigFromJson(json[name]), eosTokenId },
      );
    }
  });
}

// ---- tiny models

for (const family of ["sd1", "sd2", "sdxl", "lcm", "pruned"]) {
  Deno.test(`unetConfigFromShapes finds the tiny ${family} UNet, told its heads and groups`, async () => {
    const { config, shapes } = await readTiny(
      `tiny/${family}${family === "pruned" ? "/unet" : ""}`,
      "unet",
    );
    const expected = unetConfigFromJson(config);
    const heads = expected.down.map((level) => level.heads);
    const hints = { heads, groups: expected.groups, timeWidth: 8 };
    assert.deepEqual(unetConfigFromShapes(shapes, hints), { ...expected, sampleSize: undefined });
    assert.deepEqual(
      shapesOf(unetManifest(expected)).keys().toArray().sort(),
      [...shapes.keys()].sort(),
    );
  });
}

Deno.test("vaeConfigFromShapes finds every tiny autoencoder, and each half of one alone", async () => {
  for (
    const path of ["tiny/sd1", "tiny/sd2", "tiny/sdxl", "tiny/lcm", "tiny/vae_f2", "tiny/vae_f16"]
  ) {
    const { config, shapes } = await readTiny(path, "vae");
    const expected = vaeConfigFromJson(config);
    const { groups, scalingFactor } = expected;
    assert.deepEqual(vaeConfigFromShapes(shapes, { groups, scalingFactor }), expected);
    for (const half of ["encoder.", "decoder."]) {
      const part = new Map([...shapes].filter(([name]) => name.startsWith(half)));
      const found = vaeConfigFromShapes(part, { groups, scalingFactor });
      assert.deepEqual(
        found,
        { ...expected, quantConv: false, postQuantConv: false },
        `${path} ${half}`,
      );
    }
  }
});

Deno.test("clipConfigFromShapes finds the tiny text encoders of single files", async () => {
  const hints = { heads: [2], activation: "gelu" } as const;
  const folder = clipConfigFromJson((await readTiny("tiny/sd2", "text_encoder")).config);
  const single = clipConfigFromShapes(
    (await readTiny("tiny/sd2.safetensors", "text_encoder")).shapes,
    hints,
  );
  assert.deepEqual(single, {
    ...folder,
    layers: folder.layers + 1,
    projection: 32,
    eosTokenId: 993,
  });
  // The single file's last layer is not used: both give the same states.
  assert.deepEqual(clipOutput("sd2", single, 1), { skip: 1, finalNorm: true });
  assert.deepEqual(clipOutput("sd2", folder, 1), { skip: 0, finalNorm: true });
});

// ---- families

Deno.test("familyOf and variantOf tell the tiny models apart", async () => {
  const expected = { sd1: "sd1 base", sd2: "sd2 base", sdxl: "sdxl base", lcm: "sd1 lcm" };
  for (const [name, what] of Object.entries(expected)) {
    const { config } = await readTiny(`tiny/${name}`, "unet");
    const path = new URL(
      `../../fixtures/tiny/${name}/scheduler/scheduler_config.json`,
      import.meta.url,
    );
    const scheduler: unknown = JSON.parse(await Deno.readTextFile(path));
    const parsed = unetConfigFromJson(config);
    assert.equal(`${familyOf(parsed)} ${variantOf(parsed, scheduler)}`, what);
  }
  const { config } = await readTiny("tiny/sdxl", "unet");
  const turbo = { _class_name: "EulerAncestralDiscreteScheduler", timestep_spacing: "trailing" };
  assert.equal(variantOf(unetConfigFromJson(config), turbo), "turbo");
});

Deno.test("defaultsOf gives Turbo and LCM few steps", () => {
  assert.deepEqual(defaultsOf("sdxl", "turbo"), {
    steps: 1,
    cfgScale: 1,
    sampler: "euler_a",
    schedule: "trailing",
  });
  assert.equal(defaultsOf("sd1", "lcm").steps, 4);
  assert.equal(defaultsOf("sd1", "base").steps, 20);
});

Deno.test("clipOutput counts clip skip from each family's own layer", () => {
  const config = { layers: 12, projection: undefined } as ClipConfig;
  assert.deepEqual(clipOutput("sd1", config, 1), { skip: 0, finalNorm: true });
  assert.deepEqual(clipOutput("sd1", config, 2), { skip: 1, finalNorm: true });
  assert.deepEqual(clipOutput("sdxl", config, 1), { skip: 1, finalNorm: false });
  assert.deepEqual(clipOutput("sd2", { ...config, layers: 23 }, 1), { skip: 0, finalNorm: true });
  assert.deepEqual(clipOutput("sd2", { ...config, layers: 24 }, 2), { skip: 2, finalNorm: true });
});

Deno.test("predictionOf believes metadata, then v_pred, then the spread of SD 2's bias", () => {
  const evidence = {
    names: new Set<string>(),
    metadata: new Map<string, string>(),
    inChannels: 4,
  };
  const wide = [0.2, -0.2, 0.2, -0.2];
  const narrow = [0.01, -0.01, 0.01, -0.01];
  const of = (family: Family, more: Partial<Parameters<typeof predictionOf>[1]>) =>
    predictionOf(family, { ...evidence, ...more }).prediction;
  assert.equal(of("sd1", {}), "epsilon");
  assert.equal(of("sdxl", { names: new Set(["v_pred"]) }), "v_prediction");
  assert.equal(of("sd2", {}), "v_prediction");
  assert.equal(of("sd2", { bias: wide }), "v_prediction");
  assert.equal(of("sd2", { bias: narrow }), "epsilon");
  assert.equal(of("sd2", { bias: wide, inChannels: 9 }), "epsilon");
  assert.equal(
    of("sd2", { bias: wide, metadata: new Map([["modelspec.predict_key", "epsilon"]]) }),
    "epsilon",
  );
  assert.ok(predictionOf("sdxl", { ...evidence, names: new Set(["ztsnr"]) }).rescaleBetasZeroSnr);
});

Deno.test("FAMILIES hold the schedules of the published scheduler configs", async () => {
  for (const [name, family] of [["sd15", "sd1"], ["sdxl", "sdxl"]] as const) {
    const { scheduler } = await published(name);
    for (const [key, value] of Object.entries(FAMILIES[family].scheduler)) {
      // SD 1's file is older than these two fields; they are diffusers' defaults for its class.
      if (!(key in scheduler) && /^(prediction_type|timestep_spacing)$/.test(key)) continue;
      assert.equal(scheduler[key], value, `${family} ${key}`);
    }
  }
});

// ---- refusals

function refuses(build: () => unknown, ...words: RegExp[]): void {
  assert.throws(build, (error: Error) => {
    assert.ok(error instanceof FormatError, `${error}`);
    for (const word of words) assert.match(error.message, word);
    assert.ok(!error.message.includes("\n"));
    return true;
  });
}

Deno.test("configs of other architectures are refused by name", async () => {
  const { unet: base, vae, text_encoder: text } = await published("sd15");
  const sdxl = (await published("sdxl")).unet;
  const withUnet = (more: Json[string], ...words: RegExp[]) =>
    refuses(() => unetConfigFromJson({ ...base, ...more }), /unet\/config\.json/, ...words);
  withUnet({ _class_name: "SD3Transformer2DModel" }, /Stable Diffusion 3/);
  withUnet({ _class_name: "FluxTransformer2DModel" }, /Flux/);
  withUnet({ _class_name: "ControlNetModel" }, /ControlNet/);
  withUnet({ _class_name: "UNetMotionModel" }, /AnimateDiff/);
  withUnet({ _class_name: "SomethingNew" }, /SomethingNew/);
  withUnet({ num_class_embeds: 1000 }, /class conditioning/);
  withUnet({ class_embed_type: "projection" }, /class conditioning/);
  withUnet({ only_cross_attention: [true, true, true, false] }, /self-attention/);
  withUnet({ addition_embed_type: "text" }, /added conditioning/);
  withUnet({ resnet_time_scale_shift: "scale_shift" }, /scale and shift/);
  withUnet({ attention_type: "gated" }, /GLIGEN/);
  withUnet(
    { down_block_types: ["CrossAttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"] },
    /AttnDownBlock2D/,
  );
  withUnet({ mid_block_type: "UNetMidBlock2DSimpleCrossAttn" }, /mid_block_type/);
  withUnet({ act_fn: "mish" }, /act_fn.*mish/);
  refuses(
    () =>
      unetConfigFromJson({
        ...sdxl,
        cross_attention_dim: 1280,
        projection_class_embeddings_input_dim: 2560,
      }),
    /refiner/,
  );
  refuses(() => vaeConfigFromJson({ ...vae, _class_name: "AutoencoderDC" }), /a deep compression/);
  refuses(
    () => vaeConfigFromJson({ ...vae, _class_name: "VQModel", vq_embed_dim: 7 }),
    /as many as latent_channels/,
  );
  refuses(
    () => vaeConfigFromJson({ ...vae, down_block_types: ["AttnDownEncoderBlock2D"] }),
    /AttnDownEncoderBlock2D/,
  );
  refuses(() => vaeConfigFromJson({ ...vae, latents_mean: [0, 0, 0, 0] }), /latent channel/);
  refuses(() => clipConfigFromJson({ ...text, architectures: ["T5EncoderModel"] }), /T5/);
  refuses(
    () => checkPipeline({ transformer: ["diffusers", "SD3Transformer2DModel"] }),
    /transformer/,
  );
  refuses(() => checkPipeline({ motion_adapter: ["diffusers", "MotionAdapter"] }), /AnimateDiff/);
  checkPipeline((await published("sd15")).model_index);
  checkPipeline({ image_encoder: [null, null], controlnet: [null, null] });
});

Deno.test("malformed configs are refused with the field, what it is, and what was needed", async () => {
  const { unet: base, vae, text_encoder: text } = await published("sd15");
  refuses(() => unetConfigFromJson([]), /not a JSON object/);
  refuses(
    () => unetConfigFromJson({ ...base, in_channels: "4" }),
    /in_channels.*"4".*whole number/,
  );
  refuses(() => unetConfigFromJson({ ...base, block_out_channels: [] }), /block_out_channels/);
  refuses(() => unetConfigFromJson({ ...base, block_out_channels: [320] }), /levels, which are 1/);
  refuses(() => unetConfigFromJson({ ...base, layers_per_block: [1, 2] }), /layers_per_block/);
  refuses(() => unetConfigFromJson({ ...base, attention_head_dim: 7 }), /attention_head_dim.*320/);
  refuses(() => unetConfigFromJson({ ...base, norm_num_groups: 33 }), /norm_num_groups/);
  refuses(() => unetConfigFromJson({ ...base, conv_in_kernel: 2 }), /conv_in_kernel.*odd/);
  refuses(() => vaeConfigFromJson({ ...vae, block_out_channels: 128 }), /block_out_channels/);
  refuses(() => clipConfigFromJson({ ...text, hidden_act: "relu6" }), /hidden_act.*quick_gelu/);
  refuses(() => clipConfigFromJson({ ...text, hidden_size: undefined }), /hidden_size.*missing/);
  refuses(() => clipConfigFromJson({ ...text, num_attention_heads: 7 }), /num_attention_heads/);
});

Deno.test("unetConfigFromJson reads pruned forms: lists of resnets, nested depths, a small middle block, none", async () => {
  const { unet: sdxl } = await published("sdxl");
  const small = unetConfigFromJson({
    ...sdxl,
    layers_per_block: [1, 2, 1],
    transformer_layers_per_block: [0, [1, 2], 3],
    reverse_transformer_layers_per_block: [[3, 2], [2, 1, 1], 1],
    mid_block_type: "UNetMidBlock2D",
  });
  assert.deepEqual(small.down.map((level) => level.transformers), [[undefined], [1, 2], [3]]);
  assert.deepEqual(small.up.map((level) => level.transformers), [[3, 2], [2, 1, 1], [
    undefined,
    undefined,
  ]]);
  assert.deepEqual(small.mid, { heads: 20, transformer: undefined });
  assert.ok(unetManifest(small).has("mid_block.resnets.0.conv1.weight"));
  assert.equal(unetConfigFromJson({ ...sdxl, mid_block_type: null }).mid, undefined);
  refuses(
    () => unetConfigFromJson({ ...sdxl, transformer_layers_per_block: [0, [1, 2], 3] }),
    /reverse_transformer_layers_per_block/,
  );
});

Deno.test("names of tensors give other architectures away", async () => {
  const cases: Record<string, RegExp> = {
    "unknown:model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": /Stable Diffusion 3/,
    "double_blocks.0.img_attn.qkv.weight": /Flux/,
    "down_blocks.0.motion_modules.0.norm.weight": /AnimateDiff/,
    "controlnet_cond_embedding.conv_in.weight": /ControlNet/,
    "class_embedding.linear_1.weight": /class conditioning/,
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": /LoRA/,
  };
  for (const [name, what] of Object.entries(cases)) {
    refuses(() => checkNames([name], "x.safetensors"), what);
  }
  const { diffusers } = await keysOf("sdxl");
  for (const names of Object.values(diffusers)) checkNames(Object.keys(names), "sdxl");
});

Deno.test("shapes that are no UNet are refused with what is missing", async () => {
  const { shapes } = await readTiny("tiny/sd1", "unet");
  refuses(() => unetConfigFromShapes(new Map()), /without cross-attention/);
  const partial = new Map([...shapes].filter(([name]) => name !== "conv_in.weight"));
  refuses(() => unetConfigFromShapes(partial), /"conv_in\.weight" is missing/);
  refuses(() => vaeConfigFromShapes(new Map(), { scalingFactor: 1 }), /missing/);
  refuses(() => clipConfigFromShapes(new Map()), /token_embedding\.weight" is missing/);
});
