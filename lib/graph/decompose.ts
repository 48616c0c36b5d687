/**
 * What every fused operator means, in small ones: leaves, elementwise, sum, maximum, matmul, conv2d, moves and gather.
 * The meaning is the oracle that kernels are tested against and the gradient of last resort.
 */

import { type Shape, show } from "../base/shape.ts";
import { BINARY, type BinaryOp, type Expression, UNARY, type UnaryOp } from "./expression.ts";
import { BASE_INPUTS, type EpilogueOp, type OpName, type View } from "./ops.ts";
import { rebuild } from "./rewrite.ts";
import type { Graph, Tensor, TensorOf } from "./tensor.ts";
import { isWhole } from "./view.ts";

/** The outputs in a fresh graph of small operators only. Throws `RangeError` for a map over overlapping windows. */
export function decompose(outputs: readonly Tensor[]): Tensor[] {
  return rebuild(outputs, (node) => meaningOf(node) ?? node);
}

/** The most negative f32: its exponential is 0 beside any other. */
const LOWEST = -3.4028234663852886e38;

type Meaning<K extends OpName> = (node: TensorOf<K>) => Tensor;

/** The meaning of each operator, `null` for the small ones. */
const MEANINGS: { readonly [K in OpName]: Meaning<K> | null } = {
  parameter: null,
  input: null,
  constant: null,

  neg: null,
  abs: null,
  exp: null,
  log: null,
  sqrt: null,
  sin: null,
  cos: null,
  tanh: null,
  erf: null,
  sigmoid: null,
  add: null,
  sub: null,
  mul: null,
  div: null,
  max: null,
  min: null,
  less: null,
  select: null,
  detach: ({ inputs: [x] }) => x,
  map: ({ inputs, attrs: { shape, body, views }, graph }) =>
    written(body, inputs.map((x, i) => viewed(x, shape, views[i])), graph).broadcast(shape),

  sum: null,
  maximum: null,

  matmul: (node) => {
    const [a, b] = node.inputs;
    return finished(node, a.matmul(b, node.attrs));
  },
  conv2d: (node) => {
    const [x, weight] = node.inputs;
    const { stride, padding, upsample } = node.attrs;
    const enlarged = upsample === 1 ? x : x.upsample(upsample);
    return finished(node, enlarged.conv2d(weight, { stride, padding }));
  },
  conv2dTranspose: ({ inputs: [y, weight], attrs: { size: [h, w], stride, padding } }) => {
    // A convolution of y, whose elements lie `stride` apart, by the weight turned around.
    const [co, kh, kw, ci] = weight.shape;
    const [before, left] = [kh - 1 - padding.top, kw - 1 - padding.left];
    const framed = framedTo(apart(y, stride), [before, left], [h + kh - 1, w + kw - 1]);
    const taps = weight.reshape([co, kh * kw, ci]);
    const turned = Array.from({ length: kh * kw }, (_, i) => taps.slice(1, i, i + 1)).reverse();
    const swapped = y.graph.concat(turned, 1).reshape(weight.shape).transpose([3, 1, 2, 0]);
    return framed.conv2d(swapped, { stride: 1, padding: NO_PADDING });
  },
  conv2dWeight: ({ inputs: [x, y], attrs: { kernel: [kh, kw], stride, padding, upsample } }) => {
    // A convolution of x by y, whose elements lie `stride` apart: pictures take the place of channels.
    const enlarged = (upsample === 1 ? x : x.upsample(upsample)).transpose([3, 1, 2, 0]);
    const places = apart(y, stride);
    const [, h, w] = places.shape;
    const [before, left] = [padding.top, padding.left];
    return framedTo(enlarged, [before, left], [h + kh - 1, w + kw - 1])
      .conv2d(places.transpose([3, 1, 2, 0]), { stride: 1, padding: NO_PADDING }) // [ci, kh, kw, co]
      .transpose([3, 1, 2, 0]);
  },
  attention: (node) => {
    const [q, k, v] = attended(node).map(byHead); // [n, heads, ·, d]
    return byHead(softmaxOf(scoresOf(q, k, node.attrs)).matmul(v, { transposeB: false }));
  },
  attentionLogSum: ({ inputs: [q, k], attrs }) => {
    const scores = scoresOf(byHead(q), byHead(k), attrs);
    const top = scores.maximum([-1]);
    return byHead(scores.sub(top).exp().sum([-1]).log().add(top));
  },
  attentionGradient: ({ inputs, attrs }) => {
    const [q, k, v, dy, logSum, along] = inputs.map(byHead);
    const weights = scoresOf(q, k, attrs).sub(logSum).exp(); // [n, heads, t, s]
    const dScores = () =>
      weights.mul(dy.matmul(v, { transposeB: true }).sub(along)).mul(attrs.scale);
    const product = { // of a matrix and what its columns, or its rows, are weights of
      q: () => dScores().matmul(k, { transposeB: false }),
      k: () => dScores().transpose([0, 1, 3, 2]).matmul(q, { transposeB: false }),
      v: () => weights.transpose([0, 1, 3, 2]).matmul(dy, { transposeB: false }),
    }[attrs.of];
    return byHead(product());
  },

  groupMoments: ({ inputs: [x], attrs: { groups }, graph }) => {
    const [n, c] = [x.shape[0], x.shape[x.rank - 1]];
    const grouped = x.reshape([n, x.size / n / c, groups, c / groups]);
    const moments = momentsOf(grouped, [1, 3]); // [n, 1, groups, 1] each
    return graph.concat(moments, 3).reshape([n, groups, 2]);
  },
  groupNormalize: (node) => {
    const [x, moments, weight, bias] = node.inputs;
    const { groups, eps } = node.attrs;
    const [n, c] = [x.shape[0], x.shape[x.rank - 1]];
    const each = moments.reshape([n, 1, groups, 2]);
    const [mean, variance] = [each.slice(3, 0, 1), each.slice(3, 1, 2)]; // [n, 1, groups, 1]
    const y = x.reshape([n, x.size / n / c, groups, c / groups])
      .sub(mean).div(variance.add(eps).sqrt()).reshape(x.shape);
    return finished(node, y.mul(weight.reshape([c])).add(bias.reshape([c])));
  },
  layerNorm: (node) => {
    const [x, weight, bias] = node.inputs;
    const [mean, variance] = momentsOf(x, [-1]);
    const y = x.sub(mean).div(variance.add(node.attrs.eps).sqrt());
    const c = x.shape[x.rank - 1];
    return finished(node, y.mul(weight.reshape([c])).add(bias.reshape([c])));
  },
  groupSums: ({ inputs: [x, moments, dy], attrs: { groups, eps }, graph }) => {
    const [n, c] = [x.shape[0], x.shape[x.rank - 1]];
    const rows = [n, x.size / n / c, c];
    const bare = x.groupNormalize(moments, graph.constant(1, [c]), graph.constant(0, [c]), {
      groups,
      eps,
    });
    const change = dy.reshape(rows);
    const both = [change, change.mul((meaningOf(bare) ?? bare).reshape(rows))];
    return graph.concat(both.map((each) => each.sum([1]).reshape([1, n, c])), 0);
  },
  layerNormGradient: ({ inputs: [x, weight, dy], attrs: { eps } }) => {
    const [mean, variance] = momentsOf(x, [-1]);
    const scale = x.graph.constant(1).div(variance.add(eps).sqrt());
    const normal = x.sub(mean).mul(scale);
    const change = dy.mul(weight.reshape([x.shape[x.rank - 1]]));
    const along = normal.mul(change.mul(normal).mean([-1]));
    return change.sub(change.mean([-1])).sub(along).mul(scale);
  },
  softmax: ({ inputs: [x] }) => softmaxOf(x),

  reshape: null,
  transpose: null,
  broadcast: null,
  slice: null,
  concat: null,
  pad: null,
  upsample: null,
  gather: null,
  scatterAdd: null,
};

