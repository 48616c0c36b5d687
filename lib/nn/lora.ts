/**
 * Low-rank adaptation (Hu et al. 2021): beside a layer's frozen weight W stands a product B A of little rank, so that it
 * computes x Wᵀ + s (x Aᵀ) Bᵀ. A is called "down" and B "up", as kohya's tools do. It is a rewrite of a graph: models do
 * not know of it.
 *
 * A convolution's A is a convolution of its kernel and stride, its B one of 1×1.
 */

import { type Shape, sizeOf } from "../base/shape.ts";
import type { Piece } from "../graph/ops.ts";
import { rebuild } from "../graph/rewrite.ts";
import type { Tensor, TensorOf } from "../graph/tensor.ts";
import type { Manifest } from "./params.ts";

/** What stands beside a layer. */
export interface LowRank {
  readonly rank: number;
  /** What the product is multiplied by: α / rank. */
  readonly scale: number;
}

/** Layer ("unet.….to_q", the weight's name without ".weight") → what stands beside it. */
export type LowRanks = ReadonlyMap<string, LowRank>;

const WEIGHT = ".weight";

/** The parameters beside a layer: "….lora_down.weight" [rank, in] and "….lora_up.weight" [out, rank]. */
export const DOWN = ".lora_down";
export const UP = ".lora_up";

/** The layers of a manifest that products can stand beside, whose names end in one of `ends`, a whole name or its last parts. */
export function layersOf(manifest: Manifest, ends: readonly string[]): string[] {
  return [...manifest.values()].flatMap(({ name, role }) => {
    const isProduct = role === "linear" || role === "conv";
    if (!isProduct || !name.endsWith(WEIGHT)) return [];
    const layer = name.slice(0, -WEIGHT.length);
    return ends.some((end) => layer === end || layer.endsWith(`.${end}`)) ? [layer] : [];
  });
}

/**
 * The outputs with products of low rank beside the layers that `ranks` names; their parameters are of the same graph.
 * Layers whose weights are stacked or cut are found by the pieces.
 */
export function withLowRanks(outputs: readonly Tensor[], ranks: LowRanks): Tensor[] {
  return rebuild(outputs, (node) => {
    if (node.op === "matmul" && node.attrs.transposeB) return besideProduct(node, ranks);
    if (node.op === "conv2d") return besideConvolution(node, ranks);
    return node;
  });
}

/** Rows of a layer's weight, in the order of the result's channels. */
interface Rows extends Piece {
  readonly layer: string;
  readonly beside: LowRank | undefined;
}

/** `undefined` where nothing stands beside any of them. */
function rowsOf(weight: Tensor, ranks: LowRanks): readonly Rows[] | undefined {
  if (weight.op !== "parameter") return undefined;
  const { name, shape, pieces = [{ name, shape, begin: 0, end: shape[0] }] } = weight.attrs;
  const rows = pieces.map((piece) => {
    const layer = piece.name.endsWith(WEIGHT) ? piece.name.slice(0, -WEIGHT.length) : piece.name;
    return { ...piece, layer, beside: ranks.get(layer) };
  });
  return rows.some(({ beside }) => beside !== undefined) ? rows : undefined;
}

function besideProduct(node: TensorOf<"matmul"> & Tensor, ranks: LowRanks): Tensor {
  const [x, weight] = node.inputs;
  const rows = rowsOf(weight, ranks);
  if (!rows) return node;
  return sum(node, rows, ({ layer, shape: [out, width], begin, end }, { rank }) => {
    const { graph } = node;
    const down = graph.parameter(`${layer}${DOWN}${WEIGHT}`, [rank, width], "linear");
    const up = graph.parameter(`${layer}${UP}${WEIGHT}`, [out, rank], "linear");
    const inner = x.matmul(down, { transposeB: true }); // […, rank]
    return inner.matmul(up.slice(0, begin, end), { transposeB: true });
  });
}

function besideConvolution(node: TensorOf<"conv2d"> & Tensor, ranks: LowRanks): Tensor {
  const [x, weight] = node.inputs;
  const rows = rowsOf(weight, ranks);
  if (!rows) return node;
  const { stride, padding, upsample } = node.attrs;
  const none = { top: 0, bottom: 0, left: 0, right: 0 };
  return sum(node, rows, ({ layer, shape: [out, kh, kw, width], begin, end }, { rank }) => {
    const { graph } = node;
    const down = graph.parameter(`${layer}${DOWN}${WEIGHT}`, [rank, kh, kw, width], "conv");
    const up = graph.parameter(`${layer}${UP}${WEIGHT}`, [out, 1, 1, rank], "conv");
    const inner = graph.node("conv2d", [x, down], { stride, padding, upsample });
    return inner.conv2d(up.slice(0, begin, end), { stride: 1, padding: none });
  });
}

/** The node plus what stands beside each of its rows; zeros where nothing does. */
function sum(
  node: Tensor,
  rows: readonly Rows[],
  product: (rows: Rows, beside: LowRank) => Tensor,
): Tensor {
  const parts = rows.map((each) => {
    const { beside, begin, end } = each;
    if (beside) return product(each, beside).mul(beside.scale);
    return node.graph.constant(0, [...node.shape.slice(0, -1), end - begin]);
  });
  return node.add(node.graph.concat(parts, -1));
}

/** A and B of one layer as checkpoints have them: [rank, in, …] and [out, rank]. */
export interface Factors {
  readonly down: Float32Array;
  readonly up: Float32Array;
  readonly rank: number;
  readonly scale: number;
}

/**
 * W + s B A in place: for a program that only reads the weight, nothing stands beside it then. `weight` is of `shape`, its
 * outputs first, in the order of checkpoints. Throws `RangeError` on factors that do not fit.
 */
export function fold(weight: Float32Array, shape: Shape, factors: Factors): void {
  const { down, up, rank, scale } = factors;
  const out = shape[0];
  const width = sizeOf(shape) / out;
  if (down.length !== rank * width || up.length !== out * rank || weight.length !== out * width) {
    throw new RangeError(
      `Factors of ${down.length} and ${up.length} numbers do not fit a weight of ${out}×${width} in rank ${rank}`,
    );
  }
  for (let o = 0; o < out; o++) {
    const row = weight.subarray(o * width, (o + 1) * width);
    let r = 0;
    for (; r + 4 <= rank; r += 4) {
      const at = o * rank + r;
      const [a, b, c, d] = [up[at], up[at + 1], up[at + 2], up[at + 3]].map((u) => u * scale);
      const [i0, i1, i2, i3] = [r, r + 1, r + 2, r + 3].map((k) => k * width);
      for (let i = 0; i < width; i++) {
        row[i] += a * down[i0 + i] + b * down[i1 + i] + c * down[i2 + i] + d * down[i3 + i];
      }
    }
    for (; r < rank; r++) {
      const u = up[o * rank + r] * scale;
      for (let i = 0; i < width; i++) row[i] += u * down[r * width + i];
    }
  }
}
