/**
 * Canonical form: constants are computed, what changes nothing is left out, equal things are written in one way,
 * and what no output needs is gone. Applying the pass again changes nothing.
 */

import { broadcastShapes, sameShape, type Shape } from "../base/shape.ts";
import { type ElementwiseOp, isElementwise } from "./expression.ts";
import { interpret, SCALAR } from "./interpret.ts";
import type { OpName } from "./ops.ts";
import { rebuild } from "./rewrite.ts";
import type { Tensor, TensorOf } from "./tensor.ts";

/** The outputs in a fresh graph in canonical form. */
export function simplify(outputs: readonly Tensor[]): Tensor[] {
  return rebuild(outputs, simplified);
}

/** Constants of more elements are not computed here. */
const MAX_CONSTANT = 4096;

/** What is tried on a node; each gives a better node, the same, or nothing. */
const WAYS: readonly ((node: Tensor) => Tensor | undefined)[] = [folded, lean, rewritten];

/** A node over simplified inputs, in canonical form. */
function simplified(node: Tensor): Tensor {
  for (const way of WAYS) {
    const made = way(node);
    if (made && made !== node) return simplified(made);
  }
  return node;
}

/** The one value of all elements, where a tensor is such a constant. */
function uniform(t: Tensor): number | undefined {
  return t.op === "constant" && t.attrs.values.length === 1 ? t.attrs.values[0] : undefined;
}

/** Operators that give a uniform constant again when they move one. */
const MOVES: ReadonlySet<OpName> = new Set<OpName>([
  "reshape",
  "transpose",
  "broadcast",
  "slice",
  "upsample",
]);

/** The value of a node over constants, where it is finite and small. */
function folded(node: Tensor): Tensor | undefined {
  const { graph, op, inputs, shape } = node;
  if (inputs.length === 0 || node.dtype !== "f32") return undefined;
  const values = inputs.flatMap((t) => uniform(t) ?? []);
  if (values.length === inputs.length && (MOVES.has(op) || isElementwise(op))) {
    const [a, b, c] = values;
    const value = isElementwise(op) ? SCALAR[op](a, b, c) : a;
    return Number.isFinite(value) ? graph.constant(value, shape) : undefined;
  }
  const constants = inputs.every((t) => t.op === "constant" && t.size <= MAX_CONSTANT);
  if (!constants || node.size > MAX_CONSTANT) return undefined;
  const [result] = interpret([node], {}, { precision: "f64" });
  return result.every(Number.isFinite) ? graph.constant([...result], shape) : undefined;
}

const isNode = <K extends OpName>(t: Tensor, test: (op: OpName) => op is K): t is Of<K> =>
  test(t.op);
type Of<K extends OpName> = Extract<Tensor, { op: K }>;

/** Elementwise operands that are enlarged only because the operator would do so itself are read as they were. */
function lean(node: Tensor): Tensor | undefined {
  if (!isNode<ElementwiseOp>(node, isElementwise)) return undefined;
  const inputs: Tensor[] = [...node.inputs];
  for (const [i, input] of inputs.entries()) {
    const value = uniform(input);
    const small = value !== undefined
      ? node.graph.constant(value)
      : input.op === "broadcast"
      ? input.inputs[0]
      : input;
    const others = inputs.map((t, j) => j === i ? small.shape : t.shape);
    if (sameShape(together(others), node.shape)) inputs[i] = small;
  }
  return node.graph.copy(node, inputs);
}

function together(shapes: readonly Shape[]): Shape {
  return shapes.reduce((a, b) => broadcastShapes(a, b) ?? []);
}

/**
 * The order of operands that may change places: what is computed before weights and inputs, those before constants,
 * the younger before the older. So `h + x` and `x + h` are one expression, and few shaders serve many epilogues.
 */
function isLess(a: Tensor, b: Tensor): boolean {
  const [x, y] = [a, b].map((t) => t.op === "constant" ? 0 : t.inputs.length === 0 ? 1 : 2);
  return x < y || (x === y && a.id < b.id);
}