/** What a node computes, in its own graph; nothing where it is a small operator. */
export function meaningOf<K extends OpName>(node: TensorOf<K>): Tensor | undefined {
  return MEANINGS[node.op]?.(node);
}

/** The operands of an attention [n, ·, heads, d], without the heads that it does not read. */
export function attended({ inputs, attrs: { heads } }: TensorOf<"attention">): readonly Tensor[] {
  if (!heads) return inputs;
  return inputs.map((x, i) => x.slice(2, heads.first[i], heads.first[i] + heads.count));
}

const NO_PADDING = { top: 0, bottom: 0, left: 0, right: 0 };

/** The pixels of [n, h, w, c] with stride − 1 zeros between them. */
function apart(x: Tensor, stride: number): Tensor {
  if (stride === 1) return x;
  const [n, h, w, c] = x.shape;
  const [before, after] = [[0, 0, 0, 0, 0, 0], [0, 0, stride - 1, 0, stride - 1, 0]];
  return x.reshape([n, h, 1, w, 1, c]).pad(before, after).reshape([n, h * stride, w * stride, c])
    .slice(1, 0, (h - 1) * stride + 1).slice(2, 0, (w - 1) * stride + 1);
}

/** A picture of `size` that has pixel (0, 0) of x at (top, left); what is outside is cut off, or zero. */
function framedTo(
  x: Tensor,
  [top, left]: readonly [number, number],
  [height, width]: readonly [number, number],
): Tensor {
  const axis = (x: Tensor, i: number, before: number, length: number) => {
    const [from, to] = [Math.max(0, -before), Math.min(x.shape[i], length - before)];
    const pad = (count: number) => x.shape.map((_, j) => j === i ? count : 0);
    return x.slice(i, from, to).pad(pad(Math.max(0, before)), pad(length - before - to));
  };
  return axis(axis(x, 1, top, height), 2, left, width);
}

