/**
 * Infotext as a recipe: which of its keys mean what, and which of the programs that write it wrote this one. Keys are those
 * of AUTOMATIC1111's `modules/processing.py`; stable-diffusion.cpp, Fooocus and we ourselves write variants.
 */

import { FormatError } from "../base/errors.ts";
import { readBoxes } from "./boxes.ts";
import { type ReadInfotext, readInfotext } from "./infotext.ts";
import { parseNumber } from "./json.ts";
import { defined, fileName, type Recipe, type Remembered, seedOf, type Tool } from "./recipe.ts";

/** Keys of ours, beside AUTOMATIC1111's; its reader takes and ignores them. */
export const OWN_KEYS = {
  label: "Class",
  boxes: "Boxes",
  guidanceRescale: "CFG Rescale",
  samplerRng: "Sampler RNG",
  match: "Match",
  weighting: "Weighting",
  rounding: "Rounding",
  batchSeeds: "Batch seeds",
  batchCount: "Batch size",
  batchIndex: "Batch pos",
  zeroNegative: "Zero negative",
  sees: "Second picture",
  image: "Image",
  mask: "Mask",
  keep: "Keep",
  taesd: "TAESD",
  tokenizer: "Tokenizer",
  dtype: "Dtype",
  tuned: "Tuned",
} as const;

/** What an entry says: fields of the result, or `undefined` where its value makes no sense. */
type Meaning = (value: string) => Partial<Fields> | undefined;
interface Fields extends Recipe {
  readonly files: Remembered["files"];
  readonly modelHash: string;
  readonly dtype: "f16" | "f32";
  readonly tuned: boolean;
}

const whole = (name: "steps" | "clipSkip" | "batchCount" | "batchIndex"): Meaning => (value) =>
  /^\d{1,9}$/.test(value) ? { [name]: Number(value) } : undefined;

type NumberName = "cfgScale" | "guidanceRescale" | "eta" | "strength" | "maskBlur";
const number = (name: NumberName): Meaning => (value) => {
  const number = parseNumber(value);
  return number === undefined ? undefined : { [name]: number };
};

/** One of a key's words, in any case. */
const word = <T>(words: Readonly<Record<string, T>>): (value: string) => T | undefined => (value) =>
  Object.hasOwn(words, value.toLowerCase()) ? words[value.toLowerCase()] : undefined;

const RNG: Readonly<Record<string, "cpu" | "cuda">> = {
  cpu: "cpu",
  gpu: "cuda",
  nv: "cuda",
  cuda: "cuda",
};

/** AUTOMATIC1111's word for it. */
const STRENGTH = "Denoising strength";

const MEANINGS: Readonly<Record<string, Meaning>> = {
  "Steps": whole("steps"),
  "Sampler": (sampler) => ({ sampler }),
  "Scheduler": (schedule) => ({ schedule }), // Fooocus'
  "Schedule type": (schedule) => schedule === "Automatic" ? {} : { schedule },
  "CFG scale": number("cfgScale"),
  "Size": (value) => {
    const [, width, height] = /^(\d{1,6})x(\d{1,6})$/.exec(value) ?? [];
    return width === undefined ? undefined : { width: Number(width), height: Number(height) };
  },
  "Model": (value) => ({ files: { model: fileName(value) } }),
  "Model hash": (modelHash) => ({ modelHash }),
  "VAE": (value) =>
    ["None", "Automatic"].includes(value) ? {} : { files: { vae: fileName(value) } },
  [STRENGTH]: number("strength"),
  "Mask blur": number("maskBlur"),
  "Clip skip": whole("clipSkip"),
  "Eta": number("eta"),
  "RNG": (value) => one("rng", word(RNG)(value)),
  [OWN_KEYS.samplerRng]: (value) => one("samplerRng", word(RNG)(value)), // stable-diffusion.cpp's as well
  [OWN_KEYS.guidanceRescale]: number("guidanceRescale"),
  "Emphasis": word<Partial<Fields>>({ original: {}, none: { weighting: "none" } }),
};

function boxes(value: string): Partial<Fields> | undefined {
  try {
    return { boxes: readBoxes(value) };
  } catch (error) {
    if (error instanceof FormatError) return undefined;
    throw error;
  }
}

const flag = (name: "zeroNegative" | "tuned"): Meaning => (value) =>
  value === "True" ? { [name]: true } : undefined;

/** What our own keys mean, which other programs use for other things if at all. */
const OWN_MEANINGS: Readonly<Record<string, Meaning>> = {
  [OWN_KEYS.label]: (label) => ({ label }),
  [OWN_KEYS.boxes]: boxes,
  [OWN_KEYS.match]: (value) => one("match", MATCHES.find((name) => name === value)),
  [OWN_KEYS.weighting]: (value) =>
    one("weighting", word({ a1111: "a1111", comfy: "comfy", none: "none" } as const)(value)),
  [OWN_KEYS.rounding]: (value) =>
    one("rounding", word({ round: "round", truncate: "truncate" } as const)(value)),
  [OWN_KEYS.batchSeeds]: (value) =>
    one("batchSeeds", word({ each: "each", one: "one" } as const)(value)),
  [OWN_KEYS.batchCount]: whole("batchCount"),
  [OWN_KEYS.batchIndex]: whole("batchIndex"),
  [OWN_KEYS.zeroNegative]: flag("zeroNegative"),
  [OWN_KEYS.sees]: (value) =>
    one("sees", word({ low: "low", mask: "mask", map: "map", start: "start" } as const)(value)),
  [OWN_KEYS.image]: (image) => ({ files: { image } }),
  [OWN_KEYS.mask]: (mask) => ({ files: { mask } }),
  [OWN_KEYS.keep]: (value) => value === "False" ? { keep: false } : undefined,
  [OWN_KEYS.taesd]: (taesd) => ({ files: { taesd } }),
  [OWN_KEYS.tokenizer]: (tokenizer) => ({ files: { tokenizer } }),
  [OWN_KEYS.dtype]: (value) => one("dtype", word({ f16: "f16", f32: "f32" } as const)(value)),
  [OWN_KEYS.tuned]: flag("tuned"),
  "VAE Decoder": () => ({}), // TAESD, whose file is named
};

