/**
 * What a run writes down of each step: an object a line (NDJSON), from which its plot is drawn and its course can be told.
 * JSON has no NaN: a number that was not finite is null.
 */

export interface StepRecord {
  /** From 1: how often the weights were changed or were to be. */
  readonly step: number;
  readonly loss: number | null;
  /** Parts of the loss by name, before they are weighted. */
  readonly losses?: Readonly<Record<string, number | null>>;
  readonly lr: number;
  /** Of all gradients, before clipping. */
  readonly grad_norm: number | null;
  /** Whether the weights were left as they were, since a number was not finite. */
  readonly skipped?: boolean;
  readonly epoch: number;
  readonly samples_per_second: number;
  /** MiB on the device. */
  readonly memory_mib: number;
  /** MiB that were planned before the first step. */
  readonly planned_mib?: number;
}

/** A record as a line, with its end. */
export function recordLine(record: StepRecord): string {
  return `${JSON.stringify(record)}\n`;
}

/** The records of a log; lines that are not whole are left out: the last one where a run was killed. */
export function parseRecords(log: string): StepRecord[] {
  return log.split("\n").flatMap((line) => {
    try {
      const json: unknown = JSON.parse(line);
      return isRecord(json) ? [json] : [];
    } catch {
      return [];
    }
  });
}

const NUMBERS: ReadonlySet<string> = new Set(
  ["step", "lr", "epoch", "samples_per_second", "memory_mib"] satisfies (keyof StepRecord)[],
);
const NUMBERS_OR_NULL: ReadonlySet<string> = new Set(
  ["loss", "grad_norm"] satisfies (keyof StepRecord)[],
);

function isRecord(value: unknown): value is StepRecord {
  if (typeof value !== "object" || value === null) return false;
  const fields = new Map<string, unknown>(Object.entries(value));
  const isNumber = (name: string) => typeof fields.get(name) === "number";
  return [...NUMBERS].every(isNumber) &&
    [...NUMBERS_OR_NULL].every((name) => isNumber(name) || fields.get(name) === null);
}

/** The log as it was after a step: what a resumed run writes over. */
export function logUpTo(log: string, step: number): string {
  return parseRecords(log).filter((record) => record.step <= step).map(recordLine).join("");
}
