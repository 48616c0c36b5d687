/**
 * What there is to do for a graph on a device, in the order of its nodes: kernels, and copies into textures for those that
 * read from there. Each is a task that can be done again.
 */

import { BYTES } from "../base/dtype.ts";
import { LimitError } from "../base/errors.ts";
import { show } from "../base/shape.ts";
import { costOf, costOfMoving, type Task } from "../graph/remat.ts";
import { reachable } from "../graph/rewrite.ts";
import type { Tensor } from "../graph/tensor.ts";
import { type Layout, type Profile, TEXTURE_WIDTH, type Variant } from "../kernels/kernel.ts";
import { select } from "../kernels/select.ts";
import type { Choice } from "../kernels/table.ts";

/** Asks where a weight lies. Throws where there is none of this name. */
export type LayoutOfName = (name: string) => Layout;

/** What a task does. */
export type Job =
  | {
    readonly kind: "compute";
    readonly label: string;
    readonly node: Tensor;
    readonly variant: Variant;
  }
  | { readonly kind: "stage"; readonly label: string; readonly memory: Tensor };

/** What is written before a program runs or once for all its runs. */
export interface Leaf {
  readonly node: Extract<Tensor, { op: "input" | "constant" }>;
  readonly bytes: number;
}

/** Everything there is to do, and what it is done with. */
export interface Work {
  readonly profile: Profile;
  readonly jobs: readonly Job[];
  /** For each job what scheduling must know of it. */
  readonly tasks: readonly Task[];
  readonly leaves: readonly Leaf[];
  /** Inputs that lie in buffers of the caller. */
  readonly bound: ReadonlySet<string>;
  /** Results that are written to buffers of the caller, by the names of their outputs. */
  readonly placed: ReadonlyMap<Tensor, string>;
  readonly layoutOf: (tensor: Tensor) => Layout;
}

const ROWS32: Layout = { format: "rows32", residence: "buffer" };

/** The tensor whose memory a reshape shares. */
export function memoryOf(tensor: Tensor): Tensor {
  return tensor.op === "reshape" ? memoryOf(tensor.inputs[0]) : tensor;
}

/** Bytes of a tensor's values, rounded up to whole vec4s. */
export function bytesOf(tensor: Tensor): number {
  return Math.ceil(tensor.size * BYTES[tensor.dtype] / 16) * 16;
}

/** Size of a buffer for so many bytes: whole vec4s, at least one. */
export function bufferBytes(bytes: number): number {
  return Math.ceil(Math.max(bytes, 16) / 16) * 16;
}

/** Size of a texture that so many bytes are copied into. */
export function textureBytes(bytes: number): number {
  const row = TEXTURE_WIDTH * 16;
  return Math.ceil(bytes / row) * row;
}

/**
 * Which outputs of those that `wanted` names can be written where the caller wants them: those that nothing else reads, as a
 * buffer cannot be read while another part of it is written, and that are whole vec4s, as kernels write them.
 */
function placedOf(
  outputs: ReadonlyMap<string, Tensor>,
  wanted: ReadonlySet<string>,
): ReadonlyMap<Tensor, string> {
  const uses = new Map<Tensor, number>();
  const count = (tensor: Tensor) => {
    const memory = memoryOf(tensor);
    uses.set(memory, (uses.get(memory) ?? 0) + 1);
  };
  for (const node of reachable([...outputs.values()])) {
    if (node.op !== "reshape") node.inputs.forEach(count);
  }
  for (const tensor of outputs.values()) count(tensor);
  const placed = new Map<Tensor, string>();
  for (const name of wanted) {
    const tensor = outputs.get(name);
    const memory = tensor && memoryOf(tensor);
    if (!memory || memory.inputs.length === 0) continue;
    if (uses.get(memory) === 1 && memory.size % 4 === 0) placed.set(memory, name);
  }
  return placed;
}

/** What decides what is to be done. */
export interface WorkOptions {
  readonly bound: ReadonlySet<string>;
  /** Outputs that are to be written to buffers of the caller, where they can be. */
  readonly placed: ReadonlySet<string>;
  readonly choice: Choice;
}

