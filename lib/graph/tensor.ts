/**
 * Tensors: immutable nodes of a static-shape, single-assignment graph, hash-consed: the same expression
 * built twice is the same object. A node refers only to older nodes, so `graph.nodes` is a topological order.
 */

import type { DType } from "../base/dtype.ts";
import { axisOf, sameShape, type Shape, sizeOf } from "../base/shape.ts";
import {
  type AttrsOf,
  type InputsOf,
  type OpName,
  type Padding,
  type Piece,
  type Role,
  RULES,
} from "./ops.ts";

/** A node of any operator; `switch (t.op)` narrows inputs and attributes. */
export type Tensor = { [K in OpName]: TensorOf<K> }[OpName];

/** What a binary operator takes beside a tensor. */
export type Scalar = number | Tensor;

/** A node of one operator. Made by `Graph.node` only. */
export class TensorOf<K extends OpName> {
  constructor(
    readonly graph: Graph,
    readonly id: number,
    readonly op: K,
    readonly inputs: InputsOf<K, Tensor>,
    readonly attrs: AttrsOf<K>,
    readonly shape: Shape,
    readonly dtype: DType,
  ) {}

  /** Number of axes. */
  get rank(): number {
    return this.shape.length;
  }

  /** Number of elements. */
  get size(): number {
    return sizeOf(this.shape);
  }

  /** The same values, as a constant to gradients. */
  detach(): Tensor {
    return this.graph.node("detach", [self(this)], {});
  }
  neg(): Tensor {
    return this.graph.node("neg", [self(this)], {});
  }
  abs(): Tensor {
    return this.graph.node("abs", [self(this)], {});
  }
  exp(): Tensor {
    return this.graph.node("exp", [self(this)], {});
  }
  log(): Tensor {
    return this.graph.node("log", [self(this)], {});
  }
  sqrt(): Tensor {
    return this.graph.node("sqrt", [self(this)], {});
  }
  sin(): Tensor {
    return this.graph.node("sin", [self(this)], {});
  }
  cos(): Tensor {
    return this.graph.node("cos", [self(this)], {});
  }
  tanh(): Tensor {
    return this.graph.node("tanh", [self(this)], {});
  }
  erf(): Tensor {
    return this.graph.node("erf", [self(this)], {});
  }
  sigmoid(): Tensor {
    return this.graph.node("sigmoid", [self(this)], {});
  }
  add(other: Scalar): Tensor {
    return this.graph.node("add", [self(this), this.graph.lift(other)], {});
  }
  sub(other: Scalar): Tensor {
    return this.graph.node("sub", [self(this), this.graph.lift(other)], {});
  }
  mul(other: Scalar): Tensor {
    return this.graph.node("mul", [self(this), this.graph.lift(other)], {});
  }
  div(other: Scalar): Tensor {
    return this.graph.node("div", [self(this), this.graph.lift(other)], {});
  }
  max(other: Scalar): Tensor {
    return this.graph.node("max", [self(this), this.graph.lift(other)], {});
  }
  min(other: Scalar): Tensor {
    return this.graph.node("min", [self(this), this.graph.lift(other)], {});
  }
  /** 1 where this is less than the other, else 0. */
  less(other: Scalar): Tensor {
    return this.graph.node("less", [self(this), this.graph.lift(other)], {});
  }
  /** a where this is not 0, else b. */
  select(a: Scalar, b: Scalar): Tensor {
    return this.graph.node("select", [self(this), this.graph.lift(a), this.graph.lift(b)], {});
  }

  /** Sum over axes, which stay with length 1. */
  sum(axes: readonly number[]): Tensor {
    return this.graph.node("sum", [self(this)], { axes: axes.map((a) => axisOf(a, this.rank)) });
  }
  /** Largest over axes, which stay with length 1. */
  maximum(axes: readonly number[]): Tensor {
    const attrs = { axes: axes.map((a) => axisOf(a, this.rank)) };
    return this.graph.node("maximum", [self(this)], attrs);
  }
  /** Mean over axes, which stay with length 1. */
  mean(axes: readonly number[]): Tensor {
    const count = axes.reduce((product, a) => product * this.shape[axisOf(a, this.rank)], 1);
    return this.sum(axes).div(count);
  }
  softmax(): Tensor {
    return this.graph.node("softmax", [self(this)], {});
  }

