/** `ldm txt2img`, the command that may be left out: pictures from a prompt. */

import { UsageError } from "../base/errors.ts";
import { drawAll } from "./batch.ts";
import { addDrawingOptions, type DrawingOptions, withDrawing } from "./drawing.ts";
import { newCommand, parse } from "./options.ts";
import { overlay } from "./request.ts";

function definition() {
  const command = newCommand("txt2img", "Makes a picture from a prompt.")
    .argument(
      "[prompt...]",
      "what to show; several words are one prompt; - reads prompts from stdin, one a line",
    );
  return addDrawingOptions(command);
}

export async function txt2img(argv: readonly string[]): Promise<number> {
  const command = definition();
  parse(command, argv);
  const options = command.opts<DrawingOptions>();
  const words = command.args;
  if (words.length === 0) throw new UsageError("Nothing to draw: a prompt was needed");
  if (words.length === 1 && words[0] === "-") return await drawAll("-", options);
  if (options.output === "-" && (options.batchCount ?? 1) > 1) {
    throw new UsageError("Cannot write several pictures to stdout: -o - takes one, leave out -b");
  }
  await withDrawing(options, (draw) => draw(overlay(options, { prompt: words.join(" ") })));
  return 0;
}
