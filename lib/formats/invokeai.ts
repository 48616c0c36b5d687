/**
 * InvokeAI's settings: "invokeai_metadata" (since 3.0, `invokeai/app/invocations/metadata.py`), "sd-metadata" (1.15 to 2.3,
 * its issue 266) and "Dream", the command that its first versions took.
 */

import { fieldOf, isObject, type Json, numberOf, parseJson, textOf } from "./json.ts";
import { defined, fileName, type Recipe, type Remembered, seedOf } from "./recipe.ts";

/** Where its names are not those of diffusers or k-diffusion. "_k" at the end is Karras' schedule. */
const SAMPLERS: ReadonlyMap<string, string> = new Map([
  ["kdpm_2", "dpm_2"],
  ["k_dpm_2", "dpm_2"],
]);

function samplerOf(name: string): Pick<Recipe, "sampler" | "schedule"> {
  const isKarras = name.endsWith("_k");
  const plain = isKarras ? name.slice(0, -2) : name;
  const sampler = SAMPLERS.get(plain) ?? plain;
  return { sampler, ...(isKarras && { schedule: "karras" }) };
}

/** Settings that change the picture and have no place in a recipe, where they are set. */
const UNMATCHED = [
  "loras",
  "controlnets",
  "ipAdapters",
  "t2iAdapters",
  "control_layers",
  "regions",
  "refiner_model",
  "positive_style_prompt",
  "negative_style_prompt",
  "seamless_x",
  "seamless_y",
  "hrf_enabled",
  "strength",
  "init_image",
  "ref_images",
  "canvas_v2_metadata",
] as const;

/** Words that its prompt language gives a weight, or joins. */
const COMPEL = /[\p{L}\p{N})"'][+-]+(?=[\s,.)"']|$)|\)\d|\)\.(?:blend|and|swap)\(/u;

/** The key "invokeai_metadata"; `undefined` for any other text. */
export function readInvokeai(text: string): Remembered | undefined {
  const json = parseJson(text);
  if (!isObject(json)) return undefined;
  const prompt = textOf(json, "positive_prompt");
  if (prompt === undefined) return undefined;
  const negativePrompt = textOf(json, "negative_prompt") ?? "";
  const mode = textOf(json, "generation_mode") ?? "txt2img";
  const scheduler = textOf(json, "scheduler");
  const rng = textOf(json, "rand_device") === "cuda" ? "cuda" : "cpu";
  const seed = seedOf(fieldOf(json, "seed"), rng);
  const skipped = numberOf(json, "clip_skip");
  const [model, vae] = [fieldOf(json, "model"), fieldOf(json, "vae")].map(nameOf);
  return defined({
    tool: "invokeai" as const,
    recipe: defined({
      ...size(json),
      prompt,
      negativePrompt,
      steps: numberOf(json, "steps"),
      cfgScale: numberOf(json, "cfg_scale"),
      guidanceRescale: numberOf(json, "cfg_rescale_multiplier"),
      ...(scheduler !== undefined && samplerOf(scheduler)),
      seed: seed.seed,
      rng,
      clipSkip: skipped === undefined ? undefined : skipped + 1,
    }),
    files: defined({ model, vae }),
    unmatched: [
      ...seed.unmatched,
      ...(/txt2img$/.test(mode) ? [] : [`generation_mode: ${mode}`]),
      ...UNMATCHED.flatMap((name) => {
        const value = fieldOf(json, name);
        return isSet(value, prompt, negativePrompt) ? [`${name}: ${brief(value)}`] : [];
      }),
      ...emphasis(prompt, negativePrompt),
    ],
  });
}

/** A style prompt that repeats the prompt says nothing. */
function isSet(value: Json | undefined, prompt: string, negative: string): boolean {
  if (value === undefined || value === null || value === false || value === "") return false;
  if (value === prompt || value === negative) return false;
  return !Array.isArray(value) || value.length > 0;
}

function emphasis(...prompts: readonly string[]): string[] {
  return prompts.some((text) => COMPEL.test(text)) ? ["weights in compel's language"] : [];
}

/** A model by its name; since 4.0 `name`, before `model_name`. */
function nameOf(model: Json | undefined): string | undefined {
  const name = typeof model === "string"
    ? model
    : textOf(model, "name") ?? textOf(model, "model_name");
  return name === undefined ? undefined : fileName(name);
}

