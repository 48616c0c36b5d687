/** `ldm decode LATENTS.safetensors -o IMAGE.png`: latents through the first stage's decoder. */

import { counted } from "../base/counted.ts";
import { FormatError, UsageError } from "../base/errors.ts";
import { loadFirstStage } from "../engine/load.ts";
import { readLatents } from "../formats/latents.ts";
import { encodePng } from "../formats/png.ts";
import { decodeLatents, toBytes } from "../pipelines/first_stage.ts";
import { describeMemory, firstStagePath, seconds, withLoaded } from "./loading.ts";
import {
  addModelOptions,
  addReportOptions,
  addSaveOptions,
  type ModelOptions,
  newCommand,
  parse,
  progressOptions,
  type SaveOptions,
} from "./options.ts";
import { besides, openOutput, saveBytes } from "./output.ts";
import { duration, progressTo } from "./progress.ts";
import { printJson, printLine } from "./terminal.ts";

interface Options extends ModelOptions, SaveOptions {}

export async function decode(argv: readonly string[]): Promise<number> {
  const command = newCommand("decode", "Makes a picture of latents.").argument("<latents>");
  addReportOptions(
    addModelOptions(
      addSaveOptions(command, "the latents' name.png", "a file or a folder; - is stdout"),
    ),
  );
  parse(command, argv);
  const options = command.opts<Options>();
  const [source] = command.args;
  const path = firstStagePath(options);
  if (options.output === "-" && options.json) {
    throw new UsageError("Cannot use --json with -o -: both write to stdout");
  }
  const name = besides(source, ".png");
  const latents = await readLatents(source);
  const output = await openOutput(options.output ?? name, {
    extension: ".png",
    name,
    fields: [],
    overwrite: options.overwrite === true,
  });
  const progress = progressTo(progressOptions(options));
  const start = performance.now();
  try {
    await withLoaded(loadFirstStage, path, options, progress, async (stage) => {
      if (latents.channels !== stage.latentChannels) {
        throw new FormatError(
          `Cannot decode "${source}": its latents have ${
            counted(latents.channels, "channel")
          }, and the first ` +
            `stage of "${path}" has ${stage.latentChannels}`,
        );
      }
      const { height, width } = latents;
      const size = { height: height * stage.factor, width: width * stage.factor };
      const memory = stage.prepare("decode", size, { tiling: options.vaeTiling });
      for (const line of describeMemory(memory)) progress.detail(line);
      const work = decodeLatents(stage.decode, latents, options.vaeTiling);
      let result = await work.next();
      for (; !result.done; result = await work.next()) {
        const event = result.value;
        if (event.kind === "decode") progress.show("decoding", event.done, event.of);
      }
      const picture = toBytes(result.value);
      const file = await output.next({ index: 0 });
      await saveBytes(file, await encodePng(picture));
      progress.clear();
      progress.say(
        `${picture.width}×${picture.height} pixels in ${duration(performance.now() - start)}`,
      );
      if (options.json) {
        await printJson({ event: "saved", path: file, ...size });
        await printJson({ event: "done", seconds: seconds(performance.now() - start) });
      } else if (file !== "-") await printLine(file);
    });
  } finally {
    progress.clear();
  }
  return 0;
}
