/**
 * What has no kernel of its own, as operators that have: attention with heads too wide for registers becomes blocks of
 * query rows, each product → softmax → product, so that scores never take more than a block's rows at a time.
 * Heads that are not whole vec4s are padded with zeros, which change no score.
 */

import { attended } from "../graph/decompose.ts";
import { rebuild } from "../graph/rewrite.ts";
import type { Tensor } from "../graph/tensor.ts";
import { sliceView, wholeView } from "../graph/view.ts";
import type { NodeOf } from "./kernel.ts";

/** The widest head that the attention kernel holds in registers. */
export const WIDEST_HEAD = 160;

/** Most bytes of scores that exist at once. */
const SCORE_BYTES = 32 * 2 ** 20;

/** The outputs with every node that no kernel computes replaced. */
export function lower(outputs: readonly Tensor[]): Tensor[] {
  return rebuild(outputs, (node) => {
    if (node.op !== "attention") return node;
    return node.shape[3] % 4 === 0 ? inRegisters(node) : padded(node);
  });
}

/** Attention as it is where its heads fit registers. */
function inRegisters(node: Tensor): Tensor {
  return node.op === "attention" && node.shape[3] > WIDEST_HEAD ? inQueryBlocks(node) : node;
}

/** Attention with heads padded to a multiple of four channels. */
function padded(node: NodeOf<"attention">): Tensor {
  const { scale, causal } = node.attrs;
  const d = node.shape[3];
  const [q, k, v] = attended(node).map((x) => x.pad([0, 0, 0, 0], [0, 0, 0, 4 - d % 4]));
  return inRegisters(q.attention(k, v, { scale, causal })).slice(3, 0, d);
}

/** Attention [n, t, heads, d] as products over [n·heads, t, d]. */
function inQueryBlocks(node: NodeOf<"attention">): Tensor {
  const { graph, attrs: { scale, causal } } = node;
  const [q, k, v] = attended(node);
  if (causal) {
    throw new RangeError(
      `Causal attention with heads of ${node.shape[3]} channels is not supported`,
    );
  }
  const [n, t, heads, d] = q.shape;
  const s = k.shape[1];
  /** [n, rows, heads, d] → [n·heads, rows, d]; with one head nothing moves. */
  const byHead = (x: Tensor) =>
    (heads === 1 ? x : x.transpose([0, 2, 1, 3])).reshape([n * heads, x.shape[1], d]);
  const [queries, keys, values] = [byHead(q), byHead(k), byHead(v)];
  const rows = Math.max(8, Math.floor(SCORE_BYTES / (n * heads * s * 4) / 8) * 8);
  const blocks: Tensor[] = [];
  for (let begin = 0; begin < t; begin += rows) {
    const shape = [n * heads, Math.min(t, begin + rows) - begin, d];
    const block = graph.node("map", [queries], { // a slice and its scale in one
      shape,
      views: [sliceView(wholeView(queries.shape), [0, begin, 0], shape)],
      body: { op: "mul", args: [{ input: 0 }, scale] },
    });
    const scores = block.matmul(keys, { transposeB: true }); // [n·heads, rows, s]
    blocks.push(scores.softmax().matmul(values, { transposeB: false }));
  }
  const all = graph.concat(blocks, 1); // [n·heads, t, d]
  if (heads === 1) return all.reshape([n, t, 1, d]);
  return all.reshape([n, heads, t, d]).transpose([0, 2, 1, 3]);
}
