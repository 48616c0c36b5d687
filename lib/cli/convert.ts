/** `ldm convert IN OUT`: a checkpoint as one file or as a diffusers folder, and in another type. Needs no GPU. */

import { counted } from "../base/counted.ts";
import { UsageError } from "../base/errors.ts";
import type { LoraChoice } from "../engine/model.ts";
import { CAST_TYPES, type CastType } from "../formats/cast.ts";
import { type CheckpointForm, type Conversion, convertCheckpoint } from "../pipelines/convert.ts";
import { checkpointPath } from "./built_in.ts";
import { seconds } from "./loading.ts";
import { addLoraFiles } from "./loras.ts";
import {
  addReportOptions,
  choice,
  newCommand,
  parse,
  progressOptions,
  type ReportOptions,
} from "./options.ts";
import { duration, fileSize, type Progress, progressTo } from "./progress.ts";
import { printJson, printLine } from "./terminal.ts";

interface Options extends ReportOptions {
  readonly dtype?: CastType;
  readonly to?: CheckpointForm;
  readonly vae?: string;
  readonly lora?: readonly LoraChoice[];
  readonly tokenizer?: string;
  readonly overwrite?: true;
}

function definition() {
  const command = newCommand(
    "convert",
    "Writes a checkpoint as one file or as a diffusers folder, and in another type.",
  )
    .argument("<in>", "a .safetensors file or a diffusers folder, of a model or of one part")
    .argument("<out>", "a name that ends in .safetensors for a file, any other for a folder")
    .option("--to <form>", "file or folder, whatever the name", choice("--to", ["file", "folder"]))
    .option(
      "--dtype <type>",
      "f16, f32 or bf16: all weights (default: each as it is)",
      choice("--dtype", CAST_TYPES),
    )
    .option("--vae <path>", "another first stage");
  return addReportOptions(
    addLoraFiles(command)
      .option("--tokenizer <folder>", "vocab.json and merges.txt in place of the checkpoint's")
      .option("--overwrite", "replace what has the name, once all is written"),
  );
}

export async function convert(argv: readonly string[]): Promise<number> {
  const command = definition();
  parse(command, argv);
  const [input, output] = command.args;
  if (output === "-") {
    throw new UsageError("Cannot write a checkpoint to stdout: name a file or a folder");
  }
  const options = command.opts<Options>();
  const progress = progressTo(progressOptions(options));
  const start = performance.now();
  const stop = new AbortController();
  const interrupt = () => stop.abort();
  Deno.addSignalListener("SIGINT", interrupt);
  try {
    const done = await convertCheckpoint(checkpointPath(input), output, {
      ...asked(options),
      signal: stop.signal,
      progress: (bytes, of, part) =>
        progress.show(`writing ${part}`, bytes, of, `${fileSize(bytes)} of ${fileSize(of)}`),
    });
    await tell(done, performance.now() - start, options, progress);
    return 0;
  } catch (error) {
    if (!stop.signal.aborted) throw error;
    progress.say("interrupted; nothing was written");
    return 130;
  } finally {
    Deno.removeSignalListener("SIGINT", interrupt);
    progress.clear();
  }
}

function asked({ dtype, to, vae, lora, tokenizer, overwrite }: Options) {
  return {
    ...(dtype !== undefined && { dtype }),
    ...(to !== undefined && { form: to }),
    ...(vae !== undefined && { vae }),
    ...(lora !== undefined && { loras: lora }),
    ...(tokenizer !== undefined && { tokenizer }),
    overwrite: overwrite === true,
  };
}

/** What was left out, what is amiss, and where the result is. */
async function tell(
  { path, form, parts, bytes, dropped, warnings }: Conversion,
  elapsed: number,
  { json }: Options,
  progress: Progress,
): Promise<void> {
  progress.clear();
  for (const message of warnings) {
    progress.warn(message);
    if (json) await printJson({ event: "warning", message });
  }
  if (dropped.length > 0) {
    progress.say(
      `left out ${counted(dropped.length, "tensor")} that no model needs, "${dropped[0]}" first`,
    );
    for (const key of dropped) progress.detail(`left out ${key}`);
  }
  progress.say(`${parts.join(", ")}: ${fileSize(bytes)} in ${duration(elapsed)}`);
  if (json) {
    await printJson({ event: "saved", path, form, parts, bytes, dropped });
    await printJson({ event: "done", seconds: seconds(elapsed) });
  } else await printLine(path);
}
