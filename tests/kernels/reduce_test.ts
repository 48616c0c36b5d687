import assert from "node:assert/strict";
import { maximum, sum } from "../../lib/kernels/reduce.ts";
import { type KernelCase, kernelTest } from "./harness.ts";
import { meaning } from "./meaning.ts";

const cases = (op: "sum" | "maximum"): Record<string, KernelCase> => {
  const over = (
    shape: readonly number[],
    axes: readonly number[],
    dispatches: number,
  ): KernelCase => ({
    build: (g) => g.node(op, [g.input("x", shape)], { axes }),
    expect: (variants) => {
      const alone = variants.find(({ name }) => name === "chunks");
      assert.equal(alone?.dispatches.length, dispatches);
    },
  });
  return {
    "one number": over([1], [0], 1),
    "no axis": over([2, 3], [], 1),
    "the last axis": over([5, 28], [1], 1),
    "the last axis, odd": over([70, 13], [1], 1),
    "the first axis": over([9, 20], [0], 1),
    "the middle, odd": over([3, 14, 5], [1], 1),
    "first and last": over([3, 5, 8], [0, 2], 1),
    "alternating axes": over([3, 2, 5, 4, 2], [0, 2, 4], 1),
    "everything, long": over([3, 31, 67], [0, 1, 2], 2),
    "everything, long, in vec4s": over([16, 1028], [0, 1], 2),
    "pixels, long": over([2, 40, 33, 12], [1, 2], 2),
    "more than a workgroup folds at once": { ...over([2, 33_001], [1], 2), fills: ["ordinary"] },
    "many results": { ...over([3, 4100], [0], 1), fills: ["ordinary"] },
  };
};

kernelTest("sum", {
  kernel: sum,
  oracle: meaning,
  reduction: (node) => node.inputs[0].size / node.size,
  cases: cases("sum"),
});

kernelTest("maximum", {
  kernel: maximum,
  oracle: meaning,
  reduction: () => 0,
  cases: cases("maximum"),
});
