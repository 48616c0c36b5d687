/** What a pipeline keeps between requests, and what tools' conventions change. */

import assert from "node:assert/strict";
import { UsageError } from "../../lib/base/errors.ts";
import { torchCpu, torchCuda } from "../../lib/base/random.ts";
import { loadModel } from "../../lib/engine/load.ts";
import type { Model } from "../../lib/engine/model.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { MATCH_NAMES, type PipelineEvent } from "../../lib/pipelines/events.ts";
import { toBytes } from "../../lib/pipelines/first_stage.ts";
import { settle } from "../../lib/pipelines/settings.ts";
import {
  type TextToImage,
  textToImage,
  textToImagePipeline,
} from "../../lib/pipelines/text_to_image.ts";
import { fixture } from "../fixture.ts";
import { fakeModel } from "./fake_model.ts";

type ImageEvent = Extract<PipelineEvent, { kind: "image" }>;

async function images(events: AsyncIterable<PipelineEvent>): Promise<ImageEvent[]> {
  const found: ImageEvent[] = [];
  for await (const event of events) if (event.kind === "image") found.push(event);
  return found;
}

const draw = (model: Model, request: TextToImage) => images(textToImage(model, request));

Deno.test("textToImagePipeline encodes a prompt once, for as long as it is kept", async () => {
  const { model, calls } = fakeModel();
  using pipeline = textToImagePipeline(model);
  const requests = ["a fox", "a dog", "a fox"].map((prompt) => ({ prompt, steps: 1, seed: 1 }));
  for (const request of requests) await images(pipeline.run(request));
  assert.deepEqual(calls.encoded, [2, 1]); // the empty prompt and a fox; a dog
  await images(pipeline.run({ ...requests[0], clipSkip: 2 }));
  assert.deepEqual(calls.encoded, [2, 1, 2]);
  // room for one prompt: the other is forgotten each time
  const { model: small, calls: few } = fakeModel();
  using poor = textToImagePipeline(small, { embeddingBytes: 700 });
  for (const request of requests) await images(poor.run({ ...request, cfgScale: 1 }));
  assert.deepEqual(few.encoded, [1, 1, 1]);
});

Deno.test("textToImagePipeline encodes the prompts of many requests in one call, and passes over bad ones", async () => {
  const { model, calls } = fakeModel();
  using pipeline = textToImagePipeline(model);
  const prompts = ["a fox", "a dog", "a fox BREAK a dog", "[a fox:a cat:2]"];
  const requests = prompts.map((prompt) => ({ prompt, steps: 3, seed: 1 }));
  await pipeline.encode([...requests, { prompt: "a bird", width: 65 }]);
  assert.deepEqual(calls.encoded, [4]); // the empty prompt, a fox, a dog, a cat
  for (const request of requests) await images(pipeline.run(request));
  assert.deepEqual(calls.encoded, [4]);
  await pipeline.encode([]);
  assert.equal(calls.encoded.length, 1);
});

Deno.test("textToImagePipeline keeps a denoiser for requests of equal shape, and frees it for others", async () => {
  const { model, calls } = fakeModel();
  {
    using pipeline = textToImagePipeline(model);
    const run = (request: Partial<TextToImage>) =>
      images(pipeline.run({ prompt: "a fox", steps: 2, seed: 1, ...request }));
    await run({});
    await run({ prompt: "a dog", batchCount: 2 });
    assert.deepEqual([calls.denoisers.length, calls.disposed], [1, 0]);
    await run({ width: 32 });
    assert.deepEqual([calls.denoisers.length, calls.disposed], [2, 1]);
    await run({ width: 32, cfgScale: 1 });
    await run({ width: 32, cfgScale: 1, prompt: "a BREAK fox" });
    assert.deepEqual([calls.denoisers.length, calls.disposed], [4, 3]);
    const stopped = pipeline.run({ prompt: "a fox", seed: 1 });
    for await (const { kind } of stopped) if (kind === "step") break;
    assert.equal(calls.disposed, 5);
    await run({});
  }
  assert.equal(calls.disposed, 6);
});

