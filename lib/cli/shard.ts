/** Which share of many requests a process does, as it is told or as its cluster numbers it. */

import { UsageError } from "../base/errors.ts";

/** Every `of`th request, of which the first is number `index`; both count from 1. */
export interface Shard {
  readonly index: number;
  readonly of: number;
}

/** Whether a shard does request `number`, which counts from 0. */
export function isInShard(number: number, { index, of }: Shard): boolean {
  return number % of === index - 1;
}

/** What clusters tell a task about itself. */
export interface Cluster {
  readonly SLURM_ARRAY_TASK_ID?: string | undefined;
  readonly SLURM_ARRAY_TASK_COUNT?: string | undefined;
  readonly SLURM_ARRAY_TASK_MIN?: string | undefined;
  readonly SLURM_ARRAY_TASK_STEP?: string | undefined;
  readonly JOB_COMPLETION_INDEX?: string | undefined;
  /** Not Kubernetes' own: a manifest may set it. */
  readonly JOB_COMPLETIONS?: string | undefined;
}

/** What this process is told. */
export function thisCluster(): Cluster {
  return {
    SLURM_ARRAY_TASK_ID: Deno.env.get("SLURM_ARRAY_TASK_ID"),
    SLURM_ARRAY_TASK_COUNT: Deno.env.get("SLURM_ARRAY_TASK_COUNT"),
    SLURM_ARRAY_TASK_MIN: Deno.env.get("SLURM_ARRAY_TASK_MIN"),
    SLURM_ARRAY_TASK_STEP: Deno.env.get("SLURM_ARRAY_TASK_STEP"),
    JOB_COMPLETION_INDEX: Deno.env.get("JOB_COMPLETION_INDEX"),
    JOB_COMPLETIONS: Deno.env.get("JOB_COMPLETIONS"),
  };
}

/**
 * Reads `i/n`, or `auto`, or `auto/n` where the cluster does not say how many there are. Shards count from 1 to n; 0 is
 * another name of n, so that those who count from 0 get every shard once as well. Throws `UsageError`.
 */
export function parseShard(text: string, cluster: Cluster): Shard {
  const [, which, count] = /^(auto|\d+)(?:\/(\d+))?$/.exec(text.trim()) ?? [];
  const of = count === undefined ? undefined : Number(count);
  if (which === "auto") return automatic(of, cluster);
  if (of !== undefined && of >= 1 && Number(which) <= of) return numbered(Number(which), of);
  throw new UsageError(
    `Cannot use --shard ${
      JSON.stringify(text)
    }: i/n was needed with i from 1 to n, or auto in a Slurm array or an indexed Kubernetes Job`,
  );
}

/** The shard of any whole number: n consecutive numbers are n shards. */
function numbered(number: number, of: number): Shard {
  return { index: number % of || of, of };
}

function automatic(given: number | undefined, cluster: Cluster): Shard {
  const read = (name: keyof Cluster) => {
    const value = cluster[name] ?? "";
    if (/^\d*$/.test(value)) return value === "" ? undefined : Number(value);
    throw new UsageError(`Cannot use --shard auto: ${name} is "${value}", not a number`);
  };
  const task = read("SLURM_ARRAY_TASK_ID");
  const index = task ?? read("JOB_COMPLETION_INDEX");
  if (index === undefined) {
    throw new UsageError(
      "Cannot use --shard auto: neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set, as a Slurm array or an indexed Kubernetes Job does",
    );
  }
  const counter = task === undefined ? "JOB_COMPLETIONS" : "SLURM_ARRAY_TASK_COUNT";
  const of = given ?? read(counter);
  if (of === undefined || of < 1) {
    throw new UsageError(
      `Cannot use --shard auto: ${counter} is not set; --shard auto/n says how many shards there are`,
    );
  }
  const step = read("SLURM_ARRAY_TASK_STEP") || 1;
  // one task of an array that is submitted again by itself is still the same shard, where n is given
  const place = given === undefined ? (index - (read("SLURM_ARRAY_TASK_MIN") ?? 0)) / step : index;
  if (given === undefined && !(Number.isInteger(place) && place < of)) {
    throw new UsageError(
      `Cannot use --shard auto: task ${index} has no place among ${of} tasks that are numbered evenly; --shard i/n says which it is`,
    );
  }
  return numbered(place + 1, of);
}
