import assert from "node:assert/strict";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { decompose } from "../../lib/graph/decompose.ts";
import { interpret } from "../../lib/graph/interpret.ts";
import { attentionGradient, attentionLogSum } from "../../lib/kernels/attention_gradient.ts";
import { lower } from "../../lib/kernels/lower.ts";
import { withDraws } from "../graph/gradcheck.ts";
import { nmse } from "../tolerance.ts";
import { kernelTest } from "./harness.ts";
import { meaning } from "./meaning.ts";

interface Shape {
  readonly n?: number;
  readonly t: number;
  readonly s: number;
  readonly heads?: number;
  readonly d: number;
  readonly causal?: boolean;
}

const SHAPES: Readonly<Record<string, Shape>> = {
  "narrow heads": { n: 2, t: 9, s: 14, heads: 3, d: 4 },
  "one query, one key": { t: 1, s: 1, d: 8 },
  "more rows than a workgroup": { t: 70, s: 40, d: 12 },
  "causal": { n: 2, t: 37, s: 37, heads: 2, d: 8, causal: true },
  "causal, more keys than queries": { t: 5, s: 9, d: 4, causal: true },
  "causal, more queries than keys": { t: 9, s: 5, d: 4, causal: true },
  "wide heads": { t: 10, s: 7, d: 160 },
};
/** Scores near 1, whatever the width. */
const scaleOf = ({ d }: Shape) => 1 / Math.sqrt(d);

const build = (of: "q" | "k" | "v", shape: Shape) => (g: Graph): Tensor => {
  const { n = 1, t, s, heads = 1, d, causal = false } = shape;
  const [q, dy] = ["q", "dy"].map((name) => g.input(name, [n, t, heads, d]));
  const [k, v] = ["k", "v"].map((name) => g.input(name, [n, s, heads, d]));
  const [logSum, along] = ["logSum", "along"].map((name) => g.input(name, [n, t, heads, 1]));
  const attrs = { of, scale: scaleOf(shape), causal };
  return g.node("attentionGradient", [q, k, v, dy, logSum, along], attrs);
};

kernelTest("attentionLogSum", {
  kernel: attentionLogSum,
  oracle: meaning,
  reduction: ({ inputs: [, { shape: [, s, , d] }] }) => s + d,
  cases: Object.fromEntries(
    Object.entries(SHAPES).map(([name, shape]) => [name, {
      build: (g) => {
        const { n = 1, t, s, heads = 1, d, causal = false } = shape;
        const [q, k] = [g.input("q", [n, t, heads, d]), g.input("k", [n, s, heads, d])];
        return g.node("attentionLogSum", [q, k], { scale: scaleOf(shape), causal });
      },
    }]),
  ),
});

for (const operand of ["q", "k", "v"] as const) {
  kernelTest("attentionGradient", {
    kernel: attentionGradient,
    oracle: (node, values) => interpret(decompose([node]), values, { precision: "f64" })[0],
    // Scores of a few units go through an exponential, which multiplies their rounding.
    reduction: ({ inputs: [q, k] }) => 16 * (q.shape[1] + k.shape[1] + q.shape[3]),
    cases: Object.fromEntries(
      Object.entries(SHAPES).map(([name, shape]) => [`by ${operand}, ${name}`, {
        build: build(operand, shape),
        fills: ["ordinary", "zeros", "denormals"],
      }]),
    ),
  });
}

Deno.test("lower replaces the gradient of wide and odd heads by operators of the same meaning", () => {
  const shapes: readonly Shape[] = [
    { n: 2, t: 20, s: 7, heads: 2, d: 164 }, // in blocks of queries
    { t: 9, s: 20, d: 161 },
    { n: 2, t: 6, s: 5, heads: 3, d: 6 },
    { t: 5, s: 5, heads: 2, d: 3, causal: true },
  ];
  for (const shape of shapes) {
    const graph = new Graph();
    const nodes = (["q", "k", "v"] as const).map((operand) => build(operand, shape)(graph));
    const [{ inputs: [q, k] }] = nodes;
    const attrs = { scale: scaleOf(shape), causal: shape.causal ?? false };
    const outputs = [...nodes, graph.node("attentionLogSum", [q, k], attrs)];
    const lowered = lower(outputs, 1024);
    const values = withDraws(outputs, {}, 3);
    const expected = interpret(outputs, values, { precision: "f64" });
    const actual = interpret(lowered, values, { precision: "f64" });
    lowered.forEach((node, i) => {
      const isLowered = node.op !== outputs[i].op || shape.d <= 160;
      assert.ok(isLowered, `${node.op} of ${JSON.stringify(shape)} stayed`);
      assert.ok(nmse(actual[i], expected[i]) < 1e-24, `${node.op} of ${JSON.stringify(shape)}`);
    });
  }
});