Deno.test("textToImagePipeline makes one picture at a time, and goes on after a failure", async () => {
  const { model } = fakeModel();
  using pipeline = textToImagePipeline(model);
  const first = pipeline.run({ prompt: "a fox", seed: 1 });
  await first.next();
  await assert.rejects(images(pipeline.run({ prompt: "a dog" })), /two requests at once/);
  await first.return();
  await assert.rejects(images(pipeline.run({ prompt: "", steps: 0 })), UsageError);
  assert.equal((await images(pipeline.run({ prompt: "a dog" }))).length, 1);
});

Deno.test("textToImage tells the network another text where the prompt says so, by its calls", async () => {
  const { model, calls } = fakeModel();
  const heard = async (prompt: string, more: Partial<TextToImage> = {}) => {
    calls.predictions.length = 0;
    await draw(model, { prompt, steps: 6, seed: 1, cfgScale: 1, ...more });
    const lists = calls.predictions.map(({ conditions }) => conditions);
    const seen = [...new Set(lists)];
    return lists.map((list) => seen.indexOf(list)).join("");
  };
  assert.equal(await heard("a [fox:dog:3]"), "000011");
  assert.equal(await heard("a [fox:dog:0.5]"), "000011");
  assert.equal(await heard("a [fox|dog]"), "001010");
  assert.equal(await heard("a [fox|dog|fox]"), "001001");
  assert.equal(await heard("a [fox:dog:3]", { weighting: "comfy" }), "000000");
  // twelve calls are planned, eleven made
  assert.equal(await heard("a [fox:dog:0.5]", { sampler: "heun" }), "00000001111");
  assert.deepEqual(calls.denoisers.map(({ sets }) => sets), [2, 2, 2, 2, 1, 2]);
  assert.ok(calls.runs.every(({ changes }, i) => changes === (i !== 4)));
});

Deno.test("textToImage composes parts by weight, against the negative prompt, even where guidance is off", async () => {
  const { model, calls } = fakeModel();
  const request = { prompt: "a fox :1.5 AND a dog :-0.5", steps: 1, seed: 1, cfgScale: 3 };
  const events = await Array.fromAsync(textToImage(model, request));
  const [sigma] = events.flatMap((event) => event.kind === "plan" ? event.sigmas : []);
  const [latents] = events.flatMap((event) => event.kind === "image" ? event.latents : []);
  const [{ conditions }] = calls.predictions;
  const [un, fox, dog] = conditions.map(({ text }) => text.hidden[0]);
  const output = (scale: number) => un + scale * (1.5 * (fox - un) - 0.5 * (dog - un));
  const noise = torchCpu(1).normal(latents.data.length);
  const check = (data: Float32Array, scale: number) => {
    const factor = sigma * (1 - sigma * output(scale) / Math.hypot(1, sigma));
    assert.ok(data.every((v, i) => Math.abs(v - factor * noise[i]) < 1e-4 * Math.abs(factor)));
  };
  check(latents.data, 3);
  for (const cfgScale of [1, 0]) {
    check((await draw(model, { ...request, cfgScale }))[0].latents.data, 1);
  }
  assert.equal(calls.runs[0].prompts, 3);
  const { model: distilled } = fakeModel({ guidanceWidth: 8 });
  await assert.rejects(draw(distilled, request), /Cannot compose 2 prompts with AND: .*distilled/);
  await assert.rejects(draw(model, { ...request, guidanceRescale: 0.5 }), /rescale guidance/);
});

Deno.test("textToImage brings prompts of unlike length to their least common multiple, up to a limit", async () => {
  const { model, calls } = fakeModel();
  using pipeline = textToImagePipeline(model);
  const chunks = async (positive: number, negative: number) => {
    const text = (count: number) => new Array(count).fill("a fox").join(" BREAK ");
    const prompts = { prompt: text(positive), negativePrompt: text(negative) };
    await images(pipeline.run({ ...prompts, steps: 1, seed: 1 }));
    const [{ tokens }] = calls.runs.slice(-1);
    for (const { text } of calls.predictions.slice(-1)[0].conditions) {
      assert.deepEqual([text.tokens, text.hidden.length], [tokens, tokens * 2]);
    }
    return tokens / 77;
  };
  assert.deepEqual(
    [await chunks(1, 1), await chunks(3, 1), await chunks(2, 3), await chunks(4, 6)],
    [1, 3, 6, 12],
  );
  assert.equal(await chunks(40, 1), 40);
  assert.equal(await chunks(9, 10), 10); // filled up with empty chunks
});

