/** What is done to prompts before they are read: styles, and choices drawn from the seed with wildcards of a folder. */

import type { Command } from "commander";
import { join } from "node:path";
import { FileError, UsageError } from "../base/errors.ts";
import { fileError } from "../formats/files.ts";
import { drawsOf, resolveDynamic, type Wildcards, wildcardsOf } from "../text/dynamic.ts";
import type { Weighting } from "../text/prompt.ts";
import { applyStyles, parseStyles, type Style } from "../text/styles.ts";
import { choice } from "./options.ts";

export interface PromptOptions {
  readonly weighting?: Weighting;
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
    .option(
      "--weighting <name>",
      "a1111, comfy or none: how prompts are read (default: a1111)",
      choice("--weighting", ["a1111", "comfy", "none"]),
    )
    .option("--wildcards <folder>", "text files with a value a line, for __name__ in prompts")
    .option("--styles <file>", "a table of styles: name,prompt,negative_prompt")
    .option(
      "--style <name>",
      "put a style of --styles around the prompt; may be repeated",
      (name: string, names: readonly string[] = []) => [...names, name],
    );
}

/** Prompts as they are written, and the other way as they are read. */
interface Prompts {
  readonly prompt: string;
  readonly negativePrompt: string;
}

/** Makes the choices in prompts for a seed; the same for the same seed. Throws `UsageError` where that has no end. */
export type PreparePrompts = (prompts: Prompts, seed: number) => Prompts;

/**
 * What the options do to prompts: styles are put around them, then choices are made, but with weighting "none", which has
 * no grammar. A wildcard that the folder does not have stays as it stands; `warn` is told once. Throws `FileError`,
 * `FormatError` and `UsageError` for what cannot be used.
 */
export async function readPromptOptions(
  { weighting, styles, style = [], wildcards }: PromptOptions,
  warn: (message: string) => void,
): Promise<PreparePrompts> {
  if (style.length > 0 && styles === undefined) {
    throw new UsageError("Cannot use --style without --styles, which names the file with styles");
  }
  const known = styles === undefined ? new Map<string, Style>() : await readStyles(styles);
  applyStyles({ prompt: "", negativePrompt: "" }, style, known); // an unknown name is told at once
  const lookUp = wildcards === undefined
    ? () => []
    : warned(await readWildcards(wildcards), wildcards, warn);
  return (prompts, seed) => {
    const styled = applyStyles(prompts, style, known);
    if (weighting === "none") return styled;
    const draw = drawsOf(seed);
    return {
      prompt: resolveDynamic(styled.prompt, draw, lookUp),
      negativePrompt: resolveDynamic(styled.negativePrompt, draw, lookUp),
    };
  };
}

async function readStyles(path: string): Promise<Map<string, Style>> {
  return parseStyles(await readText(path));
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
