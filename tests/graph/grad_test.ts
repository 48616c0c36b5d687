/** Every row of the gradient table, every layer, and random graphs, against central differences. */

import assert from "node:assert/strict";
import { gradients, pullback } from "../../lib/graph/grad.ts";
import { interpret, type Values } from "../../lib/graph/interpret.ts";
import type { OpName } from "../../lib/graph/ops.ts";
import { reachable, rebuild } from "../../lib/graph/rewrite.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import {
  type Activation,
  ACTIVATIONS,
  around,
  attention,
  conv2d,
  geglu,
  groupNorm,
  layerNorm,
  linear,
  linearNoBias,
  same,
  sinusoid,
  timeMlp,
} from "../../lib/nn/layers.ts";
import { paramsOf } from "../../lib/nn/params.ts";
import { gradcheck } from "./gradcheck.ts";
import { randomGraph } from "./random_graph.ts";

const x = (g: Graph, ...shape: number[]) => g.input("x", shape);
const y = (g: Graph, ...shape: number[]) => g.input("y", shape);
const w = (g: Graph, ...shape: number[]) => g.parameter("w", shape, "vector");
const positive = (t: Tensor) => t.abs().add(0.3);
const lopsided = { top: 1, bottom: 0, left: 2, right: 1 };
const kernel = [3, 2] as const;

type Build = (g: Graph) => Tensor;

