import assert from "node:assert/strict";
import { decompose } from "../../lib/graph/decompose.ts";
import { interpret } from "../../lib/graph/interpret.ts";
import { reachable } from "../../lib/graph/rewrite.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { verify } from "../../lib/graph/verify.ts";

const padding = { top: 1, bottom: 0, left: 1, right: 1 };
const attentionOf = (g: Graph, causal: boolean) => {
  const [q, k, v] = ["q", "k", "v"].map((name, i) => g.input(name, [2, i === 0 ? 4 : 3, 2, 5]));
  return q.attention(k, v, { scale: 0.5, causal });
};

/** One node of each fused operator, with epilogues where it can have one. */
const FUSED: Readonly<Record<string, (g: Graph) => Tensor>> = {
  attention: (g) => attentionOf(g, false),
  "causal attention": (g) => attentionOf(g, true),
  "attention of some heads": (g) => {
    const [q, kv] = [g.input("q", [2, 4, 3, 5]), g.input("kv", [2, 3, 5, 5])];
    const heads = { count: 2, first: [1, 0, 3] } as const;
    return g.node("attention", [q, kv, kv], { scale: 0.5, causal: false, heads });
  },
  ...Object.fromEntries(
    (["q", "k", "v"] as const).flatMap((of) =>
      [false, true].map((causal) => [
        `gradient of ${causal ? "causal " : ""}attention by ${of}`,
        (g: Graph) => {
          const [q, dy] = ["q", "dy"].map((name) => g.input(name, [2, 4, 2, 5]));
          const [k, v] = ["k", "v"].map((name) => g.input(name, [2, 3, 2, 5]));
          const [sums, along] = ["sums", "along"].map((name) => g.input(name, [2, 4, 2, 1]));
          const attrs = { of, scale: 0.5, causal };
          return g.node("attentionGradient", [q, k, v, dy, sums, along], attrs);
        },
      ])
    ),
  ),
  "logarithms of attention's sums": (g) => {
    const [q, k] = [g.input("q", [2, 4, 2, 5]), g.input("k", [2, 3, 2, 5])];
    return g.node("attentionLogSum", [q, k], { scale: 0.5, causal: true });
  },
  softmax: (g) => g.input("x", [2, 3, 4]).softmax(),
  "group norm of pictures": (g) => {
    const [x, w, b] = [g.input("x", [2, 3, 2, 4]), g.input("w", [4]), g.input("b", [4])];
    const attrs = { groups: 2, eps: 0.1 };
    return g.node("groupNormalize", [x, x.groupMoments(2), w, b, x], {
      ...attrs,
      epilogue: { body: { op: "mul", args: [{ input: 0 }, { input: 1 }] } },
    });
  },
  "group norm of rows": (g) => {
    const [x, w, b] = [g.input("x", [3, 4]), g.input("w", [4]), g.input("b", [4])];
    return x.groupNormalize(x.groupMoments(4), w, b, { groups: 4, eps: 0.1 });
  },
  "layer norm": (g) => {
    const [x, w, b] = [g.input("x", [3, 4]), g.input("w", [1, 4]), g.input("b", [4])];
    return g.node("layerNorm", [x, w, b, w], {
      eps: 0.1,
      epilogue: { body: { op: "sub", args: [{ op: "tanh", args: [{ input: 0 }] }, { input: 1 }] } },
    });
  },
  "sums of a group norm's gradient": (g) => {
    const [x, dy] = ["x", "dy"].map((name) => g.input(name, [2, 3, 2, 4]));
    return g.node("groupSums", [x, x.groupMoments(2), dy], { groups: 2, eps: 0.1 });
  },
  "gradient of a layer norm": (g) => {
    const [x, dy] = ["x", "dy"].map((name) => g.input(name, [2, 3, 4]));
    return g.node("layerNormGradient", [x, g.input("w", [4]), dy], { eps: 0.1 });
  },
  "upsampled convolution": (g) => {
    const [x, w, t] = [g.input("x", [2, 3, 2, 2]), g.input("w", [3, 3, 2, 2]), g.input("t", [3])];
    return g.node("conv2d", [x, w, t], {
      stride: 2,
      padding,
      upsample: 2,
      epilogue: { body: { op: "add", args: [{ input: 1 }, { input: 0 }] } },
    });
  },
  "detached": (g) => g.input("x", [2, 3]).detach(),
  "convolution backwards": (g) => {
    const [y, w] = [g.input("y", [2, 3, 2, 2]), g.input("w", [2, 3, 2, 5])];
    return y.conv2dTranspose(w, { size: [6, 3], stride: 2, padding });
  },
  "convolution backwards, padded by more than its kernel": (g) => {
    const [y, w] = [g.input("y", [1, 4, 5, 2]), g.input("w", [2, 1, 2, 3])];
    const around = { top: 1, bottom: 1, left: 2, right: 1 };
    return y.conv2dTranspose(w, { size: [2, 3], stride: 1, padding: around });
  },
  "weight of a convolution": (g) => {
    const [x, y] = [g.input("x", [2, 3, 2, 2]), g.input("y", [2, 3, 3, 5])];
    return x.conv2dWeight(y, { kernel: [3, 2], stride: 2, padding, upsample: 2 });
  },
  "matmul whose epilogue forgets it": (g) =>
    g.node("matmul", [g.input("a", [2, 3]), g.input("b", [3, 2])], {
      transposeB: false,
      epilogue: { body: 7 },
    }),
  "map over views of every kind": (g) =>
    g.node("map", [g.input("x", [4, 3, 2]), g.input("y", [24])], {
      shape: [2, 1, 3, 2],
      views: [
        { offset: 6, strides: [1, 9, 2, 6] }, // transposed part
        { offset: 3, strides: [12, 0, 0, 5] }, // with gaps, broadcast
      ],
      body: { op: "sub", args: [{ input: 0 }, { op: "mul", args: [{ input: 1 }, 3] }] },
    }),
  "map of numbers only": (g) => g.node("map", [], { shape: [2, 3], views: [], body: 4 }),
};

