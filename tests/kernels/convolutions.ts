/** Convolutions to test kernels on. */

import type { Expression } from "../../lib/graph/expression.ts";
import type { Padding } from "../../lib/graph/ops.ts";
import type { Graph, Tensor } from "../../lib/graph/tensor.ts";

/** A kernel of 3×3 at every pixel, with a border of one, where nothing else is said. */
export interface Geometry {
  /** [n, h, w, ci] */
  readonly x: number[];
  readonly co: number;
  readonly kernel?: [height: number, width: number];
  readonly stride?: number;
  /** Sides that are not named have a border of one. */
  readonly padding?: Partial<Padding>;
  readonly upsample?: number;
}

export interface Convolution extends Geometry {
  /** The weight in rows: one that was computed, or a parameter. */
  readonly rows?: "computed" | "parameter";
  /** Shapes of epilogue operands. */
  readonly operands?: number[][];
  readonly body?: Expression;
}

/** The same border on all sides. */
export const around = (pixels: number): Padding => ({
  top: pixels,
  bottom: pixels,
  left: pixels,
  right: pixels,
});

/** All that is left open filled in. */
export function geometry({ x, co, kernel = [3, 3], stride = 1, padding, upsample = 1 }: Geometry) {
  return { x, co, kernel, stride, padding: { ...around(1), ...padding }, upsample };
}

/** Makes the convolution of inputs x, w and the epilogue's operands e0, e1, … */
export const conv = (shape: Convolution) => (g: Graph): Tensor => {
  const { x, co, kernel, ...attrs } = geometry(shape);
  const { operands = [], body, rows } = shape;
  const weightShape = [co, ...kernel, x[3]];
  const weight = rows === "computed"
    ? g.input("w", weightShape)
    : g.parameter("w", weightShape, rows ? "vector" : "conv");
  return g.node("conv2d", [
    g.input("x", x),
    weight,
    ...operands.map((shape, i) => g.input(`e${i}`, shape)),
  ], { ...attrs, ...(body === undefined ? {} : { epilogue: { body } }) });
};

const add = (...args: Expression[]): Expression => ({ op: "add", args });
/** The epilogue that adds three operands. */
export const sum: Expression = add(
  add({ input: 0 }, { input: 1 }),
  add({ input: 2 }, { input: 3 }),
);
