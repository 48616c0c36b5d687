import assert from "node:assert/strict";
import { conv2dWeight } from "../../lib/kernels/conv2d_weight.ts";
import { around, type Geometry, geometry } from "./convolutions.ts";
import { type KernelCase, kernelTest } from "./harness.ts";
import { meaning } from "./meaning.ts";

const gradient = (shape: Geometry, rest: Partial<KernelCase> = {}): KernelCase => ({
  build: (g) => {
    const { x, co, kernel, stride, padding, upsample } = geometry(shape);
    const [n, h, w] = x;
    const places = (size: number, taps: number, around: number) =>
      Math.floor((size * upsample + around - taps) / stride) + 1;
    const oh = places(h, kernel[0], padding.top + padding.bottom);
    const ow = places(w, kernel[1], padding.left + padding.right);
    const y = g.input("y", [n, oh, ow, co]);
    return g.input("x", x).conv2dWeight(y, { kernel, stride, padding, upsample });
  },
  ...rest,
});

const fills = ["ordinary", "offset"] as const;

kernelTest("conv2dWeight", {
  kernel: conv2dWeight,
  oracle: meaning,
  reduction: ({ inputs: [, y] }) => y.size / y.shape[3],
  cases: {
    "3×3": gradient({ x: [2, 6, 7, 16], co: 24 }),
    "3×3, many channels": gradient({ x: [1, 5, 5, 72], co: 40 }, { fills }),
    "3×3, stride 2": gradient({ x: [2, 9, 8, 8], co: 8, stride: 2 }, { fills }),
    "3×3, stride 2, padded on one side": gradient({
      x: [1, 8, 10, 8],
      co: 32,
      stride: 2,
      padding: { top: 0, bottom: 1, left: 0, right: 1 },
    }, { fills }),
    "3×3, enlarged": gradient({ x: [2, 4, 3, 8], co: 8, upsample: 2 }, { fills }),
    "1×1 of a line": gradient({ x: [1, 1, 77, 12], co: 20, kernel: [1, 1], padding: around(0) }),
    "2×5 of odd widths": gradient({ x: [1, 6, 7, 3], co: 5, kernel: [2, 5] }, { fills }),
    "odd outputs": gradient({ x: [1, 6, 7, 8], co: 3 }, { fills }),
    "one channel of one pixel": gradient({ x: [1, 1, 1, 1], co: 1 }, { fills }),
    "more pixels than an invocation may loop over": gradient(
      { x: [3, 150, 150, 4], co: 4, kernel: [1, 1], padding: around(0) },
      {
        fills: ["ordinary"],
        expect: ([{ dispatches }], { kind }) => {
          assert.equal(dispatches.length, 2);
          if (kind === "software") assert.equal(dispatches[0].grid[2], 2);
        },
      },
    ),
  },
});
