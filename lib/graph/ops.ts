/**
 * The operator table: inputs, attributes, and the rule for shape and element type of each.
 * Adding an operator here makes the compiler point at every table that needs a row
 * (`decompose`, `interpret`, `grad`, the kernels).
 *
 * Conventions: channels last (`[n, h, w, c]`), row-major; reductions keep their axes with length 1;
 * elementwise operators broadcast as in numpy.
 */

import type { DType } from "../base/dtype.ts";
import { broadcastShapes, sameShape, type Shape, show, sizeOf } from "../base/shape.ts";
import type { Expression } from "./expression.ts";

/** What a shape rule may look at. */
export interface Operand {
  readonly shape: Shape;
  readonly dtype: DType;
}

/** No attributes. */
export type Empty = Record<never, never>;

/** What a parameter is for; decides how its values are laid out on a device. */
export type Role = "linear" | "conv" | "embedding" | "vector";

/** Some rows of a tensor that a checkpoint has: entries `begin … end − 1` of its first axis. */
export interface Piece {
  readonly name: string;
  /** Of the whole tensor, in the graph's layout. */
  readonly shape: Shape;
  readonly begin: number;
  readonly end: number;
}

/** A weight. Without `pieces` it is the checkpoint's tensor of its name, else these rows one after another. */
export interface Parameter {
  readonly name: string;
  readonly shape: Shape;
  readonly role: Role;
  readonly pieces?: readonly Piece[];
}

/**
 * Done to each element of a result before it is stored: `input 0` is the element, `input i` the operand
 * `inputs[base + i − 1]`, broadcast to the result's shape, where `base` is the operator's own input count.
 */
export interface Epilogue {
  readonly body: Expression;
}

/** How an operand is read: element `offset + Σ index[i] · strides[i]`, in elements; stride 0 broadcasts. */
export interface View {
  readonly offset: number;
  readonly strides: readonly number[];
}

/** Which heads of its operands an attention reads: `count` of each, from head `first[i]` of operand i on. */
export interface Heads {
  readonly count: number;
  readonly first: readonly [q: number, k: number, v: number];
}

/** Zero padding in pixels. */
export interface Padding {
  readonly top: number;
  readonly bottom: number;
  readonly left: number;
  readonly right: number;
}

type Unary<T> = { inputs: readonly [x: T]; attrs: Empty };
type Binary<T> = { inputs: readonly [a: T, b: T]; attrs: Empty };

export interface Ops<T> {
  // Leaves.
  /** A weight. Linear: [out, in]. Conv: [out, kh, kw, in]. Embedding: [rows, width]. Vector: any. */
  parameter: { inputs: readonly []; attrs: Parameter };
  /** A value written before each run. */
  input: { inputs: readonly []; attrs: { name: string; shape: Shape; dtype: DType } };
  /** One value for all elements, or a value for each in row-major order. */
  constant: { inputs: readonly []; attrs: { shape: Shape; values: readonly number[] } };

  // Elementwise.
  neg: Unary<T>;
  abs: Unary<T>;
  exp: Unary<T>;
  log: Unary<T>;
  sqrt: Unary<T>;
  sin: Unary<T>;
  cos: Unary<T>;
  tanh: Unary<T>;
  erf: Unary<T>;
  sigmoid: Unary<T>;
  add: Binary<T>;
  sub: Binary<T>;
  mul: Binary<T>;
  div: Binary<T>;
  max: Binary<T>;
  min: Binary<T>;
  less: Binary<T>;
  select: { inputs: readonly [condition: T, a: T, b: T]; attrs: Empty };
  /** x, which no gradient passes. */
  detach: Unary<T>;
  /** A fused chain of elementwise operators over views of its inputs; made by the fuse pass. */
  map: {
    inputs: readonly T[];
    attrs: { shape: Shape; body: Expression; views: readonly View[] };
  };

