import { deepEqual, equal, match, ok } from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import { writeComfyGraph } from "../../lib/formats/comfyui.ts";
import { readExif, writeExif } from "../../lib/formats/exif.ts";
import { encodeJpeg } from "../../lib/formats/jpeg.ts";
import { encodePng, type Text } from "../../lib/formats/png.ts";
import type { Remembered } from "../../lib/formats/recipe.ts";
import { readRecipe, readTexts, recipeIn } from "../../lib/formats/remember.ts";
import { failure, pick, seeded } from "./made.ts";

const GOLDENS = new URL("../../fixtures/goldens/metadata/", import.meta.url);
const PIXEL = { width: 1, height: 1, channels: 3 as const, data: new Uint8Array(3) };

/** What texts under these keys say. */
function said(texts: Readonly<Record<string, unknown>>): Remembered {
  const found = recipeIn(
    Object.entries(texts).map(([key, value]): Text => [
      key,
      typeof value === "string" ? value : JSON.stringify(value),
    ]),
  );
  ok(found, "nobody understood it");
  return found;
}

Deno.test("readTexts gives back what Pillow wrote into PNG, JPEG and WebP files", async () => {
  const expected: Record<string, Text[]> = JSON.parse(
    await Deno.readTextFile(new URL("expected.json", GOLDENS)),
  );
  const sorted = (texts: readonly Text[]) => texts.map(([key, value]) => `${key}\0${value}`).sort();
  for (const [name, texts] of Object.entries(expected)) {
    const read = await readTexts(await Deno.readFile(new URL(name, GOLDENS)));
    deepEqual(sorted(read), sorted(texts), name);
  }
});

Deno.test("readTexts takes tEXt for UTF-8 where it is that, and tells Latin-1 from it", async () => {
  const texts: Text[] = [["a", "Ã©"], ["b", "é"], ["c", "Ã© 狐"], ["d", "plain"]];
  deepEqual(await readTexts(await encodePng(PIXEL, { text: texts })), texts);
});

Deno.test("readRecipe understands AUTOMATIC1111, old spellings and what cannot be matched", () => {
  const text = `a (red:1.2) fox <lora:snow:0.8>, "quoted", née 狐
second line
Negative prompt: blurry, (bad:1.3) <lora:bad:1>
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 965400086, Size: 512x768, Model hash: 45dee52b, ` +
    `Model: "a, b", VAE: vae-ft.safetensors, Denoising strength: 0.7, Clip skip: 2, ENSD: 31337, RNG: NV, ` +
    `Hires upscale: 2, Eta: 0.5, Version: v1.10.1`;
  deepEqual(said({ parameters: text }), {
    tool: "a1111",
    recipe: {
      prompt: 'a (red:1.2) fox, "quoted", née 狐\nsecond line',
      negativePrompt: "blurry, (bad:1.3)",
      steps: 20,
      sampler: "DPM++ 2M Karras",
      cfgScale: 7.5,
      seed: 965400086,
      width: 512,
      height: 768,
      clipSkip: 2,
      eta: 0.5,
      rng: "cuda",
    },
    files: { model: "a, b", vae: "vae-ft.safetensors" },
    modelHash: "45dee52b",
    networks: ["<lora:snow:0.8>"],
    unmatched: ["Denoising strength: 0.7", "ENSD: 31337", "Hires upscale: 2", "<lora:bad:1>"],
  });
  equal(said({ UserComment: "x\nSteps: 1, Seed: 2, RNG: CPU" }).recipe.rng, "cpu");
  equal(said({ parameters: "x\nSteps: 1, Seed: 2, Emphasis: None" }).recipe.weighting, "none");
  equal(
    said({ parameters: "Steps: 1, Seed: 2, Schedule type: Automatic" }).recipe.schedule,
    undefined,
  );
  equal(said({ parameters: "Steps: 1, Seed: 2, Schedule type: Karras" }).recipe.schedule, "Karras");
  const odd = said({ parameters: "Steps: x, Seed: -1, Size: big, CFG scale: constructor" });
  deepEqual(odd.unmatched, ["Steps: x", "Size: big", "CFG scale: constructor", "the seed"]);
});

