/** `ldm train KIND`: models from pictures. The run's folder holds all that is needed to go on with it or to use the model. */

import { join } from "node:path";
import { counted } from "../base/counted.ts";
import { UsageError } from "../base/errors.ts";
import { readSettingsFile, type Source } from "../formats/settings.ts";
import { type Device, mib, openDevice } from "../gpu/device.ts";
import { AutoencoderCourse } from "../train/autoencoder.ts";
import { wantsMaps } from "../train/beside.ts";
import {
  type AutoencoderConfig,
  autoencoderConfig,
  type DiffusionConfig,
  diffusionConfig,
  type LoraConfig,
  loraConfig,
  printConfig,
  settingOf,
} from "../train/config.ts";
import { type Dataset, type Vocabulary, vocabularyOf, withDefaults } from "../train/dataset.ts";
import { DiffusionCourse } from "../train/diffusion.ts";
import { examples, type ReadyExample } from "../train/examples.ts";
import { type Course, type LoopOptions, runCourse, type TrainingEvent } from "../train/loop.ts";
import { withStart } from "../train/from.ts";
import { LoraCourse } from "../train/lora.ts";
import { openDataset } from "../train/open_dataset.ts";
import { BEGINNING, type Position } from "../train/order.ts";
import type { StepRecord } from "../train/record.ts";
import { type Kind, KINDS } from "../train/schema.ts";
import type { TrainingMemory } from "../train/trainer.ts";
import {
  addReportOptions,
  integer,
  newCommand,
  parse,
  progressOptions,
  type ReportOptions,
} from "./options.ts";
import { duration, type Progress, progressTo } from "./progress.ts";
import { printJson, printLine } from "./terminal.ts";

interface Options extends ReportOptions {
  readonly data?: string;
  readonly output?: string;
  readonly set?: readonly string[];
  readonly resume?: true;
  readonly printConfig?: true;
  readonly memoryBudget?: number;
}

/** Settings that every kind of run has. */
type Shared = Pick<AutoencoderConfig, "run" | "data" | "optimizer"> & {
  readonly sample: { readonly every: number; readonly count: number };
};

/** A run that is ready to begin. */
type Ready = Course & Disposable;

/** What kinds of runs differ in. */
interface Recipe<C extends Shared> {
  readonly settings: (sources: readonly Source[]) => C;
  readonly print: (settings: C) => string;
  readonly colours: (settings: C) => 1 | 3;
  /** Whether it needs maps. */
  readonly maps: (settings: C) => boolean;
  readonly course: (
    device: Device,
    settings: C,
    data: Given,
  ) => Promise<Ready>;
}

/** What a course may ask of its data before it begins. */
interface Given {
  /** The first examples. */
  readonly take: (count: number) => Promise<ReadyExample[]>;
  /** What the data call things. */
  readonly vocabulary: () => Promise<Vocabulary>;
}

/** Examples of which the latents' scale is measured. */
const MEASURED = 64;

const autoencoder: Recipe<AutoencoderConfig> = {
  settings: autoencoderConfig,
  print: (settings) => printConfig("autoencoder", settings),
  colours: ({ autoencoder: { colours } }) => colours,
  maps: () => false,
  course: async (device, settings, { take }) =>
    await AutoencoderCourse.make(device, settings, {
      shown: await take(settings.sample.count),
      measured: await take(MEASURED),
    }),
};

const diffusion: Recipe<DiffusionConfig> = {
  settings: diffusionConfig,
  print: (settings) => printConfig("diffusion", settings),
  colours: () => 3,
  maps: wantsMaps,
  course: async (device, settings, { take, vocabulary }) => {
    const { conditioner } = settings.diffusion;
    const isNamed = conditioner.includes("class") || conditioner.includes("boxes");
    return await DiffusionCourse.make(device, settings, {
      shown: await take(settings.sample.count),
      vocabulary: isNamed ? await vocabulary() : { labels: [], objects: [] },
    });
  },
};

const lora: Recipe<LoraConfig> = {
  settings: loraConfig,
  print: (settings) => printConfig("lora", settings),
  colours: () => 3,
  maps: () => false,
  course: async (device, settings, { take }) =>
    await LoraCourse.make(device, settings, { shown: await take(settings.sample.count) }),
};

