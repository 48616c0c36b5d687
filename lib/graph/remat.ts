/**
 * Rematerialisation: what is computed, when, and what again. A schedule of training keeps what the forward part computes
 * until its gradients are made; where that exceeds a budget, values are given up and computed again when they are read.
 *
 * The work is run through once, in its order, with so many bytes to spend. When they are spent, the value goes that costs
 * least to bring back for the bytes it gives and the time for which it gives them; what is read and is not there is
 * computed again, after what it needs itself (Kirisame et al. 2021, "Dynamic Tensor Rematerialization", with the
 * difference that the future is known: the time until the next reader stands for the time since the last). With a chain
 * of layers and little memory this keeps a value here and there and computes what lies between: Chen et al. 2016.
 *
 * The result is an order in which tasks may stand more than once. The graph stays as it is: each time a task is done it
 * makes a new value by the same kernels, so results are the same to the bit.
 */

import { type Shape, sizeOf } from "../base/shape.ts";
import type { OpName } from "./ops.ts";
import type { Tensor } from "./tensor.ts";

/** Something that makes one value of others. */
export interface Task {
  /** Which tasks make what it reads, by their numbers; they are smaller than its own. */
  readonly reads: readonly number[];
  /** Of its value. */
  readonly bytes: number;
  /** Of what it needs beside it while it is done. */
  readonly scratch: number;
  /** What doing it again costs, in units that are the same for all. */
  readonly cost: number;
  /** Its value is there to the end. */
  readonly stays: boolean;
}

/** An order of tasks by their numbers, and the most bytes of values that are needed at a time. */
export interface Schedule {
  readonly order: readonly number[];
  readonly peak: number;
}

/** Rounds of all the work that a schedule may cost; budgets below this are of no use to anyone. */
const MOST_ROUNDS = 4;

/**
 * An order of the tasks that needs at most so many bytes at a time, as far as there is one to be found: its `peak` says
 * what it came to. `undefined` where it would be computing again for ever.
 */
export function rematerialise(tasks: readonly Task[], budget: number): Schedule | undefined {
  const run = new Run(tasks, budget);
  for (const i of tasks.keys()) if (!run.advance(i)) return undefined;
  return { order: run.order, peak: peakOf(tasks, run.order) };
}

/** Bytes without which some task cannot be done: what it reads and makes, and its scratch memory. */
export function leastOf(tasks: readonly Task[]): number {
  return tasks.reduce((most, { reads, bytes, scratch }) => {
    const read = reads.reduce((sum, i) => sum + tasks[i].bytes, 0);
    return Math.max(most, read + bytes + scratch);
  }, 0);
}

/** The most bytes that an order needs at a time: each value lives from when it is made to its last reader before it is made again. */
export function peakOf(tasks: readonly Task[], order: readonly number[]): number {
  const deaths = order.map((): number[] => []);
  const born = new Map<number, number>(); // task → where it was done last
  const last = [...order.keys()]; // place → last place that reads what is made there
  for (const [at, i] of order.entries()) {
    for (const read of tasks[i].reads) last[born.get(read) ?? at] = at;
    born.set(i, at);
  }
  for (const [i, at] of born) if (tasks[i].stays) last[at] = order.length - 1;
  for (const [made, until] of last.entries()) deaths[until]?.push(made);
  let live = 0;
  let peak = 0;
  for (const [at, i] of order.entries()) {
    live += tasks[i].bytes;
    peak = Math.max(peak, live + tasks[i].scratch);
    for (const made of deaths[at]) live -= tasks[order[made]].bytes;
  }
  return peak;
}

/** How far the work has come. */
class Run {
  readonly order: number[] = [];
  readonly #tasks: readonly Task[];
  readonly #budget: number;
  /** Tasks that read each task's value, falling, so that the next one is the last of the list. */
  readonly #readers: readonly number[][];
  readonly #present = new Set<number>();
  /** How many are just about to read each value: it stays till then. */
  readonly #locks: Uint32Array;
  /** For `#costOf`: in which count each task was seen last. */
  readonly #seen: Uint32Array;
  #count = 0;
  #bytes = 0;
  #left: number;

