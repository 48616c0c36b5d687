/** `ldm inpaint -i IMAGE --mask MASK PROMPT…`: what is white in the mask made anew, by a model that fills holes. */

import { UsageError } from "../base/errors.ts";
import { addDrawingOptions, drawingOptions, drawOne } from "./drawing.ts";
import { newCommand, parse } from "./options.ts";
import { overlay } from "./request.ts";
import { addSeenOptions } from "./second.ts";

export async function inpaint(argv: readonly string[]): Promise<number> {
  const command = newCommand("inpaint", "Fills a hole in a picture.")
    .argument("[prompt...]", "what to show there; several words are one prompt");
  addSeenOptions(command).option(
    "--no-keep",
    "all as the model gives it, not only the hole: what is around it changes a little",
  );
  addDrawingOptions(command, false);
  parse(command, argv);
  const options = await drawingOptions(command);
  if (options.image === undefined) {
    throw new UsageError("Nothing to fill: -i PATH names a picture, --mask PATH where its hole is");
  }
  return await drawOne(options, overlay(options, { prompt: command.args.join(" "), sees: "mask" }));
}