/** Cases of each operator; those that nothing passes are tested below. */
const CASES: { readonly [K in OpName]: readonly Build[] } = {
  parameter: [(g) => w(g, 3)],
  input: [(g) => x(g, 2, 3)],
  constant: [(g) => g.constant([1, 2], [2]).add(x(g, 3, 1))],
  neg: [(g) => x(g, 4).neg()],
  abs: [(g) => x(g, 6).abs()],
  exp: [(g) => x(g, 4).exp()],
  log: [(g) => positive(x(g, 4)).log()],
  sqrt: [(g) => positive(x(g, 4)).sqrt()],
  sin: [(g) => x(g, 4).mul(3).sin()],
  cos: [(g) => x(g, 4).mul(3).cos()],
  tanh: [(g) => x(g, 4).tanh()],
  erf: [(g) => x(g, 4).erf()],
  sigmoid: [(g) => x(g, 4).mul(3).sigmoid()],
  add: [(g) => x(g, 2, 3).add(w(g, 3)), (g) => w(g).add(x(g, 2, 1)), (g) => x(g, 3).add(x(g, 3))],
  sub: [(g) => x(g, 2, 1, 3).sub(w(g, 4, 1)), (g) => g.constant(1).sub(x(g, 3))],
  mul: [(g) => x(g, 2, 3).mul(w(g, 1, 3)), (g) => x(g, 3).mul(x(g, 3))],
  div: [(g) => x(g, 2, 3).div(positive(y(g, 3))), (g) => w(g, 1).div(positive(x(g, 3)))],
  max: [(g) => x(g, 2, 4).max(y(g, 4)), (g) => x(g, 8).max(0)],
  min: [(g) => x(g, 2, 4).min(y(g, 4)), (g) => g.constant(0.1).min(x(g, 8))],
  less: [(g) => x(g, 8).less(y(g, 8)).add(x(g, 8))],
  select: [(g) => x(g, 8).less(0).select(y(g, 2, 8), w(g, 1)), (g) => x(g, 4).select(2, y(g, 4))],
  detach: [],
  map: [(g) =>
    g.node("map", [x(g, 4, 3), y(g, 24)], {
      shape: [2, 3, 2],
      views: [{ offset: 3, strides: [3, 1, 0] }, { offset: 1, strides: [12, 0, 5] }],
      body: {
        op: "mul",
        args: [{ op: "tanh", args: [{ input: 0 }] }, {
          op: "select",
          args: [{ op: "less", args: [{ input: 1 }, 0.1] }, { input: 0 }, { input: 1 }],
        }],
      },
    })],
  sum: [(g) => x(g, 2, 3, 4).sum([0, 2]), (g) => x(g, 2, 3).sum([])],
  maximum: [(g) => x(g, 2, 3, 4).maximum([1]), (g) => x(g, 2, 3).maximum([0, 1])],
  matmul: [
    (g) => x(g, 5, 3).matmul(w(g, 3, 4), { transposeB: false }),
    (g) => x(g, 2, 5, 3).matmul(w(g, 4, 3), { transposeB: true }),
    (g) => x(g, 2, 3, 5, 3).matmul(y(g, 2, 3, 3, 2), { transposeB: false }),
    (g) => x(g, 2, 5, 3).matmul(y(g, 2, 4, 3), { transposeB: true }),
    (g) =>
      g.node("matmul", [x(g, 2, 5, 3), w(g, 4, 3), y(g, 4)], {
        transposeB: true,
        epilogue: { body: { op: "mul", args: [{ input: 0 }, { input: 1 }] } },
      }),
  ],
  conv2d: [
    (g) => x(g, 2, 4, 5, 3).conv2d(w(g, 2, 3, 3, 3), { stride: 1, padding: around(1) }),
    (g) => x(g, 2, 5, 6, 3).conv2d(w(g, 2, ...kernel, 3), { stride: 2, padding: lopsided }),
    (g) => x(g, 1, 4, 5, 2).conv2d(w(g, 3, 1, 1, 2), { stride: 1, padding: around(2) }),
    (g) =>
      g.node("conv2d", [x(g, 2, 3, 2, 2), w(g, 3, 3, 3, 2)], {
        ...{ stride: 1, padding: around(1), upsample: 2 },
      }),
    (g) =>
      g.node("conv2d", [x(g, 1, 3, 2, 2), w(g, 3, ...kernel, 2), y(g, 3)], {
        ...{ stride: 2, padding: lopsided, upsample: 3 },
        epilogue: {
          body: { op: "tanh", args: [{ op: "add", args: [{ input: 0 }, { input: 1 }] }] },
        },
      }),
  ],
  conv2dTranspose: [
    (g) =>
      x(g, 2, 3, 2, 2).conv2dTranspose(w(g, 2, ...kernel, 3), {
        ...{ size: [6, 2], stride: 2, padding: lopsided },
      }),
  ],
  conv2dWeight: [1, 2].map((upsample) => (g) => {
    const pixels = x(g, 2, 5, 4, 2);
    const attrs = { stride: 2, padding: lopsided, upsample };
    const places = g.node("conv2d", [pixels, w(g, 3, ...kernel, 2)], attrs);
    return pixels.conv2dWeight(y(g, ...places.shape), { kernel, ...attrs });
  }),
  attention: [
    (g) =>
      x(g, 2, 4, 2, 3).attention(y(g, 2, 5, 2, 3), w(g, 2, 5, 2, 3), { scale: 0.7, causal: false }),
    (g) =>
      x(g, 1, 4, 2, 3).attention(y(g, 1, 4, 2, 3), x(g, 1, 4, 2, 3), { scale: 2, causal: true }),
    (g) =>
      g.node("attention", [x(g, 2, 3, 5, 2), y(g, 2, 4, 4, 2), y(g, 2, 4, 4, 2)], {
        ...{ scale: 0.5, causal: false, heads: { count: 2, first: [3, 0, 2] } },
      }),
  ],
  attentionLogSum: [false, true].map((causal) => (g) =>
    g.node("attentionLogSum", [x(g, 2, 4, 2, 3), y(g, 2, 3, 2, 3)], { scale: 0.7, causal })
  ),
  attentionGradient: (["q", "k", "v"] as const).map((of) => (g) => {
    const [q, k, v] = [x(g, 2, 4, 2, 3), y(g, 2, 3, 2, 3), w(g, 2, 3, 2, 3)];
    const [dy, sums, along] = [
      g.input("dy", [2, 4, 2, 3]),
      g.input("sums", [2, 4, 2, 1]),
      g.input("along", [2, 4, 2, 1]),
    ];
    const attrs = { of, scale: 0.7, causal: true };
    return g.node("attentionGradient", [q, k, v, dy, sums, along], attrs);
  }),
  groupMoments: [(g) => x(g, 2, 3, 2, 4).groupMoments(2), (g) => x(g, 3, 6).groupMoments(3)],
  groupNormalize: [(g) => {
    const pixels = x(g, 2, 3, 2, 4);
    const scale = g.parameter("scale", [4], "vector");
    return pixels.groupNormalize(pixels.groupMoments(2), scale, w(g, 4), { groups: 2, eps: 0.01 });
  }, (g) => {
    const scale = g.parameter("scale", [1, 4], "vector");
    const moments = positive(y(g, 2, 2, 2));
    return x(g, 2, 3, 4).groupNormalize(moments, scale, w(g, 4), { groups: 2, eps: 0.01 });
  }],
  layerNorm: [(g) => {
    const scale = g.parameter("scale", [4], "vector");
    return x(g, 2, 3, 4).layerNorm(scale, w(g, 4), { eps: 0.01 });
  }],
  groupSums: [(g) => {
    const [pixels, moments] = [x(g, 2, 3, 4), positive(y(g, 2, 2, 2))];
    return g.node("groupSums", [pixels, moments, w(g, 2, 3, 4)], { groups: 2, eps: 0.01 });
  }],
  layerNormGradient: [(g) => {
    const scale = g.parameter("scale", [4], "vector");
    return g.node("layerNormGradient", [x(g, 2, 3, 4), scale, w(g, 2, 3, 4)], { eps: 0.01 });
  }],
  softmax: [(g) => x(g, 2, 3, 4).mul(3).softmax()],
  reshape: [(g) => x(g, 2, 6).reshape([3, 4])],
  transpose: [(g) => x(g, 2, 3, 4).transpose([1, 2, 0])],
  broadcast: [(g) => x(g, 2, 1, 3).broadcast([4, 2, 5, 3]), (g) => w(g).broadcast([2, 3])],
  slice: [(g) => g.node("slice", [x(g, 4, 5)], { begin: [1, 2], end: [3, 5] })],
  concat: [(g) => g.concat([x(g, 2, 3), y(g, 2, 2), x(g, 2, 3)], 1)],
  pad: [(g) => x(g, 2, 3).pad([1, 0], [0, 2])],
  upsample: [(g) => x(g, 2, 3, 2, 2).upsample(3)],
  gather: [(g) => w(g, 4, 3).gather(g.input("ids", [2, 3], "i32"))],
  scatterAdd: [(g) => x(g, 2, 3, 5).scatterAdd(g.input("ids", [2, 3], "i32"), 4)],
};
const IDS: Values = { ids: [0, 3, 1, 3, 3, 0] };

