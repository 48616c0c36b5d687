/**
 * Reverse-mode differentiation: a table with one row for each operator, whose right-hand sides build graph, so that the
 * graph is the tape (as in tinygrad). A row gives the cotangents of a node's inputs from the node's own: what they add to
 * the change of the loss. It ignores broadcasting; cotangents are summed back to the inputs' shapes in one place.
 */

import { sameShape, type Shape, show } from "../base/shape.ts";
import { attended, meaningOf } from "./decompose.ts";
import type { InputsOf, OpName } from "./ops.ts";
import { reachable } from "./rewrite.ts";
import type { Tensor, TensorOf } from "./tensor.ts";

/**
 * Gradient of `loss`, a tensor of one element, by each of `wrt`, parameters or any others: tensors of the same shapes, zeros
 * where the loss does not depend on one. Nothing passes `detach`. Where `max` or `min` compare equals the second operand
 * has the gradient, so that relu has none at 0. Throws `RangeError` where the loss has several elements or a tensor does
 * not hold f32.
 */
export function gradients(loss: Tensor, wrt: readonly Tensor[]): Tensor[] {
  if (loss.size !== 1) {
    throw new RangeError(
      `Cannot differentiate a loss of shape ${show(loss.shape)}: one number is needed`,
    );
  }
  return pullback([loss], [loss.graph.constant(1, loss.shape)], wrt);
}

/**
 * Vector-Jacobian product: gradient of Σ outputsᵢ · cotangentsᵢ by each of `wrt`, with the cotangents held fixed.
 * Throws as `gradients` does.
 */
export function pullback(
  outputs: readonly Tensor[],
  cotangents: readonly Tensor[],
  wrt: readonly Tensor[],
): Tensor[] {
  const whole = wrt.find(({ dtype }) => dtype !== "f32");
  if (whole) {
    throw new RangeError(
      `Cannot differentiate by %${whole.id} (${whole.op}): it holds ${whole.dtype}`,
    );
  }
  const found = accumulate(outputs, cotangents, new Set(wrt), "through");
  return wrt.map((x) => found.get(x) ?? x.graph.constant(0, x.shape));
}

/**
 * Cotangents of those of `wrt` that the outputs depend on. `through`: what lies behind one of `wrt` counts for others too;
 * `upTo`: each is a leaf.
 */
function accumulate(
  outputs: readonly Tensor[],
  given: readonly Tensor[],
  wrt: ReadonlySet<Tensor>,
  reach: "through" | "upTo",
): ReadonlyMap<Tensor, Tensor> {
  const nodes = reachable(outputs);
  const isLeaf = (node: Tensor) => reach === "upTo" && wrt.has(node);
  const depends = new Set<Tensor>();
  for (const node of nodes) {
    if (wrt.has(node) || (!isLeaf(node) && node.inputs.some((x) => depends.has(x)))) {
      depends.add(node);
    }
  }
  const cotangents = new Map<Tensor, Tensor>();
  const add = (x: Tensor, cotangent: Tensor) => {
    const known = cotangents.get(x);
    const summed = summedTo(x.shape, cotangent);
    cotangents.set(x, known ? known.add(summed) : summed);
  };
  outputs.forEach((output, i) => add(output, given[i]));
  for (const node of nodes.reverse()) {
    const dy = cotangents.get(node);
    if (!dy || !depends.has(node) || isLeaf(node)) continue;
    const { graph } = node;
    const parts = graph.within(graph.scopeOf(node), () => cotangentsOf(node, dy));
    node.inputs.forEach((x, i) => {
      const part = parts[i];
      if (part && depends.has(x)) add(x, part);
    });
  }
  return cotangents;
}

/** The transpose of broadcasting. */
function summedTo(shape: Shape, x: Tensor): Tensor {
  if (sameShape(shape, x.shape)) return x;
  const missing = x.rank - shape.length;
  const axes = x.shape.flatMap((n, i) =>
    i < missing || (n > 1 && shape[i - missing] === 1) ? [i] : []
  );
  return (axes.length === 0 ? x : x.sum(axes)).reshape(shape);
}

