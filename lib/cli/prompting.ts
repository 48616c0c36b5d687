/** What is done to prompts before they are read: styles, and choices drawn from the seed with wildcards of a folder. */

import type { Command } from "commander";
import { join } from "node:path";
import { FileError, UsageError } from "../base/errors.ts";
import { fileError } from "../formats/files.ts";
import type { Recipe } from "../formats/recipe.ts";
import { drawsOf, resolveDynamic, type Wildcards, wildcardsOf } from "../text/dynamic.ts";
import { applyStyles, parseStyles, type Style } from "../text/styles.ts";

export interface PromptOptions {
  /** A file. */
  readonly styles?: string;
  /** Names in it. */
  readonly style?: readonly string[];
  /** A folder. */
  readonly wildcards?: string;
}

/** Adds the options of `PromptOptions`. */
export function addPromptOptions(command: Command): Command {
  return command
    .option("--wildcards <folder>", "text files with a value a line, for __name__ in prompts")
    .option("--styles <file>", "a table of styles: name,prompt,negative_prompt")
    .option(
      "--style <name>",
      "put a style of --styles around the prompt; may be repeated",
      (name: string, names: readonly string[] = []) => [...names, name],
    );
}

/** A prompt and its negative. */
type Prompts = Style;

/** What options do to prompts. */
export interface Prompting {
  /** Styles are put around them. */
  styled(prompts: Prompts): Prompts;
  /** Their choices are made; the same ones for the same seed. Throws `UsageError` where that has no end. */
  chosen(prompts: Prompts, seed: number): Prompts;
}

/**
 * Reads what the options name. A wildcard that the folder does not have stays in a prompt as it stands, of which `warn` is
 * told once. Throws `FileError`, `FormatError` and `UsageError` for what cannot be used.
 */
export async function readPromptOptions(
  { styles, style = [], wildcards }: PromptOptions,
  warn: (message: string) => void,
): Promise<Prompting> {
  if (style.length > 0 && styles === undefined) {
    throw new UsageError("Cannot use --style without --styles, which names the file with styles");
  }
  if (style.length === 0 && styles !== undefined) {
    throw new UsageError(
      `Cannot use --styles "${styles}" without --style, which names a style of that file`,
    );
  }
  const known = styles === undefined ? new Map<string, Style>() : await readStyles(styles);
  const styled = (prompts: Prompts) => applyStyles(prompts, style, known);
  styled({ prompt: "", negativePrompt: "" }); // an unknown name is told at once
  const lookUp = wildcards === undefined
    ? () => []
    : warned(await readWildcards(wildcards), wildcards, warn);
  return {
    styled,
    chosen({ prompt, negativePrompt }, seed) {
      const draw = drawsOf(seed);
      return {
        prompt: resolveDynamic(prompt, draw, lookUp),
        negativePrompt: resolveDynamic(negativePrompt, draw, lookUp),
      };
    },
  };
}

/** Where there may be a choice. */
const CHOICE = /[{}]|__/;

/** Whether the pictures of a batch may have different prompts. */
export function mayDiffer({ prompt = "", negativePrompt = "", batchCount = 1 }: Recipe): boolean {
  return batchCount > 1 && (CHOICE.test(prompt) || CHOICE.test(negativePrompt));
}

const SEEDS = 2 ** 32;

/**
 * A recipe with styles put around its prompts and its choices made: each picture of a batch makes its own, from its seed,
 * so that there is a recipe for each. Weighting "none" has no grammar, and so no choices; `weighting` is the recipe's.
 */
export function recipesOf(
  recipe: Recipe,
  prompting: Prompting,
  weighting: NonNullable<Recipe["weighting"]>,
): Recipe[] {
  const { batchCount = 1 } = recipe;
  const { prompt = "", negativePrompt } = recipe;
  const styled = prompting.styled({ prompt, negativePrompt: negativePrompt ?? "" });
  /** A negative prompt that was left out is not the same as an empty one. */
  const withPrompts = (said: Prompts) => ({
    ...recipe,
    prompt: said.prompt,
    ...((negativePrompt !== undefined || said.negativePrompt !== "") &&
      { negativePrompt: said.negativePrompt }),
  });
  const hasChoices = CHOICE.test(styled.prompt) || CHOICE.test(styled.negativePrompt);
  if (weighting === "none" || !hasChoices) return [withPrompts(styled)];
  const { seed = -1 } = recipe;
  const first = seed >= 0 ? seed : Math.floor(Math.random() * (SEEDS - batchCount + 1));
  const indices = recipe.batchIndex === undefined
    ? Array.from({ length: batchCount }, (_, i) => i)
    : [recipe.batchIndex];
  return indices.map((i) => ({
    ...withPrompts(prompting.chosen(styled, (first + i) % SEEDS)),
    seed: first,
    batchIndex: i,
  }));
}

async function readStyles(path: string): Promise<Map<string, Style>> {
  return parseStyles(await readText(path), `the styles of "${path}"`);
}

/** Every text file of a folder and of those in it, by its path there without ".txt". */
async function readWildcards(folder: string): Promise<Wildcards> {
  const texts = new Map<string, string>();
  for await (const name of textFiles(folder, "")) {
    texts.set(name, await readText(join(folder, `${name}.txt`)));
  }
  if (texts.size > 0) return wildcardsOf(texts);
  throw new FileError(`Cannot use the wildcards in "${folder}": it holds no .txt files`);
}

async function* textFiles(folder: string, prefix: string): AsyncGenerator<string> {
  try {
    for await (const { name, isFile, isDirectory } of Deno.readDir(join(folder, prefix))) {
      if (isDirectory) yield* textFiles(folder, `${prefix}${name}/`);
      else if (isFile && name.endsWith(".txt")) yield prefix + name.slice(0, -4);
    }
  } catch (error) {
    throw fileError("list the folder", join(folder, prefix), error);
  }
}

async function readText(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    throw fileError("read", path, error);
  }
}

/** Tells of each name that stands for nothing. */
function warned(lookUp: Wildcards, folder: string, warn: (message: string) => void): Wildcards {
  const told = new Set<string>();
  return (name) => {
    const values = lookUp(name);
    if (values.length === 0 && !told.has(name)) {
      told.add(name);
      warn(`"${folder}" has no wildcard ${JSON.stringify(name)}; it stays in the prompt`);
    }
    return values;
  };
}
