/**
 * Arithmetic of strided views: how broadcasts, transposes, slices and reshapes of a row-major tensor are
 * read without being made. An axis of length 1 always has stride 0 here, so equal readings are equal views.
 */

import { type Shape, sizeOf, stridesOf } from "../base/shape.ts";
import type { OpName, View } from "./ops.ts";

/** Operators that read one tensor otherwise and compute nothing. */
export const VIEWS: ReadonlySet<OpName> = new Set<OpName>([
  "reshape",
  "transpose",
  "broadcast",
  "slice",
]);

/** The same reading with stride 0 on axes of length 1. */
export function canonicalView({ offset, strides }: View, shape: Shape): View {
  return { offset, strides: strides.map((s, i) => shape[i] === 1 ? 0 : s) };
}

/** All of a tensor of this shape, in order. */
export function wholeView(shape: Shape): View {
  return canonicalView({ offset: 0, strides: stridesOf(shape) }, shape);
}

/** True for a view that reads all `size` elements of its tensor in order. */
export function isWhole(view: View, shape: Shape, size: number): boolean {
  const { strides } = wholeView(shape);
  return size === sizeOf(shape) && view.offset === 0 &&
    strides.every((s, i) => s === view.strides[i] || shape[i] === 1);
}

/** True for views over one shape that read the same; both in canonical form. */
export function sameView(a: View, b: View): boolean {
  return a.offset === b.offset && a.strides.every((s, i) => s === b.strides[i]);
}

/** A view over `from`, read as the larger shape it broadcasts to. */
export function broadcastView({ offset, strides }: View, from: Shape, to: Shape): View {
  const missing = to.length - from.length;
  const spread = to.map((_, i) =>
    i < missing || from[i - missing] === 1 ? 0 : strides[i - missing]
  );
  return { offset, strides: spread };
}

/** A view over some shape, with its axes in another order. */
export function transposeView({ offset, strides }: View, order: readonly number[]): View {
  return { offset, strides: order.map((axis) => strides[axis]) };
}

/** A view over some shape, from element `begin` of each axis on; `shape` is what remains. */
export function sliceView({ offset, strides }: View, begin: readonly number[], shape: Shape): View {
  const moved = begin.reduce((sum, b, i) => sum + b * strides[i], offset);
  return canonicalView({ offset: moved, strides }, shape);
}

/** A view over `from` as a view over `to` with the same elements in the same order, where strides can say it. */
export function reshapeView({ offset, strides }: View, from: Shape, to: Shape): View | undefined {
  const out = new Array<number>(to.length).fill(0);
  let next = to.length - 1; // axis of `to` that is matched next, from the last
  for (let axis = from.length - 1; axis >= 0;) {
    let length = from[axis]; // of a run of axes that are contiguous with each other
    const stride = strides[axis];
    for (axis--; axis >= 0; axis--) {
      if (from[axis] !== 1 && length !== 1 && strides[axis] !== stride * length) break;
      if (length === 1 && from[axis] !== 1) break;
      length *= from[axis];
    }
    let inner = 1;
    for (; next >= 0 && inner < length; next--) {
      out[next] = stride * inner;
      inner *= to[next];
    }
    if (inner !== length) return undefined;
  }
  return canonicalView({ offset, strides: out }, to);
}
