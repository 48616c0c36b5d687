/**
 * What the settings of prompt files are called, in each of their forms, and how their values are read. A setting that
 * there is not is refused, unless its value switches it off.
 */

import { FormatError } from "../base/errors.ts";
import { readBoxes } from "./boxes.ts";
import type { Recipe } from "./recipe.ts";

/** A form's own short names; all forms share the long ones. */
export type FormName = "json" | "a1111" | "kohya" | "dream";

/** What a line asks for. */
export interface Asked {
  /**
   * What the line says; what it leaves open is undefined. It always has a prompt, a class, boxes or a picture. Paths are as
   * they were written.
   */
  readonly recipe: Recipe;
  /** Where its pictures go, as the option --output takes it. */
  readonly output?: string;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
/** What is read of an item so far. */
type Draft = { recipe: Mutable<Recipe>; output?: string };

/** Puts a value where it belongs. Throws `FormatError`. */
type Setter = (draft: Draft, value: unknown, name: string) => void;

const text =
  (field: "prompt" | "negativePrompt" | "sampler" | "schedule"): Setter => (draft, value, name) => {
    if (typeof value !== "string") throw wrong(name, value, "a text");
    draft.recipe[field] = value;
  };

type NumberField = "width" | "height" | "steps" | "seed" | "clipSkip";
const whole =
  (field: NumberField, least: number, most = Number.MAX_SAFE_INTEGER): Setter =>
  (draft, value, name) => {
    draft.recipe[field] = wholeNumber(value, name, least, most);
  };

function wholeNumber(value: unknown, name: string, least: number, most: number): number {
  const number = typeof value === "string" && /^\s*[+-]?\d+\s*$/.test(value)
    ? Number(value)
    : value;
  if (typeof number === "number" && Number.isInteger(number) && number >= least && number <= most) {
    return number;
  }
  const range = most === Number.MAX_SAFE_INTEGER
    ? `of at least ${least}`
    : `from ${least} to ${most}`;
  throw wrong(name, value, `a whole number ${range}`);
}

type DecimalField = "cfgScale" | "guidanceRescale" | "eta" | "strength" | "maskBlur";
const decimal = (field: DecimalField, most = Infinity): Setter => (draft, value, name) => {
  const number = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
  if (typeof number !== "number" || !(number >= 0 && number <= most && number < Infinity)) {
    throw wrong(
      name,
      value,
      most === Infinity ? "a number of at least 0" : `a number from 0 to ${most}`,
    );
  }
  draft.recipe[field] = number;
};

/** Batches and pictures of each batch multiply. */
const count: Setter = (draft, value, name) => {
  const { batchCount = 1 } = draft.recipe;
  draft.recipe.batchCount = batchCount * wholeNumber(value, name, 1, Number.MAX_SAFE_INTEGER);
};

/** Words that a setting may be, by their spellings; what is missing here the compiler tells. */
const WORDS: {
  readonly [K in "rng" | "samplerRng" | "batchSeeds" | "weighting" | "rounding" | "match"]:
    Readonly<Record<string, NonNullable<Recipe[K]>>>;
} = {
  rng: { cpu: "cpu", cuda: "cuda", gpu: "cuda", nv: "cuda" },
  samplerRng: { cpu: "cpu", cuda: "cuda" },
  batchSeeds: { each: "each", one: "one" },
  weighting: { a1111: "a1111", comfy: "comfy", none: "none" },
  rounding: { round: "round", truncate: "truncate" },
  match: { diffusers: "diffusers", a1111: "a1111", comfyui: "comfyui", sdcpp: "sdcpp" },
};

const word = (field: keyof typeof WORDS): Setter => (draft, value, name) => {
  const words = WORDS[field];
  const spelling = typeof value === "string" ? value.toLowerCase() : "";
  if (!Object.hasOwn(words, spelling)) {
    throw wrong(name, value, `one of ${Object.keys(words).join(", ")}`);
  }
  Object.assign(draft.recipe, { [field]: words[spelling] });
};

/** Numbers of classes are names as well. */
const label: Setter = (draft, value, name) => {
  if (typeof value !== "string" && typeof value !== "number") throw wrong(name, value, "a name");
  draft.recipe.label = String(value);
};

/** Several are all of them. */
const boxes: Setter = (draft, value, name) => {
  try {
    draft.recipe.boxes = [...draft.recipe.boxes ?? [], ...readBoxes(value)];
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    throw new FormatError(`it sets ${name}, which cannot be read: ${error.message}`);
  }
};

const output: Setter = (draft, value, name) => {
  if (typeof value !== "string" || value === "" || value === "-") {
    throw wrong(name, value, "a file name or a folder");
  }
  draft.output = value;
};

/** A path, or a list of one, as AUTOMATIC1111's API has it; what it takes there, the bytes of a picture, has no place here. */
const picture = (field: "image" | "mask"): Setter => (draft, value, name) => {
  const [path, ...others] = Array.isArray(value) ? value : [value];
  const isPath = typeof path === "string" && path !== "" && path.length <= LONGEST_PATH &&
    !path.startsWith("data:");
  if (!isPath || others.length > 0) throw wrong(name, value, "the path of one picture");
  draft.recipe[field] = path;
};

/** Characters of a path; longer texts are pictures in base64. */
const LONGEST_PATH = 4096;

const ignored: Setter = () => {};

const SEED_MAX = 2 ** 32 - 1;
const prompt = text("prompt");
const negative = text("negativePrompt");
const sampler = text("sampler");
const steps = whole("steps", 1);
const width = whole("width", 1);
const height = whole("height", 1);
const seed = whole("seed", -1, SEED_MAX);
const cfgScale = decimal("cfgScale");
const strength = decimal("strength", 1);
const image = picture("image");
const mask = picture("mask");

/** Names of AUTOMATIC1111's API and prompt files, stable-diffusion.cpp, diffusers and ours, folded. */
const LONG: Readonly<Record<string, Setter>> = {
  prompt,
  negativeprompt: negative,
  negative,
  label,
  class: label,
  box: boxes,
  boxes,
  objects: boxes,
  steps,
  samplesteps: steps,
  numinferencesteps: steps,
  cfgscale: cfgScale,
  cfg: cfgScale,
  guidancescale: cfgScale,
  scale: cfgScale,
  txtcfg: cfgScale,
  image,
  imagepath: image,
  initimage: image,
  initimages: image,
  initimg: image,
  mask,
  maskimage: mask,
  maskpath: mask,
  initmask: mask,
  maskblur: decimal("maskBlur"),
  strength,
  denoisingstrength: strength,
  guidancerescale: decimal("guidanceRescale", 1),
  width,
  height,
  seed,
  samplername: sampler,
  sampler,
  samplemethod: sampler,
  scheduler: text("schedule"),
  schedule: text("schedule"),
  batchsize: count,
  batchcount: count,
  niter: count,
  iterations: count,
  clipskip: whole("clipSkip", 1),
  clipstopatlastlayers: whole("clipSkip", 1),
  eta: decimal("eta", 1),
  rng: word("rng"),
  samplerrng: word("samplerRng"),
  batchseeds: word("batchSeeds"),
  weighting: word("weighting"),
  rounding: word("rounding"),
  match: word("match"),
  output,
  outpathsamples: output,
  // these change no picture, or only together with others that are refused
  promptfordisplay: ignored,
  outpathgrids: ignored,
  donotsavegrid: ignored,
  saveimages: ignored,
  sendimages: ignored,
  overridesettingsrestoreafterwards: ignored,
  subseed: ignored,
};

/** Names of one form alone, as they stand. */
const SHORT: Readonly<Record<FormName, Readonly<Record<string, Setter>>>> = {
  json: {},
  a1111: {},
  kohya: {
    n: negative,
    w: width,
    h: height,
    s: steps,
    d: seed,
    l: cfgScale,
    ss: sampler,
    t: strength,
  },
  dream: {
    s: steps,
    S: seed,
    n: count,
    b: count,
    W: width,
    H: height,
    C: cfgScale,
    A: sampler,
    m: sampler,
    I: image,
    M: mask,
    f: strength,
    g: ignored, // a contact sheet, and the pictures as well
    i: ignored,
  },
};

/** "cfg_scale", "cfg-scale", "cfgScale" and "CFG scale" are one name. */
function fold(name: string): string {
  return name.toLowerCase().replaceAll(/[_ -]/g, "");
}

function longSetter(name: string): Setter | undefined {
  const folded = fold(name);
  return Object.hasOwn(LONG, folded) ? LONG[folded] : undefined;
}

/** Settings that say what to show. */
const SHOWING: ReadonlySet<Setter | undefined> = new Set([prompt, label, boxes, image]);

/** Whether names are those of settings, and one of them says what to show. */
export function isHeader(names: readonly string[]): boolean {
  const setters = names.filter((name) => !name.startsWith("#")).map((name) => longSetter(name));
  return setters.includes(prompt) ||
    setters.every((setter) => setter !== undefined) && setters.some((one) => SHOWING.has(one));
}

/** The request that settings make, in their order. Throws `FormatError` where one cannot be followed. */
export function itemOf(
  fields: Iterable<readonly [name: string, value: unknown]>,
  form: FormName,
): Asked {
  const draft: Draft = { recipe: {} };
  for (const [name, value] of fields) {
    const setter = SHORT[form][name] ?? longSetter(name);
    if (setter === undefined) {
      if (isOff(value, form)) continue;
      throw new FormatError(`it sets ${JSON.stringify(name)}, which there is not`);
    }
    if (value !== null) setter(draft, value, name);
  }
  const { prompt, label, boxes, image } = draft.recipe;
  if ((prompt ?? label ?? boxes ?? image) === undefined) throw new FormatError("it has no prompt");
  return draft;
}

/** Whether a value says that a setting is not used. */
function isOff(value: unknown, form: FormName): boolean {
  if (typeof value === "string") {
    return value === "" ? form === "json" : /^(false|none|0|0\.0|-1)$/i.test(value);
  }
  return !value || value === -1 || (typeof value === "object" && Object.keys(value).length === 0);
}

function wrong(name: string, value: unknown, needed: string): FormatError {
  const shown = JSON.stringify(value).slice(0, 60);
  return new FormatError(`it sets ${name} to ${shown}, and ${needed} was needed`);
}
