/** `ldm inpaint -i IMAGE --mask MASK PROMPT…`: what is white in the mask made anew, by a model for that or by any other. */

import { UsageError } from "../base/errors.ts";
import { addDrawingOptions, drawingOptions } from "./drawing.ts";
import { newCommand, parse } from "./options.ts";
import { overlay } from "./request.ts";
import { addMaskBlurOption, addSeenOptions, addStrengthOption } from "./second.ts";
import { addSweepOption, drawSwept } from "./sweeping.ts";

export async function inpaint(argv: readonly string[]): Promise<number> {
  const command = newCommand("inpaint", "Fills a hole in a picture.")
    .argument("[prompt...]", "what to show there; several words are one prompt");
  addStrengthOption(addSeenOptions(command), "1");
  addMaskBlurOption(command).option(
    "--no-keep",
    "all as the model gives it, not only the hole: what is around it changes a little",
  );
  addDrawingOptions(addSweepOption(command), false);
  parse(command, argv);
  const options = await drawingOptions(command);
  if (options.image === undefined) {
    throw new UsageError("Nothing to fill: -i PATH names a picture, --mask PATH where its hole is");
  }
  const recipe = overlay(options, { prompt: command.args.join(" "), sees: "mask" });
  return await drawSwept(options, recipe, command);
}
