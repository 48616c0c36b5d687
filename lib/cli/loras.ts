/** LoRAs on the command line: --lora, and those that prompts ask for by name, which are looked for in --lora-dir. */

import type { Command } from "commander";
import { basename, join } from "node:path";
import { FileError, UsageError } from "../base/errors.ts";
import type { LoraChoice } from "../engine/model.ts";
import { fileError } from "../formats/files.ts";
import { loraTag } from "../formats/recipe.ts";
import { type Network, networksOf } from "../text/networks.ts";

export interface LoraOptions {
  readonly lora?: readonly LoraChoice[];
  /** Where names in prompts are looked for. */
  readonly loraDir?: string;
}

const SUFFIX = ".safetensors";

/** Adds the options of `LoraOptions`. */
export function addLoraOptions(command: Command): Command {
  return addLoraFiles(command).option(
    "--lora-dir <folder>",
    "where <lora:name:x> of prompts is looked for (default: the working folder)",
  );
}

/** Adds --lora. */
export function addLoraFiles(command: Command): Command {
  return command.option(
    "--lora <path[:x]>",
    "a LoRA and how much of it (default: 1); may be repeated",
    (word: string, before: readonly LoraChoice[] = []) => [...before, choiceOf(word)],
  );
}

/** Throws `UsageError`. */
function choiceOf(word: string): LoraChoice {
  const [, path = "", number] = /^(.*?)(?::([-+]?[\d.]+))?$/s.exec(word) ?? [];
  const multiplier = number === undefined ? 1 : Number(number);
  if (path !== "" && Number.isFinite(multiplier)) return { path, multiplier };
  throw new UsageError(
    `Cannot use --lora ${
      JSON.stringify(word)
    }: a file was needed, and a number after a colon where not all of it is wanted`,
  );
}

/** What is to be folded into the model for a prompt. */
export interface LoraReader {
  /** Throws `FileError` where a name is not found. `hasTags`: the prompt's language has them. */
  of(prompt: string, hasTags: boolean): Promise<LoraChoice[]>;
}

/** `warn` is told once of each kind of network that is not known here. */
export function loraReader(
  { lora = [], loraDir = "." }: LoraOptions,
  warn: (message: string) => void,
): LoraReader {
  const found = new Map<string, string>();
  const told = new Set<string>();
  return {
    async of(prompt, hasTags) {
      const choices = [...lora];
      for (const network of hasTags ? networksOf(prompt).networks : []) {
        const { kind, name, multiplier, textMultiplier } = network;
        if (!isLora(network)) {
          if (!told.has(kind)) {
            warn(`<${kind}:…> of prompts is left out: only LoRAs are known here`);
          }
          told.add(kind);
          continue;
        }
        const path = found.get(name) ?? await find(loraDir, name);
        found.set(name, path);
        choices.push({
          path,
          multiplier,
          ...(textMultiplier !== multiplier && { textMultiplier }),
        });
      }
      return choices;
    },
  };
}

/** The LoRAs that tags ask for, where they are found; what is not is named. Throws `FileError` where the folder cannot be read. */
export async function lorasOf(
  tags: readonly string[],
  { loraDir = "." }: LoraOptions,
): Promise<{ readonly found: readonly LoraChoice[]; readonly missing: readonly string[] }> {
  const found: LoraChoice[] = [];
  const missing: string[] = [];
  for (const tag of tags) {
    const [network] = networksOf(tag).networks;
    if (network === undefined || !isLora(network)) {
      missing.push(`${tag}: only LoRAs are known here`);
      continue;
    }
    const { name, multiplier, textMultiplier } = network;
    const path = await inside(loraDir, `${basename(name)}${SUFFIX}`);
    if (path === undefined) {
      missing.push(`the LoRA "${name}", which is not in "${loraDir}"; --lora-dir names its folder`);
    } else {
      found.push({ path, multiplier, textMultiplier });
    }
  }
  return { found, missing };
}

function isLora({ kind }: Network): boolean {
  return kind === "lora" || kind === "lyco";
}

/** A LoRA by its name, in a folder or in those in it. Throws `FileError`. */
async function find(folder: string, name: string): Promise<string> {
  const path = await inside(folder, `${basename(name)}${SUFFIX}`);
  if (path !== undefined) return path;
  throw new FileError(
    `Cannot find the LoRA "${name}" of the prompt: there is no "${
      basename(name)
    }${SUFFIX}" in "${folder}"; --lora-dir names its folder`,
  );
}

/** The file nearest to the top. */
async function inside(folder: string, file: string): Promise<string | undefined> {
  const folders: string[] = [];
  try {
    for await (const { name, isDirectory } of Deno.readDir(folder)) {
      if (isDirectory) folders.push(join(folder, name));
      else if (name === file) return join(folder, name);
    }
  } catch (error) {
    throw fileError("list the folder", folder, error);
  }
  for (const each of folders.sort()) {
    const path = await inside(each, file);
    if (path !== undefined) return path;
  }
  return undefined;
}

/** Tags that ask for the same as --lora does, for pictures to remember. */
export function tagsOf(choices: readonly LoraChoice[]): string[] {
  return choices.map(({ path, multiplier, textMultiplier }) =>
    loraTag(path, multiplier, textMultiplier)
  );
}