Deno.test("textToImage makes one picture of a batch alone as in company, from one generator or from many", async () => {
  using pipeline = textToImagePipeline(fakeModel().model);
  const draw = (request: TextToImage) => images(pipeline.run(request));
  for (const batchSeeds of ["each", "one"] as const) {
    const request = {
      prompt: "a",
      steps: 2,
      seed: 3,
      batchCount: 3,
      sampler: "euler_a",
      batchSeeds,
    };
    const all = await draw(request);
    assert.deepEqual(all.map(({ seed }) => seed), batchSeeds === "each" ? [3, 4, 5] : [3, 3, 3]);
    assert.notDeepEqual(all[1].latents, all[0].latents);
    const [alone] = await draw({ ...request, batchIndex: 1 });
    assert.deepEqual([alone.latents, alone.index], [all[1].latents, 1]);
  }
  const last = { prompt: "", seed: 2 ** 32 - 1, batchCount: 3, batchSeeds: "one" } as const;
  assert.equal((await draw(last)).length, 3);
  await assert.rejects(draw({ ...last, batchIndex: 3 }), /picture of the batch to 3/);
});

Deno.test("match takes over a tool's conventions, and what is asked for comes first", async () => {
  const { model, calls } = fakeModel();
  const of = (request: Partial<TextToImage>) => {
    const { rng, samplerRng, batchSeeds, weighting, rounding, schedule } = settle(model, {
      prompt: "",
      ...request,
    });
    return [rng, samplerRng, batchSeeds, weighting, rounding, schedule];
  };
  assert.deepEqual(of({}), ["cpu", undefined, "each", "a1111", "round", "karras"]);
  assert.deepEqual(MATCH_NAMES.map((match) => of({ match })), [
    ["cpu", undefined, "one", "none", "round", undefined],
    ["cuda", undefined, "each", "a1111", "truncate", "discrete"],
    ["cpu", "cuda", "one", "comfy", "truncate", "discrete"],
    ["cuda", undefined, "each", "a1111", "truncate", "discrete"],
  ]);
  assert.equal(of({ match: "a1111", sampler: "DPM++ 2M" })[5], "karras");
  assert.equal(of({ match: "a1111", sampler: "DPM++ 2M SDE" })[5], "exponential");
  assert.equal(of({ match: "a1111", sampler: "DDIM" })[5], undefined);
  assert.equal(of({ match: "a1111", sampler: "Euler a Karras" })[5], "karras");
  const own = { rng: "cpu", samplerRng: "cpu", batchSeeds: "one", weighting: "none" } as const;
  assert.deepEqual(of({ match: "sdcpp", ...own, rounding: "round", schedule: "simple" }), [
    ...["cpu", undefined, "one", "none", "round", "simple"],
  ]);
  // ComfyUI on a GPU: the first noise is the CPU's, the samplers' is CUDA's
  const request = { prompt: "", steps: 1, seed: 1, sampler: "euler_a", match: "comfyui" } as const;
  const [{ latents }] = await draw(model, request);
  const noise = torchCpu(1).normal(latents.data.length);
  const factor = latents.data[0] / noise[0];
  assert.ok(
    latents.data.every((v, i) => Math.abs(v - factor * noise[i]) < 1e-4 * Math.abs(v) + 1e-6),
  );
  assert.equal(calls.predictions[0].timestep, 999);
  const [cuda] = await draw(model, { ...request, match: "a1111" });
  const philox = torchCuda(1).normal(latents.data.length);
  assert.ok(Math.abs(cuda.latents.data[0] / philox[0] - cuda.latents.data[1] / philox[1]) < 1e-4);
});

Deno.test("match warns of samplers that are others there", async () => {
  const { model } = fakeModel();
  const warnings: string[] = [];
  const request = { prompt: "", seed: 1, sampler: "unipc", match: "a1111" } as const;
  for await (const event of textToImage(model, request)) {
    if (event.kind === "warning") warnings.push(event.message);
  }
  assert.deepEqual(warnings, [
    "Pictures by unipc do not match a1111's: it is another variant of UniPC there",
  ]);
});

