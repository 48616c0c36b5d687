import assert from "node:assert/strict";
import type { Expression } from "../../lib/graph/expression.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { matmul } from "../../lib/kernels/matmul.ts";
import { type KernelCase, kernelTest } from "./harness.ts";
import { LEAST } from "./profiles.ts";
import { assertInBuffers } from "./runner.ts";
import { meaning } from "./meaning.ts";

/** x [m, k] by a weight [n, k]. */
const linear = (m: number, n: number, k: number) => (g: Graph): Tensor =>
  g.input("x", [m, k]).matmul(g.parameter("w", [n, k], "linear"), { transposeB: true });

/** y [m, n] by a weight [n, k] as it is: what its gradient by x is. */
const backwards = (m: number, n: number, k: number) => (g: Graph): Tensor =>
  g.input("y", [m, n]).matmul(g.parameter("w", [n, k], "linear"), { transposeB: false });

/** Two activations. */
const product = (a: number[], b: number[], transposeB: boolean) => (g: Graph): Tensor =>
  g.input("a", a).matmul(g.input("b", b), { transposeB });

/** A weight product with an epilogue over the given operands. */
const fused =
  (shape: number[], n: number, operands: number[][], body: Expression) => (g: Graph): Tensor =>
    g.node("matmul", [
      g.input("x", shape),
      g.parameter("w", [n, shape[shape.length - 1]], "linear"),
      ...operands.map((shape, i) => g.input(`e${i}`, shape)),
    ], { transposeB: true, epilogue: { body } });

const add = (...args: Expression[]): Expression => ({ op: "add", args });
const mul = (...args: Expression[]): Expression => ({ op: "mul", args });
const x: Expression = { input: 0 };
const biasGate = add(mul(add(x, { input: 1 }), { input: 2 }), { input: 3 });

/** A binding so small that a product must be cut. */
const tight = (build: KernelCase["build"], maxBinding: number, dispatches: number): KernelCase => ({
  build,
  profile: { maxBinding },
  expect: ([variant]) =>
    assert.ok(variant.dispatches.length >= dispatches, `${variant.dispatches.length} dispatches`),
});

kernelTest("matmul", {
  kernel: matmul,
  oracle: meaning,
  reduction: ({ inputs: [a] }) => a.shape[a.rank - 1],
  cases: {
    "weights, at a tile": { build: linear(16, 64, 64) },
    "weights, one row": { build: linear(1, 32, 8) },
    "weights, two rows, an odd panel": { build: linear(2, 40, 320) },
    "weights, rows and columns beside the tiles": { build: linear(77, 100, 72) },
    "weights, an odd width of the result": { build: linear(9, 37, 24) },
    "weights, a wide reduction": { build: linear(33, 64, 2560), fills: ["ordinary", "offset"] },
    "weights, a reduction of twelve": { build: linear(18, 33, 12) },
    "weights, two rows, a reduction of twelve": { build: linear(2, 33, 12) },
    "weights, a reduction of five": { build: linear(7, 9, 5) },
    "weights, as in a text encoder": { build: linear(77, 768, 768), fills: ["ordinary"] },
    "weights, activations too large for a texture": {
      build: linear(1100, 32, 32),
      fills: ["ordinary"],
      profile: { maxTextureSide: 1 },
      expect: ([variant]) => assertInBuffers(variant),
    },
    "weights, batches": {
      build: (g) =>
        g.input("x", [2, 3, 5, 16]).matmul(g.parameter("w", [24, 16], "linear"), {
          transposeB: true,
        }),
    },
    "weights, cut by rows": tight(linear(200, 48, 32), 20_480, 2),
    "weights, an odd width, cut by rows": tight(linear(130, 27, 9), 4096, 4),
    "weights backwards": { build: backwards(33, 64, 72) },
    "weights backwards, an odd panel, one row": { build: backwards(1, 40, 36) },
    "weights backwards, odd widths": { build: backwards(9, 37, 27), fills: ["ordinary", "offset"] },
    "weights backwards, cut by rows": tight(backwards(200, 48, 32), 20_480, 2),
    "weight in rows": {
      build: (g) =>
        g.input("x", [20, 24]).matmul(g.parameter("w", [40, 24], "vector"), { transposeB: true }),
    },
    "epilogue of bias, gate and residual": {
      build: fused([2, 19, 16], 24, [[24], [2, 1, 24], [2, 19, 24]], biasGate),
      approximate: true,
    },
    "epilogue on an odd width": {
      build: fused([2, 5, 16], 7, [[7], [2, 1, 7], [2, 5, 7]], biasGate),
    },
    "epilogue, cut by rows": tight(
      fused([2, 100, 16], 24, [[24], [2, 1, 24], [2, 100, 24]], biasGate),
      8192,
      3,
    ),
    "epilogue on an odd width, cut by rows": tight(
      fused([2, 100, 16], 7, [[7], [2, 1, 7], [2, 100, 7]], biasGate),
      4096,
      2,
    ),
    "activations, q kᵀ": { build: product([3, 20, 40], [3, 36, 40], true) },
    "activations, p v": { build: product([3, 20, 36], [3, 36, 40], false) },
    "activations, odd columns": { build: product([2, 5, 8], [2, 7, 8], true) },
    "activations, odd everything": { build: product([2, 3, 5], [2, 5, 7], false) },
    "activations, odd everything, transposed": { build: product([2, 3, 5], [2, 7, 5], true) },
    "activations, one matrix for all batches": { build: product([2, 3, 8], [8, 12], false) },
    "activations, cut by batches": tight(product([5, 20, 16], [5, 24, 16], true), 4096, 3),
    "activations, cut by rows": tight(product([2, 100, 16], [2, 16, 28], false), 4096, 4),
    "activations, odd, cut by batches": tight(product([5, 9, 11], [5, 11, 13], false), 1024, 3),
  },
});

Deno.test("matmul refuses what no dispatch can compute", () => {
  const of = (build: (g: Graph) => Tensor, maxBinding: number) => {
    const node = build(new Graph());
    assert.ok(node.op === "matmul");
    const rows = () => ({ format: "rows32", residence: "buffer" } as const);
    return () => matmul(node, { kind: "gpu", ...LEAST, maxBinding }, rows);
  };
  assert.throws(of(product([4, 2048], [2048, 4], false), 4096), /needs 32768 bytes in one binding/);
  assert.throws(
    of(product([4, 70_001], [70_001, 3], false), 2 ** 27),
    /sums of 70001 products take 70001 loop iterations/,
  );
});