/** `x` and the number, of a tensor that is x + number (or x · number). */
function withNumber(t: Tensor, op: "add" | "mul"): { x: Tensor; value: number } | undefined {
  if ((t.op !== "add" && t.op !== "mul") || t.op !== op) return undefined;
  const value = uniform(t.inputs[1]);
  return value === undefined ? undefined : { x: t.inputs[0], value };
}

/** A new node in the shape that the replaced one had. */
function spread(x: Tensor, shape: Shape): Tensor {
  return simplified(x).broadcast(shape);
}

type Rewrite<K extends OpName> = (node: TensorOf<K>) => Tensor | undefined;

/** A better way to write a node whose inputs are in canonical form; `undefined` where there is none. */
const REWRITES: { readonly [K in OpName]?: Rewrite<K> } = {
  constant: ({ attrs: { values }, graph, shape }) =>
    values.length > 1 && values.every((v) => v === values[0])
      ? graph.constant(values[0], shape)
      : undefined,

  neg: ({ inputs: [x], shape }) => {
    if (x.op === "neg") return x.inputs[0];
    if (x.op === "sub") return x.inputs[1].sub(x.inputs[0]);
    const scaled = withNumber(x, "mul");
    return scaled && spread(scaled.x.mul(-scaled.value), shape);
  },
  add: ({ inputs: [a, b], shape }) => {
    if (isLess(a, b)) return b.add(a);
    if (b.op === "neg") return a.sub(b.inputs[0]);
    if (a.op === "neg") return b.sub(a.inputs[0]);
    if (a.op === "pad" && b.op === "pad") return sideBySide(a, b) ?? sideBySide(b, a);
    const term = uniform(b);
    if (term === undefined) return undefined;
    if (term === 0) return spread(a, shape);
    const moved = withNumber(a, "add");
    return moved && spread(moved.x.add(moved.value + term), shape);
  },
  sub: ({ inputs: [a, b], shape }) => {
    if (b.op === "neg") return a.add(b.inputs[0]);
    const term = uniform(b);
    if (term !== undefined) return a.add(b.graph.constant(-term, b.shape));
    return uniform(a) === 0 ? spread(b.neg(), shape) : undefined;
  },
  mul: ({ inputs: [a, b], shape }) => {
    if (isLess(a, b)) return b.mul(a);
    const factor = uniform(b);
    if (factor === undefined) return undefined;
    if (factor === 1) return spread(a, shape);
    if (factor === -1) return spread(a.neg(), shape);
    if (a.op === "neg") return spread(a.inputs[0].mul(-factor), shape);
    const scaled = withNumber(a, "mul");
    return scaled && spread(scaled.x.mul(scaled.value * factor), shape);
  },
  div: ({ inputs: [a, b], shape }) => uniform(b) === 1 ? spread(a, shape) : undefined,
  max: ({ inputs: [a, b] }) => isLess(a, b) ? b.max(a) : undefined,
  min: ({ inputs: [a, b] }) => isLess(a, b) ? b.min(a) : undefined,
  select: ({ inputs: [condition, a, b], shape }) => {
    const value = a === b ? 1 : uniform(condition);
    return value === undefined ? undefined : spread(value !== 0 ? a : b, shape);
  },

  detach: ({ inputs: [x] }) => x,

  sum: (node) => reduced(node),
  maximum: (node) => reduced(node),

  reshape: ({ inputs: [x], shape }) =>
    sameShape(x.shape, shape) || x.op === "reshape"
      ? (x.op === "reshape" ? x.inputs[0] : x).reshape(shape)
      : undefined,
  transpose: ({ inputs: [x], attrs: { order }, shape }) => {
    if (x.op === "transpose") {
      const inner = x.attrs.order;
      return x.inputs[0].transpose(order.map((axis) => inner[axis]));
    }
    const moving = order.filter((axis) => x.shape[axis] > 1);
    return moving.every((axis, i) => i === 0 || axis > moving[i - 1])
      ? x.reshape(shape)
      : undefined;
  },
  broadcast: ({ inputs: [x], shape, size }) => {
    if (x.size === size) return x.reshape(shape);
    return x.op === "broadcast" ? x.inputs[0].broadcast(shape) : undefined;
  },
  slice: ({ inputs: [x], attrs: { begin, end }, shape, graph }) => {
    if (sameShape(x.shape, shape)) return x;
    if (x.op === "concat") return partOf(x, begin, end);
    if (x.op !== "slice") return undefined;
    const from = x.attrs.begin;
    return graph.node("slice", [x.inputs[0]], {
      begin: begin.map((n, i) => n + from[i]),
      end: end.map((n, i) => n + from[i]),
    });
  },
  concat: ({ inputs, attrs: { axis }, graph }) => {
    if (inputs.length === 1) return inputs[0];
    const flat = inputs.flatMap((x) => x.op === "concat" && x.attrs.axis === axis ? x.inputs : [x]);
    return flat.length > inputs.length ? graph.concat(flat, axis) : undefined;
  },
  pad: ({ inputs: [x], attrs: { before, after }, shape, graph }) => {
    if (sameShape(x.shape, shape)) return x;
    if (x.op !== "pad") return undefined;
    const inner = x.attrs;
    return graph.node("pad", [x.inputs[0]], {
      before: before.map((n, i) => n + inner.before[i]),
      after: after.map((n, i) => n + inner.after[i]),
    });
  },
  upsample: ({ inputs: [x], attrs: { factor } }) => {
    if (factor === 1) return x;
    return x.op === "upsample" ? x.inputs[0].upsample(factor * x.attrs.factor) : undefined;
  },
};

