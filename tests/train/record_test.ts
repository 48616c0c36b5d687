import { deepEqual, equal, ok } from "node:assert/strict";
import { logUpTo, parseRecords, recordLine, type StepRecord } from "../../lib/train/record.ts";

const record = (step: number, loss: number | null = 1 / step): StepRecord => ({
  step,
  loss,
  losses: { l1: loss, kl: 0.25 },
  lr: 1e-4,
  grad_norm: loss,
  ...(loss === null ? { skipped: true } : {}),
  epoch: 0,
  samples_per_second: 3.5,
  memory_mib: 120,
});

Deno.test("records are a line each and read back the same, but for a line that was cut off", () => {
  const all = [record(1), record(2, null), record(3)];
  const log = all.map(recordLine).join("");
  equal(log.split("\n").length, 4);
  deepEqual(parseRecords(log), all);
  deepEqual(parseRecords(log.slice(0, -5)), all.slice(0, 2));
  deepEqual(parseRecords(`3\nnull\n{"step": 1}\n\n`), []);
});

Deno.test("logUpTo keeps what a resumed run does not do again", () => {
  const log = [1, 2, 3, 4].map((step) => recordLine(record(step))).join("");
  equal(logUpTo(log + `{"step": 5, "lo`, 2), recordLine(record(1)) + recordLine(record(2)));
  ok(logUpTo(log, 9) === log);
});