const RUNS: {
  readonly [K in Kind]: (sources: readonly Source[]) => Started | Promise<Started>;
} = {
  autoencoder: async (sources) => started(autoencoder, await withStart("autoencoder", sources)),
  diffusion: async (sources) => started(diffusion, await withStart("diffusion", sources)),
  lora: (sources) => started(lora, sources),
};

/** A kind of run with its settings read. */
interface Started {
  readonly shared: Shared;
  readonly text: string;
  readonly colours: 1 | 3;
  readonly maps: boolean;
  course(device: Device, data: Given): Promise<Ready>;
}

function started<C extends Shared>(recipe: Recipe<C>, sources: readonly Source[]): Started {
  const settings = recipe.settings(sources);
  return {
    shared: settings,
    text: recipe.print(settings),
    colours: recipe.colours(settings),
    maps: recipe.maps(settings),
    course: (device, data) => recipe.course(device, settings, data),
  };
}

function definition() {
  const command = newCommand(
    "train",
    "Trains a model. Settings come from a file, then from options.",
  )
    .argument("<kind>", KINDS.join(", "))
    .argument("[config]", "settings as TOML or JSON (default with --resume: the run's own)")
    .option("--data <path>", "pictures: a folder, WebDataset .tar files, IDX files")
    .option("-o, --output <folder>", "the run's folder")
    .option(
      "--set <key=value>",
      "a setting, such as optimizer.lr=1e-4; may be repeated",
      (word: string, words: readonly string[] = []) => [...words, word],
    )
    .option("--resume", "go on from the folder's latest checkpoint")
    .option("--print-config", "print all settings and stop")
    .option("--memory-budget <MiB>", "ceiling for GPU allocations", integer("--memory-budget", 1));
  return addReportOptions(command);
}

export async function train(argv: readonly string[]): Promise<number> {
  const command = definition();
  parse(command, argv);
  const options = command.opts<Options>();
  const [word, file] = command.args;
  const kind = kindOf(word);
  const run = RUNS[kind];
  const { shared, text, colours, maps, course: makeCourse } = await run(
    await sourcesOf(kind, file, options),
  );
  if (options.printConfig) {
    await printLine(text.trimEnd());
    return 0;
  }

  const { data, optimizer, run: { folder, seed, steps, save_every, keep } } = shared;
  const progress = progressTo(progressOptions(options));
  const stop = new AbortController();
  const interrupt = () => {
    progress.say("stopping after this step; the run can be resumed");
    stop.abort();
  };
  const told = new Set<string>(); // a look at the first examples meets the same bad files as the run
  const report = (sentence: string) => {
    if (!told.has(sentence)) progress.warn(sentence);
    told.add(sentence);
  };
  using dataset = withDefaults(await openDataset(data.path, report), data);
  progress.say(`${counted(dataset.length, "example")} in ${data.path}`);
  const from = (position: Position) =>
    examples(dataset, {
      ...{ width: data.size, height: data.size, channels: colours },
      ...{ crop: data.crop, flip: data.flip, filter: data.filter, seed, position },
      ...{ boxOrder: data.boxes, ahead: data.ahead, keepBytes: data.keep_mib * 2 ** 20 },
      maps,
      report,
    });
  const ceiling = Math.min(options.memoryBudget ?? Infinity, optimizer.memory_mib || Infinity);
  await using device = await openDevice({ memoryBudget: ceiling * 2 ** 20 });
  progress.detail(`device: ${device.name}`);
  using course = await makeCourse(device, {
    take: (count) => first(dataset, from, count),
    vocabulary: () => vocabularyOf(dataset),
  });
  if (!options.resume) course.notes?.forEach((note) => progress.say(note));
  const { lr, schedule, warmup, final, batch, accumulate } = optimizer;
  const loop: LoopOptions = {
    ...{ folder, config: text, seed, steps, batch, accumulate },
    ...{ rate: { lr, schedule, warmup, final } },
    ...{ saveEvery: save_every, keep, sampleEvery: shared.sample.every },
    ...{ resume: options.resume === true, memory: () => device.memory.live, signal: stop.signal },
  };
  let code = 0;
  for (const signal of SIGNALS) Deno.addSignalListener(signal, interrupt);
  try {
    for await (const event of runCourse(course, from, loop)) {
      await tell(
        event,
        { steps, samples: batch * accumulate },
        options,
        progress,
      );
      if (event.kind === "stopped") code = 130;
    }
  } finally {
    for (const signal of SIGNALS) Deno.removeSignalListener(signal, interrupt);
    progress.clear();
  }
  return code;
}

