/**
 * What has no kernel of its own, as operators that have: attention with heads too wide for registers, and its gradient,
 * become blocks of query rows, each product → softmax → product, so that scores never take more than a block's rows at a
 * time. Heads that are not whole vec4s are padded with zeros, which change no score.
 */

import { attended } from "../graph/decompose.ts";
import type { Expression } from "../graph/expression.ts";
import { rebuild } from "../graph/rewrite.ts";
import type { Tensor } from "../graph/tensor.ts";
import { broadcastView, sliceView, wholeView } from "../graph/view.ts";
import type { NodeOf } from "./kernel.ts";

/** The widest head that the attention kernel holds in registers. */
export const WIDEST_HEAD = 160;

/** The same of its gradient, which holds more: beyond this an invocation has one row, and products are faster. */
const WIDEST_DIFFERENTIATED = 80;

/** Most bytes of scores that exist at once, unless a test says otherwise. */
const SCORE_BYTES = 32 * 2 ** 20;

type Attention = NodeOf<"attention">;
type Gradient = NodeOf<"attentionGradient"> | NodeOf<"attentionLogSum">;

/** The outputs with every node that no kernel computes replaced. */
export function lower(outputs: readonly Tensor[], scoreBytes = SCORE_BYTES): Tensor[] {
  return rebuild(outputs, (node) => {
    if (node.op === "attention") {
      return node.shape[3] % 4 === 0 ? inRegisters(node, scoreBytes) : padded(node, scoreBytes);
    }
    if (!isGradient(node)) return node;
    return node.inputs[0].shape[3] % 4 === 0
      ? differentiated(node, scoreBytes)
      : paddedGradient(node, scoreBytes);
  });
}

/** Attention as it is where its heads fit registers. */
function inRegisters(node: Tensor, scoreBytes: number): Tensor {
  const isWide = node.op === "attention" && node.shape[3] > WIDEST_HEAD;
  return isWide ? inQueryBlocks(node, scoreBytes) : node;
}

/** Attention with heads padded to a multiple of four channels. */
function padded(node: Attention, scoreBytes: number): Tensor {
  const { scale, causal } = node.attrs;
  const [q, k, v] = attended(node).map((x) => x.pad([0, 0, 0, 0], [0, 0, 0, 4 - x.shape[3] % 4]));
  return inRegisters(q.attention(k, v, { scale, causal }), scoreBytes).slice(3, 0, node.shape[3]);
}

/** The same of its gradient, and of the sums that this needs. */
function paddedGradient(node: Gradient, scoreBytes: number): Tensor {
  const d = node.inputs[0].shape[3];
  const inputs: readonly Tensor[] = node.inputs;
  const wide = inputs.map((x, i) => i < HEADED ? x.pad([0, 0, 0, 0], [0, 0, 0, 4 - d % 4]) : x);
  const found = node.graph.copy<"attentionGradient" | "attentionLogSum">(node, wide);
  const made = isGradient(found) ? differentiated(found, scoreBytes) : found;
  return node.op === "attentionLogSum" ? made : made.slice(3, 0, d);
}

/** Inputs of a gradient of attention that have heads: q, k, v and dy. */
const HEADED = 4;
const isGradient = (node: Tensor): node is Gradient =>
  node.op === "attentionGradient" || node.op === "attentionLogSum";

/** A gradient of attention as it is where its heads fit registers. */
function differentiated(node: Gradient, scoreBytes: number): Tensor {
  const widest = node.attrs.causal ? WIDEST_HEAD : WIDEST_DIFFERENTIATED;
  return node.inputs[0].shape[3] > widest ? gradientInBlocks(node, scoreBytes) : node;
}

/** Blocks of query rows, so that their scores take no more than `most` bytes. */
function blocksOf(t: number, bytesOfRow: number, most: number): { begin: number; end: number }[] {
  const rows = Math.max(8, Math.floor(most / bytesOfRow / 8) * 8);
  return Array.from({ length: Math.ceil(t / rows) }, (_, i) => ({
    begin: i * rows,
    end: Math.min(t, (i + 1) * rows),
  }));
}

/** [n, rows, heads, d] → [n·heads, rows, d]; with one head nothing moves. */
function byHead(x: Tensor): Tensor {
  const [n, rows, heads, d] = x.shape;
  return (heads === 1 ? x : x.transpose([0, 2, 1, 3])).reshape([n * heads, rows, d]);
}

