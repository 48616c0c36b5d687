/**
 * From a graph to an assembly: what is dispatched in which order on which slots. Pure: needs no device, so plans of the
 * largest models are tested without one. Passes: simplify, fuse, lower and select (operator → kernel and variant),
 * order (creation order is topological), plan (liveness → slots).
 */

import { BYTES, type DType } from "../base/dtype.ts";
import { MemoryError } from "../base/errors.ts";
import { type Shape, show } from "../base/shape.ts";
import { fuse } from "../graph/fuse.ts";
import { simplify } from "../graph/simplify.ts";
import type { Tensor } from "../graph/tensor.ts";
import {
  type Dispatch,
  type Layout,
  MAX_GROUPS,
  MAX_ITERATIONS,
  type Profile,
  shaderText,
  TEXTURE_WIDTH,
} from "../kernels/kernel.ts";
import { lower, select } from "../kernels/select.ts";
import { type Life, type Plan, planSlots } from "./plan.ts";

/** Where a binding's memory comes from. */
export type Source =
  | { readonly kind: "value"; readonly value: number }
  | { readonly kind: "parameter"; readonly name: string };

/** What the device does, in order. */
export type Step =
  | {
    readonly kind: "dispatch";
    readonly label: string;
    readonly dispatch: Dispatch;
    /** Memory of each binding, and the bytes of it that hold the operand. */
    readonly operands: readonly { readonly source: Source; readonly bytes: number }[];
  }
  | {
    readonly kind: "stage";
    readonly label: string;
    readonly from: number;
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
  /** Distinct shaders. */
  readonly pipelines: number;
}

/** Asks where a weight lies. Throws where there is none of this name. */
export type LayoutOfName = (name: string) => Layout;

const ROWS32: Layout = { format: "rows32", residence: "buffer" };

/** The tensor whose memory a reshape shares. */
function memoryOf(tensor: Tensor): Tensor {
  return tensor.op === "reshape" ? memoryOf(tensor.inputs[0]) : tensor;
}

/** Bytes of a tensor's values, rounded up to whole vec4s. */
function bytesOf(tensor: Tensor): number {
  return Math.ceil(tensor.size * BYTES[tensor.dtype] / 16) * 16;
}

/** Nodes that the outputs need, oldest first. */
function reachable(outputs: readonly Tensor[]): Tensor[] {
  const seen = new Set<Tensor>();
  const stack = [...outputs];
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    stack.push(...node.inputs);
  }
  return [...seen].sort((a, b) => a.id - b.id);
}

/** Applies `lower` until every node has a kernel. */
function lowered(
  outputs: ReadonlyMap<string, Tensor>,
  profile: Profile,
): ReadonlyMap<string, Tensor> {
  const names = [...outputs.keys()];
  const results = lower([...outputs.values()], profile);
  return new Map(names.map((name, i) => [name, results[i]]));
}

/** Compiles the graph behind named outputs for a device. Throws `MemoryError` where an operand exceeds a binding. */
export function assemble(
  wanted: ReadonlyMap<string, Tensor>,
  profile: Profile,
  layoutOfName: LayoutOfName,
): Assembly {
  const names = [...wanted.keys()];
  const optimised = fuse(simplify([...wanted.values()]));
  const outputs = lowered(new Map(names.map((name, i) => [name, optimised[i]])), profile);
  return new Assembler(profile, layoutOfName).assemble(outputs);
}

/** Numbers values and records their lives while steps are emitted in order. */
class Assembler {
  readonly #profile: Profile;
  readonly #layoutOfName: LayoutOfName;
  readonly #steps: Step[] = [];
  readonly #lives: { bytes: number; kind: Life["kind"]; first: number; last: number }[] = [];
  readonly #valueOf = new Map<Tensor, number>();
  readonly #stagedOf = new Map<Tensor, number>();
  readonly #shaders = new Set<string>();