Deno.test("readRecipe understands stable-diffusion.cpp, with and without its JSON", () => {
  const line =
    "Steps: 12, CFG scale: 7.000000, Guidance: 3.500000, Eta: 0.000000, Seed: 42, Size: 512x512, " +
    "Model: sd-v1-4.ckpt, RNG: cuda, Sampler RNG: cpu, Sampler: euler_a discrete, Version: stable-diffusion.cpp";
  const plain = said({ parameters: `a cat, "née"\nNegative prompt: dog\n${line}` });
  const recipe = {
    prompt: 'a cat, "née"',
    negativePrompt: "dog",
    steps: 12,
    cfgScale: 7,
    seed: 42,
    width: 512,
    height: 512,
    rng: "cuda" as const,
    samplerRng: "cpu" as const,
    sampler: "euler_a",
    schedule: "discrete",
  };
  deepEqual(plain, { tool: "sdcpp", recipe, files: { model: "sd-v1-4.ckpt" }, unmatched: [] });
  const json = {
    schema: "sdcpp.image.params/v1",
    mode: "img_gen",
    seed: 42,
    prompt: { positive: "a cat,\n狐 <lora:x:1>", negative: "" },
    sampling: { steps: 12, method: "dpm++2m", scheduler: "karras", guidance: { txt_cfg: 6.5 } },
    rng: "cuda",
    loras: [{ name: "x.safetensors", multiplier: 1 }],
  };
  const full = said({
    parameters: `a cat, 狐 <lora:x:1>\n${line}, SDCPP: ${JSON.stringify(json)}`,
  });
  deepEqual(full.recipe, {
    ...recipe,
    prompt: "a cat,\n狐",
    negativePrompt: "",
    cfgScale: 6.5,
    sampler: "dpm++2m",
    schedule: "karras",
  });
  deepEqual([full.networks, full.unmatched], [["<lora:x:1>"], []]);
  const xmp = `<x><sdcpp:parameters>a &lt;b&gt;\n${line}</sdcpp:parameters></x>`;
  equal(said({ XMP: xmp }).recipe.prompt, "a <b>");
});

/** The graph that ComfyUI starts with. */
const GRAPH = {
  "3": {
    inputs: {
      seed: 156680208700286,
      steps: 20,
      cfg: 8,
      sampler_name: "dpmpp_2m",
      scheduler: "karras",
      denoise: 1,
      model: ["4", 0],
      positive: ["6", 0],
      negative: ["7", 0],
      latent_image: ["5", 0],
    },
    class_type: "KSampler",
  },
  "4": { inputs: { ckpt_name: "sub/v1-5.safetensors" }, class_type: "CheckpointLoaderSimple" },
  "5": { inputs: { width: 512, height: 768, batch_size: 1 }, class_type: "EmptyLatentImage" },
  "6": {
    inputs: { text: 'a "fox", née 狐\n(red:1.2)', clip: ["4", 1] },
    class_type: "CLIPTextEncode",
  },
  "7": { inputs: { text: "blurry", clip: ["4", 1] }, class_type: "CLIPTextEncode" },
  "8": { inputs: { samples: ["3", 0], vae: ["4", 2] }, class_type: "VAEDecode" },
  "9": { inputs: { filename_prefix: "ComfyUI", images: ["8", 0] }, class_type: "SaveImage" },
};

Deno.test("readRecipe follows the links of a plain ComfyUI graph", () => {
  const { tool, recipe, files, unmatched } = said({ prompt: GRAPH, workflow: "{}" });
  deepEqual([tool, files.model, unmatched], ["comfyui", "v1-5.safetensors", []]);
  deepEqual(recipe, {
    prompt: 'a "fox", née 狐\n(red:1.2)',
    negativePrompt: "blurry",
    width: 512,
    height: 768,
    batchCount: 1,
    steps: 20,
    cfgScale: 8,
    sampler: "dpmpp_2m",
    schedule: "karras",
    seed: 156680208700286 % 2 ** 32, // torch's CPU generator takes 32 bits
  });
  const webp = said({ Model: `prompt:${JSON.stringify(GRAPH)}` });
  deepEqual(webp.recipe, recipe);
});