/** [n·heads, rows, d] → [n, rows, heads, d] */
function fromHeads(x: Tensor, n: number): Tensor {
  const [all, rows, d] = x.shape;
  const heads = all / n;
  if (heads === 1) return x.reshape([n, rows, 1, d]);
  return x.reshape([n, heads, rows, d]).transpose([0, 2, 1, 3]);
}

/** Rows begin … end − 1 of [batch, t, d], times a number, in one pass. */
function rowsOf(x: Tensor, { begin, end }: { begin: number; end: number }, scale = 1): Tensor {
  const shape = [x.shape[0], end - begin, x.shape[2]];
  return x.graph.node("map", [x], {
    shape,
    views: [sliceView(wholeView(x.shape), [0, begin, 0], shape)],
    body: scale === 1 ? { input: 0 } : { op: "mul", args: [{ input: 0 }, scale] },
  });
}

function assertNotCausal({ attrs: { causal }, inputs: [q] }: Attention | Gradient): void {
  if (!causal) return;
  throw new RangeError(
    `Causal attention with heads of ${q.shape[3]} channels is not supported`,
  );
}

/** Attention [n, t, heads, d] as products over [n·heads, t, d]. */
function inQueryBlocks(node: Attention, scoreBytes: number): Tensor {
  assertNotCausal(node);
  const [n, t, heads] = node.shape;
  const [queries, keys, values] = attended(node).map(byHead);
  const blocks = blocksOf(t, n * heads * keys.shape[1] * 4, scoreBytes).map((rows) =>
    rowsOf(queries, rows, node.attrs.scale).matmul(keys, { transposeB: true }) // [n·heads, rows, s]
      .softmax().matmul(values, { transposeB: false })
  );
  return fromHeads(node.graph.concat(blocks, 1), n);
}

/** A gradient of attention, or the logarithms of its sums, as products over [n·heads, t, d]. */
function gradientInBlocks(node: Gradient, scoreBytes: number): Tensor {
  assertNotCausal(node);
  const { graph, attrs: { scale } } = node;
  const inputs: readonly Tensor[] = node.inputs;
  const [n, t, heads] = node.inputs[0].shape;
  const [q, k, v, dy, logSum, along] = inputs.map(byHead);
  const blocks = blocksOf(t, n * heads * k.shape[1] * 4, scoreBytes).map((rows) => {
    const queries = rowsOf(q, rows, scale);
    const scores = queries.matmul(k, { transposeB: true }); // [n·heads, rows, s]
    if (node.op === "attentionLogSum") {
      const top = scores.maximum([-1]);
      return scores.sub(top).exp().sum([-1]).log().add(top);
    }
    const { of } = node.attrs;
    const dRows = rowsOf(dy, rows);
    const each = [n * heads, rows.end - rows.begin, 1];
    /** A map over scores, beside which there are numbers of each row. */
    const weighted = (body: Expression, ...more: readonly Tensor[]): Tensor => {
      const operands = [scores, logSum, ...more];
      const views = operands.map((x) => {
        if (x.shape[2] > 1 || x.size === scores.size) return wholeView(scores.shape);
        return broadcastView(
          sliceView(wholeView(x.shape), [0, rows.begin, 0], each),
          each,
          scores.shape,
        );
      });
      return graph.node("map", operands, { shape: scores.shape, views, body });
    };
    const weight: Expression = {
      op: "exp",
      args: [{ op: "sub", args: [{ input: 0 }, { input: 1 }] }],
    };
    const turned = (x: Tensor) => x.transpose([0, 2, 1]);
    if (of === "v") return turned(weighted(weight)).matmul(dRows, { transposeB: false });
    const apart: Expression = { op: "sub", args: [{ input: 2 }, { input: 3 }] };
    const dScores = weighted(
      { op: "mul", args: [weight, apart] },
      dRows.matmul(v, { transposeB: true }),
      along,
    );
    return of === "q"
      ? dScores.matmul(k, { transposeB: false })
      : turned(dScores).matmul(queries, { transposeB: false });
  });
  const bySum = node.op === "attentionGradient" && node.attrs.of !== "q";
  const all = bySum ? blocks.reduce((a, b) => a.add(b)) : graph.concat(blocks, 1);
  const found = fromHeads(all, n);
  return node.op === "attentionGradient" && node.attrs.of === "q" ? found.mul(scale) : found;
}
