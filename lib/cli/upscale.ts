/** `ldm upscale IMAGE`: a small picture made large, by a model that was trained for that. */

import { addDrawingOptions, drawingOptions, drawOne } from "./drawing.ts";
import { newCommand, parse } from "./options.ts";
import { overlay } from "./request.ts";

export async function upscale(argv: readonly string[]): Promise<number> {
  const command = newCommand("upscale", "Makes a small picture large.")
    .argument("<image>", "as many times smaller as the model was trained for; of any size")
    .argument("[prompt...]", "what it shows, for models that read text");
  addDrawingOptions(command, false);
  parse(command, argv);
  const [image, ...words] = command.args;
  const options = { ...await drawingOptions(command), image };
  return await drawOne(options, overlay(options, { prompt: words.join(" "), sees: "low" }));
}