  constructor(profile: Profile, layoutOfName: LayoutOfName) {
    this.#profile = profile;
    this.#layoutOfName = layoutOfName;
  }

  assemble(outputs: ReadonlyMap<string, Tensor>): Assembly {
    const inputs = new Map<string, { value: number; shape: Shape; dtype: DType }>();
    const constants: { value: number; data: Float32Array<ArrayBuffer> }[] = [];
    for (const node of reachable([...outputs.values()])) {
      if (node.op === "parameter" || node.op === "reshape") continue;
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

  /** A new value, alive from the next step on. */
  #life(bytes: number, kind: Life["kind"]): number {
    const step = this.#steps.length;
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
  #stage(tensor: Tensor, label: string): number {
    const memory = memoryOf(tensor);
    const known = this.#stagedOf.get(memory);
    if (known !== undefined) return known;
    const from = this.#valueOf.get(memory);
    if (from === undefined) {
      throw new TypeError(`${label} stages a weight: weights lie where their layout says`);
    }
    const bytes = bytesOf(memory);
    const rowBytes = TEXTURE_WIDTH * 16;
    const to = this.#life(Math.ceil(bytes / rowBytes) * rowBytes, "texture");
    this.#emit({ kind: "stage", label: `stage for ${label}`, from, to, bytes }, [from, to]);
    this.#stagedOf.set(memory, to);
    return to;
  }

  #compute(node: Tensor): void {
    const label = `${node.op} ${show(node.shape)} ${node.graph.scopeOf(node)}`.trim();
    const variant = select(node, this.#profile, (tensor) => this.#layoutOf(tensor));
    const inputs: readonly Tensor[] = node.inputs;
    const staged = new Map(
      variant.staged.map((index) => [index, this.#stage(inputs[index], label)]),
    );
    const result = this.#define(node);
    const scratch = variant.scratch > 0 ? this.#life(variant.scratch, "buffer") : -1;
    for (const dispatch of variant.dispatches) {
      this.#shaders.add(shaderText(dispatch));
      const operands = dispatch.shader.bindings.map(({ source, residence, window, name }) => {
        const operand = this.#operand(node, source, residence === "texture", {
          staged,
          result,
          scratch,
          scratchBytes: variant.scratch,
        });
        const bytes = window?.size ?? operand.bytes;
        if (residence === "buffer" && bytes > this.#profile.maxBinding) {
          throw new MemoryError(
            `Cannot run ${label}: its operand "${name}" has ${bytes} bytes, but this device binds at most ` +
              `${this.#profile.maxBinding}; ask for a smaller picture`,
          );
        }
        return operand;
      });
      this.#assertBounded(dispatch, label);
      const values = operands.flatMap(({ source }) =>
        source.kind === "value" ? [source.value] : []
      );
      this.#emit({ kind: "dispatch", label, dispatch, operands }, values);
    }
  }

  #operand(
    node: Tensor,
    source: number | "result" | "scratch",
    inTexture: boolean,
    own: {
      staged: ReadonlyMap<number, number>;
      result: number;
      scratch: number;
      scratchBytes: number;
    },
  ): { source: Source; bytes: number } {
    if (source === "result") {
      return { source: { kind: "value", value: own.result }, bytes: bytesOf(node) };
    }
    if (source === "scratch") {
      return { source: { kind: "value", value: own.scratch }, bytes: own.scratchBytes };
    }
    const memory = memoryOf(node.inputs[source]);
    if (memory.op === "parameter") {
      // The bytes of packed weights are the store's business; the program binds them whole.
      return { source: { kind: "parameter", name: memory.attrs.name }, bytes: 0 };
    }
    const value = inTexture ? own.staged.get(source) : this.#valueOf.get(memory);
    if (value === undefined) throw new TypeError(`Input ${source} of ${node.op} has no value`);
    return { source: { kind: "value", value }, bytes: bytesOf(memory) };
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