const SMALL = new Set([
  ...["parameter", "input", "constant", "neg", "abs", "exp", "log", "sqrt", "sin", "cos", "tanh"],
  ...["erf", "sigmoid", "add", "sub", "mul", "div", "max", "min", "less", "select", "sum"],
  ...["maximum", "matmul", "conv2d", "reshape", "transpose", "broadcast", "slice", "concat"],
  ...["pad", "upsample", "gather", "scatterAdd"],
]);

for (const [name, build] of Object.entries(FUSED)) {
  Deno.test(`decompose says in small operators what is meant by: ${name}`, () => {
    const node = build(new Graph());
    const small = decompose([node]);
    verify(small);
    for (const { op, attrs } of reachable(small)) {
      assert.ok(SMALL.has(op), op);
      assert.ok(!("epilogue" in attrs) && (!("upsample" in attrs) || attrs.upsample === 1));
    }
    const values: Record<string, number[]> = {};
    for (const leaf of reachable([node])) {
      if (leaf.op !== "input") continue;
      values[leaf.attrs.name] = Array.from(
        { length: leaf.size },
        (_, i) => Math.sin(7 * i + leaf.id),
      );
    }
    const [expected] = interpret([node], values, { precision: "f64" });
    const [actual] = interpret(small, values, { precision: "f64" });
    actual.forEach((v, i) => assert.ok(Math.abs(v - expected[i]) < 1e-13, `${v} ${expected[i]}`));
    assert.equal(actual.length, expected.length);
  });
}

Deno.test("decompose refuses a map over windows that overlap", () => {
  const g = new Graph();
  const windows = g.node("map", [g.input("x", [5])], {
    shape: [3, 3],
    views: [{ offset: 0, strides: [1, 1] }],
    body: { input: 0 },
  });
  assert.throws(() => decompose([windows]), /A view of \[5\] over \[3, 3\] overlaps itself/);
});
