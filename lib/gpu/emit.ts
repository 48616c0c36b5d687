/** From jobs in an order to steps: values are numbered and their lives recorded while steps are emitted. */

import type { DType } from "../base/dtype.ts";
import { type Shape, show } from "../base/shape.ts";
import type { Tensor } from "../graph/tensor.ts";
import {
  type Binding,
  type Dispatch,
  MAX_GROUPS,
  MAX_ITERATIONS,
  shaderText,
} from "../kernels/kernel.ts";
import { type Life, type Plan, planSlots } from "./plan.ts";
import {
  beyond,
  bufferBytes,
  bytesOf,
  type Job,
  memoryOf,
  textureBytes,
  type Work,
} from "./work.ts";

/** Where a binding's memory comes from. */
export type Source =
  | { readonly kind: "value"; readonly value: number }
  | { readonly kind: "bound"; readonly name: string }
  | { readonly kind: "parameter"; readonly name: string };

/** What the device does, in order. */
export type Step =
  | {
    readonly kind: "dispatch";
    readonly label: string;
    readonly dispatch: Dispatch;
    /** The dispatch's WGSL; steps of one pipeline share the string. */
    readonly code: string;
    /** Memory of each binding, and the bytes of it that hold the operand. */
    readonly operands: readonly { readonly source: Source; readonly bytes: number }[];
  }
  | {
    readonly kind: "stage";
    readonly label: string;
    readonly from: Source;
    readonly to: number;
    readonly bytes: number;
  };

/** A result that can be read after a run. */
export interface Output {
  readonly value: number;
  readonly shape: Shape;
  readonly dtype: DType;
}

/** A compiled graph, without a device. Values are numbered as in `lives`. */
export interface Assembly {
  readonly steps: readonly Step[];
  readonly lives: readonly Life[];
  readonly plan: Plan;
  readonly inputs: ReadonlyMap<
    string,
    { readonly value: number; readonly shape: Shape; readonly dtype: DType }
  >;
  readonly constants: readonly {
    readonly value: number;
    readonly data: Float32Array<ArrayBuffer>;
  }[];
  /** Those that are not written to buffers of the caller. */
  readonly outputs: ReadonlyMap<string, Output>;
  /** Number of distinct shaders. */
  readonly pipelines: number;
}

/** Texts of shaders, each once, for as many orders as are tried. */
export class Shaders {
  readonly #texts = new Map<string, string>();
  readonly #unrolled = new Map<string, string>();
  readonly #known = new Map<Dispatch, string>();

  textOf(dispatch: Dispatch): string {
    const known = this.#known.get(dispatch);
    if (known !== undefined) return known;
    const text = shaderText(dispatch, this.#unrolled);
    const shared = this.#texts.get(text) ?? text;
    this.#texts.set(shared, shared);
    this.#known.set(dispatch, shared);
    return shared;
  }

  get count(): number {
    return this.#texts.size;
  }
}

/** The steps of jobs in an order, in which they may stand more than once; readers read what was made last. */
export function emit(
  work: Work,
  order: Iterable<number>,
  outputs: ReadonlyMap<string, Tensor>,
  shaders: Shaders,
): Assembly {
  const emission = new Emission(work, shaders);
  for (const job of order) emission.add(work.jobs[job]);
  return emission.finish(outputs);
}

/** The scratch memory of a variant: each piece becomes a value where it is first used. */
class Pieces {
  readonly #values = new Map<number, number>();
  readonly #copies = new Map<number, number>();

  constructor(readonly sizes: readonly number[], readonly life: (bytes: number) => number) {}

  piece(i: number): { value: number; bytes: number } {
    const bytes = this.sizes[i];
    const value = this.#values.get(i) ?? this.life(bytes);
    this.#values.set(i, value);
    return { value, bytes };
  }

  /** The texture copy of a piece, made by `copy` where there is none of what it holds now. */
  copied(i: number, copy: () => number): number {
    const value = this.#copies.get(i) ?? copy();
    this.#copies.set(i, value);
    return value;
  }