Deno.test("match gives SDE samplers a Brownian tree of the tool's generator", async () => {
  const { model } = fakeModel();
  const latents = async (more: Partial<TextToImage>) => {
    const request = { prompt: "", seed: 1, steps: 3, cfgScale: 1, sampler: "dpmpp_2m_sde" };
    const [image] = await draw(model, { ...request, schedule: "karras", ...more });
    return image.latents.data;
  };
  const [plain, tree] = [await latents({}), await latents({ match: "a1111", rng: "cpu" })];
  assert.notDeepEqual(tree, plain);
  const cuda = await latents({ match: "a1111", rng: "cpu", samplerRng: "cuda" });
  assert.notDeepEqual(cuda, tree);
  // ComfyUI's is on the CPU but for the sampler's _gpu twin, whatever other samplers draw from
  const comfy = await latents({ match: "comfyui" });
  assert.deepEqual(await latents({ match: "comfyui", samplerRng: "cpu" }), comfy);
  assert.notDeepEqual(await latents({ match: "comfyui", samplerRng: "cuda" }), comfy);
  // the tree is the picture's own, or the batch's
  const two = async (match: "a1111" | "comfyui", batchIndex: number) =>
    await latents({ match, rng: "cpu", batchCount: 2, batchIndex });
  assert.deepEqual(await two("a1111", 0), tree);
  assert.notDeepEqual(await two("comfyui", 0), comfy);
  assert.notDeepEqual(await two("comfyui", 1), await two("comfyui", 0));
});

Deno.test("match decides when SDXL is told zeros for the negative prompt", async () => {
  const { model, calls } = fakeModel({ zeroEmptyPrompt: true });
  using pipeline = textToImagePipeline(model);
  const isZero = async (request: Partial<TextToImage>) => {
    await images(pipeline.run({ prompt: "a fox", steps: 2, seed: 1, ...request }));
    return calls.predictions.slice(-1)[0].conditions[0].text.hidden.every((value) => value === 0);
  };
  const table: [boolean, boolean][] = [];
  for (const match of [undefined, ...MATCH_NAMES]) {
    table.push([await isZero({ match }), await isZero({ match, negativePrompt: "" })]);
  }
  const [absent, empty, never] = [[true, false], [true, true], [false, false]];
  assert.deepEqual(table, [absent, absent, empty, never, empty]);
  assert.equal(await isZero({ match: "a1111", negativePrompt: "a dog" }), false);
  assert.equal(await isZero({ match: "comfyui", zeroNegative: true }), true);
});

Deno.test("match counts CLIP skip as the tool does", async () => {
  const skips: Record<string, readonly (number | undefined)[]> = {};
  for (const family of ["sd1", "sdxl"] as const) {
    const { model, calls } = fakeModel({ family });
    using pipeline = textToImagePipeline(model, { embeddingBytes: 0 });
    for (const match of [undefined, ...MATCH_NAMES]) {
      calls.clipSkips.length = 0;
      for (const clipSkip of [undefined, 2, 3]) {
        await images(
          pipeline.run({ prompt: "a", steps: 1, seed: 1, cfgScale: 1, match, clipSkip }),
        );
      }
      skips[`${family} ${match}`] = [...calls.clipSkips];
    }
  }
  assert.deepEqual(skips, {
    ...{ "sd1 undefined": [1, 2, 3], "sd1 diffusers": [1, 2, 3], "sd1 a1111": [1, 2, 3] },
    ...{ "sd1 comfyui": [1, 2, 3], "sd1 sdcpp": [1, 2, 3] },
    ...{ "sdxl undefined": [1, 2, 3], "sdxl diffusers": [1, 2, 3], "sdxl a1111": [1, 1, 1] },
    ...{ "sdxl comfyui": [1, 1, 2], "sdxl sdcpp": [1, 1, 2] },
  });
  const { model } = fakeModel({ family: "sdxl" });
  const last = { prompt: "a", match: "comfyui", clipSkip: 1 } as const;
  await assert.rejects(draw(model, last), /CLIP skip to 1: a whole number from 2/);
});