  /** `this · b`; with `transposeB`, b is `[…, n, k]`. */
  matmul(b: Tensor, options: { readonly transposeB: boolean }): Tensor {
    return this.graph.node("matmul", [self(this), b], { transposeB: options.transposeB });
  }
  /** Weight [co, kh, kw, ci]. */
  conv2d(weight: Tensor, options: { readonly stride: number; readonly padding: Padding }): Tensor {
    return this.graph.node("conv2d", [self(this), weight], { ...options, upsample: 1 });
  }
  /** `this` is y [n, h′, w′, co]; weight [co, kh, kw, ci]. */
  conv2dTranspose(
    weight: Tensor,
    options: {
      readonly size: readonly [h: number, w: number];
      readonly stride: number;
      readonly padding: Padding;
    },
  ): Tensor {
    return this.graph.node("conv2dTranspose", [self(this), weight], { ...options });
  }
  /** `this` is x [n, h, w, ci]; y [n, h′, w′, co]. */
  conv2dWeight(
    y: Tensor,
    options: {
      readonly kernel: readonly [kh: number, kw: number];
      readonly stride: number;
      readonly padding: Padding;
      readonly upsample: number;
    },
  ): Tensor {
    return this.graph.node("conv2dWeight", [self(this), y], { ...options });
  }
  /** `this` is q [n, t, heads, d]; k and v are [n, s, heads, d]. */
  attention(
    k: Tensor,
    v: Tensor,
    options: { readonly scale: number; readonly causal: boolean },
  ): Tensor {
    return this.graph.node("attention", [self(this), k, v], { ...options });
  }
  groupMoments(groups: number): Tensor {
    return this.graph.node("groupMoments", [self(this)], { groups });
  }
  groupNormalize(
    moments: Tensor,
    weight: Tensor,
    bias: Tensor,
    options: { readonly groups: number; readonly eps: number },
  ): Tensor {
    return this.graph.node("groupNormalize", [self(this), moments, weight, bias], { ...options });
  }
  layerNorm(weight: Tensor, bias: Tensor, options: { readonly eps: number }): Tensor {
    return this.graph.node("layerNorm", [self(this), weight, bias], { ...options });
  }

  reshape(shape: Shape): Tensor {
    if (sameShape(shape, this.shape)) return self(this);
    return this.graph.node("reshape", [self(this)], { shape });
  }
  /** Axis i of the result is axis `order[i]` of this. */
  transpose(order: readonly number[]): Tensor {
    if (order.every((axis, i) => axis === i)) return self(this);
    return this.graph.node("transpose", [self(this)], { order });
  }
  broadcast(shape: Shape): Tensor {
    if (sameShape(shape, this.shape)) return self(this);
    return this.graph.node("broadcast", [self(this)], { shape });
  }
  /** Elements `begin … end − 1` of one axis. */
  slice(axis: number, begin: number, end: number): Tensor {
    const i = axisOf(axis, this.rank);
    if (begin === 0 && end === this.shape[i]) return self(this);
    return this.graph.node("slice", [self(this)], {
      begin: this.shape.map((_, j) => j === i ? begin : 0),
      end: this.shape.map((n, j) => j === i ? end : n),
    });
  }
  /** Zeros before and after each axis. */
  pad(before: readonly number[], after: readonly number[]): Tensor {
    if ([...before, ...after].every((n) => n === 0)) return self(this);
    return this.graph.node("pad", [self(this)], { before, after });
  }
  /** Nearest-neighbour enlargement of [n, h, w, c]. */
  upsample(factor: number): Tensor {
    return this.graph.node("upsample", [self(this)], { factor });
  }
  /** `this` is a table [rows, width]; ids are i32. */
  gather(ids: Tensor): Tensor {
    return this.graph.node("gather", [self(this), ids], {});
  }
  /** `this` is [… , width]; ids are i32. */
  scatterAdd(ids: Tensor, rows: number): Tensor {
    return this.graph.node("scatterAdd", [self(this), ids], { rows });
  }
}

/** A class body sees `TensorOf<K>` of one K; every instance is a member of the union `Tensor`. */
function self<K extends OpName>(tensor: TensorOf<K>): Tensor {
  return tensor as unknown as Tensor;
}

