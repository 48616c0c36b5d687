import assert from "node:assert/strict";
import { torchCpu } from "../../lib/base/random.ts";
import { sizeOf } from "../../lib/base/shape.ts";
import { gradients } from "../../lib/graph/grad.ts";
import { interpret } from "../../lib/graph/interpret.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { verify } from "../../lib/graph/verify.ts";
import {
  around,
  attention,
  type AttentionNames,
  conv2d,
  geglu,
  linear,
} from "../../lib/nn/layers.ts";
import { fold, layersOf, type LowRanks, withLowRanks } from "../../lib/nn/lora.ts";
import { manifestOf, type Params, paramsOf, unstacked } from "../../lib/nn/params.ts";
import { channelsFirst, channelsLast } from "../models/tiny.ts";
import { assertClose } from "../tolerance.ts";

const NAMES: AttentionNames = { q: "to_q", k: "to_k", v: "to_v", out: "to_out.0", bias: false };
const STRIDED = { kernel: 3, stride: 2, padding: around(1), bias: true };

/** A layer of each kind over x, and x. */
const LAYERS: Readonly<Record<string, readonly [(p: Params, x: Tensor) => Tensor, number[]]>> = {
  linear: [(p, x) => linear(p.at("to_q"), x, 6), [2, 5, 8]],
  stacked: [(p, x) => attention(p, x, x, 2, NAMES, { causal: false }), [2, 5, 8]],
  cut: [(p, x) => geglu(p.at("net.0"), x, 6, "gelu"), [2, 5, 8]],
  strided: [(p, x) => conv2d(p.at("conv"), x, 6, STRIDED), [2, 5, 6, 4]],
};

/** Values of every parameter and input of a graph, the same for the same name. */
function valuesFor(outputs: readonly Tensor[]): Record<string, Float32Array> {
  const values: Record<string, Float32Array> = {};
  for (const node of outputs[0].graph.nodes) {
    if (node.op !== "parameter" && node.op !== "input") continue;
    const { name } = node.attrs;
    const seed = [...name].reduce((hash, c) => Math.imul(hash, 31) + c.charCodeAt(0) >>> 0, 7);
    values[name] = torchCpu(seed).normal(sizeOf(node.shape)).map((value) => value / 3);
  }
  return values;
}

const run = (outputs: readonly Tensor[], values: Record<string, Float32Array>) =>
  interpret(outputs, values, { precision: "f64" });

/** As checkpoints have weights: [co, kh, kw, ci] → [co, ci, kh, kw]; others as they are. */
const toCheckpoint = (values: Float32Array, shape: readonly number[]) =>
  shape.length < 4 ? values : Float32Array.from(channelsFirst(Float64Array.from(values), shape));

/** The reverse. */
function toGraph(values: Float32Array, shape: readonly number[]): Float32Array {
  const [co, kh, kw, ci] = shape;
  return shape.length < 4 ? values : channelsLast(values, [co, ci, kh, kw]);
}

for (const [kind, [build, shape]] of Object.entries(LAYERS)) {
  Deno.test(`withLowRanks beside a ${kind} layer computes what folded weights do`, () => {
    const graph = new Graph();
    const plain = build(paramsOf(graph, "unet"), graph.input("x", shape));
    const layers = layersOf(manifestOf(graph), ["to_q", "to_v", "proj", "conv"]);
    assert.ok(layers.length > 0);
    const ranks: LowRanks = new Map(layers.map((layer, i) => [layer, { rank: 3 + i, scale: 0.7 }]));
    const beside = unstacked(withLowRanks([plain], ranks));
    verify(beside);
    const values = valuesFor(beside);
    const folded = { ...values };
    for (const [layer, { rank, scale }] of ranks) {
      const name = `${layer}.weight`;
      const { shape } = manifestOf(graph).get(name) ?? assert.fail(name);
      const [co, ...taps] = shape;
      const down = `${layer}.lora_down.weight`;
      const weight = toCheckpoint(values[name], shape).slice();
      fold(weight, [co, ...taps], {
        down: toCheckpoint(values[down], [rank, ...taps]),
        up: values[`${layer}.lora_up.weight`],
        rank,
        scale,
      });
      folded[name] = toGraph(weight, shape);
      assert.notDeepEqual(folded[name], values[name]);
    }
    const [actual] = run(beside, values);
    const [expected] = run(unstacked([plain]), folded);
    assertClose(actual, expected, { reduction: 64 }, kind);
  });
}

