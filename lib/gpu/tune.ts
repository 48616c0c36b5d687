/**
 * Which variants are fastest on a device: every operator and shape class of some programs, computed alone in each way
 * that can compute it, timed on the wall clock over many dispatches (timestamp queries are not to be trusted: some drivers
 * answer them wrongly). Candidates take turns, so that whatever else the machine does meets them alike; medians decide.
 */

import { MemoryError } from "../base/errors.ts";
import { reachable } from "../graph/rewrite.ts";
import { Graph, type Tensor } from "../graph/tensor.ts";
import type { LayoutOf, Profile } from "../kernels/kernel.ts";
import { variantsOf } from "../kernels/select.ts";
import { SOURCES } from "../kernels/sources.ts";
import { type Choice, choiceOf, classOf, type Table } from "../kernels/table.ts";
import { layoutFor } from "../kernels/weights.ts";
import { release, type StoredParameter, storeWeight } from "./buffers.ts";
import { optimise } from "./compile.ts";
import type { Device } from "./device.ts";
import { compile, type HostArray, type Program } from "./program.ts";
import { memoryOf } from "./work.ts";

export type { Table } from "../kernels/table.ts";

/** An operator and shape class that can be computed in several ways. */
export interface Task {
  readonly shapeClass: string;
  /** The largest node of the class. */
  readonly node: Tensor;
  /** Names of the variants to try, the kernel's first one first. */
  readonly names: readonly string[];
  /** Nodes of the class in the programs. */
  readonly count: number;
}

/** Milliseconds that one variant took. */
export interface Timing {
  readonly name: string;
  readonly median: number;
  readonly best: number;
}

/** What was found about a task. */
export interface Finding {
  readonly task: Task;
  /** One for each variant that the device could run. */
  readonly timings: readonly Timing[];
  readonly chosen: string;
}

export interface TuneOptions {
  /** Element type of the weights. */
  readonly weights: "f16" | "f32";
  /** Rounds in which each candidate is timed once. */
  readonly rounds?: number;
  /** Milliseconds that a timing should take at least: short ones see the scheduler rather than the kernel. */
  readonly sample?: number;
  /** Milliseconds after which a task that had three rounds gets no more. */
  readonly limit?: number;
}

/** What is to be tried. */
export interface TaskOptions {
  /** Element type of the weights. */
  readonly weights: "f16" | "f32";
  /** Variants of a class that are tried at most; six where absent. */
  readonly most?: number;
  /** Also variants that are coarser than f32. */
  readonly approximate?: boolean;
}

/** What another variant must gain to be preferred to the first: less is noise. */
const GAIN = 0.03;

/** A variant whose first run takes so many times the fastest's, and longer than a sample, takes no part in the rounds. */
const HOPELESS = 3;

/** Where weights of this type lie on a device. */
function layoutsFor(profile: Profile, weights: "f16" | "f32"): LayoutOf {
  return (tensor) => {
    const memory = memoryOf(tensor);
    return memory.op === "parameter"
      ? layoutFor(memory.attrs.role, memory.attrs.shape, weights, profile)
      : { format: "rows32", residence: "buffer" };
  };
}

/** What can be chosen in programs (their outputs), in the order of first use. Needs no device. */
export function tasksOf(
  programs: Iterable<readonly Tensor[]>,
  profile: Profile,
  options: TaskOptions,
): Task[] {
  const layoutOf = layoutsFor(profile, options.weights);
  const tasks = new Map<string, Task>();
  for (const outputs of programs) {
    for (const node of reachable(optimise(outputs))) {
      if (["parameter", "input", "constant", "reshape"].includes(node.op)) continue;
      const names = candidatesOf(node, profile, layoutOf, options);
      if (names.length < 2) continue;
      const shapeClass = classOf(node, layoutOf);
      const known = tasks.get(shapeClass);
      const largest = known && known.node.size >= node.size ? known : { node, names };
      tasks.set(shapeClass, { ...largest, shapeClass, count: (known?.count ?? 0) + 1 });
    }
  }
  return [...tasks.values()];
}

/** Names of the first variants; none where the node is too large to be computed at once, as it will be split. */
function candidatesOf(
  node: Tensor,
  profile: Profile,
  layoutOf: LayoutOf,
  { most = 6, approximate = false }: TaskOptions,
): string[] {
  try {
    return variantsOf(node, profile, layoutOf)
      .filter((variant) => approximate || !variant.approximate)
      .slice(0, most)
      .map(({ name }) => name);
  } catch (error) {
    if (error instanceof RangeError) return [];
    throw error;
  }
}

/** Times every task, and tells each finding when it is made. Whatever a task allocates is freed with it. */
export async function* tune(
  device: Device,
  tasks: readonly Task[],
  options: TuneOptions,
): AsyncGenerator<Finding, void, undefined> {
  for (const task of tasks) yield await find(device, task, options);
}

