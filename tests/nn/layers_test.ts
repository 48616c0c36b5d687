/** Layers: what the model goldens cannot see, and how they name what they make. */

import assert from "node:assert/strict";
import { interpret } from "../../lib/graph/interpret.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import {
  ACTIVATIONS,
  around,
  attention,
  conv2d,
  groupNorm,
  linear,
  linearNoBias,
  same,
  sinusoid,
  splitHeads,
} from "../../lib/nn/layers.ts";
import { checkpointShape, manifestOf, paramsOf } from "../../lib/nn/params.ts";

function valueOf(tensor: Tensor, values: Record<string, ArrayLike<number>>): number[] {
  return [...interpret([tensor], values, { precision: "f64" })[0]];
}

Deno.test("ACTIVATIONS have the values that torch gives at -1, 0.5 and 3", () => {
  // torch 2.13 in float64: silu, gelu, gelu(approximate="tanh"), x * sigmoid(1.702 * x), relu.
  const expected: Record<keyof typeof ACTIVATIONS, number[]> = {
    silu: [-0.2689414213699951, 0.3112296656009273, 2.8577223804672998],
    swish: [-0.2689414213699951, 0.3112296656009273, 2.8577223804672998],
    gelu: [-0.15865525393145702, 0.34573123063700656, 2.99595030590511],
    gelu_new: [-0.15880800939172324, 0.34571400982514394, 2.996362607918227],
    gelu_pytorch_tanh: [-0.15880800939172324, 0.34571400982514394, 2.996362607918227],
    quick_gelu: [-0.1542042340671787, 0.35038843660638014, 2.981928690292214],
    relu: [0, 0.5, 3],
  };
  const graph = new Graph();
  const x = graph.input("x", [3]);
  for (const [name, activation] of Object.entries(ACTIVATIONS)) {
    const found = valueOf(activation(x), { x: [-1, 0.5, 3] });
    const want: number[] | undefined = Object.entries(expected).find(([key]) => key === name)?.[1];
    assert.ok(want, name);
    found.forEach((v, i) =>
      assert.ok(Math.abs(v - want[i]) < 1e-12, `${name}: ${v}, expected ${want[i]}`)
    );
  }
});

Deno.test("sinusoid puts cosines first when flipped, shifts frequencies, and ends odd widths with a zero", () => {
  const graph = new Graph();
  const t = graph.input("t", [1]);
  const of = (width: number, flipSinToCos: boolean, freqShift: number) =>
    valueOf(sinusoid(t, { width, flipSinToCos, freqShift }), { t: [2] });
  const round = (x: number) => Math.fround(x);
  const near = (found: number[], expected: number[]) => {
    assert.equal(found.length, expected.length);
    found.forEach((v, i) => assert.ok(Math.abs(v - expected[i]) < 1e-12, `${found}`));
  };
  const slow = 2 * round(0.01); // 10000^(−1/2)
  near(of(4, true, 0), [Math.cos(2), Math.cos(slow), Math.sin(2), Math.sin(slow)]);
  near(of(4, false, 0), [Math.sin(2), Math.sin(slow), Math.cos(2), Math.cos(slow)]);
  const slower = 2 * round(0.0001); // 10000^(−1/(2 − 1))
  near(of(5, false, 1), [Math.sin(2), Math.sin(slower), Math.cos(2), Math.cos(slower), 0]);
});

Deno.test("layers label their result and name their weights by scope", () => {
  const graph = new Graph();
  const p = paramsOf(graph, "unet").at("down_blocks").at(0);
  const x = graph.input("x", [1, 4, 6, 8]);
  const y = conv2d(p.at("conv1"), x, 16, { ...same(3), stride: 2 });
  assert.equal(graph.labels.get("unet.down_blocks.0.conv1"), y);
  assert.deepEqual(y.shape, [1, 2, 3, 16]);
  const weight = manifestOf(graph).get("unet.down_blocks.0.conv1.weight");
  assert.ok(weight);
  assert.deepEqual(weight.shape, [16, 3, 3, 8]);
  assert.deepEqual(checkpointShape(weight), [16, 8, 3, 3]);
  assert.equal(graph.scopeOf(y), "unet.down_blocks.0.conv1");
});

Deno.test("layers that have no bias mention none", () => {
  const graph = new Graph();
  const p = paramsOf(graph);
  linearNoBias(p.at("to_q"), graph.input("x", [2, 3]), 5);
  conv2d(p.at("conv"), graph.input("y", [1, 4, 4, 2]), 3, { ...same(3), bias: false });
  linear(p.at("out"), graph.input("x", [2, 3]), 5);
  assert.deepEqual([...manifestOf(graph).keys()], [
    "to_q.weight",
    "conv.weight",
    "out.weight",
    "out.bias",
  ]);
});

Deno.test("groupNorm takes moments from outside where they are given", () => {
  const graph = new Graph();
  const p = paramsOf(graph).at("norm");
  const x = graph.input("x", [1, 2, 2]);
  const moments = graph.input("moments", [1, 1, 2]);
  const y = groupNorm(p, x, { groups: 1, eps: 0 }, moments);
  const values = { x: [1, 2, 3, 4], moments: [1, 4], "norm.weight": [1, 2], "norm.bias": [0, 10] };
  assert.deepEqual(valueOf(y, values), [0, 11, 1, 13]);
  assert.ok(!graph.nodes.some((node) => node.op === "groupMoments"));
});

Deno.test("attention names its products as the library does and shares none of them", () => {
  const graph = new Graph();
  const x = graph.input("x", [1, 3, 8]);
  const context = graph.input("context", [1, 5, 6]);
  const names = { q: "to_q", k: "to_k", v: "to_v", out: "to_out.0", bias: false };
  const y = attention(paramsOf(graph, "attn2"), x, context, 2, names, { causal: false });
  assert.deepEqual(y.shape, [1, 3, 8]);
  assert.equal(graph.labels.get("attn2"), y);
  const manifest = manifestOf(graph);
  assert.deepEqual(manifest.get("attn2.to_k.weight")?.shape, [8, 6]);
  assert.deepEqual([...manifest.keys()].sort(), [
    "attn2.to_k.weight",
    "attn2.to_out.0.bias",
    "attn2.to_out.0.weight",
    "attn2.to_q.weight",
    "attn2.to_v.weight",
  ]);
});

Deno.test("layers name the scope in which operands do not fit", () => {
  const graph = new Graph();
  const p = paramsOf(graph, "vae").at("conv_in");
  assert.throws(
    () => conv2d(p, graph.input("x", [4, 4]), 8, same(3)),
    /Cannot build "vae\.conv_in": .*\[4, 4\]/,
  );
  assert.throws(
    () => splitHeads(graph.input("y", [1, 2, 10]), 4),
    /4 heads do not divide \[1, 2, 10\]/,
  );
});

Deno.test("around pads all four sides alike", () => {
  assert.deepEqual(around(2), { top: 2, bottom: 2, left: 2, right: 2 });
});
