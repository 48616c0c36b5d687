/** What every command that makes pictures does around them: checks its options, opens output, device and model. */

import type { Command } from "commander";
import { UsageError } from "../base/errors.ts";
import { loadModel } from "../engine/load.ts";
import type { Recipe } from "../formats/recipe.ts";
import { textToImage } from "../pipelines/text_to_image.ts";
import { type Listener, listenersOf, listenTo } from "./listening.ts";
import { modelPath, withLoaded } from "./loading.ts";
import {
  addModelOptions,
  addReportOptions,
  addSaveOptions,
  type ModelOptions,
  progressOptions,
  type SaveOptions,
} from "./options.ts";
import { openOutput } from "./output.ts";
import { paceOf } from "./pace.ts";
import { progressTo } from "./progress.ts";
import {
  addPictureOptions,
  type PictureOptions,
  readTokenizerOption,
  requestOf,
} from "./request.ts";
import { openShow, showListener } from "./show.ts";
import { saver, saving } from "./saving.ts";

/** Options of every command that makes pictures. */
export interface DrawingOptions extends PictureOptions, ModelOptions, SaveOptions {
  readonly tokenizer?: string;
  /** False with --no-metadata. */
  readonly metadata: boolean;
  readonly show?: true;
}

/** The file name of a picture where no other is asked for. */
export const USUAL_OUTPUT = "{index}-{seed}.png";

/** Adds the options of `DrawingOptions`. */
export function addDrawingOptions(command: Command): Command {
  addPictureOptions(command)
    .option("--tokenizer <folder>", "vocab.json and merges.txt (default: the checkpoint's)")
    .option("--no-metadata", "no generation parameters in the picture")
    .option("--show", "draw the pictures in the terminal, if it can: kitty, iTerm2, sixel");
  return addReportOptions(addModelOptions(addSaveOptions(command, USUAL_OUTPUT)));
}

/** Makes, saves and tells of the pictures of one recipe; further listeners hear of it after the usual ones. */
export type Draw = (recipe: Recipe, ...listeners: readonly Listener[]) => Promise<void>;

/** What is known of a run beforehand. */
export interface Run {
  /** How many pictures all its recipes make together, for the time left; as many as one recipe does where it is left out. */
  readonly pictures?: number;
}

/**
 * Opens everything that pictures need, runs `work` and closes it. What cannot be used is told before the model is read.
 * Throws what is in lib/base/errors.ts.
 */
export async function withDrawing(
  options: DrawingOptions,
  work: (draw: Draw) => Promise<void>,
  { pictures }: Run = {},
): Promise<void> {
  const path = modelPath(options);
  const pattern = options.output ?? USUAL_OUTPUT;
  if (pattern === "-" && options.json) {
    throw new UsageError("Cannot use --json with -o -: both write to stdout");
  }
  const output = await openOutput(pattern, {
    extension: ".png",
    name: USUAL_OUTPUT,
    overwrite: options.overwrite === true,
  });
  const { vaeTiling, metadata } = options;
  const tokenizer = await readTokenizerOption(options.tokenizer);
  const progress = progressTo(progressOptions(options));
  const pace = paceOf(pictures);
  const show = options.show && await openShow(progress);
  try {
    await withLoaded(loadModel, path, options, progress, async (model) => {
      await work(async (recipe, ...further) => {
        const request = requestOf(recipe, { vaeTiling, ...(tokenizer && { tokenizer }) });
        const save = saver({ output, model: path, metadata });
        const listeners = [
          ...listenersOf(options, path, progress, pace),
          ...(show ? [showListener(show)] : []),
          ...further,
        ];
        await listenTo(saving(textToImage(model, request), save), listeners);
      });
    });
  } finally {
    progress.clear();
  }
}