async function find(device: Device, task: Task, options: TuneOptions): Promise<Finding> {
  const { shapeClass, names, node } = task;
  const { outputs, values } = alone(node);
  using owned = new DisposableStack();
  const parameters = new Map<string, StoredParameter>();
  owned.defer(() => parameters.forEach(({ resource }) => release(device, resource)));
  for (const entry of outputs[0].graph.nodes) {
    if (entry.op !== "parameter") continue;
    const data = new Uint8Array(pattern(entry.size, 0.1).buffer);
    const source = { dtype: "f32", data } as const;
    parameters.set(entry.attrs.name, storeWeight(device, source, entry.attrs, options.weights));
  }
  const candidates: Candidate[] = [];
  for (const name of names) {
    const choice: Choice = (asked) => asked === shapeClass ? name : choiceOf(device.profile)(asked);
    try {
      const program = owned.use(
        await compile(device, new Map([["result", outputs[0]]]), parameters, {
          choice,
          label: `${shapeClass} by ${name}`,
        }),
      );
      program.feed(values);
      candidates.push({ name, program });
    } catch (error) {
      if (!(error instanceof MemoryError)) throw error; // what does not fit is no candidate
    }
  }
  const timings = await takeTurns(candidates, options);
  return { task, timings, chosen: fastest(timings) ?? names[0] };
}

interface Candidate {
  readonly name: string;
  readonly program: Program;
}

/** Times candidates in rounds. */
async function takeTurns(
  candidates: readonly Candidate[],
  { rounds = 7, sample = 60, limit = 10_000 }: TuneOptions,
): Promise<Timing[]> {
  if (candidates.length === 0) return [];
  const once: number[] = [];
  for (const { program } of candidates) {
    await program.time(1); // compiles
    once.push(await program.time(1));
  }
  const idle = await candidates[0].program.idle();
  const least = Math.max(0.05, Math.min(...once) - idle);
  const times = Math.max(1, Math.min(1000, Math.ceil(sample / least)));
  const samples = once.map((milliseconds) => [Math.max(0, milliseconds - idle)]);
  const racing = candidates.map(({ program }, i) => ({ program, own: samples[i] }))
    .filter(({ own: [alone] }) => alone <= Math.max(HOPELESS * least, sample));
  for (const { own } of racing) own.pop(); // a single dispatch is not to be compared with many
  const start = performance.now();
  for (let round = 0; round < rounds; round++) {
    if (round >= 3 && performance.now() - start > limit) break;
    for (const { program, own } of racing) {
      own.push(Math.max(0, await program.time(times) - idle) / times);
    }
  }
  return candidates.map(({ name }, i) => ({
    name,
    median: median(samples[i]),
    best: Math.min(...samples[i]),
  }));
}

/** The middle of some numbers; of two middles the lower. */
export function median(samples: readonly number[]): number {
  return [...samples].sort((a, b) => a - b)[(samples.length - 1) >> 1];
}

/** The first variant, unless another one is faster by more than noise. */
export function fastest(timings: readonly Timing[]): string | undefined {
  if (timings.length === 0) return undefined;
  const [first, ...others] = timings;
  const best = others.reduce((a, b) => b.median < a.median ? b : a, first);
  return best.median < first.median * (1 - GAIN) ? best.name : first.name;
}

/** A node in a graph of its own, its inputs leaves, and values for them. */
function alone(node: Tensor): { outputs: [Tensor]; values: Record<string, HostArray> } {
  const graph = new Graph();
  const values: Record<string, HostArray> = {};
  const leaves = new Map<Tensor, Tensor>();
  const leafOf = (input: Tensor): Tensor => {
    const memory = memoryOf(input);
    if (memory.op === "parameter" || memory.op === "constant") {
      return graph.copy(memory, []).reshape(input.shape);
    }
    const name = `x${leaves.size}`;
    values[name] = input.dtype === "i32" ? new Int32Array(input.size) : pattern(input.size, 1);
    return graph.input(name, input.shape, input.dtype);
  };
  for (const input of node.inputs) {
    if (!leaves.has(input)) leaves.set(input, leafOf(input));
  }
  const inputs = node.inputs.map((input: Tensor) => leaves.get(input) ?? leafOf(input));
  return { outputs: [graph.copy(node, inputs)], values };
}

/** Positive numbers below `scale`: variances are among them. */
function pattern(count: number, scale: number): Float32Array<ArrayBuffer> {
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) values[i] = (i * 7919 % 1009 + 1) / 1010 * scale;
  return values;
}

/** What findings say, as a table for `openDevice`. */
export function tableOf(findings: Iterable<Finding>): Table {
  return new Map([...findings].map(({ task, chosen }) => [task.shapeClass, chosen]));
}

/** A hash of all shaders' texts: tables that were measured with others do not count. */
export async function kernelsVersion(): Promise<string> {
  const bytes = new TextEncoder().encode(SOURCES.join("\0"));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return digest.slice(0, 12).toHex();
}