for (const [op, builds] of Object.entries(CASES)) {
  if (builds.length === 0) continue;
  Deno.test(`gradients of ${op} equal differences`, () => {
    builds.forEach((build, i) => {
      const output = build(new Graph());
      assert.ok(reachable([output]).some((node) => node.op === op), `case ${i} has no ${op}`);
      for (const seed of [1, 2, 3]) {
        assert.ok(gradcheck([output], IDS, seed), `case ${i}, seed ${seed} is at a corner`);
      }
    });
  });
}

/** Every layer, on a few rows or pixels. */
const LAYERS: Readonly<Record<string, Build>> = {
  linear: (g) => linear(paramsOf(g, "l"), x(g, 2, 3, 4), 5),
  linearNoBias: (g) => linearNoBias(paramsOf(g, "l"), x(g, 2, 3, 4), 5),
  conv2d: (g) => conv2d(paramsOf(g, "l"), x(g, 1, 3, 4, 2), 3, same(3)),
  groupNorm: (g) => groupNorm(paramsOf(g, "l"), x(g, 2, 2, 3, 4), { groups: 2, eps: 0.01 }),
  layerNorm: (g) => layerNorm(paramsOf(g, "l"), x(g, 2, 3, 4), 0.01),
  "self-attention": (g) => {
    const names = { q: "q", k: "k", v: "v", out: "o", bias: true };
    const states = x(g, 2, 3, 4);
    return attention(paramsOf(g, "l"), states, states, 2, names, { causal: true });
  },
  "cross-attention": (g) => {
    const names = { q: "q", k: "k", v: "v", out: "o", bias: false };
    return attention(paramsOf(g, "l"), x(g, 2, 3, 4), y(g, 2, 5, 3), 2, names, { causal: false });
  },
  geglu: (g) => geglu(paramsOf(g, "l"), x(g, 2, 3, 4), 5, "gelu"),
  sinusoid: (g) => sinusoid(x(g, 3), { width: 7, flipSinToCos: true, freqShift: 0 }),
  timeMlp: (g) => timeMlp(paramsOf(g, "l"), x(g, 2, 4), 6),
};
const isActivation = (name: string): name is Activation => name in ACTIVATIONS;
for (const name of Object.keys(ACTIVATIONS)) {
  if (isActivation(name)) {
    Object.assign(LAYERS, { [name]: (g: Graph) => ACTIVATIONS[name](x(g, 9)) });
  }
}

