/**
 * `--sweep NAME=VALUES`: one picture for every combination of some settings, as AUTOMATIC1111's X/Y/Z plot makes them. Pure:
 * from texts to axes and from axes to the cells of tables.
 */

import { parseCsv } from "../base/csv.ts";
import { FormatError, UsageError } from "../base/errors.ts";
import { parseSampler, parseSchedule } from "../diffusion/names.ts";
import { readBoxes } from "../formats/boxes.ts";
import type { Recipe } from "../formats/recipe.ts";
import { MATCH_NAMES } from "../pipelines/events.ts";
import { choice, decimal, integer } from "./options.ts";

/** A direction of a table. */
export interface Axis {
  /** The option that it sets, without its hyphens. */
  readonly name: string;
  /** As AUTOMATIC1111 calls it. */
  readonly label: string;
  readonly settings: readonly Setting[];
}

/** A place on an axis. */
export interface Setting {
  /** The value as it was written. */
  readonly text: string;
  /** What stands beside a row or over a column. */
  readonly label: string;
  /** The recipe with this value. Throws `UsageError` where it makes no sense there. */
  readonly change: (recipe: Recipe) => Recipe;
}

/** A picture of a sweep, by its place: the first axis runs over columns, the second over rows, others over pages. */
export interface Cell {
  readonly page: number;
  readonly row: number;
  readonly column: number;
  /** One of each axis. */
  readonly settings: readonly Setting[];
}

/** Values of an axis that somebody can mean. */
const MOST_VALUES = 1000;

/** Turns a text into what it changes in a recipe. Throws `UsageError`. */
type Read = (text: string) => Partial<Recipe>;

interface Kind {
  readonly label: string;
  /** Ranges can stand for values. */
  readonly isNumber?: true;
  /** From all values, for the first may mean more than itself. */
  readonly read: (values: readonly string[]) => (text: string) => Setting["change"];
  /** The value needs no name before it. */
  readonly isPlain?: true;
}

function laidOver(read: Read): Kind["read"] {
  return () => (text) => {
    const change = read(text); // at once, for its errors
    return (recipe) => ({ ...recipe, ...change });
  };
}

function number(label: string, read: Read): Kind {
  return { label, isNumber: true, read: laidOver(read) };
}

function word(label: string, read: Read): Kind {
  return { label, read: laidOver(read) };
}

const SEED_MAX = 2 ** 32 - 1;
const steps = integer("--sweep steps", 1);
const cfgScale = decimal("--sweep cfg-scale", 0);
const strength = decimal("--sweep strength", 0, 1);
const guidanceRescale = decimal("--sweep guidance-rescale", 0, 1);
const eta = decimal("--sweep eta", 0, 1);
const seed = integer("--sweep seed", 0, SEED_MAX);
const clipSkip = integer("--sweep clip-skip", 1);
const width = integer("--sweep width", 1);
const height = integer("--sweep height", 1);
const rng = choice("--sweep rng", ["cpu", "cuda"]);
const weighting = choice("--sweep weighting", ["a1111", "comfy", "none"]);
const match = choice("--sweep match", MATCH_NAMES);

/** What can be swept, by the names of options. Labels are AUTOMATIC1111's. */
const KINDS: Readonly<Record<string, Kind>> = {
  "steps": number("Steps", (text) => ({ steps: steps(text) })),
  "cfg-scale": number("CFG Scale", (text) => ({ cfgScale: cfgScale(text) })),
  "strength": number("Denoising", (text) => ({ strength: strength(text) })),
  "guidance-rescale": number("CFG Rescale", (text) => ({ guidanceRescale: guidanceRescale(text) })),
  "eta": number("Eta", (text) => ({ eta: eta(text) })),
  "seed": number("Seed", (text) => ({ seed: seed(text) })),
  "clip-skip": number("Clip skip", (text) => ({ clipSkip: clipSkip(text) })),
  "width": number("Width", (text) => ({ width: width(text) })),
  "height": number("Height", (text) => ({ height: height(text) })),
  "size": word("Size", sizeOf),
  "sampler": word("Sampler", (text) => parseSampler(text) && { sampler: text }),
  "schedule": word("Schedule type", (text) => parseSchedule(text) && { schedule: text }),
  "rng": word("RNG", (text) => ({ rng: rng(text) })),
  "weighting": word("Weighting", (text) => ({ weighting: weighting(text) })),
  "match": word("Match", (text) => ({ match: match(text) })),
  "class": { ...word("Class", (text) => ({ label: text })), isPlain: true },
  "boxes": { ...word("Boxes", boxesOf), isPlain: true },
  "prompt": { label: "Prompt S/R", isPlain: true, read: replaced },
  "negative-prompt": {
    ...word("Negative prompt", (text) => ({ negativePrompt: text })),
    isPlain: true,
  },
};

/** Other names, as the options have them. */
const ALIASES: Readonly<Record<string, string>> = {
  "cfg": "cfg-scale",
  "s": "seed",
  "w": "width",
  "h": "height",
  "n": "negative-prompt",
  "box": "boxes",
};