/** What asks a run to stop: a person, or a cluster that wants its machine back, of which Windows knows nothing. */
const SIGNALS: readonly Deno.Signal[] = Deno.build.os === "windows"
  ? ["SIGINT"]
  : ["SIGINT", "SIGTERM"];

function kindOf(word: string): Kind {
  const kind = KINDS.find((name) => name === word);
  if (kind) return kind;
  throw new UsageError(`Cannot train "${word}": one of ${KINDS.join(", ")} was needed`);
}

/** Settings from the file, else the resumed run's own, then options. */
async function sourcesOf(
  kind: Kind,
  file: string | undefined,
  { output, data, set = [], resume }: Options,
): Promise<Source[]> {
  const own = resume && output !== undefined ? join(output, "config.toml") : undefined;
  const path = file ?? own;
  const words = [
    ...(output === undefined ? [] : [`run.folder=${output}`]),
    ...(data === undefined ? [] : [`data.path=${data}`]),
    ...set,
  ];
  return [
    ...(path === undefined ? [] : [await readSettingsFile(path)]),
    ...words.map((word) => settingOf(kind, word)),
  ];
}

/** The first examples of the data's first epoch, at most all of them. */
async function first(
  dataset: Dataset,
  from: (position: Position) => AsyncGenerator<ReadyExample, unknown, undefined>,
  count: number,
): Promise<ReadyExample[]> {
  const taken: ReadyExample[] = [];
  for await (const example of from(BEGINNING)) {
    taken.push(example);
    if (taken.length === Math.min(count, dataset.length)) break;
  }
  return taken;
}

/** How long a run is: its steps, and the samples of each. */
interface Extent {
  readonly steps: number;
  readonly samples: number;
}

async function tell(
  event: TrainingEvent,
  extent: Extent,
  { json }: Options,
  progress: Progress,
): Promise<void> {
  switch (event.kind) {
    case "planned":
      progress.say(memoryText(event.memory));
      break;
    case "resumed":
      progress.say(`resumed after step ${event.step}`);
      break;
    case "step": {
      const { record } = event;
      progress.show("training", record.step, extent.steps, ...notesOf(record, extent));
      progress.detail(`step ${notesOf(record, extent).join(", ")}`);
      if (record.skipped) {
        progress.warn(`step ${record.step} was left out: its gradients are not finite`);
      }
      break;
    }
    case "checkpoint":
      progress.detail(`step ${event.step} kept as ${event.path}`);
      break;
    case "sample":
      progress.detail(`samples: ${event.path}`);
      break;
    case "saved":
      progress.clear();
      if (!json) await printLine(event.path);
      break;
    case "stopped":
      progress.say(`stopped after step ${event.step}; --resume goes on`);
      break;
    default:
      event satisfies never;
  }
  if (!json) return;
  const { kind, ...rest } = event;
  await printJson({ event: kind, ...(event.kind === "step" ? event.record : rest) });
}

function memoryText({ frozen, trained, step }: TrainingMemory): string {
  const [all, ...parts] = [frozen + trained + step, frozen, trained, step].map(mib);
  return `${all} MiB on the device: ${parts[0]} of what stays as it is, ${
    parts[1]
  } of what is trained, ${parts[2]} for a step`;
}

function notesOf(
  { step, loss, lr, samples_per_second }: StepRecord,
  { steps, samples }: Extent,
): string[] {
  return [
    `${step}/${steps}`,
    `loss ${loss === null ? "not finite" : loss.toPrecision(4)}`,
    `${duration((steps - step) * samples / samples_per_second * 1000)} left`,
    `${samples_per_second.toPrecision(3)} samples/s`,
    `lr ${lr.toPrecision(2)}`,
  ];
}
