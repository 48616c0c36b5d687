/** `ldm txt2img`, the command that may be left out: pictures from a prompt. */

import { UsageError } from "../base/errors.ts";
import { drawAll } from "./batch.ts";
import { checkGrid } from "./grid.ts";
import { addDrawingOptions, type DrawingOptions, drawingOptions, drawOne } from "./drawing.ts";
import { newCommand, parse } from "./options.ts";
import { overlay } from "./request.ts";
import { drawSweep } from "./sweeping.ts";

function definition() {
  const command = newCommand("txt2img", "Makes a picture from a prompt.")
    .argument(
      "[prompt...]",
      "what to show; several words are one prompt; - reads prompts from stdin, one a line",
    );
  command.option(
    "--sweep <name=values>",
    "a picture for each value: steps=10,20,30 or cfg-scale=4:9:1; twice: each with each, in a grid",
    (sweep: string, before: readonly string[] = []) => [...before, sweep],
  );
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
  if (sweep.length > 0) return await drawSweep(options, recipe, sweep);
  return await drawOne(options, recipe);
}
