/**
 * The loop that every training run is: batches, gradients, steps, and from time to time samples and checkpoints. It yields
 * what happens and writes the run's folder:
 *
 *   config.toml          all settings
 *   log.ndjson           a record of each step
 *   loss.svg             the log as a picture
 *   samples/             grids of samples by step
 *   checkpoints/N/       state.safetensors after step N, written whole or not at all
 *   …                    the model, when the run is over
 */

import { join } from "node:path";
import { counted } from "../base/counted.ts";
import { FileError } from "../base/errors.ts";
import type { Picture } from "../base/picture.ts";
import { fileError, writeWhole } from "../formats/files.ts";
import { encodePng } from "../formats/png.ts";
import type { ReadyExample } from "./examples.ts";
import { BEGINNING, type Position } from "./order.ts";
import { plotSeries } from "./plot.ts";
import { learningRate, type RateOptions } from "./rate.ts";
import { logUpTo, parseRecords, recordLine, type StepRecord } from "./record.ts";
import { checkResumed } from "./resuming.ts";
import { readState, type Trainers, writeState } from "./state.ts";
import type { TrainingMemory } from "./trainer.ts";

/** Loss and its parts. */
export interface Losses {
  readonly loss: number;
  readonly losses: Readonly<Record<string, number>>;
}

/** What is trained. */
export interface Course {
  readonly trainers: Trainers;
  /** What it takes on the device from step to step. */
  readonly memory: TrainingMemory;
  /** What the user should know before it begins. */
  readonly notes?: readonly string[];
  /** Loss and gradients of a batch; `index` counts batches of the whole run, `step` steps from 1. */
  backward(
    examples: readonly ReadyExample[],
    at: { readonly index: number; readonly step: number },
  ): Promise<Losses>;
  /** A picture of how far the model has come. */
  sample(): Promise<Picture>;
  /** Writes the model as it is used. */
  save(folder: string): Promise<void>;
}

export interface LoopOptions {
  readonly folder: string;
  /** All settings as text, kept in the folder. */
  readonly config: string;
  /** Of the order and the noise. */
  readonly seed: number;
  readonly steps: number;
  readonly batch: number;
  readonly accumulate: number;
  readonly rate: Omit<RateOptions, "steps">;
  /** Steps between checkpoints, 0 none; how many of them are kept, 0 all. */
  readonly saveEvery: number;
  readonly keep: number;
  /** Steps between samples, 0 none. */
  readonly sampleEvery: number;
  /** Goes on from the latest checkpoint of the folder. */
  readonly resume: boolean;
  /** Bytes on the device now. */
  readonly memory: () => number;
  /** Stops after the current step, with a checkpoint. */
  readonly signal?: AbortSignal | undefined;
}

export type TrainingEvent =
  | { readonly kind: "planned"; readonly memory: TrainingMemory }
  | { readonly kind: "resumed"; readonly step: number }
  | { readonly kind: "step"; readonly record: StepRecord }
  | { readonly kind: "sample"; readonly path: string }
  | { readonly kind: "checkpoint"; readonly path: string; readonly step: number }
  | { readonly kind: "saved"; readonly path: string }
  | { readonly kind: "stopped"; readonly step: number };

