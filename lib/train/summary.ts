/** How a run goes, from its log: means of its latest steps, what was best, what was left out. */

import type { StepRecord } from "./record.ts";

/** Losses of single steps say little: they are told as means of this many. */
const WINDOW = 100;

/** A mean of the losses of steps that follow one another. */
export interface MeanLoss {
  /** The first and the last of the steps. */
  readonly from: number;
  readonly to: number;
  readonly loss: number;
}

export interface Summary {
  /** The last step that was made. */
  readonly step: number;
  readonly epoch: number;
  readonly lr: number;
  /** Of the latest steps; none where no loss of theirs is finite. */
  readonly last: MeanLoss | undefined;
  /** Parts of the loss by name, likewise. */
  readonly parts: Readonly<Record<string, number>>;
  /** The lowest mean of as many steps. */
  readonly lowest: MeanLoss | undefined;
  /** Steps that were left out since a number was not finite. */
  readonly skipped: readonly number[];
  /** Of the latest steps. */
  readonly samplesPerSecond: number;
  /** The most that was on the device. */
  readonly memoryMib: number;
}

/** What a log says; nothing where it has no step. */
export function summarise(records: readonly StepRecord[]): Summary | undefined {
  const end = records.at(-1);
  if (end === undefined) return undefined;
  const latest = records.slice(-WINDOW);
  const names = new Set(latest.flatMap(({ losses = {} }) => Object.keys(losses)));
  const parts = [...names].map((name) => [name, mean(latest.map((r) => r.losses?.[name]))]);
  const seconds = latest.reduce((sum, { samples_per_second }) => sum + 1 / samples_per_second, 0);
  const means = windows(records);
  return {
    step: end.step,
    epoch: end.epoch,
    lr: end.lr,
    last: means.at(-1),
    parts: Object.fromEntries(parts.filter(([, value]) => value !== undefined)),
    lowest: means.reduce<MeanLoss | undefined>(
      (least, each) => least === undefined || each.loss < least.loss ? each : least,
      undefined,
    ),
    skipped: records.filter(({ skipped }) => skipped).map(({ step }) => step),
    samplesPerSecond: latest.length / seconds,
    memoryMib: Math.max(...latest.map(({ memory_mib }) => memory_mib)),
  };
}

/** The mean of every {@link WINDOW} steps that follow one another, or of all where there are fewer. */
function windows(records: readonly StepRecord[]): MeanLoss[] {
  const length = Math.min(WINDOW, records.length);
  return Array.from({ length: records.length - length + 1 }, (_, i) => {
    const some = records.slice(i, i + length);
    const loss = mean(some.map((record) => record.loss));
    return loss === undefined ? [] : [{ from: some[0].step, to: some[length - 1].step, loss }];
  }).flat();
}

/** Of the numbers that there are. */
function mean(values: readonly (number | null | undefined)[]): number | undefined {
  const numbers = values.filter((value) => typeof value === "number");
  return numbers.length === 0 ? undefined : numbers.reduce((a, b) => a + b, 0) / numbers.length;
}