/** One for each input; `null` where it has no gradient. */
type Cotangents<K extends OpName> = InputsOf<K, Tensor | null>;
type Vjp<K extends OpName> = (dy: Tensor, node: TensorOf<K>) => Cotangents<K>;

const leaf = (): readonly [] => [];

/** The transpose of an order. */
const inverse = (order: readonly number[]) => order.map((_, axis) => order.indexOf(axis));

/** A cotangent for the one of two operands that was taken. */
const chosen = (first: Tensor, dy: Tensor): [Tensor, Tensor] => [
  first.select(dy, 0),
  first.select(0, dy),
];

/** The transpose of nearest-neighbour enlargement: sums over the copies of each pixel of [n, h, w, c]. */
function shrunk(x: Tensor, shape: Shape, factor: number): Tensor {
  const [n, h, w, c] = shape;
  return x.reshape([n, h, factor, w, factor, c]).sum([2, 4]).reshape(shape);
}

/** aᵀ · b over all rows of [rows, n] and [rows, k]: the gradient of a 1×1 convolution by its weight; in batches where they have some. */
function productOfColumns(a: Tensor, b: Tensor, batched: boolean): Tensor {
  if (batched) {
    const order = a.shape.map((_, i) => i < a.rank - 2 ? i : 2 * a.rank - 3 - i);
    return a.transpose(order).matmul(b, { transposeB: false });
  }
  const pixels = (x: Tensor) => {
    const c = x.shape[x.rank - 1];
    return x.reshape([1, 1, x.size / c, c]);
  };
  const padding = { top: 0, bottom: 0, left: 0, right: 0 };
  return pixels(b).conv2dWeight(pixels(a), { kernel: [1, 1], stride: 1, padding, upsample: 1 });
}

/** What a norm over groups of channels is computed with. */
interface Groups {
  /** [n, pixels, channels] */
  readonly shape: Shape;
  readonly mean: Tensor; // [n, groups, 1]
  readonly variance: Tensor;
  /** One number of each group for each of its channels: [n, groups, 1] → [n, 1, channels]. */
  readonly spread: (each: Tensor) => Tensor;
}

function groupsOf(x: Tensor, moments: Tensor, groups: number): Groups {
  const [n, c] = [x.shape[0], x.shape[x.rank - 1]];
  const within = [n, groups, c / groups];
  return {
    shape: [n, x.size / n / c, c],
    mean: moments.slice(2, 0, 1),
    variance: moments.slice(2, 1, 2),
    spread: (each) => each.broadcast(within).reshape([n, 1, c]),
  };
}

/**
 * The rule of each operator; `"by its meaning"`: that of the small operators that stand for it (decompose.ts), as for any
 * node that has an epilogue.
 */
