import assert from "node:assert/strict";
import type { Expression } from "../../lib/graph/expression.ts";
import type { Padding } from "../../lib/graph/ops.ts";
import type { Graph, Tensor } from "../../lib/graph/tensor.ts";
import { directConvolution } from "../../lib/kernels/conv2d.ts";
import { type KernelCase, kernelTest } from "./harness.ts";
import { assertInBuffers } from "./runner.ts";
import { meaning } from "./meaning.ts";

interface Shape {
  /** [n, h, w, ci] */
  readonly x: number[];
  readonly co: number;
  readonly kernel?: [height: number, width: number];
  readonly stride?: number;
  readonly padding?: Padding;
  readonly upsample?: number;
  /** Shapes of epilogue operands. */
  readonly operands?: number[][];
  readonly body?: Expression;
}

const around = (pixels: number): Padding => ({
  top: pixels,
  bottom: pixels,
  left: pixels,
  right: pixels,
});

const conv = (shape: Shape) => (g: Graph): Tensor => {
  const { x, co, kernel = [3, 3], stride = 1, padding = around(1), upsample = 1 } = shape;
  const { operands = [], body } = shape;
  const weight = g.parameter("w", [co, ...kernel, x[3]], "conv");
  return g.node("conv2d", [
    g.input("x", x),
    weight,
    ...operands.map((shape, i) => g.input(`e${i}`, shape)),
  ], { stride, padding, upsample, ...(body === undefined ? {} : { epilogue: { body } }) });
};

const add = (...args: Expression[]): Expression => ({ op: "add", args });
const sum: Expression = add(add({ input: 0 }, { input: 1 }), add({ input: 2 }, { input: 3 }));

/** A binding so small that a convolution must be cut. */
const tight = (shape: Shape, maxBinding: number, dispatches: number): KernelCase => ({
  build: conv(shape),
  profile: { maxBinding },
  expect: ([variant]) =>
    assert.ok(variant.dispatches.length >= dispatches, `${variant.dispatches.length} dispatches`),
});

kernelTest("conv2d", {
  kernel: directConvolution,
  oracle: meaning,
  reduction: ({ inputs: [, weight] }) => weight.size / weight.shape[0],
  cases: {
    "3×3": { build: conv({ x: [1, 6, 7, 16], co: 64 }) },
    "3×3, two pictures": { build: conv({ x: [2, 5, 5, 8], co: 40 }) },
    "3×3, stride 2, padded on one side": {
      build: conv({
        x: [1, 8, 10, 8],
        co: 32,
        stride: 2,
        padding: { top: 0, bottom: 1, left: 0, right: 1 },
      }),
    },
    "3×3, stride 2": { build: conv({ x: [2, 9, 8, 8], co: 32, stride: 2 }) },
    "3×3, enlarged": { build: conv({ x: [2, 4, 5, 8], co: 32, upsample: 2 }) },
    "3×3, to three channels": { build: conv({ x: [2, 9, 10, 16], co: 3 }) },
    "3×3, to eight channels, cut and enlarged": tight(
      { x: [1, 9, 10, 8], co: 8, upsample: 2, operands: [[8], [1, 18, 20, 8], [8]], body: sum },
      4096,
      3,
    ),
    "3×3, to four channels of one pixel, stride 2": {
      build: conv({ x: [1, 1, 2, 8], co: 4, stride: 2 }),
    },
    "1×1": { build: conv({ x: [2, 5, 5, 24], co: 40, kernel: [1, 1], padding: around(0) }) },
    "1×1, padded": { build: conv({ x: [1, 4, 4, 8], co: 32, kernel: [1, 1] }) },
    "2×5": { build: conv({ x: [1, 6, 7, 8], co: 32, kernel: [2, 5] }) },
    "a picture smaller than its kernel": { build: conv({ x: [1, 1, 2, 8], co: 32 }) },
    "3×3, many channels": { build: conv({ x: [1, 12, 12, 128], co: 96 }), fills: ["ordinary"] },
    "3×3, a picture too large for a texture": {
      build: conv({ x: [1, 40, 40, 24], co: 8 }),
      fills: ["ordinary"],
      profile: { maxTextureSide: 1 },
      expect: ([variant]) => assertInBuffers(variant),
    },
    "few outputs": { build: conv({ x: [1, 6, 6, 16], co: 4 }) },
    "three outputs": { build: conv({ x: [1, 6, 6, 16], co: 3 }) },
    "four inputs": { build: conv({ x: [2, 6, 6, 4], co: 40 }) },
    "three inputs": { build: conv({ x: [1, 6, 7, 3], co: 12, stride: 2 }) },
    "nine inputs, enlarged": { build: conv({ x: [1, 3, 4, 9], co: 7, upsample: 2 }) },
    "1×1 of odd widths": {
      build: conv({ x: [1, 4, 4, 5], co: 5, kernel: [1, 1], padding: around(0) }),
    },
    "epilogue of bias, time and residual": {
      build: conv({
        x: [2, 5, 5, 8],
        co: 32,
        operands: [[32], [2, 1, 1, 32], [2, 5, 5, 32]],
        body: sum,
      }),
      approximate: true,
    },
    "cut by lines": tight({ x: [1, 20, 6, 16], co: 32 }, 6144, 3),
    "cut by lines, enlarged, with an epilogue": tight(
      {
        x: [2, 6, 7, 16],
        co: 32,
        upsample: 2,
        operands: [[32], [2, 1, 1, 32], [2, 12, 14, 32]],
        body: sum,
      },
      12_288,
      4,
    ),
    "cut by lines, stride 2": tight({ x: [1, 33, 6, 16], co: 32, stride: 2 }, 6144, 2),
    "cut by lines, odd widths": tight({ x: [1, 12, 7, 9], co: 7 }, 2048, 2),
    "1×1, cut by pixels": tight(
      { x: [1, 12, 12, 16], co: 32, kernel: [1, 1], padding: around(0) },
      8192,
      3,
    ),
  },
});