/** What is to be done for outputs whose nodes kernels compute. Throws `LimitError` where a device cannot. */
export function workOf(
  named: ReadonlyMap<string, Tensor>,
  profile: Profile,
  layoutOfName: LayoutOfName,
  { bound, placed: wanted, choice }: WorkOptions,
): Work {
  const outputs = [...named.values()];
  const placed = placedOf(named, wanted);
  const layoutOf = (tensor: Tensor) => {
    const memory = memoryOf(tensor);
    return memory.op === "parameter" ? layoutOfName(memory.attrs.name) : ROWS32;
  };
  const results = new Set(outputs.map(memoryOf));
  const jobs: Job[] = [];
  const tasks: Task[] = [];
  const leaves: Leaf[] = [];
  const makers = new Map<Tensor, number>();
  const stages = new Map<Tensor, number>();
  const add = (job: Job, task: Task) => {
    jobs.push(job);
    return tasks.push(task) - 1;
  };
  const stage = (memory: Tensor, label: string) => {
    const maker = makers.get(memory);
    return add({ kind: "stage", label, memory }, {
      reads: maker === undefined ? [] : [maker],
      bytes: textureBytes(bytesOf(memory)),
      scratch: 0,
      cost: costOfMoving(2 * memory.size),
      stays: false,
    });
  };
  for (const node of reachable(outputs)) {
    if (node.op === "parameter" || node.op === "reshape") continue;
    if (node.op === "input" || node.op === "constant") {
      if (node.op === "input" && bound.has(node.attrs.name)) continue;
      leaves.push({ node, bytes: bufferBytes(bytesOf(node)) });
      continue;
    }
    const label = `${node.op} ${show(node.shape)} ${node.graph.scopeOf(node)}`.trim();
    const variant = selected(node, profile, layoutOf, choice, label);
    const reads = new Set<number>();
    for (
      const { source, residence } of variant.dispatches.flatMap(({ shader }) => shader.bindings)
    ) {
      if (typeof source !== "number") continue;
      const memory = memoryOf(node.inputs[source]);
      if (residence === "texture" && layoutOf(memory).residence === "buffer") {
        const known = stages.get(memory) ?? stage(memory, label);
        stages.set(memory, known);
        reads.add(known);
      } else {
        const maker = makers.get(memory);
        if (maker !== undefined) reads.add(maker);
      }
    }
    const task = add({ kind: "compute", label, node, variant }, {
      reads: [...reads],
      bytes: placed.has(node) ? 0 : bufferBytes(bytesOf(node)),
      scratch: scratchOf(variant),
      cost: costOf(node),
      stays: results.has(node),
    });
    makers.set(node, task);
  }
  return { profile, jobs, tasks, leaves, bound, placed, layoutOf };
}

/** Bytes of what a variant's dispatches hand on to later ones, and of its copies in textures. */
function scratchOf({ scratch, dispatches }: Variant): number {
  const copied = new Set<number>();
  for (const { source, residence } of dispatches.flatMap(({ shader }) => shader.bindings)) {
    if (typeof source === "object" && residence === "texture") copied.add(source.scratch);
  }
  return scratch.reduce(
    (sum, bytes, i) => sum + bufferBytes(bytes) + (copied.has(i) ? textureBytes(bytes) : 0),
    0,
  );
}

/** The chosen variant. Kernels say by a RangeError what exceeds this device. */
function selected(
  node: Tensor,
  profile: Profile,
  layoutOf: Work["layoutOf"],
  choice: Choice,
  label: string,
): Variant {
  try {
    return select(node, profile, layoutOf, choice);
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw beyond(label, cause.message);
  }
}

/** One dispatch cannot do it here, however much memory there is. */
export function beyond(label: string, why: string): LimitError {
  return new LimitError(
    `Cannot run ${label} on this device: ${why}; ask for a smaller picture or batch`,
  );
}
