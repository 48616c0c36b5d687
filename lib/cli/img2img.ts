/** `ldm img2img -i IMAGE PROMPT…`: a picture made of another one, by any model that makes pictures from text. */

import { UsageError } from "../base/errors.ts";
import { addDrawingOptions, drawingOptions } from "./drawing.ts";
import { newCommand, parse } from "./options.ts";
import { overlay } from "./request.ts";
import { addImageOption, addStrengthOption } from "./second.ts";
import { addSweepOption, drawSwept } from "./sweeping.ts";

export async function img2img(argv: readonly string[]): Promise<number> {
  const command = newCommand(
    "img2img",
    "Changes a picture. It is stretched to -W and -H; with one of them it keeps its shape, without them its size.",
  )
    .argument("[prompt...]", "what to show; several words are one prompt");
  addStrengthOption(addImageOption(command), "0.75");
  addDrawingOptions(addSweepOption(command), "the picture's");
  parse(command, argv);
  const options = await drawingOptions(command);
  if (options.image === undefined) {
    throw new UsageError("Nothing to change: -i PATH names a picture");
  }
  const recipe = overlay(options, { prompt: command.args.join(" "), sees: "start" });
  return await drawSwept(options, recipe, command);
}