Deno.test("withLowRanks leaves graphs as they are where nothing stands beside, and where up is zero", () => {
  const graph = new Graph();
  const [build, shape] = LAYERS.stacked;
  const plain = build(paramsOf(graph, "unet"), graph.input("x", shape));
  const [same] = withLowRanks([plain], new Map([["unet.other", { rank: 2, scale: 1 }]]));
  assert.equal(same.graph.nodes.length, plain.graph.nodes.length);
  const beside = unstacked(
    withLowRanks([plain], new Map([["unet.to_k", { rank: 2, scale: 1 }]])),
  );
  const values = valuesFor(beside);
  values["unet.to_k.lora_up.weight"].fill(0);
  assertClose(run(beside, values)[0], run(unstacked([plain]), values)[0], { reduction: 0 }, "zero");
});

Deno.test("gradients of a graph with products beside reach both factors, and the layer below", () => {
  const graph = new Graph();
  const [build, shape] = LAYERS.cut;
  const plain = build(paramsOf(graph, "unet"), graph.input("x", shape));
  const ranks = new Map([["unet.net.0.proj", { rank: 2, scale: 0.5 }]]);
  const [y] = unstacked(withLowRanks([plain], ranks));
  const loss = y.mul(y).sum([0, 1, 2]).reshape([]);
  const wrt = ["down", "up"].map((name) =>
    [...y.graph.nodes].find((node) =>
      node.op === "parameter" && node.attrs.name.includes(`lora_${name}`)
    ) ?? assert.fail(name)
  );
  const values = valuesFor([y]);
  const found = run(gradients(loss, wrt), values);
  wrt.forEach((node, i) => {
    if (node.op !== "parameter") return assert.fail();
    const { name } = node.attrs;
    for (const at of [0, 5]) {
      const h = 1e-3;
      const [above, below] = [h, -h].map((step) => {
        const moved = values[name].slice();
        moved[at] += step;
        return { value: run([loss], { ...values, [name]: moved })[0][0], at: moved[at] };
      });
      const slope = (above.value - below.value) / (above.at - below.at);
      assert.ok(Math.abs(slope - found[i][at]) <= 1e-5 * Math.max(1, Math.abs(slope)), name);
    }
  });
});

Deno.test("layersOf finds layers by the ends of their names, whole parts only", () => {
  const graph = new Graph();
  const p = paramsOf(graph, "unet");
  attention(p.at("attn1"), graph.input("x", [1, 2, 4]), graph.input("x", [1, 2, 4]), 2, NAMES, {
    causal: false,
  });
  const manifest = manifestOf(graph);
  assert.deepEqual(layersOf(manifest, ["q", "to_q"]), ["unet.attn1.to_q"]);
  assert.deepEqual(layersOf(manifest, ["to_out.0"]), ["unet.attn1.to_out.0"]);
  assert.deepEqual(layersOf(manifest, ["attn1.to_k", "unet.attn1.to_v"]), [
    "unet.attn1.to_k",
    "unet.attn1.to_v",
  ]);
});

Deno.test("fold refuses factors that do not fit", () => {
  const factors = { down: new Float32Array(6), up: new Float32Array(8), rank: 2, scale: 1 };
  fold(new Float32Array(12), [4, 3], factors);
  assert.throws(() => fold(new Float32Array(16), [4, 4], factors), /do not fit a weight of 4×4/);
});
