/**
 * A picture from a prompt: latent diffusion's main job (Rombach et al. 2022, figure 3) with classifier-free guidance.
 * Convention: noise, latents and guidance are diffusers' to the bit where the arithmetic allows, so that a seed means
 * the same picture here and there; `match` takes over other tools' conventions.
 */

import { UsageError } from "../base/errors.ts";
import { compose, denoiser, rescaleGuidance } from "../diffusion/denoiser.ts";
import type { SamplerName } from "../diffusion/names.ts";
import {
  parseSchedulerConfig,
  type Plan,
  planSampling,
  type SchedulerConfig,
} from "../diffusion/plan.ts";
import { sample, USUAL_ETA } from "../diffusion/samplers.ts";
import type { Denoiser, DenoiserRequest, Latents, Model, Run } from "../engine/model.ts";
import type { ClipTokenizer } from "../text/tokenizer.ts";
import {
  chunksOf,
  type Conditions,
  conditionsOf,
  countSets,
  joined,
  lengthsOf,
} from "./conditions.ts";
import { paddedSize, type SeenLatents, seenLatents } from "./beside.ts";
import { Embeddings } from "./embeddings.ts";
import type { PipelineEvent, Settings } from "./events.ts";
import { finished } from "./finish.ts";
import { decodeLatents, requireFinite } from "./first_stage.ts";
import { TREE_SAMPLERS } from "./match.ts";
import { noisesOf, treeNoise } from "./noise.ts";
import { type Reading, readPrompts } from "./prompts.ts";
import {
  isGuided,
  matchOf,
  ownClipSkip,
  type Place,
  placesOf,
  settle,
  type TextToImage,
} from "./settings.ts";
import { beginsWithNoise, needsPicture, startOf } from "./start.ts";
import { tokenizersOf, type Vocabulary } from "./tokens.ts";

export type { TextToImage } from "./settings.ts";

/** Makes pictures of one request after another, and keeps what the next one may need. Dispose of it to free that. */
export interface TextToImagePipeline extends Disposable {
  /**
   * Makes a request's pictures one after another, yielding what happens. Throws `UsageError` before any work where the
   * request makes no sense, or where another one is not over; `MemoryError` where it cannot fit; and what the model
   * throws.
   */
  run(request: TextToImage): AsyncGenerator<PipelineEvent, void, undefined>;
  /**
   * Encodes the prompts of requests that are to come together, as many as are kept. Requests that make no sense are passed
   * over: `run` says what is wrong with them.
   */
  encode(requests: readonly TextToImage[]): Promise<void>;
}

/** What a pipeline may keep. */
export interface PipelineOptions {
  /** Bytes of encoded prompts that are kept; 128 MiB where absent, some 500 prompts of SD 1. */
  readonly embeddingBytes?: number;
}

/** A pipeline that keeps encoded prompts, and the compiled denoiser where there is room, for further requests. */
export function textToImagePipeline(
  model: Model,
  options: PipelineOptions = {},
): TextToImagePipeline {
  return makePipeline(model, options, true);
}

/** The pictures of one request: see `TextToImagePipeline.run`. */
export async function* textToImage(
  model: Model,
  request: TextToImage,
): AsyncGenerator<PipelineEvent, void, undefined> {
  using pipeline = makePipeline(model, {}, false);
  yield* pipeline.run(request);
}

/** Everything about a request that is known before the model works. */
interface Job {
  readonly settings: Settings;
  readonly places: readonly Place[];
  readonly plan: Plan;
  readonly reading: Reading;
  /** How much each part of the prompt counts. */
  readonly weights: readonly number[];
  readonly warnings: readonly string[];
  readonly denoiser: DenoiserRequest;
  readonly run: Run;
}