Deno.test("readRecipe follows a ComfyUI graph through other nodes and names those that it cannot", () => {
  const graph = {
    ...GRAPH,
    "3": {
      class_type: "KSamplerAdvanced",
      inputs: {
        ...GRAPH[3].inputs,
        noise_seed: ["20", 0],
        seed: undefined,
        model: ["11", 0],
        positive: ["12", 0],
        steps: 20,
        start_at_step: 0,
        end_at_step: 10000,
      },
    },
    "6": { class_type: "CLIPTextEncode", inputs: { text: ["21", 0], clip: ["13", 0] } },
    "8": { class_type: "VAEDecode", inputs: { samples: ["3", 0], vae: ["14", 0] } },
    "10": {
      class_type: "LoraLoader",
      inputs: {
        ...{ lora_name: "snow/x.safetensors", strength_model: 0.8, strength_clip: 0.5 },
        ...{ model: ["15", 0], clip: ["4", 1] },
      },
    },
    "11": { class_type: "RescaleCFG", inputs: { multiplier: 0.7, model: ["10", 0] } },
    "12": { class_type: "ControlNetApply", inputs: { conditioning: ["6", 0], strength: 1 } },
    "13": { class_type: "CLIPSetLastLayer", inputs: { stop_at_clip_layer: -2, clip: ["10", 1] } },
    "14": { class_type: "VAELoader", inputs: { vae_name: "mse.safetensors" } },
    "15": {
      class_type: "LoraLoaderModelOnly",
      inputs: { lora_name: "y.safetensors", strength_model: 1, model: ["4", 0] },
    },
    "20": { class_type: "PrimitiveInt", inputs: { value: 7 } },
    "21": { class_type: "PrimitiveString", inputs: { value: "a linked fox" } },
  };
  const { recipe, files, networks, unmatched } = said({ prompt: graph });
  deepEqual([recipe.seed, recipe.clipSkip, recipe.guidanceRescale, recipe.prompt], [
    7,
    2,
    0.7,
    "a linked fox",
  ]);
  equal(files.vae, "mse.safetensors");
  deepEqual(networks, ["<lora:x:0.5:0.8>", "<lora:y:0:1>"]);
  deepEqual(unmatched, ["ControlNetApply (node 12)"]);
});

Deno.test("readRecipe takes the first of several passes of a ComfyUI graph", () => {
  const graph = {
    ...GRAPH,
    "8": { class_type: "VAEDecode", inputs: { samples: ["16", 0], vae: ["4", 2] } },
    "15": { class_type: "LatentUpscale", inputs: { samples: ["3", 0], width: 1024 } },
    "16": {
      class_type: "KSampler",
      inputs: { ...GRAPH[3].inputs, seed: 1, steps: 9, denoise: 0.5, latent_image: ["15", 0] },
    },
  };
  const { recipe, unmatched } = said({ prompt: graph });
  deepEqual([recipe.steps, recipe.width], [20, 512]);
  deepEqual([...unmatched].sort(), [
    "LatentUpscale (node 15)",
    "the second pass of KSampler (node 16)",
  ]);
});

Deno.test("readRecipe does not lose itself in graphs that are odd", () => {
  const sampler = (inputs: object) =>
    recipeIn([["prompt", JSON.stringify({ "1": { class_type: "KSampler", inputs } })]]);
  for (
    const inputs of [
      {},
      { latent_image: ["1", 0], positive: ["1", 0], model: ["1", 0], seed: ["1", 0] },
      { latent_image: ["99", 0], positive: [], negative: null, model: [[]], seed: "x" },
    ]
  ) ok(sampler(inputs)!.unmatched.length > 0);
  equal(recipeIn([["prompt", '{"1": {"class_type": "Other", "inputs": {}}}']]), undefined);
  equal(recipeIn([["prompt", "[".repeat(100_000)]]), undefined);
  const nan = JSON.stringify(GRAPH).replace(
    "{",
    '{"0": {"is_changed": [NaN], "inputs": {"t": "NaN"}},',
  );
  equal(said({ prompt: nan }).recipe.steps, 20);
});

