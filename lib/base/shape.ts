/** Shapes: lists of non-negative integers, row-major; broadcasting as in numpy; the sentences used in shape errors. */

/** Extents of a tensor, the slowest first. */
export type Shape = readonly number[];

/** Number of elements. */
export function sizeOf(shape: Shape): number {
  return shape.reduce((product, n) => product * n, 1);
}

/** `[2, 3, 4]` as text. */
export function show(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i]);
}

/** Row-major strides in elements. */
export function stridesOf(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i];
  }
  return strides;
}

/** The shape both operands broadcast to, or `undefined` where they do not agree. */
export function broadcastShapes(a: Shape, b: Shape): number[] | undefined {
  const rank = Math.max(a.length, b.length);
  const out = new Array<number>(rank);
  for (let i = 0; i < rank; i++) {
    const m = a[a.length - rank + i] ?? 1;
    const n = b[b.length - rank + i] ?? 1;
    if (m !== n && m !== 1 && n !== 1) return undefined;
    out[i] = m === 1 ? n : m;
  }
  return out;
}

/** A possibly negative axis as a valid index. Throws `RangeError` when it is outside the rank. */
export function axisOf(axis: number, rank: number): number {
  const i = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(i) || i < 0 || i >= rank) {
    throw new RangeError(`Axis ${axis} does not exist in a tensor of rank ${rank}`);
  }
  return i;
}
