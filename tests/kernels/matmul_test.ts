import type { Graph, Tensor } from "../../lib/graph/tensor.ts";
import { matmul } from "../../lib/kernels/matmul.ts";
import { kernelTest, type Oracle } from "./harness.ts";

const oracle: Oracle = (node, values) => {
  const inputs: readonly Tensor[] = node.inputs;
  const [m, k] = inputs[0].shape;
  const n = node.shape[1];
  const { a, w } = values;
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      for (let p = 0; p < k; p++) out[i * n + j] += a[i * k + p] * w[j * k + p];
    }
  }
  return out;
};

const linear = (m: number, n: number, k: number) => ({
  build: (g: Graph): Tensor =>
    g.input("a", [m, k]).matmul(g.parameter("w", [n, k], "linear"), { transposeB: true }),
});

kernelTest("matmul", {
  kernel: matmul,
  oracle,
  reduction: ({ inputs: [a] }) => a.shape[a.rank - 1],
  cases: {
    "at a tile": linear(16, 64, 64),
    "odd rows and columns": linear(17, 37, 24),
  },
});
