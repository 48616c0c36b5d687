import { deepEqual, equal, ok } from "node:assert/strict";
import type { StepRecord } from "../../lib/train/record.ts";
import { summarise } from "../../lib/train/summary.ts";

const record = (step: number, loss: number | null, samples_per_second = 4): StepRecord => ({
  step,
  loss,
  losses: { l1: loss, ...(step > 150 && { kl: 0.5 }) },
  lr: 1e-4,
  grad_norm: loss,
  ...(loss === null && { skipped: true }),
  epoch: Math.floor(step / 100),
  samples_per_second,
  memory_mib: 100 + step % 7,
});

Deno.test("summarise tells means of the latest hundred steps and the lowest of as many", () => {
  // falls to 1 at step 200, rises to 2 at step 300
  const loss = (step: number) => 1 + Math.abs(step - 200) / 100;
  const records = Array.from({ length: 300 }, (_, i) => record(i + 1, loss(i + 1)));
  const summary = summarise(records);
  deepEqual([summary?.step, summary?.epoch, summary?.skipped], [300, 3, []]);
  deepEqual([summary?.last?.from, summary?.last?.to], [201, 300]);
  ok(Math.abs((summary?.last?.loss ?? 0) - 1.505) < 1e-12);
  deepEqual([summary?.lowest?.to, summary?.lowest?.from], [249, 150]);
  deepEqual(summary?.parts.kl, 0.5);
  ok(Math.abs((summary?.parts.l1 ?? 0) - 1.505) < 1e-12);
  equal(summary?.memoryMib, 106);
});

Deno.test("summarise counts steps that were left out and takes means of the others", () => {
  const summary = summarise([record(1, 3, 1), record(2, null, 2), record(3, 1, 2)]);
  deepEqual(summary?.skipped, [2]);
  deepEqual(summary?.last, { from: 1, to: 3, loss: 2 });
  deepEqual(summary?.parts, { l1: 2 });
  // three steps of as many samples in 1 + 1/2 + 1/2 of a unit of time
  equal(summary?.samplesPerSecond, 1.5);
  const none = summarise([record(1, null)]);
  deepEqual([none?.last, none?.lowest, none?.parts], [undefined, undefined, {}]);
  equal(summarise([]), undefined);
});
