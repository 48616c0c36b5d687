import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { UsageError } from "../../lib/base/errors.ts";
import { torchCpu, torchCuda } from "../../lib/base/random.ts";
import { guidanceEmbedding } from "../../lib/diffusion/denoiser.ts";
import type { Model } from "../../lib/engine/model.ts";
import type { PipelineEvent } from "../../lib/pipelines/events.ts";
import { type TextToImage, textToImage } from "../../lib/pipelines/text_to_image.ts";
import { tokenizersOf } from "../../lib/pipelines/tokens.ts";
import { fakeModel } from "./fake_model.ts";

const collect = (model: Model, request: TextToImage) =>
  Array.fromAsync<PipelineEvent>(textToImage(model, request));

function pick<K extends PipelineEvent["kind"]>(
  events: readonly PipelineEvent[],
  kind: K,
): Extract<PipelineEvent, { kind: K }>[] {
  return events.filter((event): event is Extract<PipelineEvent, { kind: K }> =>
    event.kind === kind
  );
}

Deno.test("textToImage yields the plan, each picture's steps, its decoding and itself, then the end", async () => {
  const { model, calls } = fakeModel();
  const events = await collect(model, { prompt: "a fox", seed: 5, batchCount: 2 });
  const one = ["step", "step", "step", "decode", "decode", "decode", "image"];
  deepEqual(events.map(({ kind }) => kind), ["plan", ...one, ...one, "done"]);
  deepEqual(pick(events, "plan")[0].seeds, [5, 6]);
  deepEqual(pick(events, "step").map(({ image, index, of }) => [image, index, of]), [
    ...[[0, 0, 3], [0, 1, 3], [0, 2, 3]],
    ...[[1, 0, 3], [1, 1, 3], [1, 2, 3]],
  ]);
  deepEqual(pick(events, "image").map(({ index, seed }) => [index, seed]), [[0, 5], [1, 6]]);
  equal(calls.disposed, 1);
});

Deno.test("textToImage fills in what the family is used with", async () => {
  const { model } = fakeModel();
  const [{ settings }] = pick(await collect(model, { prompt: "a fox" }), "plan");
  deepEqual(settings, {
    prompt: "a fox",
    negativePrompt: "",
    width: 16,
    height: 24,
    steps: 3,
    cfgScale: 7,
    guidanceRescale: 0,
    sampler: "euler",
    schedule: "karras",
    eta: undefined,
    clipSkip: 1,
    rng: "cpu",
    samplerRng: undefined,
    batchSeeds: "each",
    batchCount: 1,
    weighting: "a1111",
    rounding: "round",
    zeroNegative: false,
    match: undefined,
  });
});

Deno.test("textToImage walks the checkpoint's own schedule with a sampler that is asked for", async () => {
  const { model } = fakeModel();
  const planned = async (request: Omit<TextToImage, "prompt">) => {
    const [{ settings }] = pick(await collect(model, { prompt: "", ...request }), "plan");
    return [settings.sampler, settings.schedule];
  };
  deepEqual(await planned({ sampler: "Euler a" }), ["euler_a", undefined]);
  deepEqual(await planned({ sampler: "DPM++ 2M Karras" }), ["dpmpp_2m", "karras"]);
  deepEqual(await planned({ schedule: "normal" }), ["euler", "discrete"]);
  deepEqual(await planned({ sampler: "DPM++ 2M Karras", schedule: "simple" }), [
    "dpmpp_2m",
    "simple",
  ]);
});