Deno.test("writeComfyGraph writes what readRecipe reads, in ASCII", () => {
  const graph = {
    checkpoint: "v1-5.safetensors",
    prompt: 'a "fox", née 狐 \u{1f98a}\nnew line',
    negativePrompt: "",
    width: 64,
    height: 96,
    seed: 4294967295,
    steps: 7,
    cfgScale: 6.5,
    guidanceRescale: 0,
    sampler: "euler_ancestral",
    schedule: "normal",
  };
  const written = writeComfyGraph(graph);
  match(written, /^[\x20-\x7e]*$/);
  const { checkpoint, guidanceRescale: _, ...rest } = graph;
  const read = said({ prompt: written });
  deepEqual(read.recipe, { ...rest, batchCount: 1 });
  deepEqual([read.files.model, read.unmatched], [checkpoint, []]);
  const more = { ...graph, vae: "mse.safetensors", guidanceRescale: 0.7, clipLayer: 2 };
  const all = said({ prompt: writeComfyGraph(more) });
  deepEqual([all.files.vae, all.recipe.guidanceRescale, all.recipe.clipSkip], [
    "mse.safetensors",
    0.7,
    2,
  ]);
  deepEqual(all.unmatched, []);
  const start = { image: "fox.png", strength: 0.6 };
  const changed = said({ prompt: writeComfyGraph({ ...more, start }) });
  deepEqual([changed.files.image, changed.recipe.sees, changed.recipe.strength], [
    "fox.png",
    "start",
    0.6,
  ]);
  deepEqual([changed.recipe.width, changed.recipe.height, changed.unmatched], [64, 96, []]);
});

Deno.test("readRecipe understands InvokeAI of three ages", () => {
  const now = said({
    invokeai_metadata: {
      generation_mode: "txt2img",
      positive_prompt: 'a "fox", née 狐',
      negative_prompt: "blurry",
      width: 512,
      height: 768,
      seed: 2718281828,
      rand_device: "cpu",
      cfg_scale: 7.5,
      cfg_rescale_multiplier: 0,
      steps: 30,
      scheduler: "dpmpp_2m_k",
      clip_skip: 1,
      model: { key: "k", hash: "blake3:aa", name: "dreamshaper", base: "sd-1", type: "main" },
      vae: null,
      loras: [],
      app_version: "5.4.2",
    },
  });
  deepEqual(now, {
    tool: "invokeai",
    recipe: {
      prompt: 'a "fox", née 狐',
      negativePrompt: "blurry",
      width: 512,
      height: 768,
      seed: 2718281828,
      rng: "cpu",
      cfgScale: 7.5,
      guidanceRescale: 0,
      steps: 30,
      sampler: "dpmpp_2m",
      schedule: "karras",
      clipSkip: 2,
    },
    files: { model: "dreamshaper" },
    unmatched: [],
  });
  const more = said({
    invokeai_metadata: {
      generation_mode: "img2img",
      positive_prompt: "a fox++",
      seed: 1,
      loras: [{ weight: 0.6 }],
      model: { model_name: "old" },
    },
  });
  equal(more.files.model, "old");
  deepEqual(more.unmatched, [
    "generation_mode: img2img",
    'loras: [{"weight":0.6}]',
    "weights in compel's language",
  ]);
  const legacy = {
    model: "stable diffusion",
    model_weights: "stable-diffusion-1.5",
    model_hash: "cc6cb27103417325ff94f52b7a5d2dde45a7515b25c255d8e396c90014281516",
    app_id: "invoke-ai/InvokeAI",
    app_version: "2.3.5",
    image: {
      prompt: [{ prompt: "a robot, reading [blurry, text]", weight: 1 }],
      steps: 50,
      cfg_scale: 7.5,
      threshold: 0,
      perlin: 0,
      height: 512,
      width: 640,
      seed: 1618033988,
      seamless: false,
      hires_fix: false,
      type: "txt2img",
      postprocessing: null,
      sampler: "k_euler_a",
      variations: [],
    },
  };
  const old = said({ "sd-metadata": legacy });
  const recipe = {
    prompt: "a robot, reading",
    negativePrompt: "blurry, text",
    width: 640,
    height: 512,
    seed: 1618033988,
    rng: "cuda" as const,
    cfgScale: 7.5,
    steps: 50,
    sampler: "k_euler_a",
  };
  deepEqual(old.recipe, recipe);
  deepEqual([old.files.model, old.modelHash, old.unmatched], [
    "stable-diffusion-1.5",
    "cc6cb27103",
    [],
  ]);
  const dream =
    '"a robot, reading [blurry, text]" -s 50 -S 1618033988 -W 640 -H 512 -C 7.5 -A k_euler_a -f 0.3';
  const oldest = said({ Dream: dream });
  deepEqual(oldest.recipe, recipe);
  deepEqual(oldest.unmatched, ["-f 0.3"]);
});

