/**
 * Which of the ways to compute an operator is taken: a table from operator and shape class to a variant's name. Where a
 * table has no entry, or names a variant that does not exist (any more), the kernel's first variant is taken, so a
 * table can make programs slower but never wrong. Choices depend on the table alone: the same table, the same program.
 */

import type { OpName } from "../graph/ops.ts";
import type { Tensor } from "../graph/tensor.ts";
import type { Convolution } from "./convolution.ts";
import type { LayoutOf, NodeOf, Profile } from "./kernel.ts";

/** Shape class (`classOf`) → name of the variant. */
export type Table = ReadonlyMap<string, string>;

/** Asks which variant a shape class should take; `undefined` leaves it to the kernel. */
export type Choice = (shapeClass: string) => string | undefined;

/** n, or the next power of two or 1.5 times one: sizes whose best variants hardly differ share a class. */
export function sizeClass(n: number): number {
  if (n <= 1) return n;
  const power = 2 ** Math.floor(Math.log2(n));
  return [power, power * 1.5, power * 2].find((size) => size >= n) ?? n;
}

/** Sizes as "4096×384"; those that decide little are rounded up to classes. */
function sizes(...numbers: readonly number[]): string {
  return numbers.map((n) => sizeClass(n)).join("×");
}

type Sizes<K extends OpName> = (node: NodeOf<K>, layoutOf: LayoutOf) => string;

/** Rows and row length of what is read; of the result where nothing is. */
const rows = (node: Tensor): string => {
  const { size, shape, rank }: Tensor = node.inputs[0] ?? node;
  const width = rank === 0 ? 1 : shape[rank - 1];
  return sizes(size / Math.max(1, width), width);
};

/** Kernel, steps, pixels and channels of a convolution, forwards or backwards. */
function convolutionSizes(
  node: Convolution,
  enlarged: string,
  layoutOf: LayoutOf,
): string {
  const [{ shape: [, , , channels] }, weight] = node.inputs;
  const [, kh, kw] = weight.shape;
  const { stride } = node.attrs;
  const [n, h, w, co] = node.shape;
  const steps = `${stride > 1 ? ` stride ${stride}` : ""}${enlarged}`;
  return `${kh}×${kw}${steps} ${sizes(n * h * w, channels, co)} ${layoutOf(weight).format}`;
}

/** What beside the operator decides between its variants. Operators that are not here are told apart by `rows`. */
const SIZES: { readonly [K in OpName]?: Sizes<K> } = {
  matmul: (node, layoutOf) => {
    const [a, b] = node.inputs;
    const [n, k] = [node.shape[node.rank - 1], a.shape[a.rank - 1]];
    const batch = b.size / (n * k);
    return `${sizes(batch, node.size / n / batch, n, k)} ${layoutOf(b).format}`;
  },
  conv2d: (node, layoutOf) => {
    const enlarged = node.attrs.upsample > 1 ? " enlarged" : "";
    return convolutionSizes(node, enlarged, layoutOf);
  },
  conv2dTranspose: (node, layoutOf) => convolutionSizes(node, "", layoutOf),
  attention: (node) => {
    const [n, t, heads, d] = node.shape;
    const causal = node.attrs.causal ? " causal" : "";
    return `${sizes(n * heads, t, node.inputs[1].shape[1])} head ${d}${causal}`;
  },
};

/** Correlates a node with the row of its operator. */
function sizesBy<K extends OpName>(op: K, node: NodeOf<K>, layoutOf: LayoutOf): string {
  const own = SIZES[op];
  return own ? own(node, layoutOf) : "";
}

/** The operator and shape class of a node, e.g. "matmul 1×4096×384×384 panels16". */
export function classOf(node: Tensor, layoutOf: LayoutOf): string {
  return `${node.op} ${sizesBy(node.op, node, layoutOf) || rows(node)}`;
}

/**
 * What was measured better than the kernels' first variants on devices of each kind; `ldm tune` finds more, for one
 * device.
 */
export const BUILT_IN: { readonly [K in Profile["kind"]]: Table } = {
  software: new Map(),
  gpu: new Map(),
};

/** The choice of a table, then of the built-in one for this kind of device. */
export function choiceOf({ kind }: Pick<Profile, "kind">, table?: Table): Choice {
  return (shapeClass) => table?.get(shapeClass) ?? BUILT_IN[kind].get(shapeClass);
}
