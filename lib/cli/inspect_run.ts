/** What `ldm inspect` tells of a training run's folder, whatever of it is there: a run that was killed is one as well. */

import { join } from "node:path";
import { FileError, FormatError, UsageError } from "../base/errors.ts";
import { fileError } from "../formats/files.ts";
import { readSettingsFile } from "../formats/settings.ts";
import { type ConfigReport, readConfig } from "../train/config.ts";
import { parseRecords, type StepRecord } from "../train/record.ts";
import { progressIn } from "../train/state.ts";
import { type MeanLoss, summarise, type Summary } from "../train/summary.ts";

/** What is told of a run. */
export interface RunReport {
  readonly json: Readonly<Record<string, unknown>>;
  readonly lines: readonly string[];
  /** Where its model is, if it has been saved: a checkpoint or a LoRA, which can be inspected by itself. */
  readonly model: string | undefined;
}

const LOG = "log.ndjson";
const CONFIG = "config.toml";

/** Whether a path is a folder that `ldm train` made, or began to make. */
export async function isRunFolder(path: string): Promise<boolean> {
  if (await isFile(join(path, LOG))) return true;
  return await isFile(join(path, CONFIG)) && await namesIn(path, "checkpoints") !== undefined;
}

/** Throws `FileError` for what cannot be read; what is missing or damaged is told. */
export async function describeRun(path: string): Promise<RunReport> {
  const config = await orProblem(async () =>
    readConfig(await readSettingsFile(join(path, CONFIG)))
  );
  const { records, damaged } = await readLog(join(path, LOG));
  const checkpoints = await checkpointsIn(path);
  const problems = [
    ...("problem" in config ? [config.problem] : []),
    ...(damaged > 0 ? [`${counted(damaged, "line")} of the log cannot be read`] : []),
    ...checkpoints.flatMap((each) => "problem" in each ? [each.problem] : []),
  ];
  const whole = checkpoints.flatMap((each) => "problem" in each ? [] : [each.step]);
  const summary = summarise(records);
  const settings = "problem" in config ? undefined : config.found;
  const places = await placesIn(path, settings);
  return {
    json: {
      kind: "run",
      path,
      trains: settings?.kind,
      steps: settings?.steps,
      settings: settings && Object.fromEntries(settings.changed),
      ...summary,
      checkpoints: whole,
      resumable: whole.at(-1),
      ...places,
      problems,
    },
    lines: [
      title(path, settings, summary),
      ...settingLines(settings),
      ...(summary ? summaryLines(summary) : ["no step has been made yet"]),
      ...resumeLines(path, settings, whole, summary),
      ...Object.entries(places).map(([name, place]) => `${name}: ${place}`),
      ...problems.map((problem) => `not as it should be: ${problem}`),
    ],
    model: places.model,
  };
}

// ---- reading

/** Something, or why it is not there. */
type OrProblem<T> = { readonly found: T } | { readonly problem: string };

/** What `work` finds, or in a sentence why it cannot. */
export async function orProblem<T>(work: () => Promise<T> | T): Promise<OrProblem<T>> {
  try {
    return { found: await work() };
  } catch (error) {
    const isExpected = [FileError, FormatError, UsageError].some((kind) => error instanceof kind);
    if (isExpected && error instanceof Error) return { problem: error.message };
    throw error;
  }
}

/** The records of a log, and how many of its lines are none. */
async function readLog(path: string): Promise<{ records: StepRecord[]; damaged: number }> {
  const text = await Deno.readTextFile(path).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return "";
    throw fileError("read", path, error);
  });
  const records = parseRecords(text);
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return { records, damaged: lines.length - records.length };
}

type Checkpoint = { readonly step: number } | { readonly problem: string };

/** The checkpoints of a run, rising; those that nothing can go on from say why. */
async function checkpointsIn(folder: string): Promise<Checkpoint[]> {
  const names = await namesIn(folder, "checkpoints") ?? [];
  const steps = names.filter((name) => /^\d+$/.test(name)).map(Number).sort((a, b) => a - b);
  const found: Checkpoint[] = [];
  for (const step of steps) {
    const path = join(folder, "checkpoints", String(step), "state.safetensors");
    const read = await orProblem(() => progressIn(path));
    found.push("problem" in read ? read : { step });
  }
  return found;
}

