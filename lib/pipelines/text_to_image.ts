/**
 * A picture from a prompt: latent diffusion's main job (Rombach et al. 2022, figure 3) with classifier-free guidance.
 * Convention: noise, latents and guidance are diffusers' to the bit where the arithmetic allows, so that a seed means
 * the same picture here and there.
 */

import { UsageError } from "../base/errors.ts";
import { type NoiseSource, torchCpu, torchCuda } from "../base/random.ts";
import { denoiser, guidanceEmbedding, guide, rescaleGuidance } from "../diffusion/denoiser.ts";
import { parseSampler, parseSchedule } from "../diffusion/names.ts";
import {
  parseSchedulerConfig,
  type Plan,
  planSampling,
  type SchedulerConfig,
} from "../diffusion/plan.ts";
import { sample } from "../diffusion/samplers.ts";
import type {
  Condition,
  Latents,
  Model,
  TextEmbedding,
  Tiling,
  TokenIds,
} from "../engine/model.ts";
import type { PipelineEvent, Rng, Settings } from "./events.ts";
import { decodeLatents } from "./first_stage.ts";
import { checkSize, requireInteger, requireNumber } from "./requests.ts";
import { type Tokenize, tokenizerOf, type Vocabulary } from "./tokens.ts";

/** What is asked for. Whatever is left out is the checkpoint's family's. */
export interface TextToImage {
  readonly prompt: string;
  readonly negativePrompt?: string | undefined;
  /** Pixels, multiples of the first stage's factor. */
  readonly width?: number | undefined;
  readonly height?: number | undefined;
  readonly steps?: number | undefined;
  /** Classifier-free guidance; 1 (or 0, as diffusers spells it) switches it off and halves the work. */
  readonly cfgScale?: number | undefined;
  /** From 0, off, to 1 (Lin et al. 2023). */
  readonly guidanceRescale?: number | undefined;
  /** Any spelling of any tool, see lib/diffusion/names.ts. */
  readonly sampler?: string | undefined;
  readonly schedule?: string | undefined;
  /** Share of fresh noise in samplers that can add some. */
  readonly eta?: number | undefined;
  /** 0 … 2³²−1 for the first picture; −1 draws one. */
  readonly seed?: number | undefined;
  /** Pictures; their seeds count up. */
  readonly batchCount?: number | undefined;
  readonly rng?: Rng | undefined;
  /** 1 is the layer that the checkpoint was trained with, 2 the one before it. */
  readonly clipSkip?: number | undefined;
  readonly tiling?: Tiling | undefined;
  /** In place of the checkpoint's. */
  readonly tokenizer?: Vocabulary | undefined;
  /** Stops the work after the current step; the generator throws the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

const SEEDS = 2 ** 32;

/**
 * Makes pictures one after another, yielding what happens. Throws `UsageError` before any work where the request makes no
 * sense, `MemoryError` where it cannot fit, and what the model throws.
 */
export async function* textToImage(
  model: Model,
  request: TextToImage,
): AsyncGenerator<PipelineEvent, void, undefined> {
  const settings = settle(model, request);
  const seeds = seedsOf(request);
  const scheduler = parseSchedulerConfig(model.scheduler);
  const { sampler, schedule, steps } = settings;
  const plan = planSampling({ sampler, schedule, steps, scheduler });
  const tokenize = tokenizerOf(model, request.tokenizer);
  const warnings = [
    ...ignoredSettings(scheduler),
    ...cutOff(tokenize, settings),
  ];
  for (const message of warnings) yield { kind: "warning", message };
  const prompts = promptsOf(model, settings).map((text) => tokenize(text).ids);
  const memory = model.prepare({
    width: settings.width,
    height: settings.height,
    pictures: seeds.length,
    prompts: prompts.length,
    tokens: prompts[0][0].length,
    clipSkip: settings.clipSkip,
    tiling: request.tiling ?? "auto",
  });
  const { sigmas, timesteps } = plan;
  yield { kind: "plan", settings, seeds, sigmas, timesteps, memory };

  request.signal?.throwIfAborted();
  const hasNegative = request.negativePrompt !== undefined;
  const conditions = await conditionsOf(model, settings, prompts, hasNegative);
  for (const [index, seed] of seeds.entries()) {
    const latents = yield* sampled(model, settings, plan, conditions, seed, index, request.signal);
    request.signal?.throwIfAborted();
    const image = yield* decodeLatents(
      (z, o) => model.decodeImage(z, o),
      latents,
      request.tiling ?? "auto",
      index,
    );
    yield { kind: "image", image, latents, seed, index, settings };
  }
  yield { kind: "done", images: seeds.length };
}

/** Fills in the family's defaults. */
function settle(model: Model, request: TextToImage): Settings {
  const { defaults } = model;
  // a sampler that is asked for walks the checkpoint's own schedule, not the one the default sampler is used with
  const { sampler, schedule } = request.sampler === undefined
    ? { sampler: parseSampler(defaults.sampler).sampler, schedule: defaults.schedule }
    : parseSampler(request.sampler);
  const named = request.schedule ?? schedule;
  const settings: Settings = {
    prompt: request.prompt,
    negativePrompt: request.negativePrompt ?? "",
    width: request.width ?? defaults.width,
    height: request.height ?? defaults.height,
    steps: request.steps ?? defaults.steps,
    cfgScale: request.cfgScale ?? defaults.cfgScale,
    guidanceRescale: request.guidanceRescale ?? 0,
    sampler,
    schedule: named === undefined ? undefined : parseSchedule(named),
    eta: request.eta,
    clipSkip: request.clipSkip ?? 1,
    rng: request.rng ?? "cpu",
  };
  checkSize(settings.width, settings.height, model.factor);
  requireInteger("steps", settings.steps, 1, 1000);
  requireNumber("the guidance scale", settings.cfgScale, 0, Infinity);
  requireNumber("guidance rescale", settings.guidanceRescale, 0, 1);
  requireInteger("CLIP skip", settings.clipSkip, 1, 12);
  if (settings.eta !== undefined) requireNumber("eta", settings.eta, 0, 1);
  return settings;
}

/** One seed for each picture, counting up. */
function seedsOf({ seed = -1, batchCount = 1 }: TextToImage): number[] {
  requireInteger("the number of pictures", batchCount, 1, SEEDS);
  requireInteger("the seed", seed, -1, SEEDS - 1);
  const first = seed >= 0
    ? seed
    : crypto.getRandomValues(new Uint32Array(1))[0] % (SEEDS - batchCount + 1);
  if (first + batchCount > SEEDS) {
    throw new UsageError(
      `Cannot make ${batchCount} pictures from seed ${first}: their seeds count up and end at ${
        SEEDS - 1
      }`,
    );
  }
  return Array.from({ length: batchCount }, (_, i) => first + i);
}

/** A warning for settings of the checkpoint's scheduler that no sampler here follows. */
function ignoredSettings({ unfollowed = [] }: SchedulerConfig): string[] {
  return unfollowed.length === 0
    ? []
    : [`The checkpoint's scheduler asks for what is not supported: ${unfollowed.join(", ")}`];
}

/** A warning for each prompt of which a part is not read. */
function cutOff(tokenize: Tokenize, { prompt, negativePrompt }: Settings): string[] {
  return [["prompt", prompt], ["negative prompt", negativePrompt]].flatMap(([name, text]) => {
    const { cut } = tokenize(text);
    if (cut === "") return [];
    return [`The ${name} is longer than the text encoder reads; this is left out: "${cut}"`];
  });
}

/** What is asked for alone, or, under guidance, what is not and what is. */
function promptsOf({ guidanceWidth }: Model, settings: Settings): readonly string[] {
  const { prompt, negativePrompt, cfgScale } = settings;
  const guided = guidanceWidth === undefined && cfgScale !== 1 && cfgScale !== 0;
  return guided ? [negativePrompt, prompt] : [prompt];
}

/**
 * The denoiser's conditions: [what is asked for], or [what is not, what is] under guidance. SDXL takes zeros where no negative prompt is
 * given at all, and the encoders' states where an empty one is, as diffusers' pipeline does.
 */
async function conditionsOf(
  model: Model,
  settings: Settings,
  prompts: readonly TokenIds[],
  hasNegative: boolean,
): Promise<readonly Condition[]> {
  const { width, height, cfgScale, clipSkip } = settings;
  const { guidanceWidth } = model;
  const shared = {
    // nothing is cropped, and the original size is the one that is asked for
    ...(model.wantsSizes && { timeIds: [height, width, 0, 0, height, width] }),
    ...(guidanceWidth !== undefined && {
      guidance: guidanceEmbedding(cfgScale - 1, guidanceWidth),
    }),
  };
  const texts = await model.encodeText(prompts, clipSkip);
  const isZero = prompts.length > 1 && !hasNegative && model.zeroEmptyPrompt;
  return texts.map((text, i) => ({ text: isZero && i === 0 ? zeros(text) : text, ...shared }));
}

function zeros({ hidden, tokens, pooled }: TextEmbedding): TextEmbedding {
  return {
    hidden: new Float32Array(hidden.length),
    tokens,
    ...(pooled && { pooled: new Float32Array(pooled.length) }),
  };
}

const GENERATORS: Readonly<Record<Rng, (seed: number) => NoiseSource>> = {
  cpu: torchCpu,
  cuda: torchCuda,
};

/** Walks the plan for one picture; returns its latents. */
async function* sampled(
  model: Model,
  settings: Settings,
  plan: Plan,
  conditions: readonly Condition[],
  seed: number,
  image: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<PipelineEvent, Latents, undefined> {
  const size = {
    channels: model.latentChannels,
    height: settings.height / model.factor,
    width: settings.width / model.factor,
  };
  const asLatents = (data: Float32Array): Latents => ({ data, ...size });
  const noise = GENERATORS[settings.rng](seed);
  using network = model.denoiser(size);
  const denoise = denoiser(plan.prediction, async (input, timestep) => {
    signal?.throwIfAborted();
    const [first, second] = await network.predict(input, timestep, conditions);
    if (second === undefined) return first;
    const guided = guide(first, second, settings.cfgScale);
    const { guidanceRescale } = settings;
    return guidanceRescale > 0 ? rescaleGuidance(guided, second, guidanceRescale) : guided;
  });
  const start = noise.normal(size.channels * size.height * size.width)
    .map((value) => value * plan.initialScale);
  const options = settings.eta === undefined ? { noise } : { noise, eta: settings.eta };
  let latents = asLatents(start);
  for await (const { index, sigma, x, x0 } of sample(plan, denoise, start, options)) {
    latents = asLatents(x);
    yield {
      kind: "step",
      image,
      index,
      of: plan.intervals.length,
      sigma,
      x0: asLatents(x0),
    };
  }
  return latents;
}