  // Reductions; the axes stay, with length 1.
  sum: { inputs: readonly [x: T]; attrs: { axes: readonly number[] } };
  maximum: { inputs: readonly [x: T]; attrs: { axes: readonly number[] } };

  // Contractions.
  /** `[…, m, k] · [k, n]` (or `[…, k, n]` with equal batch axes); `transposeB`: the second is `[…, n, k]`. */
  matmul: {
    inputs: readonly [a: T, b: T, ...epilogue: T[]];
    attrs: { transposeB: boolean; epilogue?: Epilogue };
  };
  /** x [n, h, w, ci] ∗ weight [co, kh, kw, ci] → [n, h′, w′, co]; `upsample` enlarges x (nearest) before. */
  conv2d: {
    inputs: readonly [x: T, weight: T, ...epilogue: T[]];
    attrs: { stride: number; padding: Padding; upsample: number; epilogue?: Epilogue };
  };
  /**
   * A convolution backwards: y [n, h′, w′, co] and weight [co, kh, kw, ci] → [n, h, w, ci], each element of y times the
   * weight added to where the convolution of `size` [h, w] reads. Gradient of conv2d by its picture.
   */
  conv2dTranspose: {
    inputs: readonly [y: T, weight: T];
    attrs: { size: readonly [h: number, w: number]; stride: number; padding: Padding };
  };
  /**
   * x [n, h, w, ci] and y [n, h′, w′, co] → [co, kh, kw, ci], the sums over all places of a convolution of the products
   * of what it reads and y there. Gradient of conv2d by its weight, and of a product by its second factor.
   */
  conv2dWeight: {
    inputs: readonly [x: T, y: T];
    attrs: {
      kernel: readonly [kh: number, kw: number];
      stride: number;
      padding: Padding;
      upsample: number;
    };
  };
  /**
   * q [n, t, heads, d], k and v [n, s, heads, d] → [n, t, heads, d]; softmax(scale · q kᵀ) v. With `heads`,
   * each operand may have more heads than are meant: one product gives q, k and v side by side.
   */
  attention: {
    inputs: readonly [q: T, k: T, v: T];
    attrs: { scale: number; causal: boolean; heads?: Heads };
  };
  /** log Σ e^(scale · q kᵀ) over the keys that each query sees: q [n, t, heads, d], k [n, s, heads, d] → [n, t, heads, 1]. */
  attentionLogSum: {
    inputs: readonly [q: T, k: T];
    attrs: { scale: number; causal: boolean };
  };
  /**
   * Gradient of attention by q, k or v, from the gradient dy [n, t, heads, d] by its result y, `logSum` as
   * `attentionLogSum` gives it, and `along` [n, t, heads, 1] = Σ y · dy (Dao et al. 2022, "FlashAttention", algorithm 4).
   */
  attentionGradient: {
    inputs: readonly [q: T, k: T, v: T, dy: T, logSum: T, along: T];
    attrs: { of: "q" | "k" | "v"; scale: number; causal: boolean };
  };

  // Norms.
  /** Mean and variance of each group of channels over all pixels: [n, …, c] → [n, groups, 2]. */
  groupMoments: { inputs: readonly [x: T]; attrs: { groups: number } };
  /** (x − mean) / √(variance + eps) · weight + bias, with moments as `groupMoments` gives them. */
  groupNormalize: {
    inputs: readonly [x: T, moments: T, weight: T, bias: T, ...epilogue: T[]];
    attrs: { groups: number; eps: number; epilogue?: Epilogue };
  };
  /** Over the last axis. */
  layerNorm: {
    inputs: readonly [x: T, weight: T, bias: T, ...epilogue: T[]];
    attrs: { eps: number; epilogue?: Epilogue };
  };
  /**
   * For the gradient of `groupNormalize` from dy by its result, sums over pixels [2, n, c] of dy, and of dy times what is
   * multiplied by the weight.
   */
  groupSums: {
    inputs: readonly [x: T, moments: T, dy: T];
    attrs: { groups: number; eps: number };
  };
  /** Gradient of `layerNorm` by x, from dy by its result. */
  layerNormGradient: { inputs: readonly [x: T, weight: T, dy: T]; attrs: { eps: number } };
  /** Over the last axis. */
  softmax: { inputs: readonly [x: T]; attrs: Empty };