function size(json: Json | undefined): Pick<Recipe, "width" | "height"> {
  return defined({ width: numberOf(json, "width"), height: numberOf(json, "height") });
}

/** The key "sd-metadata"; `undefined` for any other text. */
export function readSdMetadata(text: string): Remembered | undefined {
  const json = parseJson(text);
  const image = fieldOf(json, "image");
  if (!isObject(image)) return undefined;
  const prompts = image.prompt;
  const parts = Array.isArray(prompts) ? prompts : [prompts ?? ""];
  const texts = parts.flatMap((part) =>
    typeof part === "string" ? [part] : textOf(part, "prompt") ?? []
  );
  const sampler = textOf(image, "sampler");
  const seed = seedOf(image.seed, "cuda");
  const { prompt, negativePrompt } = unconditioned(texts.join(" "));
  const set = ["threshold", "perlin", "seamless", "hires_fix", "variations", "postprocessing"]
    .filter((name) => isSet(image[name], "", "") && image[name] !== 0);
  const type = textOf(image, "type") ?? "txt2img";
  return defined({
    tool: "invokeai" as const,
    recipe: defined({
      ...size(image),
      prompt,
      negativePrompt,
      steps: numberOf(image, "steps"),
      cfgScale: numberOf(image, "cfg_scale"),
      ...(sampler !== undefined && samplerOf(sampler)),
      seed: seed.seed,
      rng: "cuda" as const,
    }),
    files: defined({ model: textOf(json, "model_weights") }),
    modelHash: textOf(json, "model_hash")?.slice(0, 10),
    unmatched: [
      ...seed.unmatched,
      ...(type === "txt2img" ? [] : [`type: ${type}`]),
      ...(texts.length > 1 ? ["several prompts with weights"] : []),
      ...set.map((name) => `${name}: ${brief(image[name])}`),
      ...emphasis(prompt, negativePrompt),
    ],
  });
}

/** A value for a message; of a long one the beginning. */
function brief(value: Json | undefined): string {
  const text = JSON.stringify(value, (_, part) => typeof part === "bigint" ? String(part) : part);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}

/** In its second language [words in brackets] were the negative prompt. */
function unconditioned(text: string): { prompt: string; negativePrompt: string } {
  const negative = [...text.matchAll(/\[([^\]]*)\]/g)].map(([, words]) => words.trim());
  const prompt = text.replaceAll(/\s*\[[^\]]*\]/g, "").trim();
  return { prompt, negativePrompt: negative.join(", ") };
}

/** Letters of the command that have a place in a recipe. */
const SWITCHES: Readonly<Record<string, "steps" | "width" | "height" | "cfgScale">> = {
  s: "steps",
  W: "width",
  H: "height",
  C: "cfgScale",
};

/** The key "Dream": `"a prompt" -s 50 -S 42 -W 512 -H 512 -C 7.5 -A k_lms`; `undefined` for any other text. */
export function readDream(text: string): Remembered | undefined {
  const [, quoted, rest] = /^\s*"((?:\\.|[^"\\])*)"((?:\s[^]*)?)$/.exec(text) ?? [];
  if (quoted === undefined) return undefined;
  const { prompt, negativePrompt } = unconditioned(quoted.replaceAll(/\\(.)/g, "$1"));
  const fields: { -readonly [K in keyof Recipe]: Recipe[K] } = {};
  const unmatched: string[] = [];
  for (const [whole, letter, value] of rest.matchAll(/(?:^|\s)-(\w)\s*([^\s-]\S*|-\d\S*|)/g)) {
    const number = Number(value);
    if (letter === "S") {
      const seed = seedOf(value, "cuda");
      if (seed.seed !== undefined) fields.seed = seed.seed;
      unmatched.push(...seed.unmatched);
    } else if (letter === "A" && value !== "") Object.assign(fields, samplerOf(value));
    else if (Object.hasOwn(SWITCHES, letter) && value !== "" && Number.isFinite(number)) {
      fields[SWITCHES[letter]] = number;
    } else if (letter !== "n" && letter !== "U" || value !== "") unmatched.push(whole.trim());
  }
  return {
    tool: "invokeai",
    recipe: { ...fields, prompt, negativePrompt, rng: "cuda" },
    files: {},
    unmatched: [...unmatched, ...emphasis(prompt, negativePrompt)],
  };
}