/** Numbers of the checkpoints in a run's folder, rising. */
async function checkpointsOf(folder: string): Promise<number[]> {
  const names: number[] = [];
  try {
    for await (const { name } of Deno.readDir(join(folder, "checkpoints"))) {
      if (!/^\d+$/.test(name)) continue;
      const state = await Deno.stat(stateOf(folder, Number(name))).catch(() => undefined);
      if (state) names.push(Number(name)); // else whoever wrote it was stopped before it was whole
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw fileError("read", folder, error);
  }
  return names.sort((a, b) => a - b);
}

const stateOf = (folder: string, step: number) =>
  join(folder, "checkpoints", String(step), "state.safetensors");

/**
 * Trains to the last step. `examples` gives those from a position on. Throws `FileError` where the folder holds a run
 * already or cannot be written; the last checkpoint stays then. Throws `UsageError` for settings that a run cannot go on with.
 */
export async function* runCourse(
  course: Course,
  examples: (position: Position) => AsyncGenerator<ReadyExample, unknown, undefined>,
  options: LoopOptions,
): AsyncGenerator<TrainingEvent, void, undefined> {
  const { folder, steps, batch, accumulate, signal } = options;
  const known = await checkpointsOf(folder);
  const last = known.at(-1);
  if (last !== undefined && !options.resume) {
    throw new FileError(
      `Cannot train into "${folder}": it holds a run of ${
        counted(last, "step")
      }; --resume goes on with it`,
    );
  }
  if (last !== undefined) await checkResumed(options, last);
  yield { kind: "planned", memory: course.memory };
  const { frozen, trained, step: each } = course.memory;
  const planned = mebibytes(frozen + trained + each);
  const rest = () => Object.values(course.trainers).forEach((trainer) => trainer.rest());
  let step = 0;
  let position = BEGINNING;
  if (last !== undefined) {
    ({ step, position } = await readState(stateOf(folder, last), course.trainers));
    yield { kind: "resumed", step };
  }
  const log = await openLog(folder, step);
  await writeText(join(folder, "config.toml"), options.config);
  const source = examples(position);
  try {
    let saved = step;
    const checkpoint = async (): Promise<TrainingEvent> => {
      rest();
      const path = await saveCheckpoint(folder, { step, position }, course.trainers);
      saved = step;
      await plotLog(folder, log);
      await forget(folder, options.keep);
      return { kind: "checkpoint", path, step };
    };
    while (step < steps) {
      const start = performance.now();
      const totals = new Map<string, number>();
      for (let part = 0; part < accumulate; part++) {
        const taken: ReadyExample[] = [];
        while (taken.length < batch) {
          const { value, done } = await source.next();
          if (done) throw new TypeError("Examples have no end");
          taken.push(value);
        }
        position = taken[batch - 1].next;
        const index = step * accumulate + part;
        const { loss, losses } = await course.backward(taken, { index, step: step + 1 });
        for (const [name, value] of Object.entries({ ...losses, loss })) {
          totals.set(name, (totals.get(name) ?? 0) + value / accumulate);
        }
      }
      const rate = learningRate(step, { ...options.rate, steps });
      const results = [];
      for (const trainer of Object.values(course.trainers)) {
        results.push(await trainer.step(step + 1, rate));
      }
      step += 1;
      const { loss = NaN, ...losses } = Object.fromEntries(totals);
      const record: StepRecord = {
        step,
        loss: finite(loss),
        losses: Object.fromEntries(Object.entries(losses).map(([name, n]) => [name, finite(n)])),
        lr: rate,
        grad_norm: finite(Math.hypot(...results.map(({ norm }) => norm))),
        ...(results.some(({ skipped }) => skipped) && { skipped: true }),
        epoch: position.epoch,
        samples_per_second: batch * accumulate / ((performance.now() - start) / 1e3),
        memory_mib: mebibytes(options.memory()),
        planned_mib: planned,
      };
      await log.append(record);
      yield { kind: "step", record };
      if (options.sampleEvery > 0 && step % options.sampleEvery === 0) {
        rest();
        yield { kind: "sample", path: await saveSample(folder, step, await course.sample()) };
      }
      if (signal?.aborted) {
        yield await checkpoint();
        yield { kind: "stopped", step };
        return;
      }
      if (options.saveEvery > 0 && step % options.saveEvery === 0) yield await checkpoint();
    }
    if (saved < step || known.length === 0 && step === 0) yield await checkpoint();
    rest();
    await course.save(folder);
    yield { kind: "saved", path: folder };
  } finally {
    log.close();
    await source.return(undefined);
  }
}

const mebibytes = (bytes: number) => Math.ceil(bytes / 2 ** 20);
const finite = (value: number) => Number.isFinite(value) ? value : null;

/** A checkpoint appears under its name when all of it is on the disk. */
async function saveCheckpoint(
  folder: string,
  progress: { readonly step: number; readonly position: Position },
  trainers: Trainers,
): Promise<string> {
  const path = stateOf(folder, progress.step);
  await makeFolder(join(folder, "checkpoints", String(progress.step)));
  await writeState(path, progress, trainers);
  return path;
}

/** Removes all but the latest checkpoints. */
async function forget(folder: string, keep: number): Promise<void> {
  if (keep === 0) return;
  for (const step of (await checkpointsOf(folder)).slice(0, -keep)) {
    await Deno.remove(join(folder, "checkpoints", String(step)), { recursive: true });
  }
}

async function saveSample(folder: string, step: number, picture: Picture): Promise<string> {
  await makeFolder(join(folder, "samples"));
  const path = join(folder, "samples", `${String(step).padStart(8, "0")}.png`);
  await writeWhole(path, await encodePng(picture));
  return path;
}

async function makeFolder(path: string): Promise<void> {
  await Deno.mkdir(path, { recursive: true }).catch((error) => {
    throw fileError("write", path, error);
  });
}

const encoder = new TextEncoder();
const writeText = (path: string, text: string) => writeWhole(path, encoder.encode(text));

interface Log {
  readonly records: readonly StepRecord[];
  append(record: StepRecord): Promise<void>;
  close(): void;
}

/** The log of steps up to `step`; what came after is made again. */
async function openLog(folder: string, step: number): Promise<Log> {
  await makeFolder(folder);
  const path = join(folder, "log.ndjson");
  const old = logUpTo(await Deno.readTextFile(path).catch(() => ""), step);
  await writeText(path, old);
  const records = parseRecords(old);
  const file = await Deno.open(path, { append: true }).catch((error) => {
    throw fileError("write", path, error);
  });
  return {
    records,
    async append(record) {
      records.push(record);
      const bytes = encoder.encode(recordLine(record));
      try {
        for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
      } catch (error) {
        throw fileError("write", path, error);
      }
    },
    close: () => file.close(),
  };
}

/** Parts of a loss that are drawn beside it: those that say how near pictures come. */
const DRAWN = ["pixel", "perceptual"];

async function plotLog(folder: string, { records }: Log): Promise<void> {
  const parts = DRAWN.filter((name) => records.some(({ losses }) => losses?.[name] !== undefined));
  const series = ["loss", ...parts].map((name) => ({
    name,
    points: records.map(({ step, loss, losses }) => ({
      step,
      value: name === "loss" ? loss : losses?.[name] ?? null,
    })),
  }));
  const svg = plotSeries(series, { title: "loss" });
  await writeText(join(folder, "loss.svg"), svg);
}
