/** `ldm txt2img`, the command that may be left out: pictures from a prompt. */

import { UsageError } from "../base/errors.ts";
import { drawAll } from "./batch.ts";
import { checkGrid } from "./grid.ts";
import { addDrawingOptions, type DrawingOptions, drawingOptions } from "./drawing.ts";
import { newCommand, parse } from "./options.ts";
import { overlay } from "./request.ts";
import { addSweepOption, drawSwept } from "./sweeping.ts";

function definition() {
  const command = newCommand("txt2img", "Makes a picture from a prompt.")
    .argument(
      "[prompt...]",
      "what to show; several words are one prompt; - reads prompts from stdin, one a line",
    );
  addSweepOption(command);
  command.option("--map <path>", "colours that say what lies where, for models that read maps");
  return addDrawingOptions(command);
}

export async function txt2img(argv: readonly string[]): Promise<number> {
  const command = definition();
  parse(command, argv);
  const { sweep = [], map } = command.opts<{ sweep?: readonly string[]; map?: string }>();
  const asked = await drawingOptions(command);
  const options: DrawingOptions = map === undefined ? asked : { ...asked, sees: "map", image: map };
  const words = command.args;
  checkGrid(options);
  const isTold = options.label !== undefined || options.boxes !== undefined || map !== undefined;
  if (words.length === 0 && !isTold) throw new UsageError("Nothing to draw: a prompt was needed");
  const isStdin = words.length === 1 && words[0] === "-";
  if (isStdin && sweep.length > 0) {
    throw new UsageError("Cannot sweep prompts from stdin: one prompt was needed, as an argument");
  }
  if (isStdin) return await drawAll("-", options);
  const recipe = overlay(options, { prompt: words.join(" ") });
  return await drawSwept(options, recipe, command);
}