/** Owns the nodes of one graph and keeps each expression once. */
export class Graph {
  readonly #interned = new Map<string, Tensor>();
  readonly #nodes: Tensor[] = [];
  readonly #labels = new Map<string, Tensor>();
  readonly #scopes = new Map<Tensor, string>();
  #scope = "";

  /** All nodes, oldest first: a topological order. */
  get nodes(): readonly Tensor[] {
    return this.#nodes;
  }

  /** Tensors named by `label`, for probes and tests. */
  get labels(): ReadonlyMap<string, Tensor> {
    return this.#labels;
  }

  /** The node of this expression: an existing one where there is one. Throws `RangeError` on misfit operands. */
  node<K extends OpName>(op: K, inputs: InputsOf<K, Tensor>, attrs: AttrsOf<K>): Tensor {
    const operands: readonly Tensor[] = inputs;
    const key = `${op}(${operands.map((t) => t.id).join()})${keyOf(attrs)}`;
    const known = this.#interned.get(key);
    if (known) return known;
    for (const t of operands) {
      if (t.graph !== this) throw new RangeError(`An input of ${op} belongs to another graph`);
    }
    const { shape, dtype } = this.#infer(op, inputs, attrs);
    const id = this.#nodes.length;
    const tensor = self(new TensorOf(this, id, op, inputs, attrs, shape, dtype));
    this.#interned.set(key, tensor);
    this.#nodes.push(tensor);
    if (this.#scope !== "") this.#scopes.set(tensor, this.#scope);
    return tensor;
  }

  /** The operator of `like`, a node of any graph, over inputs of this one; its attributes unless others are given. */
  copy<K extends OpName>(
    like: TensorOf<K>,
    inputs: readonly Tensor[],
    attrs: AttrsOf<K> = like.attrs,
  ): Tensor {
    // A list cannot be known to be the tuple that this operator wants; the shape rule sees a misfit.
    return this.node(like.op, inputs as unknown as InputsOf<K, Tensor>, attrs);
  }

  #infer<K extends OpName>(op: K, inputs: InputsOf<K, Tensor>, attrs: AttrsOf<K>) {
    try {
      return RULES[op](inputs, attrs);
    } catch (error) {
      if (!(error instanceof RangeError) || this.#scope === "") throw error;
      throw new RangeError(`Cannot build "${this.#scope}": ${error.message}`, { cause: error });
    }
  }

  /** A weight; see `Ops.parameter` for the layout of each role, and `Parameter` for pieces. */
  parameter(name: string, shape: Shape, role: Role, pieces?: readonly Piece[]): Tensor {
    return this.node("parameter", [], { name, shape, role, ...(pieces && { pieces }) });
  }

  /** A value that is written before each run. */
  input(name: string, shape: Shape, dtype: DType = "f32"): Tensor {
    return this.node("input", [], { name, shape, dtype });
  }

  /** One number for all elements, or one for each in row-major order. */
  constant(values: number | readonly number[], shape: Shape = []): Tensor {
    const list = typeof values === "number" ? [values] : values;
    return this.node("constant", [], { shape, values: list });
  }

  /** A number as a tensor; a tensor as it is. */
  lift(value: Scalar): Tensor {
    return typeof value === "number" ? this.constant(value) : value;
  }

  /** Parts in order along one axis. */
  concat(parts: readonly Tensor[], axis: number): Tensor {
    if (parts.length === 1) return parts[0];
    return this.node("concat", parts, { axis: axisOf(axis, parts[0].rank) });
  }

  /** Names a tensor for probes and tests, and returns it. */
  label(name: string, tensor: Tensor): Tensor {
    this.#labels.set(name, tensor);
    return tensor;
  }

  /** The scope a node was first built in, for messages; "" where none was open. */
  scopeOf(tensor: Tensor): string {
    return this.#scopes.get(tensor) ?? "";
  }

  /** Nodes that `build` makes carry this scope's name. */
  within<T>(scope: string, build: () => T): T {
    const outer = this.#scope;
    this.#scope = scope;
    try {
      return build();
    } finally {
      this.#scope = outer;
    }
  }
}

/** Attributes as text, different for different attributes; JSON alone would write infinities and NaN as null. */
function keyOf(attrs: object): string {
  const text = JSON.stringify(attrs);
  if (!text.includes("null")) return text;
  return JSON.stringify(
    attrs,
    (_, value) => typeof value === "number" && !Number.isFinite(value) ? `#${value}` : value,
  );
}
