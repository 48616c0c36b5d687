/** `ldm bench`: how fast this device is, in figures that can be compared: single operators, and a checkpoint's stages. */

import { UsageError } from "../base/errors.ts";
import { loadModel } from "../engine/load.ts";
import { writeWhole } from "../formats/files.ts";
import { type Device, openDevice } from "../gpu/device.ts";
import { FEW, namesOfCases, USUAL } from "./bench/cases.ts";
import { kernelSections } from "./bench/kernels.ts";
import { modelSections } from "./bench/model.ts";
import {
  type Facts,
  factsOf,
  headMarkdown,
  markdown,
  type Section,
  sectionMarkdown,
} from "./bench/report.ts";
import { deviceOptions, modelPath, seconds, withLoaded } from "./loading.ts";
import {
  addModelOptions,
  addReportOptions,
  addSaveOptions,
  integer,
  type ModelOptions,
  newCommand,
  parse,
  progressOptions,
  type SaveOptions,
} from "./options.ts";
import { openOutput } from "./output.ts";
import { duration, type Progress, progressTo } from "./progress.ts";
import { printJson, printLine } from "./terminal.ts";

interface Options extends ModelOptions, SaveOptions {
  readonly width?: number;
  readonly height?: number;
  readonly quick?: true;
  readonly all?: true;
  readonly filter?: string;
  readonly rounds?: number;
}

/** Turns of each piece of work: as a rule, and with --quick. */
const ROUNDS = { usual: 3, quick: 1 } as const;

function definition() {
  const command = newCommand(
    "bench",
    "How fast this device is: operators of Stable Diffusion 1.5 at 512×512, and with -m the stages of a checkpoint.",
  )
    .option("--quick", "few operators, one round: seconds instead of a minute")
    .option("--all", "every shape")
    .option("-f, --filter <text>", "operators whose names contain it, of every shape")
    .option("-r, --rounds <n>", `turns of each (default: ${ROUNDS.usual})`, integer("--rounds", 1))
    .option("-W, --width <n>", "of the checkpoint: pixels", integer("--width", 1))
    .option("-H, --height <n>", "of the checkpoint: pixels", integer("--height", 1));
  const forms = "a .md or .json file, or a folder, beside stdout";
  return addReportOptions(addModelOptions(addSaveOptions(command, "none", forms)));
}

export async function bench(argv: readonly string[]): Promise<number> {
  const command = definition();
  parse(command, argv);
  const options = command.opts<Options>();
  checkOptions(options);
  const names = wantedOf(options);
  const path = options.model === undefined ? undefined : modelPath(options);
  const file = options.output === undefined || options.output === "-"
    ? undefined
    : await fileFor(options.output, options.overwrite === true);
  const progress = progressTo(progressOptions(options));
  const start = performance.now();
  const tell = teller(file, options);
  try {
    if (path !== undefined) await timeModel(path, options, progress, tell);
    await timeKernels(names, options, progress, tell);
  } finally {
    progress.clear();
  }
  const took = performance.now() - start;
  if (options.json) await printJson({ event: "done", path: file, seconds: seconds(took) });
  else progress.say(`took ${duration(took)}${file === undefined ? "" : `; written to ${file}`}`);
  return 0;
}

/** Throws `UsageError` for what says something of a checkpoint where none is named, and for what contradicts itself. */
function checkOptions({ model, vae, taesd, width, height, quick, all }: Options): void {
  if (quick && all) throw new UsageError("Cannot time few operators and all: --quick or --all");
  const given = Object.entries({ vae, taesd, width, height })
    .find(([, value]) => value !== undefined);
  if (model === undefined && given) {
    throw new UsageError(`Cannot use --${given[0]} without --model, whose stages it is about`);
  }
}

async function fileFor(pattern: string, overwrite: boolean): Promise<string> {
  const output = await openOutput(pattern, {
    extension: ".md",
    otherExtensions: [".json"],
    name: "bench.md",
    overwrite,
  });
  return await output.next({ index: 0 });
}

/** Tells a section, and keeps the file up to date. */
type Tell = (device: Device, section: Section) => Promise<void>;

function teller(file: string | undefined, { json }: Options): Tell {
  const sections: Section[] = [];
  let facts: Facts | undefined;
  return async (device, section) => {
    if (!facts) {
      facts = factsOf(device);
      if (json) await printJson({ event: "bench", ...facts });
      else await printLine(headMarkdown(facts));
    }
    sections.push(section);
    if (json) await printJson({ event: "section", ...section });
    else await printLine(sectionMarkdown(section));
    if (file === undefined) return;
    const report = { ...facts, sections };
    const text = file.endsWith(".json")
      ? `${JSON.stringify(report, undefined, 2)}\n`
      : markdown(report);
    await writeWhole(file, new TextEncoder().encode(text));
  };
}

async function timeKernels(
  names: ReadonlySet<string>,
  options: Options,
  progress: Progress,
  tell: Tell,
): Promise<void> {
  const { dtype = "f16" } = options;
  await using device = await openDevice(deviceOptions(options, progress));
  let done = 0;
  const sections = kernelSections(device, {
    isWanted: (name) => names.has(name),
    variants: "chosen",
    weights: dtype,
    rounds: roundsOf(options),
    rival: undefined,
    progress: (name) => progress.show("timing", done++, names.size, name),
  });
  for await (const section of sections) {
    progress.clear();
    await tell(device, section);
  }
}

/** The names of operators that are timed. Throws `UsageError` for a filter that leaves none. */
function wantedOf({ filter, quick, all }: Options): ReadonlySet<string> {
  const names = namesOfCases();
  if (filter !== undefined) {
    const found = names.filter((name) => name.includes(filter));
    const few = quick ? found.filter((name) => FEW.has(name)) : [];
    if (found.length > 0) return new Set(few.length > 0 ? few : found);
    throw new UsageError(
      `Cannot time "${filter}": no operator's name contains it; "${names[0]}" is one`,
    );
  }
  return all ? new Set(names) : quick ? FEW : USUAL;
}

function roundsOf({ rounds, quick }: Options): number {
  return rounds ?? (quick ? ROUNDS.quick : ROUNDS.usual);
}

async function timeModel(
  path: string,
  options: Options,
  progress: Progress,
  tell: Tell,
): Promise<void> {
  const { vae, taesd, width, height, vaeTiling: tiling } = options;
  await withLoaded(loadModel, path, options, progress, async (model, device) => {
    const sections = modelSections(device, model, {
      ...{ path, vae, taesd: taesd !== undefined, width, height, tiling },
      rounds: roundsOf(options),
      progress: (what) => progress.show("timing", 0, 1, what),
    });
    for await (const section of sections) {
      progress.clear();
      await tell(device, section);
    }
  }, "model");
}
