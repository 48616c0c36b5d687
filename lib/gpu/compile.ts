/**
 * From a graph to an assembly: what is dispatched in which order on which slots. Pure: needs no device, so plans of the
 * largest models are tested without one. Passes: simplify, fuse, lower and select (operator → kernel and variant),
 * order (creation order is topological), plan (liveness → slots).
 */

import { BYTES, type DType } from "../base/dtype.ts";
import { MemoryError } from "../base/errors.ts";
import { type Shape, show, sizeOf } from "../base/shape.ts";
import { fuse } from "../graph/fuse.ts";
import { reachable } from "../graph/rewrite.ts";
import { simplify } from "../graph/simplify.ts";
import type { Tensor } from "../graph/tensor.ts";
import {
  type Binding,
  type Dispatch,
  type Layout,
  MAX_GROUPS,
  MAX_ITERATIONS,
  paramBytes,
  type Profile,
  shaderText,
  TEXTURE_WIDTH,
  type Variant,
} from "../kernels/kernel.ts";
import { lower } from "../kernels/lower.ts";
import { select } from "../kernels/select.ts";
import { type Choice, choiceOf } from "../kernels/table.ts";
import { type Life, type Plan, planSlots } from "./plan.ts";

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
  readonly outputs: ReadonlyMap<string, Output>;
  /** Number of distinct shaders. */
  readonly pipelines: number;
}

/** Size of a buffer for so many bytes: whole vec4s, at least one. */
export function bufferBytes(bytes: number): number {
  return Math.ceil(Math.max(bytes, 16) / 16) * 16;
}

/** Uniform blocks start at multiples of this. */
export const UNIFORM_ALIGNMENT = 256;

/** Bytes of the uniform buffer with every dispatch's parameters. */
function uniformBytes(steps: readonly Step[]): number {
  const sizes = steps.map((step) =>
    step.kind === "dispatch" ? paramBytes(step.dispatch.params).length : 0
  );
  const blocks = sizes.map((size) => Math.ceil(size / UNIFORM_ALIGNMENT) * UNIFORM_ALIGNMENT);
  return Math.max(UNIFORM_ALIGNMENT, blocks.reduce((sum, size) => sum + size, 0));
}

/**
 * The most bytes that a program of this assembly has allocated, weights aside: slots and uniforms, which it keeps, and
 * copies of the outputs that a run hands to the host, all of them where `returned` does not name them.
 */
export function peakOf(
  { plan, steps, outputs }: Assembly,
  returned: readonly string[] = [...outputs.keys()],
): { readonly kept: number; readonly peak: number } {
  const kept = plan.bytes + uniformBytes(steps);
  const copies = returned.map((name) => {
    const output = outputs.get(name);
    return output ? Math.ceil(sizeOf(output.shape) * BYTES[output.dtype] / 4) * 4 : 0;
  });
  return { kept, peak: copies.reduce((sum, bytes) => sum + bytes, kept) };
}

/** Asks where a weight lies. Throws where there is none of this name. */
export type LayoutOfName = (name: string) => Layout;

const ROWS32: Layout = { format: "rows32", residence: "buffer" };

/** The tensor whose memory a reshape shares. */
export function memoryOf(tensor: Tensor): Tensor {
  return tensor.op === "reshape" ? memoryOf(tensor.inputs[0]) : tensor;
}

/** Bytes of a tensor's values, rounded up to whole vec4s. */
function bytesOf(tensor: Tensor): number {
  return Math.ceil(tensor.size * BYTES[tensor.dtype] / 16) * 16;
}

/** The passes before kernels are chosen: what is left are operators that kernels compute. */
export function optimise(outputs: readonly Tensor[]): readonly Tensor[] {
  return lower(fuse(simplify(outputs)));
}

/**
 * Compiles the graph behind named outputs for a device. Inputs named in `bound` lie in buffers of the caller and take no
 * slot. `choice` decides between variants. Throws `MemoryError` where an operand exceeds a binding.
 */