Deno.test("textToImage guides away from the negative prompt in one call", async () => {
  const { model, calls } = fakeModel();
  const events = await collect(model, {
    prompt: "a fox",
    negativePrompt: "a dog",
    cfgScale: 3,
    steps: 1,
    seed: 1,
  });
  const [{ latents }] = pick(events, "image");
  const [sigma] = pick(events, "plan")[0].sigmas;
  equal(calls.predictions.length, 1);
  const [un, cond] = calls.predictions[0].conditions.map(({ text }) => text.hidden[0]);
  const [tokenizer] = tokenizersOf(model);
  const stateOf = (text: string) => tokenizer.tokenize(text).ids.reduce((a, b) => a + b, 0) / 1e7;
  deepEqual([un, cond], [stateOf("a dog"), stateOf("a fox")].map(Math.fround));
  ok(un !== cond);
  // one step of Karras from σ to 0: x = σ·noise, ε̂ = (un + 3 (cond − un)) · x / √(1 + σ²), x₀ = x − σ ε̂
  const factor = sigma * (1 - sigma * (un + 3 * (cond - un)) / Math.hypot(1, sigma));
  const noise = torchCpu(1).normal(latents.data.length);
  ok(latents.data.every((v, i) => Math.abs(v - factor * noise[i]) < 1e-4 * Math.abs(factor)));
});

Deno.test("textToImage asks for one prediction where there is no guidance", async () => {
  for (const cfgScale of [1, 0]) {
    const { model, calls } = fakeModel();
    await collect(model, { prompt: "a fox", negativePrompt: "a dog", cfgScale, steps: 2 });
    deepEqual(calls.predictions.map(({ conditions }) => conditions.length), [1, 1]);
    equal(calls.prompts.length, 1);
  }
});

Deno.test("textToImage rescales guidance when asked", async () => {
  const { model } = fakeModel();
  const latentsOf = async (guidanceRescale: number) =>
    pick(await collect(model, { prompt: "a fox", seed: 1, guidanceRescale }), "image")[0].latents;
  const [plain, half, full] = [await latentsOf(0), await latentsOf(0.5), await latentsOf(1)];
  ok(new Set([plain.data[0], half.data[0], full.data[0]]).size === 3);
});

Deno.test("textToImage tells SDXL the sizes, and zeroes an empty negative prompt where the model asks", async () => {
  const { model, calls } = fakeModel({ wantsSizes: true, zeroEmptyPrompt: true });
  await collect(model, { prompt: "a fox", width: 32, height: 8, steps: 1 });
  const [negative, positive] = calls.predictions[0].conditions;
  deepEqual(positive.timeIds, [8, 32, 0, 0, 8, 32]);
  deepEqual(negative.timeIds, positive.timeIds);
  ok([...negative.text.hidden, ...negative.text.pooled ?? [9]].every((value) => value === 0));
  ok(positive.text.hidden[0] > 0);
  await collect(model, { prompt: "a fox", negativePrompt: "a dog", steps: 1 });
  ok(calls.predictions[1].conditions[0].text.hidden[0] > 0);
});

Deno.test("textToImage embeds the guidance scale for LCM instead of guiding", async () => {
  const { model, calls } = fakeModel({ guidanceWidth: 8 });
  await collect(model, { prompt: "a fox", cfgScale: 8.5, steps: 1 });
  const [condition, ...others] = calls.predictions[0].conditions;
  deepEqual(others, []);
  deepEqual(condition.guidance, guidanceEmbedding(7.5, 8));
});

Deno.test("textToImage starts from the generator that is asked for, with its seed", async () => {
  const { model } = fakeModel();
  for (const [rng, generator] of [["cpu", torchCpu], ["cuda", torchCuda]] as const) {
    const [{ x0 }] = pick(await collect(model, { prompt: "", rng, seed: 9, steps: 1 }), "step");
    const noise = generator(9).normal(x0.data.length);
    const ratio = x0.data[0] / noise[0];
    ok(x0.data.every((v, i) => Math.abs(v - noise[i] * ratio) < 1e-4), rng);
  }
});

Deno.test("textToImage gives the second picture of a batch as if it were asked for alone", async () => {
  const { model } = fakeModel();
  const both = pick(await collect(model, { prompt: "x", seed: 3, batchCount: 2 }), "image");
  const [alone] = pick(await collect(model, { prompt: "x", seed: 4 }), "image");
  deepEqual(both[1].image, alone.image);
  ok(both[0].image.data.some((v, i) => v !== alone.image.data[i]));
});

