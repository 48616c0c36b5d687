/** `ldm tune`: times the ways to compute what a model computes on this device, and keeps the fastest for `--tuned`. */

import { counted } from "../base/counted.ts";
import sd15 from "../../fixtures/configs/sd15.json" with { type: "json" };
import { architectureOf } from "../engine/architecture.ts";
import { keepTuning, programsOf, type Workload } from "../engine/tuning.ts";
import { openCheckpoint } from "../formats/checkpoint.ts";
import { openDevice } from "../gpu/device.ts";
import { type Finding, tableOf, type Task, tasksOf, tune as findings } from "../gpu/tune.ts";
import {
  clipConfigFromJson,
  unetConfigFromJson,
  vaeConfigFromJson,
} from "../models/config_from_json.ts";
import {
  addReportOptions,
  choice,
  integer,
  newCommand,
  parse,
  progressOptions,
  type ReportOptions,
} from "./options.ts";
import { duration, progressTo } from "./progress.ts";
import { printJson, printLine } from "./terminal.ts";

interface Options extends ReportOptions {
  readonly width: number;
  readonly height: number;
  readonly dtype: "f16" | "f32";
  readonly rounds: number;
  readonly approximate?: true;
}

function definition() {
  const command = newCommand(
    "tune",
    "Times the ways to compute what a model computes, and keeps the fastest of each for --tuned.",
  )
    .argument("[checkpoint]", "a .safetensors file or a diffusers folder", "Stable Diffusion 1.5")
    .option("-W, --width <n>", "pixels", integer("--width", 1), 512)
    .option("-H, --height <n>", "pixels", integer("--height", 1), 512)
    .option("--dtype <type>", "f16 or f32: weights", choice("--dtype", ["f16", "f32"]), "f16")
    .option("--approximate", "also kernels that sum coarser than f32: pictures differ a little")
    .option("--rounds <n>", "how often each is timed", integer("--rounds", 1, 1000), 7);
  return addReportOptions(command);
}

export async function tune(argv: readonly string[]): Promise<number> {
  const command = definition();
  parse(command, argv);
  const [path] = command.args;
  const options = command.opts<Options>();
  const progress = progressTo(progressOptions(options));
  const programs = programsOf(path === undefined ? standard() : await workloadOf(path), options);

  await using device = await openDevice();
  const wanted = { weights: options.dtype, approximate: options.approximate === true };
  const tasks = tasksOf(programs.values(), device.profile, wanted);
  progress.say(
    `${device.name}: several kernels for ${counted(tasks.length, "pair")} of operator and shape`,
  );
  const start = performance.now();
  const found: Finding[] = [];
  try {
    progress.show("timing", 0, tasks.length, tasks[0]?.shapeClass);
    for await (const finding of findings(device, tasks, { ...wanted, rounds: options.rounds })) {
      found.push(finding);
      progress.clear();
      await tell(finding, options);
      const next: Task | undefined = tasks[found.length];
      progress.show("timing", found.length, tasks.length, next?.shapeClass);
    }
  } finally {
    progress.clear();
  }
  const file = await keepTuning(device.adapter, tableOf(found));
  const changed = found.filter(({ task, chosen }) => chosen !== task.names[0]).length;
  const seconds = (performance.now() - start) / 1000;
  if (options.json) {
    await printJson({ event: "done", path: file, classes: found.length, changed, seconds });
  } else {
    progress.say(
      `${changed} of ${found.length} differ from the kernels' own order; took ${
        duration(seconds * 1000)
      }; --tuned uses ${file}`,
    );
  }
  return 0;
}

/** One line: the class, and each candidate's median milliseconds, the chosen one marked. */
async function tell({ task, timings, chosen }: Finding, { json }: Options): Promise<void> {
  const { shapeClass, count } = task;
  if (json) return await printJson({ event: "tuned", class: shapeClass, count, timings, chosen });
  const times = timings.map(({ name, median }) =>
    `${name === chosen ? "*" : ""}${name} ${median.toPrecision(3)} ms`
  );
  await printLine(`${shapeClass}: ${times.join(", ") || "does not fit this device"}`);
}

async function workloadOf(path: string): Promise<Workload> {
  await using checkpoint = await openCheckpoint(path);
  return await architectureOf(checkpoint);
}

/** What there is to compute without a checkpoint. */
function standard(): Workload {
  return {
    textEncoders: new Map([["text_encoder", clipConfigFromJson(sd15.text_encoder)]]),
    unet: unetConfigFromJson(sd15.unet),
    vae: vaeConfigFromJson(sd15.vae),
  };
}