  // Moving.
  reshape: { inputs: readonly [x: T]; attrs: { shape: Shape } };
  /** Axis i of the result is axis `order[i]` of x. */
  transpose: { inputs: readonly [x: T]; attrs: { order: readonly number[] } };
  broadcast: { inputs: readonly [x: T]; attrs: { shape: Shape } };
  /** Elements `begin[i] … end[i] − 1` of each axis. */
  slice: { inputs: readonly [x: T]; attrs: { begin: readonly number[]; end: readonly number[] } };
  concat: { inputs: readonly T[]; attrs: { axis: number } };
  /** Zeros before and after each axis. */
  pad: { inputs: readonly [x: T]; attrs: { before: readonly number[]; after: readonly number[] } };
  /** Nearest: [n, h, w, c] → [n, h·factor, w·factor, c]. */
  upsample: { inputs: readonly [x: T]; attrs: { factor: number } };
  /** table [rows, width], ids (i32) of any shape → […ids, width]. */
  gather: { inputs: readonly [table: T, ids: T]; attrs: Empty };
  /** x [… , width], ids (i32) of x's other axes → [rows, width]: row i is the sum of those of x whose id is i. */
  scatterAdd: { inputs: readonly [x: T, ids: T]; attrs: { rows: number } };
}

export type OpName = keyof Ops<unknown>;
export type InputsOf<K extends OpName, T> = Ops<T>[K]["inputs"];
export type AttrsOf<K extends OpName> = Ops<unknown>[K]["attrs"];

/** Inputs that belong to the operator itself; those after them are operands of its epilogue. */
export const BASE_INPUTS = { matmul: 2, conv2d: 2, groupNormalize: 4, layerNorm: 3 } as const;
export type EpilogueOp = keyof typeof BASE_INPUTS;

/** True for the operators that can carry an epilogue. */
export function hasEpilogue(op: OpName): op is EpilogueOp {
  return op in BASE_INPUTS;
}

type Rule<K extends OpName> = (inputs: InputsOf<K, Operand>, attrs: AttrsOf<K>) => Operand;

/** Throws unless the fact holds; `sentence` says what was needed. */
function need(fact: boolean, sentence: () => string): asserts fact {
  if (!fact) throw new RangeError(sentence());
}

const f32 = (shape: Shape): Operand => ({ shape, dtype: "f32" });
const last = (shape: Shape, back = 1): number => shape[shape.length - back];
const same = ([x]: readonly [Operand]): Operand => x;

function broadcastAll(operands: readonly Operand[]): Operand {
  const shape = operands.slice(1).reduce<Shape>((a, b) => {
    const both = broadcastShapes(a, b.shape);
    need(both !== undefined, () => `Shapes ${show(a)} and ${show(b.shape)} do not broadcast`);
    return both;
  }, operands[0].shape);
  return { shape, dtype: operands[0].dtype };
}

const binary = (inputs: readonly [Operand, Operand]): Operand => broadcastAll(inputs);

const reduction = ([x]: readonly [Operand], { axes }: { axes: readonly number[] }): Operand => ({
  shape: x.shape.map((n, i) => axes.includes(i) ? 1 : n),
  dtype: x.dtype,
});

/** Epilogue operands must broadcast to the result without enlarging it. */
function withOperands(result: Operand, operands: readonly Operand[]): Operand {
  for (const operand of operands) {
    const both = broadcastShapes(result.shape, operand.shape);
    need(
      both !== undefined && sizeOf(both) === sizeOf(result.shape),
      () =>
        `An epilogue operand of shape ${show(operand.shape)} does not fit ${show(result.shape)}`,
    );
  }
  return result;
}