function makePipeline(
  model: Model,
  { embeddingBytes }: PipelineOptions,
  isLasting: boolean,
): TextToImagePipeline {
  const embeddings = new Embeddings(model, embeddingBytes);
  const tokenizers = rememberingTokenizers(model);
  let held: { readonly key: string; readonly denoiser: Denoiser } | undefined;
  let isBusy = false;
  const release = () => {
    held?.denoiser[Symbol.dispose]();
    held = undefined;
  };
  const hold = ({ denoiser, run }: Job): Denoiser => {
    const key = denoiserKey(run);
    if (held?.key !== key) {
      release();
      held = { key, denoiser: model.denoiser(denoiser) };
    }
    return held.denoiser;
  };

  async function* run(request: TextToImage): AsyncGenerator<PipelineEvent, void, undefined> {
    if (isBusy) {
      throw new UsageError("Cannot make pictures of two requests at once with one pipeline");
    }
    isBusy = true;
    let isOver = false;
    try {
      const job = jobOf(model, request, tokenizers(request.tokenizer), isLasting);
      yield* draw(job, request);
      isOver = true;
    } finally {
      if (!isOver || !isLasting) release();
      isBusy = false;
    }
  }

  async function* draw(job: Job, request: TextToImage) {
    const { settings, places, plan, warnings, run } = job;
    const { signal, tiling = "auto" } = request;
    for (const message of warnings) yield { kind: "warning" as const, message };
    if (held?.key !== denoiserKey(run)) release();
    const memory = model.prepare(run);
    if (!memory.keeps) release();
    const { sigmas, timesteps } = plan;
    const seeds = places.map(({ seed }) => seed);
    yield { kind: "plan" as const, settings, seeds, sigmas, timesteps, memory };

    signal?.throwIfAborted();
    const conditions = await conditionsOf(model, embeddings, settings, job.reading);
    const { second } = request;
    const whole = needsPicture(settings, model.beside !== undefined, matchOf(settings.match));
    const seen = second && await seenLatents(model, second, { size: settings, tiling, whole });
    for (const [i, place] of places.entries()) {
      const latents = yield* sampled(model, hold(job), job, { conditions, seen }, place, signal);
      signal?.throwIfAborted();
      if (!memory.keeps || (!isLasting && i + 1 === places.length)) release();
      const { index, seed } = place;
      const whole = yield* decodeLatents(
        (z, o) => model.decodeImage(z, o),
        latents,
        tiling,
        index,
      );
      const { floats, image } = finished(whole, second, settings, settings.rounding);
      yield { kind: "image" as const, image, floats, latents, seed, index, settings };
    }
    yield { kind: "done" as const, images: places.length };
  }

  async function encode(requests: readonly TextToImage[]): Promise<void> {
    const jobs = requests.flatMap((request) => {
      try {
        return [jobOf(model, request, tokenizers(request.tokenizer), isLasting)];
      } catch (error) {
        if (error instanceof UsageError) return [];
        throw error;
      }
    });
    if (jobs.length === 0) return;
    if (held?.key !== denoiserKey(jobs[0].run)) release();
    if (!model.prepare(jobs[0].run).keeps) release();
    const skips = Map.groupBy(jobs, ({ run }) => run.clipSkip);
    for (const [clipSkip, some] of skips) {
      const chunks = some.flatMap(({ reading, settings }) => chunksOf(reading, settings));
      await embeddings.fill(chunks.map(({ ids }) => ids), clipSkip);
    }
  }

  return { run, encode, [Symbol.dispose]: release };
}

/** What denoisers of equal keys have in common. */
function denoiserKey({ height, width, prompts, tokens, sets, changes }: Run): string {
  return [height, width, prompts, tokens, sets, changes].join();
}

/** The tokenizers of a model; those of the latest vocabulary are kept. */
function rememberingTokenizers(
  model: Model,
): (vocabulary: Vocabulary | undefined) => readonly ClipTokenizer[] {
  let known: {
    readonly vocabulary: Vocabulary | undefined;
    readonly tokenizers: readonly ClipTokenizer[];
  } | undefined;
  return (vocabulary) => {
    if (!known || known.vocabulary !== vocabulary) {
      known = { vocabulary, tokenizers: tokenizersOf(model, vocabulary) };
    }
    return known.tokenizers;
  };
}

/** Samplers that call the network twice a step: AUTOMATIC1111 lays schedules of prompts out over calls. */
const SECOND_ORDER: ReadonlySet<SamplerName> = new Set(["heun", "dpm2"]);

function jobOf(
  model: Model,
  request: TextToImage,
  tokenizers: readonly ClipTokenizer[],
  isLasting: boolean,
): Job {
  const settings = settle(model, request);
  const places = placesOf(request, settings);
  const scheduler = parseSchedulerConfig(model.scheduler);
  const { sampler, schedule, steps, sees, strength } = settings;
  const { width, height } = paddedSize(model, settings);
  const match = matchOf(settings.match);
  const sdxl = model.family === "sdxl";
  const isForHoles = model.beside !== undefined;
  const plan = planSampling({
    ...{ sampler, schedule, steps, scheduler, dialect: match.dialect, sdxl },
    ...(!beginsWithNoise(settings, match) && { strength }),
    distilled: model.guidanceWidth !== undefined,
  });
  const isAlone = !isGuided(model, settings);
  const read = (negativePrompt: string | undefined) =>
    readPrompts(tokenizers, {
      prompt: settings.prompt,
      negativePrompt,
      weighting: settings.weighting,
      calls: SECOND_ORDER.has(sampler) ? 2 * steps : steps,
    });
  const alone = read(isAlone ? undefined : settings.negativePrompt);
  const isComposed = alone.parts.length > 1;
  if (isComposed) checkComposition(model, settings, alone.parts.length);
  // what is composed is composed of differences from the negative prompt, even where guidance is off
  const reading = isComposed && isAlone ? read(settings.negativePrompt) : alone;
  const sets = countSets(reading, plan.timesteps.length);
  const chunk = reading.empty.ids[0].length;
  const changes = isLasting || sets > 1;
  const size = { height: height / model.factor, width: width / model.factor };
  const unmatched = match.unmatched[sampler] ??
    (strength === undefined ? undefined : match.unmatchedLate?.[sampler]);
  return {
    settings,
    places,
    plan,
    reading,
    weights: reading.parts.map(({ weight }) => weight),
    warnings: [
      ...(model.readsText || settings.prompt === ""
        ? []
        : ["The model reads no text: the prompt says nothing to it"]),
      ...ignoredSettings(scheduler),
      ...(settings.eta === undefined || sampler in USUAL_ETA
        ? []
        : [`The sampler ${sampler} adds no share of fresh noise: eta says nothing to it`]),
      ...(unmatched === undefined
        ? []
        : [`Pictures by ${sampler} do not match ${settings.match}'s: ${unmatched}`]),
      ...reading.cut.map(({ prompt, text }) =>
        `The ${prompt} is longer than the text encoder reads; this is left out: "${text}"`
      ),
    ],
    denoiser: { ...size, sets, changes },
    run: {
      width,
      height,
      pictures: places.length,
      prompts: reading.parts.length + (reading.negative ? 1 : 0),
      tokens: (model.readsText ? lengthsOf(reading).all * chunk : 0) + model.toldTokens,
      chunk,
      sets,
      changes,
      keeps: isLasting || places.length > 1,
      encodes: sees === "mask" && isForHoles || needsPicture(settings, isForHoles, match),
      clipSkip: ownClipSkip(model, settings),
      tiling: request.tiling ?? "auto",
    },
  };
}