function sizeOf(text: string): Partial<Recipe> {
  const [, width, height] = /^(\d+)\s*[x×]\s*(\d+)$/i.exec(text) ?? [];
  if (Number(width) > 0 && Number(height) > 0) {
    return { width: Number(width), height: Number(height) };
  }
  throw new UsageError(`Cannot use --sweep size "${text}": pixels as in 512x768 were needed`);
}

function boxesOf(text: string): Partial<Recipe> {
  try {
    return { boxes: readBoxes(text) };
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    throw new UsageError(`Cannot use --sweep boxes: ${error.message}`);
  }
}

/** AUTOMATIC1111's "Prompt S/R": the first value is searched for in the prompts, and each value put in its place. */
function replaced([searched]: readonly string[]) {
  return (text: string) => (recipe: Recipe): Recipe => {
    const { prompt = "", negativePrompt = "" } = recipe;
    if (searched === "" || !(prompt + "\n" + negativePrompt).includes(searched)) {
      throw new UsageError(
        `Cannot sweep the prompt: it does not hold "${searched}", the first value, which the others replace`,
      );
    }
    return {
      ...recipe,
      prompt: prompt.replaceAll(searched, () => text),
      negativePrompt: negativePrompt.replaceAll(searched, () => text),
    };
  };
}

/**
 * An axis of "steps=10,20,30", "cfg-scale=4:9:1" (both ends included), "sampler=euler,dpmpp_2m" or
 * `prompt=cat,"dog, asleep"`. Throws `UsageError`.
 */
export function parseSweep(text: string): Axis {
  const at = text.indexOf("=");
  const cannot = (why: string) => new UsageError(`Cannot use --sweep "${text}": ${why}`);
  if (at < 0) throw cannot("a name, =, and values were needed, as in steps=10,20,30");
  const given = text.slice(0, at).trim().replace(/^--?/, "").replaceAll("_", "-").toLowerCase();
  const name = ALIASES[given] ?? given;
  if (!Object.hasOwn(KINDS, name)) {
    throw cannot(`only ${Object.keys(KINDS).join(", ")} can be swept`);
  }
  const { label, isNumber, isPlain, read } = KINDS[name];
  const [row] = parseCsv(text.slice(at + 1).split("\n"));
  if (row === undefined) throw cannot("values were needed after =");
  if ("fault" in row) throw cannot(row.fault);
  const written = row.cells.map((value) => value.trim());
  const values = isNumber ? written.flatMap((value) => rangeOf(value, cannot)) : written;
  if (values.length > MOST_VALUES) throw cannot(`more than ${MOST_VALUES} values`);
  const changeTo = read(values);
  const settings = values.map((value): Setting => ({
    text: value,
    label: isPlain ? value : `${label}: ${value}`,
    change: changeTo(value),
  }));
  return { name, label, settings };
}

const RANGE = /^(-?\d+(?:\.\d+)?):(-?\d+(?:\.\d+)?)(?::(-?\d+(?:\.\d+)?))?$/;

/** The numbers of "from:to:by", both ends included; by is 1 where it is left out. What is no range stays. */
function rangeOf(text: string, cannot: (why: string) => Error): string[] {
  const found = RANGE.exec(text);
  if (!found) return [text];
  const [from, to] = [Number(found[1]), Number(found[2])];
  const by = found[3] === undefined ? Math.sign(to - from) || 1 : Number(found[3]);
  if (by === 0 || (to - from) * by < 0) throw cannot(`${text} has no end: by ${by} it never comes`);
  const digits = Math.max(...found.slice(1).map((part) => (part ?? "").split(".")[1]?.length ?? 0));
  // a step that ends on the last value in decimals may miss it by a bit in binary
  const count = Math.floor((to - from) / by + 1e-9) + 1;
  if (count > MOST_VALUES) throw cannot(`${text} has more than ${MOST_VALUES} values`);
  return Array.from({ length: count }, (_, i) => String(Number((from + i * by).toFixed(digits))));
}

/** Every combination: page by page, row by row. */
export function* sweepCells(axes: readonly Axis[]): Generator<Cell, void, undefined> {
  const [columns, rows = NOTHING, ...pages] = axes;
  const combinations = pages.reduce<readonly (readonly Setting[])[]>(
    (before, { settings }) => before.flatMap((some) => settings.map((one) => [...some, one])),
    [[]],
  );
  for (const [page, others] of combinations.entries()) {
    for (const [row, second] of rows.settings.entries()) {
      for (const [column, first] of columns.settings.entries()) {
        const settings = rows === NOTHING ? [first] : [first, second, ...others];
        yield { page, row, column, settings };
      }
    }
  }
}

/** The second axis of a sweep that has one. */
const NOTHING: Axis = {
  name: "",
  label: "",
  settings: [{ text: "", label: "", change: (recipe) => recipe }],
};
