/** From what is asked for to everything that determines a picture. */

import type { LabelledBox } from "../base/box.ts";
import { counted } from "../base/counted.ts";
import { UsageError } from "../base/errors.ts";
import { layoutTokens } from "../text/layout.ts";
import { classId } from "../text/told.ts";
import { parseSampler, parseSchedule } from "../diffusion/names.ts";
import type { Model, Tiling } from "../engine/model.ts";
import { checkSecondSize, type SecondPicture, secondSize } from "./beside.ts";
import type { BatchSeeds, MatchName, Rng, Rounding, Settings, Weighting } from "./events.ts";
import { type Match, MATCHES, TREE_SAMPLERS, USUAL } from "./match.ts";
import { checkSize, requireInteger, requireNumber } from "./requests.ts";
import type { Vocabulary } from "./tokens.ts";

/** What is asked for. Whatever is left out is the matched tool's, else the checkpoint's family's. */
export interface TextToImage {
  /** What to show. */
  readonly prompt: string;
  /** What not to show. */
  readonly negativePrompt?: string | undefined;
  /** Class of the picture, by its name, for models that know classes. */
  readonly label?: string | undefined;
  /** What lies where, for models that read layouts. */
  readonly boxes?: readonly LabelledBox[] | undefined;
  /** What the model sees beside latents, for models that see something, or what a picture is made of. */
  readonly second?: SecondPicture | undefined;
  /** From 0 to 1: how much a picture that is changed may change, or what fills a hole differ from what was there. */
  readonly strength?: number | undefined;
  /**
   * Pixels, multiples of the first stage's factor; of a second picture any, and another than it asks for only for a map and
   * for a picture that is changed, which is stretched.
   */
  readonly width?: number | undefined;
  /** Pixels, likewise. */
  readonly height?: number | undefined;
  /** Sampling steps. */
  readonly steps?: number | undefined;
  /** Classifier-free guidance; 1 (or 0, as diffusers spells it) switches it off and halves the work. */
  readonly cfgScale?: number | undefined;
  /** From 0, off, to 1 (Lin et al. 2023). */
  readonly guidanceRescale?: number | undefined;
  /** Any spelling of any tool, see lib/diffusion/names.ts. */
  readonly sampler?: string | undefined;
  /** Likewise. */
  readonly schedule?: string | undefined;
  /** Share of fresh noise in samplers that can add some. */
  readonly eta?: number | undefined;
  /** 0 … 2³²−1 for the first picture; −1 draws one. */
  readonly seed?: number | undefined;
  /** Pictures; their seeds count up, or one generator makes the noise of all, see `batchSeeds`. */
  readonly batchCount?: number | undefined;
  /** Makes only this picture of the batch, from 0. */
  readonly batchIndex?: number | undefined;
  /** The tool whose conventions hold where nothing is said here; none is diffusers' noise with AUTOMATIC1111's prompts. */
  readonly match?: MatchName | undefined;
  /** Whose generator the noise is. */
  readonly rng?: Rng | undefined;
  /** Whose generator samplers draw from, begun at the same seed; the one of the first noise where it is the same kind. */
  readonly samplerRng?: Rng | undefined;
  /** Whose seeds a batch has. */
  readonly batchSeeds?: BatchSeeds | undefined;
  /** How prompts are read: AUTOMATIC1111's language, ComfyUI's, or none at all. */
  readonly weighting?: Weighting | undefined;
  /** How numbers become 8 bits. */
  readonly rounding?: Rounding | undefined;
  /** SDXL: zeros stand for the negative prompt. */
  readonly zeroNegative?: boolean | undefined;
  /**
   * 1 is the layer that the checkpoint was trained with, 2 the one before it; with `match`, as that tool counts: ComfyUI and
   * stable-diffusion.cpp from the last layer, AUTOMATIC1111 not at all but for SD 1.
   */
  readonly clipSkip?: number | undefined;
  /** How the first stage decodes. */
  readonly tiling?: Tiling | undefined;
  /** In place of the checkpoint's. */
  readonly tokenizer?: Vocabulary | undefined;
  /** Stops the work after the current step; the generator throws the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** Fills in what is not asked for. Throws `UsageError` for what makes no sense. */
export function settle(model: Model, request: TextToImage): Settings {
  const { second } = request;
  const own = secondSize(model, second, request);
  const { defaults } = model;
  const usual = own ?? defaults;
  const match = matchOf(request.match);
  // a sampler that is asked for walks the checkpoint's own schedule, not the one the default sampler is used with
  const { sampler, schedule } = request.sampler === undefined
    ? { sampler: parseSampler(defaults.sampler).sampler, schedule: defaults.schedule }
    : parseSampler(request.sampler);
  const followed = request.match === undefined || request.sampler !== undefined
    ? schedule
    : undefined;
  const named = request.schedule ?? followed;
  const rng = request.rng ?? match.rng;
  const usualRng = match.tree === "cpu" && TREE_SAMPLERS.has(sampler) ? "cpu" : match.samplerRng;
  const samplerRng = request.samplerRng ?? usualRng;
  const negativePrompt = request.negativePrompt ?? "";
  const zeros = {
    absent: request.negativePrompt === undefined,
    empty: negativePrompt === "",
    never: false,
  }[match.zeroNegative];
  const clipSkip = request.clipSkip ?? usualClipSkip(model, match);
  const skipped = ownClipSkip(model, { clipSkip, match: request.match });
  const settings: Settings = {
    prompt: request.prompt,
    negativePrompt,
    ...(request.label !== undefined && { label: request.label }),
    ...(request.boxes !== undefined && { boxes: request.boxes }),
    ...(second && { sees: second.source }),
    ...(second?.source === "mask" && { keep: second.keep ?? true }),
    ...(second?.source === "mask" && second.blur && { maskBlur: second.blur }),
    ...((second?.source === "start" || second?.source === "mask") && {
      strength: request.strength ?? match.strength[second.source],
    }),
    width: request.width ?? usual.width,
    height: request.height ?? usual.height,
    steps: request.steps ?? defaults.steps,
    cfgScale: request.cfgScale ?? defaults.cfgScale,
    guidanceRescale: request.guidanceRescale ?? 0,
    sampler,
    schedule: named === undefined ? match.schedule(sampler) : parseSchedule(named),
    eta: request.eta,
    clipSkip,
    ...(skipped > 1 && { clipLayer: skipped + trainedLayer(model) - 1 }),
    rng,
    samplerRng: samplerRng === rng ? undefined : samplerRng,
    batchSeeds: request.batchSeeds ?? match.batchSeeds,
    batchCount: request.batchCount ?? 1,
    weighting: request.weighting ?? match.weighting,
    rounding: request.rounding ?? match.rounding,
    zeroNegative: request.zeroNegative ?? (model.zeroEmptyPrompt && zeros),
    match: request.match,
  };
  checkTold(model, settings);
  if (own) checkSecondSize(second, own, settings);
  checkStrength(request, settings);
  checkSize(settings.width, settings.height, own ? 1 : model.factor);
  requireInteger("steps", settings.steps, 1, 1000);
  requireNumber("the guidance scale", settings.cfgScale, 0, Infinity);
  requireNumber("guidance rescale", settings.guidanceRescale, 0, 1);
  requireInteger("CLIP skip", settings.clipSkip, usualClipSkip(model, match), 13);
  if (settings.eta !== undefined) requireNumber("eta", settings.eta, 0, 1);
  return settings;
}

/** Throws `UsageError` for a class or boxes that the model does not know, or cannot be told. */
function checkTold({ conditioner, path }: Model, { label, boxes = [] }: Settings): void {
  if (label !== undefined) {
    if (!conditioner?.classes) {
      throw new UsageError(
        `Cannot make a picture of class ${
          JSON.stringify(label)
        } with "${path}": it knows no classes`,
      );
    }
    classId(label, conditioner.classes);
  }
  if (boxes.length > 0) {
    if (!conditioner?.layout) {
      throw new UsageError(`Cannot use boxes with "${path}": it reads none`);
    }
    layoutTokens(boxes, conditioner.layout);
  }
}

/** Throws `UsageError` for a strength of nothing, and for an edge that nothing is blended at. */
function checkStrength(
  { second, strength }: TextToImage,
  { strength: settled, keep, maskBlur = 0 }: Settings,
): void {
  if (settled === undefined && strength !== undefined) {
    throw new UsageError(
      `Cannot use strength ${strength}: there is no picture to change; \`ldm img2img\` and \`ldm inpaint\` take one`,
    );
  }
  if (settled !== undefined) requireNumber("strength", settled, 0, 1);
  if (second?.source !== "mask") return;
  requireNumber("mask blur", second.blur ?? 0, 0, MOST_BLUR);
  if (maskBlur > 0 && keep === false) {
    throw new UsageError(
      `Cannot blur the mask by ${
        counted(maskBlur, "pixel")
      } where nothing is kept: the whole picture is new; leave out one of both`,
    );
  }
}

/** Pixels of a blurred edge that nobody means. */
const MOST_BLUR = 1024;

/** The conventions that a request is filled in with. */
export function matchOf(name: MatchName | undefined): Match {
  return name === undefined ? USUAL : MATCHES[name];
}

/** The text encoder's layer that a checkpoint was trained with, from its last, which is 1. */
function trainedLayer({ family }: Model): number {
  return family === "sd1" ? 1 : 2;
}

/** CLIP skip by which a tool means the layer that a checkpoint was trained with. */
function usualClipSkip(model: Model, { clipSkip }: Match): number {
  return clipSkip === "last" ? trainedLayer(model) : 1;
}

/** CLIP skip as the engine counts: 1 is the layer that the checkpoint was trained with. */
export function ownClipSkip(
  model: Model,
  { clipSkip, match: name }: Pick<Settings, "clipSkip" | "match">,
): number {
  const match = matchOf(name);
  if (match.clipSkip === "sd1" && model.family !== "sd1") return 1;
  return clipSkip - usualClipSkip(model, match) + 1;
}

/** Whether the network is told what is not asked for as well. */
export function isGuided({ guidanceWidth }: Model, { cfgScale }: Settings): boolean {
  return guidanceWidth === undefined && cfgScale !== 1 && cfgScale !== 0;
}

const SEEDS = 2 ** 32;

/** One picture of a batch. */
export interface Place {
  /** In the batch, from 0. */
  readonly index: number;
  readonly seed: number;
}

/** The pictures that a request asks for: seeds count up, or are all the same where one generator serves the batch. */
export function placesOf(
  { seed = -1, batchIndex }: TextToImage,
  { batchCount, batchSeeds }: Settings,
): Place[] {
  requireInteger("the number of pictures", batchCount, 1, SEEDS);
  requireInteger("the seed", seed, -1, SEEDS - 1);
  if (batchIndex !== undefined) {
    requireInteger("the picture of the batch", batchIndex, 0, batchCount - 1);
  }
  const span = batchSeeds === "one" ? 1 : batchCount;
  const first = seed >= 0
    ? seed
    : crypto.getRandomValues(new Uint32Array(1))[0] % (SEEDS - span + 1);
  if (first + span > SEEDS) {
    throw new UsageError(
      `Cannot make ${batchCount} pictures from seed ${first}: their seeds count up and end at ${
        SEEDS - 1
      }`,
    );
  }
  const indices = batchIndex === undefined
    ? Array.from({ length: batchCount }, (_, i) => i)
    : [batchIndex];
  return indices.map((index) => ({ index, seed: batchSeeds === "one" ? first : first + index }));
}
