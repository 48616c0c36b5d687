/** The requests of a prompt file as work: numbered, checked, with what tells them apart. */

import { isAbsolute, join } from "node:path";
import { parseSampler, parseSchedule } from "../diffusion/names.ts";
import type { BadLine, PromptFile, PromptItem } from "../formats/prompt_file.ts";
import { defined, type Recipe } from "../formats/recipe.ts";
import type { DrawingOptions } from "./drawing.ts";
import { overlay } from "./request.ts";

/** One request of a prompt file. */
export interface Job {
  /** Which of the file's, from 0. */
  readonly item: number;
  readonly line: number;
  /** What the command line and the file say together. */
  readonly recipe: Recipe;
  /** Where its pictures go, if not where the others do: as --output takes it, from that folder. */
  readonly output: string | undefined;
  /** Pictures of the requests before it. */
  readonly firstIndex: number;
  /** The same for the same request of the same model, wherever it stands; requests that occur several times have several. */
  readonly key: string;
}

/** A line that nothing can be made of. It keeps its number, so that the others keep theirs when it is mended. */
export interface BadJob extends BadLine {
  readonly item: number;
}

export interface Jobs {
  readonly jobs: readonly Job[];
  readonly bad: readonly BadJob[];
}

/**
 * Numbers what prompt files ask for, with options for what their lines leave open: pieces of one file in `folder`, in their
 * order. A request that occurs several times is told apart from itself over all of them.
 */
export function jobReader(
  options: DrawingOptions,
  folder: string,
): (piece: PromptFile) => Promise<Jobs> {
  const seen = new Map<string, number>();
  let [item, firstIndex] = [0, 0];
  return async ({ items, bad }) => {
    const jobs: Job[] = [];
    const refused: BadJob[] = [];
    for (const entry of [...items, ...bad].sort((a, b) => a.line - b.line)) {
      const { line } = entry;
      const fault = "message" in entry ? entry.message : faultOf(entry);
      if ("message" in entry || fault !== undefined) {
        refused.push({ item, line, message: fault ?? "" });
        [item, firstIndex] = [item + 1, firstIndex + 1];
        continue;
      }
      const { output } = entry;
      const recipe = withPictures(overlay(options, entry.recipe, placed(entry.recipe, folder)));
      const print = await fingerprint(recipe, output ?? options.output, options);
      const times = (seen.get(print) ?? 0) + 1;
      seen.set(print, times);
      const key = times === 1 ? print : `${print}.${times}`;
      jobs.push({ item, line, recipe, output, firstIndex, key });
      [item, firstIndex] = [item + 1, firstIndex + (recipe.batchCount ?? 1)];
    }
    return { jobs, bad: refused };
  };
}

/** Paths of a file in a folder. */
function placed({ image, mask }: Recipe, folder: string): Recipe {
  const place = (path: string) => isAbsolute(path) ? path : join(folder, path);
  return {
    ...(image !== undefined && { image: place(image) }),
    ...(mask !== undefined && { mask: place(mask) }),
  };
}

/** Without what only a picture can use, which AUTOMATIC1111's API has in every request, where there is none. */
function withPictures({ strength, mask, maskBlur, ...recipe }: Recipe): Recipe {
  return recipe.image === undefined
    ? recipe
    : { ...recipe, ...defined({ strength, mask, maskBlur }) };
}

/** What is wrong with an item that no model is needed to see. */
function faultOf({ recipe: { sampler, schedule } }: PromptItem): string | undefined {
  try {
    if (sampler !== undefined) parseSampler(sampler);
    if (schedule !== undefined) parseSchedule(schedule);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Equal for equal requests of the same model. */
async function fingerprint(
  recipe: Recipe,
  output: string | undefined,
  { model, vae, taesd, tokenizer, styles, wildcards, loraDir, ...options }: DrawingOptions,
): Promise<string> {
  const paths = await Promise.all([model, vae, taesd, tokenizer, styles, wildcards].map(realPath));
  const { dtype, style, bits, quality, lora } = options;
  const loras = lora || loraDir ? [lora, await realPath(loraDir)] : [];
  const [image, mask] = await Promise.all([recipe.image, recipe.mask].map(realPath));
  const told = { ...recipe, ...defined({ image, mask }) };
  const settings = Object.entries(told).sort(([a], [b]) => a < b ? -1 : 1);
  const text = JSON.stringify([settings, paths, dtype, style, bits, quality, output, ...loras]);
  return (await sha256(text)).slice(0, 32);
}

async function realPath(path: string | undefined): Promise<string | undefined> {
  return path === undefined ? undefined : await Deno.realPath(path).catch(() => path);
}

async function sha256(text: string): Promise<string> {
  const bytes = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return new Uint8Array(bytes).toHex();
}

/** A seed that is drawn for a job: the same whenever the same number and job are given. */
export async function drawnSeed(draw: number, { key, recipe }: Job): Promise<number> {
  const { batchCount = 1 } = recipe;
  return parseInt((await sha256(`${draw} ${key}`)).slice(0, 8), 16) % (2 ** 32 - batchCount + 1);
}

/** Jobs of which none has to wait for another program: they have sizes and text encoder layers in common. */
export function groupsOf(jobs: readonly Job[]): readonly (readonly Job[])[] {
  const shape = ({ recipe: { width, height, clipSkip, cfgScale } }: Job) =>
    JSON.stringify([width, height, clipSkip, cfgScale === 0 || cfgScale === 1]);
  return [...Map.groupBy(jobs, shape).values()];
}