/** Throws `UsageError` where prompts cannot be composed with AND. */
function checkComposition(
  { guidanceWidth }: Model,
  { guidanceRescale }: Settings,
  count: number,
): void {
  const cannot = `Cannot compose ${count} prompts with AND`;
  if (guidanceWidth !== undefined) {
    throw new UsageError(
      `${cannot}: this checkpoint was distilled with its guidance and knows no negative prompt to compose against; ` +
        `write "and" for the word`,
    );
  }
  if (guidanceRescale > 0) {
    throw new UsageError(
      `${cannot} and rescale guidance: there is no one prediction to rescale to; set guidance rescale to 0`,
    );
  }
}

/** A warning for settings of the checkpoint's scheduler that no sampler here follows. */
function ignoredSettings({ unfollowed = [] }: SchedulerConfig): string[] {
  return unfollowed.length === 0
    ? []
    : [`The checkpoint's scheduler asks for what is not supported: ${unfollowed.join(", ")}`];
}

/** What the network is told and shown of all pictures of a request. */
interface Told {
  readonly conditions: Conditions;
  readonly seen: SeenLatents | undefined;
}

/** Walks the plan for one picture; returns its latents. */
async function* sampled(
  model: Model,
  network: Denoiser,
  { settings, plan, weights, reading, denoiser: request }: Job,
  { conditions, seen }: Told,
  { index: image, seed }: Place,
  signal: AbortSignal | undefined,
): AsyncGenerator<PipelineEvent, Latents, undefined> {
  const { height, width } = request;
  const size = { channels: model.latentChannels, height, width };
  const asLatents = (data: Float32Array): Latents => ({ data, ...size });
  const noises = noisesOf(settings, seed, image);
  const count = size.channels * size.height * size.width;
  const match = matchOf(settings.match);
  const isTree = match.tree !== undefined && TREE_SAMPLERS.has(settings.sampler);
  const start = startOf(settings, { plan, match, count }, seen ?? {}, noises);
  const { guidanceRescale } = settings;
  const scale = isGuided(model, settings) ? settings.cfgScale : 1;
  let call = 0;
  const guess = denoiser(plan.prediction, async (input, timestep) => {
    signal?.throwIfAborted();
    const shown = start.shown ? joined([input, start.shown]) : input;
    const predictions = await network.predict(shown, timestep, conditions.at(call++));
    if (reading.negative === undefined) return predictions[0];
    const [unconditional, ...parts] = predictions;
    const guided = compose(unconditional, parts.map((part, i) => [weights[i], part]), scale);
    return guidanceRescale > 0 ? rescaleGuidance(guided, parts[0], guidanceRescale) : guided;
  });
  // AUTOMATIC1111's tree is that of the whole walk
  const sigmas = match.dialect === "a1111" ? plan.wholeSigmas : plan.sigmas;
  const options = {
    noise: noises.later,
    ...(start.land && { land: start.land }),
    ...(isTree && { between: treeNoise(settings, { seed, index: image }, sigmas, count) }),
    ...(settings.eta !== undefined && { eta: settings.eta }),
  };
  let latents = asLatents(start.x);
  for await (const { index, sigma, x, x0 } of sample(plan, start.held(guess), start.x, options)) {
    const step = `step ${index + 1} of ${plan.intervals.length}`;
    requireFinite(
      x,
      `the picture of seed ${seed}`,
      `${step}; less guidance, prompts that weigh less or`,
    );
    latents = asLatents(x);
    yield { kind: "step", image, index, of: plan.intervals.length, sigma, x0: asLatents(x0) };
  }
  return latents;
}