Deno.test("clipLayer counts from the text encoder's last layer as ComfyUI's CLIPSetLastLayer does", async () => {
  // the layers that ComfyUI takes by itself: comfy/sd1_clip.py the last, comfy/text_encoders/sd2_clip.py and
  // comfy/sdxl_clip.py the last but one
  const layers: Record<string, readonly (number | undefined)[]> = {};
  for (const family of ["sd1", "sd2", "sdxl"] as const) {
    const { model } = fakeModel({ family });
    for (const match of [undefined, "a1111", "comfyui"] as const) {
      const found: (number | undefined)[] = [];
      for (const clipSkip of [undefined, 2, 3]) {
        const request = { prompt: "a", steps: 1, seed: 1, cfgScale: 1, match, clipSkip };
        const [{ settings }] = await draw(model, request);
        found.push(settings.clipLayer);
      }
      layers[`${family} ${match}`] = found;
    }
  }
  const own = undefined;
  assert.deepEqual(layers, {
    ...{ "sd1 undefined": [own, 2, 3], "sd1 a1111": [own, 2, 3], "sd1 comfyui": [own, 2, 3] },
    ...{ "sd2 undefined": [own, 3, 4], "sd2 a1111": [own, own, own], "sd2 comfyui": [own, own, 3] },
    ...{ "sdxl undefined": [own, 3, 4], "sdxl a1111": [own, own, own] },
    "sdxl comfyui": [own, own, 3],
  });
});

Deno.test("rounding is to the nearest or down, and the numbers come along", async () => {
  const { model } = fakeModel();
  for (const rounding of ["round", "truncate"] as const) {
    const [{ image, floats }] = await draw(model, { prompt: "a fox", seed: 1, rounding });
    assert.deepEqual(image, toBytes(floats, rounding));
  }
  const values = { data: Float32Array.of(0.5, 0.999, -0.1, 1.2, NaN, 1), width: 2, height: 1 };
  assert.deepEqual([...toBytes(values, "truncate").data], [127, 254, 0, 255, 0, 255]);
  assert.deepEqual([...toBytes(values, "round").data], [128, 255, 0, 255, 0, 255]);
});

const tiny = fixture("tiny/sd1");

Deno.test("textToImagePipeline gives the pictures of single requests to the bit, and memory that does not grow", async () => {
  await using device = await openDevice();
  await using model = await loadModel(device, tiny);
  const size = { width: 32, height: 32, steps: 2, sampler: "euler" };
  const prompts = [
    "a fox",
    "(red:1.3) [fox|dog]",
    "a cat",
    "a fox BREAK in snow",
    "a [fox|dog|cat]",
  ];
  const requests = prompts.map((prompt, seed) => ({ ...size, prompt, seed }));
  const alone: ImageEvent[] = [];
  for (const request of requests) alone.push(...await draw(model, request));
  const live: number[] = [];
  {
    using pipeline = textToImagePipeline(model);
    await pipeline.encode(requests);
    for (let round = 0; round < 2; round++) {
      for (const [i, request] of requests.entries()) {
        const [made] = await images(pipeline.run(request));
        assert.deepEqual(made.floats, alone[i].floats, request.prompt);
        assert.ok(device.memory.peak <= 2 ** 28);
      }
      live.push(device.memory.live);
    }
  }
  assert.equal(new Set(live).size, 1, live.join());
  assert.ok(device.memory.live < live[0]);
});

Deno.test("a plan that switches among conditions, for a pipeline that stays, foretells its memory to the byte", async () => {
  await using device = await openDevice();
  await using model = await loadModel(device, tiny);
  using pipeline = textToImagePipeline(model);
  const request = { prompt: "a [fox|dog|cat]", width: 32, height: 32, steps: 4, seed: 1 };
  const made: [number, number][] = [];
  for (const prompt of [request.prompt, "a [bird|cow|horse]"]) {
    let planned = 0;
    device.resetPeak();
    for await (const event of pipeline.run({ ...request, prompt, batchCount: 2 })) {
      if (event.kind !== "plan") continue;
      assert.equal(event.memory.keeps, true);
      planned = event.memory.peak;
    }
    made.push([device.memory.peak, planned]);
  }
  // conditions are computed while the program is there: the most that a plan counts, here in both
  assert.deepEqual(made.map(([peak, planned]) => peak <= planned), [true, true], made.join(" "));
  assert.equal(made[1][0], made[1][1]);
});