/** The sum of two paddings where one begins at the end of the other, along one axis: what slices' gradients are. */
function sideBySide(a: TensorOf<"pad">, b: TensorOf<"pad">): Tensor | undefined {
  const [x, y] = [a.inputs[0], b.inputs[0]];
  const same = a.shape.map((_, i) =>
    a.attrs.before[i] === b.attrs.before[i] && a.attrs.after[i] === b.attrs.after[i]
  );
  const axis = same.indexOf(false);
  const fits = axis >= 0 && axis === same.lastIndexOf(false) && sameShape(a.shape, b.shape) &&
    a.attrs.before[axis] + x.shape[axis] === b.attrs.before[axis];
  if (!fits) return undefined;
  return a.graph.concat([x, y], axis).pad(a.attrs.before, b.attrs.after);
}

/** A part of a concatenation where it lies in one of its parts. */
function partOf(
  { inputs, attrs: { axis }, graph }: TensorOf<"concat">,
  begin: readonly number[],
  end: readonly number[],
): Tensor | undefined {
  let first = 0;
  for (const x of inputs) {
    const last = first + x.shape[axis];
    if (begin[axis] >= first && end[axis] <= last) {
      const within = (places: readonly number[]) =>
        places.map((place, i) => i === axis ? place - first : place);
      return graph.node("slice", [x], { begin: within(begin), end: within(end) });
    }
    first = last;
  }
  return undefined;
}

function rewritten<K extends OpName>(node: TensorOf<K>): Tensor | undefined {
  return REWRITES[node.op]?.(node);
}

/** Axes in order, without those of length 1; a reduction of the same reduction at once. */
function reduced(node: TensorOf<"sum" | "maximum">): Tensor {
  const [x] = node.inputs;
  const axes = x.shape.flatMap((n, axis) => n > 1 && node.attrs.axes.includes(axis) ? [axis] : []);
  if (axes.length === 0) return x;
  if (x.op !== node.op) return node.graph.node(node.op, [x], { axes });
  return node.graph.node(node.op, [x.inputs[0]], { axes: [...axes, ...x.attrs.axes] });
}