/** Where results are, of those that there are. */
async function placesIn(
  folder: string,
  config: ConfigReport | undefined,
): Promise<{ readonly plot?: string; readonly samples?: string; readonly model?: string }> {
  const names = await namesIn(folder) ?? [];
  const samples = (await namesIn(folder, "samples") ?? []).filter((name) => name.endsWith(".png"));
  const model = config && MODELS[config.kind](names);
  return {
    ...(names.includes("loss.svg") && { plot: join(folder, "loss.svg") }),
    ...(samples.length > 0 && { samples: join(folder, "samples", samples.sort().at(-1) ?? "") }),
    ...(model !== undefined && { model: join(folder, model) }),
  };
}

/** Kind of run → its model among the names in its folder. */
const MODELS: Readonly<
  Record<ConfigReport["kind"], (names: readonly string[]) => string | undefined>
> = {
  autoencoder: (names) => names.find((name) => name === "vae"),
  diffusion: (names) => names.includes("model_index.json") ? "." : undefined,
  lora: (names) => names.find((name) => name.endsWith(".safetensors")),
};

/** The names in a folder; nothing where there is none. */
async function namesIn(...path: readonly string[]): Promise<string[] | undefined> {
  const folder = join(...path);
  try {
    const names: string[] = [];
    for await (const { name } of Deno.readDir(folder)) names.push(name);
    return names;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) {
      return undefined;
    }
    throw fileError("read", folder, error);
  }
}

async function isFile(path: string): Promise<boolean> {
  return await Deno.stat(path).then(({ isFile }) => isFile, () => false);
}

// ---- telling

function title(
  path: string,
  config: ConfigReport | undefined,
  summary: Summary | undefined,
): string {
  const what = config ? `a run of \`ldm train ${config.kind}\`` : "a training run";
  const made = summary?.step ?? 0;
  const steps = config ? `${made} of ${counted(config.steps, "step")}` : counted(made, "step");
  return `${path}: ${what}, ${steps}${summary ? `, epoch ${summary.epoch}` : ""}`;
}

function settingLines(config: ConfigReport | undefined): string[] {
  if (!config || config.changed.size === 0) return [];
  const settings = [...config.changed].map(([name, value]) => `  ${name} = ${shown(value)}`);
  return [`settings of its own (${config.changed.size}):`, ...settings];
}

/** As TOML has it, the beginning of what is long. */
function shown(value: unknown): string {
  const text = JSON.stringify(value);
  return text.length > 120 ? `${text.slice(0, 120)}…` : text;
}

function summaryLines(summary: Summary): string[] {
  const { last, lowest, parts, skipped, samplesPerSecond, memoryMib, lr } = summary;
  const named = Object.entries(parts).map(([name, value]) => `${name} ${digits(value)}`);
  return [
    last
      ? `loss: ${meanOf(last)}${named.length > 0 ? ` (${named.join(", ")})` : ""}`
      : "loss: not finite",
    ...(lowest && lowest.to !== last?.to ? [`lowest: ${meanOf(lowest)}`] : []),
    ...(skipped.length > 0
      ? [`left out: ${counted(skipped.length, "step")}, the last one ${skipped.at(-1)}`]
      : []),
    `pace: ${digits(samplesPerSecond)} samples/s, ${memoryMib} MiB on the device, rate ${lr}`,
  ];
}

/** "0.1234, the mean of steps 901 to 1000". */
function meanOf({ from, to, loss }: MeanLoss): string {
  return from === to
    ? `${digits(loss)} in step ${to}`
    : `${digits(loss)}, the mean of steps ${from} to ${to}`;
}

function resumeLines(
  path: string,
  config: ConfigReport | undefined,
  whole: readonly number[],
  summary: Summary | undefined,
): string[] {
  const last = whole.at(-1);
  if (last === undefined) return ["checkpoints: none, so that it cannot be resumed"];
  const made = summary?.step ?? last;
  const isOver = config !== undefined && last >= config.steps;
  const command = `ldm train ${config?.kind ?? "KIND"} -o ${path} --resume`;
  const more = isOver ? `${command} --set run.steps=N` : command;
  const lost = made > last ? `, which makes ${counted(made - last, "step")} again` : "";
  return [`checkpoints: after step ${whole.join(", ")}`, `goes on with: ${more}${lost}`];
}

function digits(value: number): string {
  return value.toPrecision(4);
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}