Deno.test("textToImage draws a seed where none is given", async () => {
  const { model } = fakeModel();
  const seeds = [];
  for (let i = 0; i < 3; i++) {
    seeds.push(...pick(await collect(model, { prompt: "" }), "plan")[0].seeds);
  }
  ok(new Set(seeds).size > 1, String(seeds));
  ok(seeds.every((seed) => Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32));
});

Deno.test("textToImage passes CLIP skip on", async () => {
  const { model, calls } = fakeModel();
  await collect(model, { prompt: "", clipSkip: 2 });
  deepEqual(calls.clipSkips, [2]);
});

Deno.test("textToImage warns of what a long prompt loses", async () => {
  const { model } = fakeModel();
  const prompt = `${"fox ".repeat(75)}unread words`;
  const events = await collect(model, { prompt, negativePrompt: prompt, weighting: "none" });
  const warnings = pick(events, "warning").map(({ message }) => message);
  equal(warnings.length, 2);
  ok(warnings.every((message) => message.includes('"unread words"')), warnings.join());
  ok(warnings[1].includes("negative prompt"));
});

Deno.test("textToImage stops between steps when the signal says so", async () => {
  const { model, calls } = fakeModel();
  const controller = new AbortController();
  const run = async () => {
    const request = { prompt: "a fox", steps: 9, signal: controller.signal };
    for await (const event of textToImage(model, request)) {
      if (event.kind === "step" && event.index === 1) controller.abort();
    }
  };
  await rejects(run(), { name: "AbortError" });
  equal(calls.predictions.length, 2);
  equal(calls.disposed, 1);
});

Deno.test("textToImage frees the network when its caller leaves", async () => {
  const { model, calls } = fakeModel();
  for await (const event of textToImage(model, { prompt: "" })) if (event.kind === "step") break;
  equal(calls.disposed, 1);
});

Deno.test("textToImage refuses what makes no sense before any work", async () => {
  const requests: Omit<TextToImage, "prompt">[] = [
    { width: 65 },
    { height: 0 },
    { width: 8 * 4096 },
    { steps: 0 },
    { steps: 1.5 },
    { steps: 1001 },
    { cfgScale: -1 },
    { cfgScale: NaN },
    { guidanceRescale: 1.1 },
    { eta: 2 },
    { clipSkip: 0 },
    { seed: -2 },
    { seed: 2 ** 32 },
    { seed: 2 ** 32 - 1, batchCount: 2 },
    { batchCount: 0 },
    { sampler: "eulr" },
    { schedule: "karas" },
  ];
  for (const request of requests) {
    const { model, calls } = fakeModel();
    await rejects(collect(model, { prompt: "", ...request }), UsageError, JSON.stringify(request));
    equal(calls.prompts.length, 0);
  }
  const { model } = fakeModel();
  await rejects(collect(model, { prompt: "", width: 65 }), /multiple of 8; 64 and 72 are near/);
  await rejects(collect(model, { prompt: "", sampler: "eulr" }), /did you mean "euler"/);
});

Deno.test("textToImage refuses to make a black picture of numbers that are not finite", async () => {
  const { model, calls } = fakeModel();
  await rejects(collect(model, { prompt: "a fox", cfgScale: 1e300, seed: 5 }), {
    name: "OverflowError",
    message: /^Cannot make the picture of seed 5: its numbers are not finite after step 1 of 3; /,
  });
  equal(calls.disposed, 1);
  const decodeImage = () =>
    Promise.resolve({ data: Float32Array.of(0, NaN, 0), width: 1, height: 1 });
  const broken = fakeModel({ decodeImage }).model;
  await rejects(collect(broken, { prompt: "a fox" }), /not finite after decoding/);
});

Deno.test("textToImage warns of an eta that the sampler does not hear of", async () => {
  for (const [sampler, count] of [["heun", 1], ["ddim", 0]] as const) {
    const events = await collect(fakeModel().model, { prompt: "a fox", sampler, eta: 0.5 });
    const warnings = events.filter(({ kind }) => kind === "warning");
    equal(warnings.length, count, sampler);
  }
});
