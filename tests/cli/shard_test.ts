import { deepEqual, equal, throws } from "node:assert/strict";
import { UsageError } from "../../lib/base/errors.ts";
import { type Cluster, isInShard, parseShard, type Shard } from "../../lib/cli/shard.ts";

/** Each of 100 requests, by the shards that do it. */
function assertPartition(shards: readonly Shard[]): void {
  for (let item = 0; item < 100; item++) {
    equal(shards.filter((shard) => isInShard(item, shard)).length, 1, `item ${item}`);
  }
}

Deno.test("parseShard gives every request to one shard, counted from 1 or from 0", () => {
  for (const count of [1, 3, 8]) {
    const numbers = Array.from({ length: count }, (_, i) => i);
    assertPartition(numbers.map((i) => parseShard(`${i + 1}/${count}`, {})));
    assertPartition(numbers.map((i) => parseShard(`${i}/${count}`, {})));
  }
  deepEqual(parseShard("2/8", {}), { index: 2, of: 8 });
  equal(isInShard(1, { index: 2, of: 8 }), true);
});

Deno.test("parseShard auto reads a Slurm array's numbers, wherever they begin and however they step", () => {
  const arrays: readonly (readonly [min: number, step: number, count: number])[] = [
    [0, 1, 4],
    [1, 1, 8],
    [5, 1, 3],
    [10, 10, 5],
  ];
  for (const [min, step, count] of arrays) {
    const tasks = Array.from({ length: count }, (_, i): Cluster => ({
      SLURM_ARRAY_TASK_ID: String(min + i * step),
      SLURM_ARRAY_TASK_COUNT: String(count),
      SLURM_ARRAY_TASK_MIN: String(min),
      SLURM_ARRAY_TASK_STEP: String(step),
      JOB_COMPLETION_INDEX: "0",
    }));
    assertPartition(tasks.map((task) => parseShard("auto", task)));
  }
});

Deno.test("parseShard auto reads a Kubernetes indexed Job's, with how many there are from either side", () => {
  const pods = Array.from({ length: 6 }, (_, i) => ({ JOB_COMPLETION_INDEX: String(i) }));
  assertPartition(pods.map((pod) => parseShard("auto/6", pod)));
  assertPartition(pods.map((pod) => parseShard("auto", { ...pod, JOB_COMPLETIONS: "6" })));
});

Deno.test("parseShard auto/n keeps a task's shard when it is submitted again by itself", () => {
  const again = { SLURM_ARRAY_TASK_COUNT: "1", SLURM_ARRAY_TASK_MIN: "3" };
  const task = { SLURM_ARRAY_TASK_ID: "3" };
  const whole = { SLURM_ARRAY_TASK_COUNT: "8", SLURM_ARRAY_TASK_MIN: "0" };
  deepEqual(
    parseShard("auto/8", { ...task, ...again }),
    parseShard("auto/8", { ...task, ...whole }),
  );
});

Deno.test("parseShard refuses what is no shard", () => {
  for (const text of ["", "3", "4/3", "1/0", "-1/3", "a/b", "1/2/3", "1.5/3"]) {
    throws(() => parseShard(text, {}), UsageError, text);
  }
  const clusters: readonly Cluster[] = [
    {},
    { JOB_COMPLETION_INDEX: "1" },
    { JOB_COMPLETION_INDEX: "x", JOB_COMPLETIONS: "3" },
    { SLURM_ARRAY_TASK_ID: "7" },
    // 1, 3 and 7 are not numbered evenly
    { SLURM_ARRAY_TASK_ID: "7", SLURM_ARRAY_TASK_COUNT: "3", SLURM_ARRAY_TASK_MIN: "1" },
  ];
  for (const cluster of clusters) throws(() => parseShard("auto", cluster), UsageError);
});
