/** `ldm encode IMAGE -o LATENTS.safetensors`: a picture through the first stage's encoder. */

import { UsageError } from "../base/errors.ts";
import { loadFirstStage } from "../engine/load.ts";
import { fileError } from "../formats/files.ts";
import { writeLatents } from "../formats/latents.ts";
import { decodePicture } from "../formats/png.ts";
import { encodePicture, requireFactor } from "../pipelines/first_stage.ts";
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
import { besides, openOutput } from "./output.ts";
import { duration, progressTo } from "./progress.ts";
import { printJson, printLine } from "./terminal.ts";

interface Options extends ModelOptions, SaveOptions {}

export async function encode(argv: readonly string[]): Promise<number> {
  const command = newCommand("encode", "Makes latents of a picture.").argument("<image>");
  addReportOptions(
    addModelOptions(
      addSaveOptions(command, "the picture's name.safetensors", "a file or a folder"),
    ),
  );
  parse(command, argv);
  const options = command.opts<Options>();
  const [source] = command.args;
  const path = firstStagePath(options);
  if (options.output === "-") {
    throw new UsageError("Cannot write latents to stdout: -o must name a .safetensors file");
  }
  const name = besides(source, ".safetensors");
  const bytes = await Deno.readFile(source).catch((error) => {
    throw fileError("read the picture", source, error);
  });
  const picture = await decodePicture(bytes, `"${source}"`);
  const output = await openOutput(options.output ?? name, {
    extension: ".safetensors",
    name,
    fields: [],
    overwrite: options.overwrite === true,
  });
  const progress = progressTo(progressOptions(options));
  if (picture.channels === 4) progress.warn("The picture's transparent parts are laid over white");
  const start = performance.now();
  try {
    await withLoaded(loadFirstStage, path, options, progress, async (stage) => {
      requireFactor(picture, stage.factor);
      const memory = stage.prepare("encode", picture, { tiling: options.vaeTiling });
      for (const line of describeMemory(memory)) progress.detail(line);
      const latents = await encodePicture(
        stage,
        picture,
        options.vaeTiling,
        (done, of) => progress.show("encoding", done, of),
      );
      const file = await output.next({ index: 0 });
      await writeLatents(file, latents, { factor: String(stage.factor), scale: "denoiser" });
      progress.clear();
      const { channels, height, width } = latents;
      progress.say(
        `${channels}×${height}×${width} latents in ${duration(performance.now() - start)}`,
      );
      if (options.json) {
        await printJson({ event: "saved", path: file, shape: [1, channels, height, width] });
        await printJson({ event: "done", seconds: seconds(performance.now() - start) });
      } else await printLine(file);
    });
  } finally {
    progress.clear();
  }
  return 0;
}