const MATCHES = ["diffusers", "a1111", "comfyui", "sdcpp"] as const;

function one<K extends keyof Fields>(name: K, value: Fields[K] | undefined) {
  return value === undefined ? undefined : { [name]: value } as Partial<Fields>;
}

/** Keys that say nothing about the picture itself, or say again what others say. */
const SILENT: ReadonlySet<string> = new Set([
  "Version",
  "User",
  "VAE hash",
  "Batch size",
  "Batch pos",
  "Performance",
  "Raw prompt",
  "Raw negative prompt",
  "Lora weights",
  "Lora hashes",
  "TE",
  "Unet",
]);

/** Values that are the same as if the key were missing. */
const NEUTRAL: Readonly<Record<string, string>> = {
  "Variation seed strength": "0",
  "ENSD": "0",
  "VAE Encoder": "Full",
  "VAE Decoder": "Full",
  "FP8 weight": "Disable",
};

/** Programs by what "Version" says. */
const WRITERS: readonly (readonly [Tool, RegExp])[] = [
  ["ldm", /^ldm /],
  ["sdcpp", /stable-diffusion\.cpp/],
  ["fooocus", /^Fooocus/],
  ["comfyui", /ComfyUI/i],
];

/** What a missing key means. AUTOMATIC1111's default is the GPU, and we write only the CPU, as it does. */
const DEFAULT_RNG: Readonly<Record<Tool, "cpu" | "cuda">> = {
  ldm: "cuda",
  a1111: "cuda",
  sdcpp: "cuda",
  kohya: "cuda",
  comfyui: "cpu",
  invokeai: "cpu",
  fooocus: "cpu",
};

/** What a text says, where it is infotext; `undefined` for any other text. */
export function readInfotextRecipe(text: string): Remembered | undefined {
  const infotext = readInfotext(text);
  if (!infotext.entries.has("Steps") && !infotext.entries.has("Seed")) return undefined;
  const version = infotext.entries.get("Version") ?? "";
  const tool = WRITERS.find(([, pattern]) => pattern.test(version))?.[0] ?? "a1111";
  return remembered(infotext, tool);
}

/** Infotext of a known program. */
export function remembered(infotext: ReadInfotext, tool: Tool): Remembered {
  const { entries } = infotext;
  const meanings = tool === "ldm" ? { ...MEANINGS, ...OWN_MEANINGS } : MEANINGS;
  const unmatched: string[] = [];
  const fields: { -readonly [K in keyof Fields]?: Fields[K] } = {};
  // AUTOMATIC1111's second pass, which is not made here, has a strength too
  const isHires = [...entries.keys()].some((key) => key.startsWith("Hires "));
  for (const [key, value] of entries) {
    if (key === "Seed" || NEUTRAL[key] === value) continue;
    const meaning = isHires && key === STRENGTH
      ? undefined
      : Object.hasOwn(meanings, key)
      ? meanings[key](value)
      : SILENT.has(key)
      ? {}
      : undefined;
    if (meaning === undefined) unmatched.push(`${key}: ${value}`);
    else Object.assign(fields, meaning, { files: { ...fields.files, ...meaning.files } });
  }
  const { files = {}, modelHash, dtype, tuned, ...said } = fields;
  const rng = said.rng ?? DEFAULT_RNG[tool];
  const seed = seedOf(entries.get("Seed"), rng);
  const { networks, stray = [], ...texts } = tool === "ldm"
    ? { prompt: infotext.prompt, negativePrompt: infotext.negativePrompt }
    : withoutNetworks(infotext);
  return defined({
    tool,
    recipe: defined({
      ...said,
      ...texts,
      seed: seed.seed,
      rng,
    }),
    files,
    modelHash,
    networks,
    dtype,
    tuned,
    unmatched: [...unmatched, ...seed.unmatched, ...stray],
  });
}

const NETWORK = /\s*<(?:lora|lyco|hypernet):[^<>]*>/g;

/**
 * Prompts without the networks that they ask for, which are loaded apart from the words; those in negative prompts are stray:
 * nobody loads them.
 */
export function withoutNetworks(
  { prompt, negativePrompt }: { prompt: string; negativePrompt: string },
): { prompt: string; negativePrompt: string; networks?: string[]; stray?: string[] } {
  const tagsIn = (text: string) => [...text.matchAll(NETWORK)].map(([tag]) => tag.trim());
  const strip = (text: string) => text.replaceAll(NETWORK, "").trim();
  const [networks, stray] = [tagsIn(prompt), tagsIn(negativePrompt)];
  return {
    prompt: networks.length > 0 ? strip(prompt) : prompt,
    negativePrompt: stray.length > 0 ? strip(negativePrompt) : negativePrompt,
    ...(networks.length > 0 && { networks }),
    ...(stray.length > 0 && { stray }),
  };
}