export function assemble(
  wanted: ReadonlyMap<string, Tensor>,
  profile: Profile,
  layoutOfName: LayoutOfName,
  bound: ReadonlySet<string> = new Set(),
  choice: Choice = choiceOf(profile),
): Assembly {
  const names = [...wanted.keys()];
  const optimised = optimise([...wanted.values()]);
  const outputs = new Map(names.map((name, i) => [name, optimised[i]]));
  return new Assembler(profile, layoutOfName, bound, choice).assemble(outputs);
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

/** Numbers values and records their lives while steps are emitted in order. */
class Assembler {
  readonly #profile: Profile;
  readonly #layoutOfName: LayoutOfName;
  readonly #steps: Step[] = [];
  readonly #lives: { bytes: number; kind: Life["kind"]; first: number; last: number }[] = [];
  readonly #valueOf = new Map<Tensor, number>();
  readonly #stagedOf = new Map<Tensor, number>();
  /** Every shader's text, once. */
  readonly #shaders = new Map<string, string>();
  readonly #unrolled = new Map<string, string>();

  readonly #bound: ReadonlySet<string>;
  readonly #choice: Choice;

  constructor(
    profile: Profile,
    layoutOfName: LayoutOfName,
    bound: ReadonlySet<string>,
    choice: Choice,
  ) {
    this.#bound = bound;
    this.#choice = choice;
    this.#profile = profile;
    this.#layoutOfName = layoutOfName;
  }

  assemble(outputs: ReadonlyMap<string, Tensor>): Assembly {
    const inputs = new Map<string, { value: number; shape: Shape; dtype: DType }>();
    const constants: { value: number; data: Float32Array<ArrayBuffer> }[] = [];
    for (const node of reachable([...outputs.values()])) {
      if (node.op === "parameter" || node.op === "reshape") continue;
      if (node.op === "input" && this.#bound.has(node.attrs.name)) continue;
      if (node.op === "input") {
        const { name, shape, dtype } = node.attrs;
        inputs.set(name, { value: this.#define(node), shape, dtype });
      } else if (node.op === "constant") {
        const data = new Float32Array(node.size);
        if (node.attrs.values.length === 1) data.fill(node.attrs.values[0]);
        else data.set(node.attrs.values);
        constants.push({ value: this.#define(node), data });
      } else {
        this.#compute(node);
      }
    }
    const end = this.#steps.length;
    const results = new Map<string, Output>();
    for (const [name, tensor] of outputs) {
      const value = this.#valueOf.get(memoryOf(tensor));
      if (value === undefined) throw new TypeError(`Output "${name}" is a weight`);
      this.#lives[value].last = end;
      results.set(name, { value, shape: tensor.shape, dtype: tensor.dtype });
    }
    // What is written once, before the first step, must survive every later run.
    for (const { value } of [...inputs.values(), ...constants]) {
      Object.assign(this.#lives[value], { first: 0, last: end });
    }
    return {
      steps: this.#steps,
      lives: this.#lives,
      plan: planSlots(this.#lives),
      inputs,
      constants,
      outputs: results,
      pipelines: this.#shaders.size,
    };
  }

  /** A new value, alive from the next step on. Buffers are as large as they will be allocated. */
  #life(least: number, kind: Life["kind"]): number {
    const step = this.#steps.length;
    const bytes = kind === "buffer" ? bufferBytes(least) : least;
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

  #layoutOf(tensor: Tensor): Layout {
    const memory = memoryOf(tensor);
    return memory.op === "parameter" ? this.#layoutOfName(memory.attrs.name) : ROWS32;
  }

  /** The texture copy of a tensor, shared by all its readers; copied before the first. */
  #stage(memory: Tensor, label: string): number {
    const known = this.#stagedOf.get(memory);
    if (known !== undefined) return known;
    const to = this.#copy(this.#buffer(memory), bytesOf(memory), label);
    this.#stagedOf.set(memory, to);
    return to;
  }

  /** A new texture copy of values. */
  #copy(from: Source, bytes: number, label: string): number {
    const rowBytes = TEXTURE_WIDTH * 16;
    const to = this.#life(Math.ceil(bytes / rowBytes) * rowBytes, "texture");
    const values = from.kind === "value" ? [from.value, to] : [to];
    this.#emit({ kind: "stage", label: `stage for ${label}`, from, to, bytes }, values);
    return to;
  }

  /** Where a tensor's own memory is. */
  #buffer(memory: Tensor): Source {
    if (memory.op === "parameter") return { kind: "parameter", name: memory.attrs.name };
    if (memory.op === "input" && this.#bound.has(memory.attrs.name)) {
      return { kind: "bound", name: memory.attrs.name };
    }
    const value = this.#valueOf.get(memory);
    if (value === undefined) throw new TypeError(`${memory.op} is read before it is computed`);
    return { kind: "value", value };
  }

  #compute(node: Tensor): void {
    const label = `${node.op} ${show(node.shape)} ${node.graph.scopeOf(node)}`.trim();
    const variant = this.#select(node, label);
    const bindings = variant.dispatches.flatMap(({ shader }) => shader.bindings);
    for (const { source, residence } of bindings) {
      if (typeof source !== "number" || residence === "buffer") continue;
      const memory = memoryOf(node.inputs[source]);
      if (this.#layoutOf(memory).residence === "buffer") this.#stage(memory, label);
    }
    const scratch = new Pieces(variant.scratch, (bytes) => this.#life(bytes, "buffer"));
    for (const [i, dispatch] of variant.dispatches.entries()) {
      const { name, shader } = dispatch;
      const part = name === undefined ? label : `${label}: ${name}`;
      this.#assertBounded(dispatch, label);
      const code = this.#textOf(dispatch);
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

  #textOf(dispatch: Dispatch): string {
    const text = shaderText(dispatch, this.#unrolled);
    const code = this.#shaders.get(text) ?? text;
    this.#shaders.set(code, code);
    return code;
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

  /** The chosen variant. Kernels say by a RangeError what exceeds this device. */
  #select(node: Tensor, label: string): Variant {
    try {
      return select(node, this.#profile, (tensor) => this.#layoutOf(tensor), this.#choice);
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause;
      throw new MemoryError(
        `Cannot run ${label} on this device: ${cause.message}; ask for a smaller picture`,
        { cause },
      );
    }
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
    const bytes = window?.size ?? whole;
    if (residence === "texture" || bytes <= this.#profile.maxBinding) return;
    throw new MemoryError(
      `Cannot run ${label}: its operand "${name}" has ${bytes} bytes, but this device binds at most ` +
        `${this.#profile.maxBinding}; ask for a smaller picture`,
    );
  }

  #assertBounded({ grid, iterations }: Dispatch, label: string): void {
    if (iterations > MAX_ITERATIONS) {
      throw new RangeError(
        `${label} loops ${iterations} times, more than the ${MAX_ITERATIONS} every device runs`,
      );
    }
    if (grid.some((n) => n > MAX_GROUPS || n < 1)) {
      throw new RangeError(`${label} dispatches ${show(grid)} workgroups; 1 … ${MAX_GROUPS} fit`);
    }
  }
}