/** [n, t, heads, d] ↔ [n, heads, t, d] */
function byHead(x: Tensor): Tensor {
  return x.transpose([0, 2, 1, 3]);
}

/** scale · q kᵀ [n, heads, t, s], where causal with the lowest number for keys after the query. */
function scoresOf(
  q: Tensor,
  k: Tensor,
  { scale, causal }: { readonly scale: number; readonly causal: boolean },
): Tensor {
  const [t, s] = [q.shape[2], k.shape[2]];
  const scores = q.matmul(k, { transposeB: true }).mul(scale);
  if (!causal) return scores;
  const seen = Array.from({ length: t * s }, (_, i) => i % s <= Math.floor(i / s) ? 1 : 0);
  return q.graph.constant(seen, [t, s]).select(scores, LOWEST);
}

/** Over the last axis; the largest is subtracted first, so that no exponential overflows. */
function softmaxOf(x: Tensor): Tensor {
  const e = x.sub(x.maximum([-1])).exp();
  return e.div(e.sum([-1]));
}

/** Mean, and mean square of the distances from it. */
function momentsOf(x: Tensor, axes: readonly number[]): [mean: Tensor, variance: Tensor] {
  const mean = x.mean(axes);
  const centred = x.sub(mean);
  return [mean, centred.mul(centred).mean(axes)];
}

/** A bare result with the node's epilogue written out. */
function finished(node: TensorOf<EpilogueOp>, bare: Tensor): Tensor {
  const { epilogue } = node.attrs;
  if (!epilogue) return bare;
  const operands: readonly Tensor[] = node.inputs;
  const all = [bare, ...operands.slice(BASE_INPUTS[node.op])];
  return written(epilogue.body, all, node.graph).broadcast(bare.shape);
}

const isUnary = (op: string): op is UnaryOp => UNARY.some((known) => known === op);
const isBinary = (op: string): op is BinaryOp => BINARY.some((known) => known === op);

/** A body as elementwise nodes. */
function written(body: Expression, operands: readonly Tensor[], graph: Graph): Tensor {
  if (typeof body === "number") return graph.constant(body);
  if ("input" in body) return operands[body.input];
  const { op } = body;
  const [a, b, c] = body.args.map((arg) => written(arg, operands, graph));
  if (isUnary(op)) return graph.node(op, [a], {});
  if (isBinary(op)) return graph.node(op, [a, b], {});
  return graph.node(op, [a, b, c], {});
}

/**
 * What a view reads, by moves: the axes it walks are nested from the longest stride to the shortest, each is cut
 * out of the one before, then they are brought into order and spread.
 */
function viewed(x: Tensor, shape: Shape, view: View): Tensor {
  if (isWhole(view, shape, x.size)) return x.reshape(shape);
  const { offset, strides } = view;
  const walked = shape.map((_, axis) => axis)
    .filter((axis) => shape[axis] > 1 && strides[axis] > 0)
    .sort((a, b) => strides[b] - strides[a]);
  let part = x.reshape([1, x.size]).slice(1, offset, x.size);
  for (const axis of walked) {
    const [before, inside] = part.shape; // blocks so far, elements in each
    const [count, stride] = [shape[axis], strides[axis]];
    if ((count - 1) * stride >= inside) {
      throw new RangeError(`A view of ${show(x.shape)} over ${show(shape)} overlaps itself`);
    }
    const needed = count * stride;
    part = part.slice(1, 0, Math.min(needed, inside))
      .pad([0, 0], [0, Math.max(0, needed - inside)])
      .reshape([before * count, stride]);
  }
  const lengths = walked.map((axis) => shape[axis]);
  const nested = part.slice(1, 0, 1).reshape(lengths);
  const order = walked.map((_, i) => i).sort((a, b) => walked[a] - walked[b]);
  const kept = shape.map((n, axis) => walked.includes(axis) ? n : 1);
  return nested.transpose(order).reshape(kept).broadcast(shape);
}