/** Places of a kernel in a picture: [h′, w′]. */
function windows(
  [h, w]: readonly [h: number, w: number],
  [kh, kw]: readonly [kh: number, kw: number],
  { stride, padding }: { readonly stride: number; readonly padding: Padding },
): [h: number, w: number] {
  const { top, bottom, left, right } = padding;
  return [
    Math.floor((h + top + bottom - kh) / stride) + 1,
    Math.floor((w + left + right - kw) / stride) + 1,
  ];
}

/** The rule of each operator: shape and element type of its result. Throws `RangeError` on operands that do not fit. */
export const RULES: { readonly [K in OpName]: Rule<K> } = {
  parameter: (_, { shape, pieces }) => {
    const rows = pieces?.reduce((sum, { begin, end }) => sum + end - begin, 0) ?? shape[0];
    const fits =
      pieces?.every((piece) =>
        0 <= piece.begin && piece.begin < piece.end && piece.end <= piece.shape[0] &&
        sameShape(piece.shape.slice(1), shape.slice(1))
      ) ?? true;
    need(
      fits && rows === shape[0],
      () => `Its pieces do not make a weight of shape ${show(shape)}`,
    );
    return f32(shape);
  },
  input: (_, { shape, dtype }) => ({ shape, dtype }),
  constant: (_, { shape, values }) => {
    need(
      values.length === 1 || values.length === sizeOf(shape),
      () => `A constant of shape ${show(shape)} was given ${values.length} values`,
    );
    return f32(shape);
  },

  neg: same,
  abs: same,
  exp: same,
  log: same,
  sqrt: same,
  sin: same,
  cos: same,
  tanh: same,
  erf: same,
  sigmoid: same,
  add: binary,
  sub: binary,
  mul: binary,
  div: binary,
  max: binary,
  min: binary,
  less: binary,
  select: (inputs) => ({ ...broadcastAll(inputs), dtype: inputs[1].dtype }),
  detach: same,
  map: (inputs, { shape, views }) => {
    need(views.length === inputs.length, () => "A map needs one view for each input");
    inputs.forEach((x, i) => {
      const { offset, strides } = views[i];
      const end = shape.reduce((sum, n, axis) => sum + (n - 1) * strides[axis], offset);
      need(
        strides.length === shape.length && strides.every((s) => s >= 0) && end < sizeOf(x.shape),
        () => `A view of a map reads outside its input of shape ${show(x.shape)}`,
      );
    });
    return f32(shape);
  },

  sum: reduction,
  maximum: reduction,

  matmul: ([a, b, ...operands], { transposeB }) => {
    const [k, n] = transposeB
      ? [last(b.shape), last(b.shape, 2)]
      : [last(b.shape, 2), last(b.shape)];
    const batch = b.shape.slice(0, -2);
    const fits = a.shape.length >= 2 && b.shape.length >= 2 && last(a.shape) === k &&
      (batch.length === 0 ||
        (a.shape.length === b.shape.length && batch.every((m, i) => m === a.shape[i])));
    const note = transposeB ? " (transposed)" : "";
    need(
      fits,
      () => `A product of ${show(a.shape)} and ${show(b.shape)}${note} is not defined`,
    );
    return withOperands(f32([...a.shape.slice(0, -1), n]), operands);
  },
  conv2d: ([x, weight, ...operands], { stride, padding, upsample }) => {
    const [n, h, w, ci] = x.shape;
    const [co, kh, kw, wi] = weight.shape;
    need(
      x.shape.length === 4 && weight.shape.length === 4 && ci === wi,
      () => `A convolution of ${show(x.shape)} by a weight ${show(weight.shape)} is not defined`,
    );
    const [oh, ow] = windows([h * upsample, w * upsample], [kh, kw], { stride, padding });
    need(oh > 0 && ow > 0, () => `A convolution leaves nothing of ${show(x.shape)}`);
    return withOperands(f32([n, oh, ow, co]), operands);
  },
  conv2dTranspose: ([y, weight], { size, ...moves }) => {
    const [n, oh, ow, co] = y.shape;
    const [wo, kh, kw, ci] = weight.shape;
    need(
      y.shape.length === 4 && weight.shape.length === 4 && co === wo &&
        sameShape(windows(size, [kh, kw], moves), [oh, ow]),
      () =>
        `A convolution backwards from ${show(y.shape)} by a weight ${show(weight.shape)} to ${
          show(size)
        } is not defined`,
    );
    return f32([n, ...size, ci]);
  },
  conv2dWeight: ([x, y], { kernel, upsample, ...moves }) => {
    const [n, h, w, ci] = x.shape;
    const [yn, oh, ow, co] = y.shape;
    need(
      x.shape.length === 4 && y.shape.length === 4 && n === yn &&
        sameShape(windows([h * upsample, w * upsample], kernel, moves), [oh, ow]),
      () =>
        `The weight ${show(kernel)} of a convolution of ${show(x.shape)} to ${
          show(y.shape)
        } is not defined`,
    );
    return f32([co, ...kernel, ci]);
  },
  attention: ([q, k, v], { heads }) => {
    const [n, t, all, d] = q.shape;
    const { count, first } = heads ?? { count: all, first: [0, 0, 0] };
    const fits = [q, k, v].every(({ shape }, i) =>
      shape.length === 4 && shape[0] === n && shape[3] === d &&
      (heads ? first[i] >= 0 && first[i] + count <= shape[2] : shape[2] === count) &&
      (i === 0 || shape[1] === k.shape[1])
    );
    need(fits, () => {
      const part = heads ? ` with ${count} heads from ${show(first)} on` : "";
      return `Attention of ${show(q.shape)}, ${show(k.shape)}, ${
        show(v.shape)
      }${part} is not defined`;
    });
    return f32([n, t, count, d]);
  },
  attentionLogSum: ([q, k]) => {
    const [n, t, heads, d] = q.shape;
    need(
      q.shape.length === 4 && sameShape(k.shape, [n, k.shape[1], heads, d]),
      () => `Attention of ${show(q.shape)} to ${show(k.shape)} is not defined`,
    );
    return f32([n, t, heads, 1]);
  },
  attentionGradient: ([q, k, v, dy, logSum, along], { of }) => {
    const [n, t, heads, d] = q.shape;
    const each = [n, t, heads, 1];
    const fits = q.shape.length === 4 && sameShape(k.shape, [n, k.shape[1], heads, d]) &&
      sameShape(v.shape, k.shape) && sameShape(dy.shape, q.shape) &&
      sameShape(logSum.shape, each) && sameShape(along.shape, each);
    need(fits, () => `The gradient of attention of ${show(q.shape)} has misfit operands`);
    return f32({ q, k, v }[of].shape);
  },

  groupMoments: ([x], { groups }) => {
    const c = last(x.shape);
    need(
      x.shape.length >= 2 && c % groups === 0,
      () => `${c} channels do not divide into ${groups} groups`,
    );
    return f32([x.shape[0], groups, 2]);
  },
  groupNormalize: ([x, moments, weight, bias, ...operands], { groups }) => {
    const c = last(x.shape);
    const fits = c % groups === 0 && sizeOf(moments.shape) === x.shape[0] * groups * 2 &&
      sizeOf(weight.shape) === c && sizeOf(bias.shape) === c;
    need(fits, () => `A group norm of ${show(x.shape)} in ${groups} groups has misfit operands`);
    return withOperands(f32(x.shape), operands);
  },
  layerNorm: ([x, weight, bias, ...operands]) => {
    const c = last(x.shape);
    need(
      sizeOf(weight.shape) === c && sizeOf(bias.shape) === c,
      () => `A layer norm of ${show(x.shape)} has a weight of shape ${show(weight.shape)}`,
    );
    return withOperands(f32(x.shape), operands);
  },
  groupSums: ([x, moments, dy], { groups }) => {
    const [n, c] = [x.shape[0], last(x.shape)];
    const fits = c % groups === 0 && sizeOf(moments.shape) === n * groups * 2 &&
      sameShape(dy.shape, x.shape);
    need(fits, () => `The gradient of a group norm of ${show(x.shape)} has misfit operands`);
    return f32([2, n, c]);
  },
  layerNormGradient: ([x, weight, dy]) => {
    const fits = sizeOf(weight.shape) === last(x.shape) && sameShape(dy.shape, x.shape);
    need(fits, () => `The gradient of a layer norm of ${show(x.shape)} has misfit operands`);
    return f32(x.shape);
  },
  softmax: same,

  reshape: ([x], { shape }) => {
    need(
      sizeOf(shape) === sizeOf(x.shape),
      () => `${show(x.shape)} cannot be reshaped to ${show(shape)}`,
    );
    return { shape, dtype: x.dtype };
  },
  transpose: ([x], { order }) => {
    need(
      order.length === x.shape.length && order.every((_, i) => order.includes(i)),
      () => `${show(order)} is not an order of the axes of ${show(x.shape)}`,
    );
    return { shape: order.map((i) => x.shape[i]), dtype: x.dtype };
  },
  broadcast: ([x], { shape }) => {
    const both = broadcastShapes(x.shape, shape);
    need(
      both !== undefined && sizeOf(both) === sizeOf(shape),
      () => `${show(x.shape)} does not broadcast to ${show(shape)}`,
    );
    return { shape, dtype: x.dtype };
  },
  slice: ([x], { begin, end }) => {
    const fits = begin.length === x.shape.length && end.length === x.shape.length &&
      x.shape.every((n, i) => begin[i] >= 0 && begin[i] < end[i] && end[i] <= n);
    need(fits, () => `${show(begin)} … ${show(end)} is not a part of ${show(x.shape)}`);
    return { shape: begin.map((b, i) => end[i] - b), dtype: x.dtype };
  },
  concat: (inputs, { axis }) => {
    const [first, ...rest] = inputs;
    const fits = first !== undefined &&
      rest.every(({ shape }) =>
        shape.length === first.shape.length &&
        shape.every((n, i) => i === axis || n === first.shape[i])
      );
    need(
      fits,
      () => `${inputs.map((x) => show(x.shape)).join(", ")} do not concatenate on axis ${axis}`,
    );
    const total = inputs.reduce((sum, { shape }) => sum + shape[axis], 0);
    return { shape: first.shape.map((n, i) => i === axis ? total : n), dtype: first.dtype };
  },
  pad: ([x], { before, after }) => {
    need(
      before.length === x.shape.length && after.length === x.shape.length,
      () => `Padding needs two numbers for each axis of ${show(x.shape)}`,
    );
    return { shape: x.shape.map((n, i) => n + before[i] + after[i]), dtype: x.dtype };
  },
  upsample: ([x], { factor }) => {
    const [n, h, w, c] = x.shape;
    need(x.shape.length === 4, () => `Upsampling needs [n, h, w, c], not ${show(x.shape)}`);
    return { shape: [n, h * factor, w * factor, c], dtype: x.dtype };
  },
  gather: ([table, ids]) => {
    need(
      table.shape.length === 2 && ids.dtype === "i32",
      () => `A lookup in ${show(table.shape)} by ${ids.dtype} numbers is not defined`,
    );
    return { shape: [...ids.shape, table.shape[1]], dtype: table.dtype };
  },
  scatterAdd: ([x, ids], { rows }) => {
    need(
      ids.dtype === "i32" && sameShape(x.shape.slice(0, -1), ids.shape) && rows > 0,
      () => `Rows of ${show(x.shape)} cannot be added up by ${show(ids.shape)} numbers`,
    );
    return { shape: [rows, last(x.shape)], dtype: x.dtype };
  },
};