Deno.test("readRecipe understands Fooocus in both its schemes", () => {
  const json = said({
    parameters: {
      version: "Fooocus v2.5.5",
      prompt: "a fox",
      negative_prompt: "",
      full_prompt: ["cinematic still a fox, 狐"],
      full_negative_prompt: ["anime", "ugly"],
      resolution: "(1152, 896)",
      steps: 30,
      guidance_scale: 4,
      sharpness: 2,
      adm_guidance: "(1.5, 0.8, 0.3)",
      base_model: "juggernautXL",
      base_model_hash: "aeb7e9e689",
      refiner_model: "None",
      sampler: "dpmpp_2m_sde_gpu",
      scheduler: "karras",
      seed: "3867937451034410",
      vae: "Default (model)",
      loras: [["offset", 0.1, "hash"]],
    },
    fooocus_scheme: "fooocus",
  });
  deepEqual(json.recipe, {
    prompt: "cinematic still a fox, 狐",
    negativePrompt: "anime, ugly",
    width: 1152,
    height: 896,
    steps: 30,
    cfgScale: 4,
    sampler: "dpmpp_2m_sde_gpu",
    schedule: "karras",
    seed: Number(3867937451034410n % 2n ** 32n),
  });
  deepEqual([json.tool, json.files.model], ["fooocus", "juggernautXL"]);
  deepEqual(json.networks, ["<lora:offset:0.1>"]);
  deepEqual(json.unmatched, ["sharpness: 2", "adm_guidance: (1.5, 0.8, 0.3)"]);
  const text = said({
    parameters:
      "a fox\nSteps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 5, Size: 64x64, CFG scale: 4, " +
      'Sharpness: 2, ADM Guidance: "(1.5, 0.8, 0.3)", Model: x, Scheduler: karras, Version: Fooocus v2.5.5',
  });
  deepEqual([text.tool, text.recipe.rng, text.recipe.schedule], ["fooocus", "cpu", "karras"]);
  deepEqual(text.unmatched, ["Sharpness: 2", "ADM Guidance: (1.5, 0.8, 0.3)"]);
});

Deno.test("readRecipe understands kohya's scripts", () => {
  const texts = { prompt: "a fox", seed: "5", sampler: "ddim", steps: "50", scale: "7.5" };
  const { tool, recipe, unmatched } = said({
    ...texts,
    "negative-prompt": "x",
    "clip-prompt": "y",
  });
  deepEqual([tool, unmatched], ["kohya", ["clip-prompt: y"]]);
  deepEqual(recipe, {
    prompt: "a fox",
    negativePrompt: "x",
    sampler: "ddim",
    steps: 50,
    cfgScale: 7.5,
    seed: 5,
    rng: "cuda",
    weighting: "a1111",
  });
});

Deno.test("readRecipe says nothing of a picture that says nothing", async () => {
  equal(await readRecipe(await encodePng(PIXEL)), undefined);
  equal(await readRecipe(new TextEncoder().encode("GIF89a nothing")), undefined);
  equal(recipeIn([["parameters", "just words"], ["Comment", "CREATOR: gd-jpeg v1.0"]]), undefined);
});

