/** What a picture is asked for with: the options that commands share, as a recipe, and a recipe as a request. */

import type { Command } from "commander";
import { FileError } from "../base/errors.ts";
import { parseSampler, parseSchedule } from "../diffusion/names.ts";
import type { TokenizerFiles } from "../base/tokenizer_files.ts";
import { readTokenizer } from "../formats/tokenizer_folder.ts";
import type { Recipe } from "../formats/recipe.ts";
import { BATCH_SEEDS, MATCH_NAMES, ROUNDINGS, type Weighting } from "../pipelines/events.ts";
import type { SecondPicture } from "../pipelines/beside.ts";
import type { TextToImage } from "../pipelines/text_to_image.ts";
import { choice, decimal, integer, type ModelOptions } from "./options.ts";

/** What describes a picture on the command line; what was not given is undefined. */
export type PictureOptions = Omit<Recipe, "prompt" | "batchIndex" | "zeroNegative">;

const WEIGHTINGS = ["a1111", "comfy", "none"] as const satisfies readonly Weighting[];
const SEED_MAX = 2 ** 32 - 1;

/**
 * Adds the options of `PictureOptions`, class and boxes left out. None has a default, so that what was given can be told from
 * what was not. `size` is whose size they have where none is given, false where none can be given.
 */
export function addPictureOptions(command: Command, size: string | false): Command {
  command.option("-n, --negative-prompt <text>", 'what not to show (default: "")');
  if (size) {
    command
      .option("-W, --width <n>", `pixels (default: ${size})`, integer("--width", 1))
      .option("-H, --height <n>", `pixels (default: ${size})`, integer("--height", 1));
  }
  return command
    .option("--steps <n>", "sampling steps (default: the family's)", integer("--steps", 1))
    .option(
      "--cfg-scale <x>",
      "guidance, 1 is off (default: the family's)",
      decimal("--cfg-scale", 0),
    )
    .option("--guidance-rescale <x>", "from 0, off, to 1", decimal("--guidance-rescale", 0, 1))
    .option(
      "--sampler <name>",
      "as any tool spells it (default: the family's)",
      spelt(parseSampler),
    )
    .option(
      "--schedule <name>",
      "as any tool spells it (default: the checkpoint's)",
      spelt(parseSchedule),
    )
    .option("--eta <x>", "share of fresh noise (default: the sampler's)", decimal("--eta", 0, 1))
    .option("-s, --seed <n>", "-1 draws one (default: -1)", integer("--seed", -1, SEED_MAX))
    .option(
      "-b, --batch-count <n>",
      "pictures, seeds counting up (default: 1)",
      integer("--batch-count", 1),
    )
    .option(
      "--match <tool>",
      "diffusers, a1111, comfyui or sdcpp: whose pictures seeds and prompts mean",
      choice("--match", MATCH_NAMES),
    )
    .option(
      "--weighting <name>",
      "a1111, comfy or none: how prompts are read (default: a1111)",
      choice("--weighting", WEIGHTINGS),
    )
    .option(
      "--rounding <name>",
      "round or truncate: how pixels become bytes (default: round)",
      choice("--rounding", ROUNDINGS),
    )
    .option(
      "--batch-seeds <name>",
      "each or one: seeds of a batch count up, or one serves all (default: each)",
      choice("--batch-seeds", BATCH_SEEDS),
    )
    .option(
      "--rng <name>",
      "cpu or cuda: whose noise (default: cpu)",
      choice("--rng", ["cpu", "cuda"]),
    )
    .option(
      "--sampler-rng <name>",
      "cpu or cuda: whose noise samplers add (default: as --rng)",
      choice("--sampler-rng", ["cpu", "cuda"]),
    )
    .option(
      "--clip-skip <n>",
      "text encoder layers from the top (default: 1)",
      integer("--clip-skip", 1),
    );
}

/** Refuses a name that nobody knows before anything is loaded. */
function spelt(check: (name: string) => unknown): (name: string) => string {
  return (name) => {
    check(name);
    return name;
  };
}

/** Fields of a recipe; the compiler holds the list complete. */
const FIELDS = Object.keys(
  {
    prompt: true,
    negativePrompt: true,
    label: true,
    boxes: true,
    sees: true,
    image: true,
    mask: true,
    keep: true,
    maskBlur: true,
    strength: true,
    width: true,
    height: true,
    steps: true,
    cfgScale: true,
    guidanceRescale: true,
    sampler: true,
    schedule: true,
    eta: true,
    seed: true,
    batchCount: true,
    batchIndex: true,
    batchSeeds: true,
    rng: true,
    samplerRng: true,
    clipSkip: true,
    weighting: true,
    rounding: true,
    zeroNegative: true,
    match: true,
  } satisfies Record<keyof Recipe, true>,
);

/** Whether a recipe may have a field of this name. */
export function isOfRecipe(name: string): boolean {
  return FIELDS.includes(name);
}

/** Recipes laid over one another: the last one that says something wins. Other properties than a recipe's are dropped. */
export function overlay(...recipes: readonly Recipe[]): Recipe {
  const said = recipes.flatMap((recipe) =>
    Object.entries(recipe).filter(([name, value]) => value !== undefined && isOfRecipe(name))
  );
  return Object.fromEntries(said);
}

/** What a request takes beside what describes the picture. */
export interface RequestOptions extends Pick<ModelOptions, "vaeTiling"> {
  readonly tokenizer?: TokenizerFiles;
  readonly second?: SecondPicture | undefined;
}

/** A recipe as a request. The negative prompt of a command line is empty, not absent. */
export function requestOf(
  recipe: Recipe,
  { vaeTiling, tokenizer, second }: RequestOptions,
): TextToImage {
  const { prompt = "", negativePrompt = "" } = recipe;
  const { sees: _, image: _image, mask: _mask, keep: _keep, maskBlur: _blur, ...others } = recipe;
  return { ...others, prompt, negativePrompt, second, tokenizer, tiling: vaeTiling };
}

/** The files of `--tokenizer`. Throws `FileError` where there is no tokenizer. */
export async function readTokenizerOption(
  folder: string | undefined,
): Promise<TokenizerFiles | undefined> {
  if (folder === undefined) return undefined;
  const files = await readTokenizer(folder);
  if (files) return files;
  throw new FileError(`Cannot read the tokenizer "${folder}": it needs vocab.json and merges.txt`);
}