const VJP: { readonly [K in OpName]: Vjp<K> | "by its meaning" } = {
  parameter: leaf,
  input: leaf,
  constant: leaf,

  neg: (dy) => [dy.neg()],
  abs: (
    dy,
    { inputs: [x] },
  ) => [x.graph.constant(0).less(x).select(dy, x.less(0).select(dy.neg(), 0))],
  exp: (dy, y) => [dy.mul(y)],
  log: (dy, { inputs: [x] }) => [dy.div(x)],
  sqrt: (dy, y) => [dy.div(y).mul(0.5)],
  sin: (dy, { inputs: [x] }) => [dy.mul(x.cos())],
  cos: (dy, { inputs: [x] }) => [dy.mul(x.sin()).neg()],
  tanh: (dy, y) => [dy.mul(y.graph.constant(1).sub(y.mul(y)))],
  erf: (dy, { inputs: [x] }) => [dy.mul(x.mul(x).neg().exp()).mul(2 / Math.sqrt(Math.PI))],
  sigmoid: (dy, y) => [dy.mul(y).mul(y.graph.constant(1).sub(y))],
  add: (dy) => [dy, dy],
  sub: (dy) => [dy, dy.neg()],
  mul: (dy, { inputs: [a, b] }) => [dy.mul(b), dy.mul(a)],
  div: (dy, y) => [dy.div(y.inputs[1]), dy.mul(y).div(y.inputs[1]).neg()],
  max: (dy, { inputs: [a, b] }) => chosen(b.less(a), dy),
  min: (dy, { inputs: [a, b] }) => chosen(a.less(b), dy),
  less: () => [null, null],
  select: (dy, { inputs: [condition] }) => [null, ...chosen(condition, dy)],
  detach: () => [null],
  map: "by its meaning",

  sum: (dy, { inputs: [x] }) => [dy.broadcast(x.shape)],
  maximum: (dy, y) => {
    const [x] = y.inputs;
    const largest = x.less(y).select(0, 1); // several where equals are
    return [largest.mul(dy.div(largest.sum(y.attrs.axes)))];
  },

  matmul: (dy, { inputs: [a, b], attrs: { transposeB } }) => {
    const da = dy.matmul(b, { transposeB: !transposeB });
    const [left, right] = transposeB ? [dy, a] : [a, dy];
    return [da, productOfColumns(left, right, b.rank > 2).reshape(b.shape)];
  },
  conv2d: (dy, { inputs: [x, weight], attrs: { stride, padding, upsample } }) => {
    const [, h, w] = x.shape;
    const size = [h * upsample, w * upsample] as const;
    const [, kh, kw] = weight.shape;
    const dx = dy.conv2dTranspose(weight, { size, stride, padding });
    return [
      shrunk(dx, x.shape, upsample),
      x.conv2dWeight(dy, { kernel: [kh, kw], stride, padding, upsample }),
    ];
  },
  conv2dTranspose: (dx, { inputs: [y, weight], attrs: { stride, padding } }) => {
    const [, kh, kw] = weight.shape;
    return [
      dx.conv2d(weight, { stride, padding }),
      dx.conv2dWeight(y, { kernel: [kh, kw], stride, padding, upsample: 1 }),
    ];
  },
  conv2dWeight: (dw, { graph, inputs: [x, y], attrs: { stride, padding, upsample } }) => {
    const [, h, w] = x.shape;
    const size = [h * upsample, w * upsample] as const;
    const dx = y.conv2dTranspose(dw, { size, stride, padding });
    return [
      shrunk(dx, x.shape, upsample),
      graph.node("conv2d", [x, dw], { stride, padding, upsample }),
    ];
  },
  attention: (dy, y) => {
    const { scale, causal, heads } = y.attrs;
    const [q, k, v] = attended(y);
    const logSum = y.graph.node("attentionLogSum", [q, k], { scale, causal });
    const along = dy.mul(y).sum([-1]);
    const by = (of: "q" | "k" | "v", i: number) => {
      const inputs = [q, k, v, dy, logSum, along] as const;
      const found = y.graph.node("attentionGradient", inputs, { of, scale, causal });
      if (!heads) return found;
      const before = heads.first[i];
      const after = y.inputs[i].shape[2] - before - heads.count;
      return found.pad([0, 0, before, 0], [0, 0, after, 0]);
    };
    return [by("q", 0), by("k", 1), by("v", 2)];
  },
  attentionLogSum: "by its meaning",
  attentionGradient: "by its meaning",

  groupMoments: (dy, y) => {
    const [x] = y.inputs;
    const { shape, mean, spread } = groupsOf(x, y, y.attrs.groups);
    const count = x.size / mean.size;
    const [byMean, byVariance] = [dy.slice(2, 0, 1).div(count), dy.slice(2, 1, 2).mul(2 / count)];
    const distance = x.reshape(shape).sub(spread(mean));
    return [distance.mul(spread(byVariance)).add(spread(byMean)).reshape(x.shape)];
  },
  groupNormalize: (dy, { inputs: [x, moments, weight, bias], attrs: { groups, eps }, graph }) => {
    const { shape, variance, spread } = groupsOf(x, moments, groups);
    const [n, , c] = shape;
    const each = weight.reshape([1, 1, c]);
    const sums = graph.node("groupSums", [x, moments, dy], { groups, eps }); // [2, n, c]
    const byChannel = sums.sum([1]);
    const byGroup = sums.mul(each).reshape([2, n, groups, c / groups]).sum([3]);
    const scale = graph.constant(1).div(variance.add(eps).sqrt());
    // By the mean: −scale · the first sum; by the variance: −½ · scale² · the second.
    const [first, second] = [graph.constant([-1, 0], [2]), graph.constant([0, -0.5], [2])];
    return [
      dy.reshape(shape).mul(spread(scale).mul(each)).reshape(x.shape),
      byGroup.reshape([2, n, groups]).transpose([1, 2, 0])
        .mul(scale.mul(first.add(scale.mul(second)))).reshape(moments.shape),
      byChannel.slice(0, 1, 2).reshape(weight.shape),
      byChannel.slice(0, 0, 1).reshape(bias.shape),
    ];
  },
  groupSums: "by its meaning",
  layerNorm: (dy, { inputs: [x, weight, bias], attrs: { eps }, graph }) => {
    const c = x.shape[x.rank - 1];
    const rows = [1, x.size / c, c];
    const normal = x.layerNorm(graph.constant(1, [c]), graph.constant(0, [c]), { eps });
    const standard = graph.constant([0, 1], [1, 1, 2]); // moments
    const sums = graph.node("groupSums", [normal.reshape(rows), standard, dy.reshape(rows)], {
      groups: 1,
      eps: 0,
    }); // [2, 1, c]
    return [
      graph.node("layerNormGradient", [x, weight, dy], { eps }),
      sums.slice(0, 1, 2).reshape(weight.shape),
      sums.slice(0, 0, 1).reshape(bias.shape),
    ];
  },
  layerNormGradient: "by its meaning",
  softmax: (dy, y) => {
    const weighted = dy.mul(y);
    return [weighted.sub(y.mul(weighted.sum([-1])))];
  },

  reshape: (dy, { inputs: [x] }) => [dy.reshape(x.shape)],
  transpose: (dy, { attrs: { order } }) => [dy.transpose(inverse(order))],
  broadcast: (dy) => [dy],
  slice: (dy, { inputs: [x], attrs: { begin, end } }) => [
    dy.pad(begin, end.map((n, i) => x.shape[i] - n)),
  ],
  concat: (dy, { inputs, attrs: { axis } }) => {
    let begin = 0;
    return inputs.map((x) => dy.slice(axis, begin, begin += x.shape[axis]));
  },
  pad: (dy, { inputs: [x], attrs: { before }, graph }) => [
    graph.node("slice", [dy], { begin: before, end: before.map((n, i) => n + x.shape[i]) }),
  ],
  upsample: (dy, { inputs: [x], attrs: { factor } }) => [shrunk(dy, x.shape, factor)],
  gather: (dy, { inputs: [table, ids] }) => [dy.scatterAdd(ids, table.shape[0]), null],
  scatterAdd: (dy, { inputs: [, ids] }) => [dy.gather(ids), null],
};

/** Cotangents of a node's inputs by its row, or through what it means. */
function cotangentsOf<K extends OpName>(
  node: TensorOf<K>,
  dy: Tensor,
): readonly (Tensor | null)[] {
  const rule = VJP[node.op];
  if (rule !== "by its meaning" && !("epilogue" in node.attrs)) return rule(dy, node);
  const meaning = meaningOf(node);
  if (!meaning) throw new TypeError(`"${node.op}" has neither a gradient nor a meaning`);
  const inputs: readonly Tensor[] = node.inputs;
  const found = accumulate([meaning], [dy], new Set(inputs), "upTo");
  return inputs.map((x, i) => inputs.indexOf(x) === i ? found.get(x) ?? null : null);
}