Deno.test("encodeJpeg writes pixels with their comment, whatever its letters", async () => {
  const data = new Uint8Array(16 * 8 * 3).fill(120);
  const comment = "狐 \u{1f98a}\nSteps: 1, Seed: 2, Size: 16x8";
  const picture = { width: 16, height: 8, channels: 3 as const, data };
  const jpeg = await encodeJpeg(picture, { quality: 90, comment });
  deepEqual(await readTexts(jpeg), [["UserComment", comment]]);
  equal((await readRecipe(jpeg))?.recipe.seed, 2);
  deepEqual([...jpeg.subarray(0, 4)], [0xff, 0xd8, 0xff, 0xe0]); // JFIF stays first
  const bare = await encodeJpeg(picture, { quality: 90 });
  deepEqual(await readTexts(bare), []);
  const small = await encodeJpeg(picture, { quality: 1 });
  ok(small.length <= bare.length);
  match(
    await failure(encodeJpeg(picture, { quality: 90, comment: "x".repeat(40_000) }), "UsageError"),
    /into a JPEG: they take 80\d+ bytes, and at most 65527 fit/,
  );
});

Deno.test("readTexts and readRecipe of damaged files fail with one sentence or say nothing", async () => {
  const random = seeded(5);
  const parameters = "狐\nSteps: 1, Sampler: Euler, Seed: 2";
  const files = [
    await encodePng(PIXEL, {
      text: [["parameters", parameters], ["prompt", JSON.stringify(GRAPH)]],
    }),
    await encodeJpeg(PIXEL, { quality: 50, comment: parameters }),
  ];
  for (const name of ["texts.png", "comfyui.webp", "a1111.webp", "little.jpg", "ascii.jpg"]) {
    files.push(await Deno.readFile(new URL(name, GOLDENS)));
  }
  const tried = async (bytes: Uint8Array<ArrayBuffer>) => {
    try {
      await readRecipe(bytes);
    } catch (error) {
      ok(error instanceof FormatError, `${error}`);
      match(error.message, /^Cannot [^\n]*[^.\n]$/);
    }
  };
  for (const file of files) {
    for (let cut = 0; cut < Math.min(400, file.length); cut++) await tried(file.slice(0, cut));
    for (let i = 0; i < 300; i++) {
      const damaged = file.slice();
      for (let n = 1 + random() % 4; n > 0; n--) damaged[random() % file.length] = random();
      await tried(damaged);
    }
  }
});

Deno.test("readExif leaves out what is damaged", () => {
  const random = seeded(7);
  const block = writeExif("Steps: 1, 狐");
  deepEqual(readExif(block), [["UserComment", "Steps: 1, 狐"]]);
  for (let cut = 0; cut < block.length; cut++) deepEqual(readExif(block.subarray(0, cut)), []);
  for (let i = 0; i < 2000; i++) {
    const damaged = block.slice();
    for (let n = 1 + random() % 4; n > 0; n--) damaged[random() % 50] = random();
    readExif(damaged);
  }
});

Deno.test("readers of every program take any text", () => {
  const random = seeded(6);
  const pieces = [
    ...'{}[]",:\\\n-.()',
    "Steps: 1, ",
    "Seed: 2, ",
    "Sampler: euler",
    "SDCPP: ",
    '"prompt"',
    '"image"',
    "null",
    "1e999",
    '"class_type": "KSampler"',
    '"inputs": ',
    '"positive_prompt": "x"',
    "狐",
    " -S 5",
    "Version: Fooocus",
    "9".repeat(40),
  ];
  const keys = [
    "parameters",
    "UserComment",
    "prompt",
    "Model",
    "invokeai_metadata",
    "sd-metadata",
    "Dream",
    "XMP",
    "scale",
    "sampler",
  ];
  for (let i = 0; i < 3000; i++) {
    const text = Array.from({ length: random() % 30 }, () => pick(random, pieces)).join("");
    recipeIn([[pick(random, keys), text], [
      pick(random, keys),
      JSON.stringify({ image: { prompt: text }, seed: text }),
    ]]);
  }
});