  constructor(tasks: readonly Task[], budget: number) {
    this.#tasks = tasks;
    this.#budget = budget;
    this.#locks = new Uint32Array(tasks.length);
    this.#seen = new Uint32Array(tasks.length);
    this.#left = MOST_ROUNDS * tasks.reduce((sum, { cost }) => sum + cost, tasks.length);
    const readers = tasks.map((): number[] => []);
    for (let i = tasks.length - 1; i >= 0; i--) {
      for (const read of new Set(tasks[i].reads)) readers[read].push(i);
    }
    this.#readers = readers;
  }

  /** Does a task for the first time. False where there is too much to do again. */
  advance(now: number): boolean {
    this.#do(now, now);
    for (const read of this.#tasks[now].reads) {
      const readers = this.#readers[read];
      while (readers.length > 0 && readers[readers.length - 1] <= now) readers.pop();
    }
    return this.#left >= 0;
  }

  #do(task: number, now: number): void {
    const { reads, bytes, scratch, cost } = this.#tasks[task];
    if (this.#left < 0) return;
    for (const read of reads) {
      if (!this.#present.has(read)) this.#do(read, now);
      this.#locks[read]++;
    }
    this.#makeRoom(bytes + scratch, now);
    this.order.push(task);
    this.#left -= cost + 1;
    this.#present.add(task);
    this.#bytes += bytes;
    for (const read of reads) this.#locks[read]--;
  }

  /** Gives up values until there is room for more. */
  #makeRoom(bytes: number, now: number): void {
    while (this.#bytes + bytes > this.#budget) {
      let best: number | undefined;
      let least = Infinity;
      for (const i of this.#present) {
        const { bytes: gain, stays } = this.#tasks[i];
        if (stays || gain === 0 || this.#locks[i] > 0) continue;
        const next = this.#readers[i].at(-1);
        if (next === undefined) { // nobody reads it any more, unless it is to make another one again
          best = i;
          break;
        }
        const price = this.#costOf(i) / (gain * (next - now + 1));
        if (price < least) [best, least] = [i, price];
      }
      if (best === undefined) return;
      this.#present.delete(best);
      this.#bytes -= this.#tasks[best].bytes;
    }
  }

  /** What bringing a value back costs: its task, and those before it whose values are not there. */
  #costOf(task: number): number {
    this.#count++;
    const missing = [task];
    let cost = 0;
    for (const i of missing) { // missing grows
      cost += this.#tasks[i].cost;
      for (const read of this.#tasks[i].reads) {
        if (this.#present.has(read) || this.#seen[read] === this.#count) continue;
        this.#seen[read] = this.#count;
        missing.push(read);
      }
    }
    return cost;
  }
}

/** Operations that a device does in the time in which it moves a number: half of it on a CPU, twice as many on a GPU. */
const MOVING = 32;

/** Products that operators take for each element of their result, beside moving it. */
const PRODUCTS: { readonly [K in OpName]?: (inputs: readonly Shape[], shape: Shape) => number } = {
  matmul: ([a]) => a[a.length - 1],
  conv2d: ([, weight]) => sizeOf(weight) / weight[0],
  conv2dTranspose: ([, weight]) => sizeOf(weight) / weight[3],
  conv2dWeight: ([, y]) => sizeOf(y) / y[3],
  attention: ([, k]) => 2 * k[1],
  attentionLogSum: ([q, k]) => q[3] * k[1],
  attentionGradient: ([q, k], [, rows]) => 3 * (rows === q[1] ? k[1] : q[1]),
};

/** What reading and writing so many numbers costs. */
export function costOfMoving(numbers: number): number {
  return MOVING * numbers;
}

/** What computing a node costs: its operations, and the numbers that it reads and writes. */
export function costOf({ op, inputs, shape, size }: Tensor): number {
  const shapes = inputs.map((x) => x.shape);
  const moved = inputs.reduce((sum, x) => sum + x.size, size);
  return 2 * size * (PRODUCTS[op]?.(shapes, shape) ?? 0) + costOfMoving(moved);
}