for (const [name, build] of Object.entries(LAYERS)) {
  Deno.test(`gradients of the layer ${name} equal differences`, () => {
    assert.ok(gradcheck([build(new Graph())], {}, 5));
  });
}

Deno.test("gradients of random graphs equal differences", () => {
  let compared = 0;
  for (let seed = 0; seed < 120; seed++) {
    const { outputs, values } = randomGraph(seed, 16);
    const passable = rebuild(outputs, (node) => node.op === "detach" ? node.inputs[0] : node)
      .filter(({ dtype }) => dtype === "f32");
    try {
      if (gradcheck(passable, values, seed)) compared++;
    } catch (cause) {
      throw new Error(`seed ${seed}: ${cause instanceof Error ? cause.message : ""}`, { cause });
    }
  }
  assert.ok(compared >= 80, `only ${compared} graphs had no corner`);
});

/** Values of gradients. */
function valuesOf(tensors: readonly Tensor[], values: Values): number[][] {
  return interpret(tensors, values, { precision: "f64" }).map((result) => [...result]);
}

Deno.test("gradients do not pass detach, and are zero where nothing depends", () => {
  const g = new Graph();
  const [a, b] = [g.input("a", [2]), g.input("b", [2])];
  const loss = a.detach().mul(a).sum([0]);
  assert.deepEqual(valuesOf(gradients(loss, [a, b]), { a: [3, 5] }), [[3, 5], [0, 0]]);
});

Deno.test("gradients at corners: none of relu and abs at 0, the second of equals, shares of the largest", () => {
  const g = new Graph();
  const [a, b] = [g.input("a", [2]), g.input("b", [2])];
  const by = (loss: Tensor) => valuesOf(gradients(loss.sum([0]), [a, b]), { a: [0, 1], b: [0, 1] });
  assert.deepEqual(by(a.max(0)), [[0, 1], [0, 0]]);
  assert.deepEqual(by(a.abs()), [[0, 1], [0, 0]]);
  assert.deepEqual(by(a.max(b)), [[0, 0], [1, 1]]);
  assert.deepEqual(by(a.min(b)), [[0, 0], [1, 1]]);
  const c = g.input("c", [4]);
  const [shares] = valuesOf(gradients(c.maximum([0]), [c]), { c: [1, 3, 3, 2] });
  assert.deepEqual(shares, [0, 0.5, 0.5, 0]);
});

Deno.test("gradients by a tensor and by what it is made of", () => {
  const g = new Graph();
  const a = g.input("a", []);
  const square = a.mul(a);
  assert.deepEqual(valuesOf(gradients(square.mul(square), [a, square]), { a: [3] }), [[108], [18]]);
});

Deno.test("pullback weighs its outputs", () => {
  const g = new Graph();
  const a = g.input("a", [2]);
  const made = pullback([a.mul(2), a.mul(a)], [g.constant([1, 10], [2]), g.constant(1, [2])], [a]);
  assert.deepEqual(valuesOf(made, { a: [3, 5] }), [[8, 30]]);
});

Deno.test("gradients carry the scope of what they differentiate", () => {
  const g = new Graph();
  const loss = g.within("down.0", () => x(g, 3).exp()).sum([0]);
  const [dx] = gradients(loss, [x(g, 3)]);
  assert.equal(g.scopeOf(dx), "down.0");
});

Deno.test("gradients refuse a loss of several numbers and whole numbers", () => {
  const g = new Graph();
  const ids = g.input("ids", [2], "i32");
  const rows = w(g, 4, 3).gather(ids);
  assert.throws(() => gradients(rows, [ids]), /a loss of shape \[2, 3\]: one number is needed/);
  assert.throws(() => gradients(rows.sum([0, 1]), [ids]), /by %\d+ \(input\): it holds i32/);
});