  /** What a piece holds has changed. */
  written(i: number): void {
    this.#copies.delete(i);
  }
}

const pieceOf = ({ source }: Binding) => typeof source === "object" ? source.scratch : undefined;

class Emission {
  readonly #work: Work;
  readonly #shaders: Shaders;
  readonly #steps: Step[] = [];
  readonly #lives: { bytes: number; kind: Life["kind"]; first: number; last: number }[] = [];
  /** Of each tensor the value that was made last. */
  readonly #valueOf = new Map<Tensor, number>();
  readonly #stagedOf = new Map<Tensor, number>();

  constructor(work: Work, shaders: Shaders) {
    this.#work = work;
    this.#shaders = shaders;
    for (const { node } of work.leaves) this.#define(node);
  }

  add(job: Job): void {
    if (job.kind === "compute") this.#compute(job);
    else {
      const { memory, label } = job;
      this.#stagedOf.set(memory, this.#copy(this.#buffer(memory), bytesOf(memory), label));
    }
  }

  finish(outputs: ReadonlyMap<string, Tensor>): Assembly {
    const end = this.#steps.length;
    const results = new Map<string, Output>();
    for (const [name, tensor] of outputs) {
      if (this.#work.placed.get(memoryOf(tensor)) === name) continue;
      const value = this.#valueOf.get(memoryOf(tensor));
      if (value === undefined) throw new TypeError(`Output "${name}" is a weight`);
      this.#lives[value].last = end;
      results.set(name, { value, shape: tensor.shape, dtype: tensor.dtype });
    }
    const inputs = new Map<string, { value: number; shape: Shape; dtype: DType }>();
    const constants: { value: number; data: Float32Array<ArrayBuffer> }[] = [];
    for (const { node } of this.#work.leaves) {
      const value = this.#valueOf.get(node);
      if (value === undefined) throw new TypeError(`${node.op} was not defined`);
      // What is written once, before the first step, must survive every later run.
      Object.assign(this.#lives[value], { first: 0, last: end });
      if (node.op === "input") {
        const { name, shape, dtype } = node.attrs;
        inputs.set(name, { value, shape, dtype });
        continue;
      }
      const data = new Float32Array(node.size);
      if (node.attrs.values.length === 1) data.fill(node.attrs.values[0]);
      else data.set(node.attrs.values);
      constants.push({ value, data });
    }
    return {
      steps: this.#steps,
      lives: this.#lives,
      plan: planSlots(this.#lives),
      inputs,
      constants,
      outputs: results,
      pipelines: this.#shaders.count,
    };
  }

  /** A new value, alive from the next step on. Buffers are as large as they will be allocated. */
  #life(least: number, kind: Life["kind"]): number {
    const step = this.#steps.length;
    const bytes = kind === "buffer" ? bufferBytes(least) : textureBytes(least);
    this.#lives.push({ bytes, kind, first: step, last: step });
    return this.#lives.length - 1;
  }

  #define(node: Tensor): number {
    const value = this.#life(bytesOf(node), "buffer");
    this.#valueOf.set(node, value);
    return value;
  }

  #emit(step: Step, values: readonly number[]): void {
    for (const value of values) this.#lives[value].last = this.#steps.length;
    this.#steps.push(step);
  }

  /** A new texture copy of values. */
  #copy(from: Source, bytes: number, label: string): number {
    const to = this.#life(bytes, "texture");
    const values = from.kind === "value" ? [from.value, to] : [to];
    this.#emit({ kind: "stage", label: `stage for ${label}`, from, to, bytes }, values);
    return to;
  }

