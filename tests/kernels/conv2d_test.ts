import assert from "node:assert/strict";
import type { Padding } from "../../lib/graph/ops.ts";
import type { Graph, Tensor } from "../../lib/graph/tensor.ts";
import { conv2dTranspose, directConvolution } from "../../lib/kernels/conv2d.ts";
import { around, conv, type Convolution, sum } from "./convolutions.ts";
import { type KernelCase, kernelTest } from "./harness.ts";
import { assertInBuffers } from "./runner.ts";
import { meaning } from "./meaning.ts";

/** A binding so small that a convolution must be cut. */
const tight = (shape: Convolution, maxBinding: number, dispatches: number): KernelCase => ({
  build: conv(shape),
  profile: { maxBinding },
  expect: ([variant]) =>
    assert.ok(variant.dispatches.length >= dispatches, `${variant.dispatches.length} dispatches`),
});

const fills = ["ordinary", "offset"] as const;

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
    "weight in rows": { build: conv({ x: [1, 6, 7, 16], co: 64, rows: "parameter" }) },
    "computed weight, stride 2, few outputs": {
      build: conv({ x: [2, 5, 5, 8], co: 6, stride: 2, rows: "computed" }),
      fills,
    },
    "computed weight, odd widths, enlarged": {
      build: conv({ x: [1, 3, 4, 9], co: 7, upsample: 2, rows: "computed" }),
      fills,
    },
    "three inputs, weight in rows": {
      build: conv({ x: [1, 6, 7, 3], co: 12, rows: "parameter" }),
      fills,
    },
    "1×1, computed weight": {
      build: conv({
        x: [2, 5, 5, 24],
        co: 40,
        kernel: [1, 1],
        padding: around(0),
        rows: "computed",
      }),
      fills,
    },
    "cut by lines, weight in rows": {
      ...tight({ x: [1, 40, 6, 16], co: 32, rows: "parameter" }, 20_000, 2),
      fills,
    },
    "1×1, cut by pixels": tight(
      { x: [1, 12, 12, 16], co: 32, kernel: [1, 1], padding: around(0) },
      8192,
      3,
    ),
  },
});

interface Backwards {
  /** [n, oh, ow, co] */
  readonly y: number[];
  readonly ci: number;
  readonly kernel?: [height: number, width: number];
  readonly stride?: number;
  readonly padding?: Padding;
  /** Pixels of the picture that no place of the kernel reads. */
  readonly unread?: number;
  /** The weight in panels, as inference has it. */
  readonly packed?: boolean;
}

const backwards = (shape: Backwards) => (g: Graph): Tensor => {
  const { y, ci, kernel = [3, 3], stride = 1, padding = around(1), unread = 0, packed } = shape;
  const [h, w] = [
    (y[1] - 1) * stride + kernel[0] - padding.top - padding.bottom + unread,
    (y[2] - 1) * stride + kernel[1] - padding.left - padding.right + unread,
  ];
  const weight = g.parameter("w", [y[3], ...kernel, ci], packed ? "conv" : "vector");
  return g.input("y", y).conv2dTranspose(weight, { size: [h, w], stride, padding });
};

kernelTest("conv2dTranspose", {
  kernel: (node, profile, layoutOf) => {
    const [first, ...others] = conv2dTranspose(node, profile, layoutOf);
    return [first, ...others];
  },
  oracle: meaning,
  reduction: ({ inputs: [, weight] }) => weight.size / weight.shape[3],
  tolerance: ({ name }, _, reduction) => name === "winograd4" ? { reduction: reduction * 16 } : {},
  cases: {
    "3×3": { build: backwards({ y: [2, 6, 7, 16], ci: 64 }) },
    "3×3, narrow": { build: backwards({ y: [1, 5, 5, 8], ci: 4 }), fills },
    "3×3, stride 2": { build: backwards({ y: [2, 4, 5, 8], ci: 32, stride: 2 }) },
    "3×3, stride 2, padded on one side, with a pixel that nothing reads": {
      build: backwards({
        y: [1, 4, 3, 8],
        ci: 12,
        stride: 2,
        padding: { top: 0, bottom: 1, left: 0, right: 1 },
        unread: 1,
      }),
      fills,
    },
    "1×1": { build: backwards({ y: [2, 4, 5, 24], ci: 36, kernel: [1, 1], padding: around(0) }) },
    "1×1, padded": {
      build: backwards({ y: [1, 6, 6, 8], ci: 8, kernel: [1, 1], padding: around(1) }),
      fills,
    },
    "2×5": { build: backwards({ y: [1, 6, 9, 8], ci: 8, kernel: [2, 5] }), fills },
    "3×3, packed": { build: backwards({ y: [2, 6, 7, 40], ci: 36, packed: true }), fills },
    "3×3, packed, stride 2, narrow": {
      build: backwards({ y: [2, 4, 5, 8], ci: 4, stride: 2, packed: true }),
      fills,
    },
    "1×1, packed": {
      build: backwards({
        y: [2, 4, 5, 24],
        ci: 36,
        kernel: [1, 1],
        padding: around(0),
        packed: true,
      }),
      fills,
    },
    "from three channels": { build: backwards({ y: [1, 6, 6, 3], ci: 16 }), fills },
    "to three channels": { build: backwards({ y: [1, 6, 6, 16], ci: 3, stride: 2 }), fills },
    "odd widths": { build: backwards({ y: [1, 4, 5, 7], ci: 9 }), fills },
    "cut by lines": {
      build: backwards({ y: [1, 20, 6, 16], ci: 32, stride: 2 }),
      profile: { maxBinding: 20_000 },
      fills,
      expect: (variants) => {
        const tiles = variants.find(({ name }) => name.endsWith("tiles"));
        assert.ok(tiles && tiles.dispatches.length > 1);
      },
    },
  },
});