  /** Where a tensor's own memory is. */
  #buffer(memory: Tensor): Source {
    if (memory.op === "parameter") return { kind: "parameter", name: memory.attrs.name };
    if (memory.op === "input" && this.#work.bound.has(memory.attrs.name)) {
      return { kind: "bound", name: memory.attrs.name };
    }
    const value = this.#valueOf.get(memory);
    if (value === undefined) throw new TypeError(`${memory.op} is read before it is computed`);
    return { kind: "value", value };
  }

  #compute({ node, variant, label }: Extract<Job, { kind: "compute" }>): void {
    this.#valueOf.delete(node);
    const scratch = new Pieces(variant.scratch, (bytes) => this.#life(bytes, "buffer"));
    for (const [i, dispatch] of variant.dispatches.entries()) {
      const { name, shader } = dispatch;
      const part = name === undefined ? label : `${label}: ${name}`;
      assertBounded(dispatch, label);
      const code = this.#shaders.textOf(dispatch);
      const operands = shader.bindings.map((binding) => {
        const operand = this.#operandOf(binding, node, scratch, part);
        this.#assertBindable(binding, operand.bytes, label);
        return operand;
      });
      const values = operands.flatMap(({ source }) =>
        source.kind === "value" ? [source.value] : []
      );
      this.#emit({ kind: "dispatch", label: part, dispatch, code, operands }, values);
      for (const { source, access } of shader.bindings) {
        if (typeof source !== "object" || access === "read") continue;
        scratch.written(source.scratch);
        // Copied at once, so that the memory is free for the next piece.
        const next = variant.dispatches.slice(i + 1).flatMap((later) => later.shader.bindings)
          .find((binding) => pieceOf(binding) === source.scratch);
        if (next?.residence === "texture") this.#operandOf(next, node, scratch, part);
      }
    }
  }

  /** Memory behind a binding; pieces of scratch memory that are read from a texture are copied into one first. */
  #operandOf(
    binding: Binding,
    node: Tensor,
    scratch: Pieces,
    label: string,
  ): { source: Source; bytes: number } {
    const { source, residence } = binding;
    if (typeof source === "number") return this.#operand(node.inputs[source], binding);
    if (source === "result") {
      const name = this.#work.placed.get(node);
      if (name !== undefined) return { source: { kind: "bound", name }, bytes: bytesOf(node) };
      const value = this.#valueOf.get(node) ?? this.#define(node);
      return { source: { kind: "value", value }, bytes: bytesOf(node) };
    }
    const { value, bytes } = scratch.piece(source.scratch);
    if (residence === "buffer") return { source: { kind: "value", value }, bytes };
    const copy = scratch.copied(
      source.scratch,
      () => this.#copy({ kind: "value", value }, bytes, label),
    );
    return { source: { kind: "value", value: copy }, bytes };
  }

  /** Memory of an input and its bytes; 0 for packed weights, which are bound whole. */
  #operand(input: Tensor, { residence }: Binding): { source: Source; bytes: number } {
    const memory = memoryOf(input);
    const staged = residence === "texture" ? this.#stagedOf.get(memory) : undefined;
    if (staged !== undefined) {
      return { source: { kind: "value", value: staged }, bytes: bytesOf(memory) };
    }
    const bytes = memory.op === "parameter" ? 0 : bytesOf(memory);
    return { source: this.#buffer(memory), bytes };
  }

  #assertBindable({ name, residence, window }: Binding, whole: number, label: string): void {
    const { maxBinding } = this.#work.profile;
    const bytes = window?.size ?? whole;
    if (residence === "texture" || bytes <= maxBinding) return;
    throw beyond(label, `its operand "${name}" has ${bytes} bytes, and ${maxBinding} can be bound`);
  }
}

function assertBounded({ grid, iterations }: Dispatch, label: string): void {
  if (iterations > MAX_ITERATIONS) {
    throw beyond(label, `it loops ${iterations} times, and every device runs ${MAX_ITERATIONS}`);
  }
  if (grid.some((n) => n > MAX_GROUPS || n < 1)) {
    throw beyond(label, `it dispatches ${show(grid)} workgroups, and 1 … ${MAX_GROUPS} fit`);
  }
}
