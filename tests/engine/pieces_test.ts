/** Parameters that are several tensors of a checkpoint, or a part of one: on the device, and in messages. */

import assert from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import { toBf16, toF16 } from "../../lib/base/dtype.ts";
import { sourceOf } from "../../lib/engine/pieces.ts";
import { loadWeights, releaseWeights } from "../../lib/engine/weights.ts";
import type { Weights } from "../../lib/formats/checkpoint.ts";
import type { FileDType } from "../../lib/formats/safetensors.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { compile } from "../../lib/gpu/program.ts";
import { interpret } from "../../lib/graph/interpret.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { attention, geglu } from "../../lib/nn/layers.ts";
import { checkpointShape, manifestOf, paramsOf } from "../../lib/nn/params.ts";
import { nmse } from "../tolerance.ts";

const NAMES = { q: "q", k: "k", v: "v", out: "out", bias: true };

/** Self-attention, cross-attention and a gate on 5 tokens of 12 channels. */
function layers(graph: Graph): Tensor {
  const p = paramsOf(graph, "net");
  const x = graph.input("x", [1, 5, 12]);
  const text = graph.input("text", [1, 3, 20]);
  const y = attention(p.at("self"), x, x, 3, NAMES, { causal: false });
  const z = attention(p.at("cross"), y, text, 3, { ...NAMES, bias: false }, { causal: false });
  return geglu(p.at("gate"), z.add(x), 16, "gelu");
}

const waves = (length: number, seed: number) =>
  Float32Array.from({ length }, (_, i) => Math.sin(i * 1.3 + seed) * 0.4);

type Values = Readonly<Record<string, Float32Array<ArrayBuffer>>>;

/** A value for each tensor of the layers, by the checkpoint's name. */
function valuesOf(graph: Graph): Values {
  const entries = [...manifestOf(graph).values()];
  return Object.fromEntries(
    entries.map(({ name, shape }, i) => [name, waves(shape.reduce((a, b) => a * b, 1), i)]),
  );
}

const STORED: Readonly<Record<"F32" | "F16" | "BF16", (v: Float32Array) => ArrayBufferView>> = {
  F32: (v) => v,
  F16: toF16,
  BF16: toBf16,
};

/** Values as a checkpoint's component, in the type that `typeOf` says. */
function weightsOf(
  graph: Graph,
  values: Values,
  typeOf: (name: string) => keyof typeof STORED,
): Weights {
  const entries = [...manifestOf(graph).values()];
  const infos = entries.map((entry) => {
    const [name, dtype]: [string, FileDType] = [entry.name.slice(4), typeOf(entry.name)];
    return { name, dtype, shape: checkpointShape(entry), source: `file.${name}` };
  });
  return {
    infos: new Map(infos.map((info) => [info.name, info])),
    read: (name) => {
      const { buffer, byteOffset, byteLength } = STORED[typeOf(`net.${name}`)](
        values[`net.${name}`],
      );
      const data = new Uint8Array(buffer.slice(byteOffset, byteOffset + byteLength));
      return Promise.resolve({ dtype: typeOf(`net.${name}`), data: new Uint8Array(data) });
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

async function load(device: Device, graph: Graph, weights: Weights) {
  const options = { weights: "f32", progress: () => {} } as const;
  return await loadWeights(device, weights, manifestOf(graph), "net", "a.safetensors", options);
}

Deno.test("loadWeights stacks and cuts tensors as the graph's parameters say", async () => {
  await using device = await openDevice({ minimum: true });
  const graph = new Graph();
  const output = layers(graph);
  const products = graph.nodes.filter(({ op }) => op === "matmul").length;
  assert.equal(products, 1 + 1 + 1 + 1 + 1 + 2, "q, k and v; k and v; the halves of a gate");
  const values = valuesOf(graph);
  const { parameters } = await load(device, graph, weightsOf(graph, values, () => "F32"));
  const inputs = { x: waves(60, 7), text: waves(60, 8) };
  using program = await compile(device, new Map([["y", output]]), parameters);
  const actual = (await program.run(inputs)).get("y");
  const [expected] = interpret([output], { ...values, ...inputs }, { precision: "f64" });
  assert.ok(actual && nmse(actual, expected) < 1e-11);
  releaseWeights(device, parameters);
});

Deno.test("sourceOf widens the tensors of a stack where their types differ", () => {
  const graph = new Graph();
  layers(graph);
  const values = valuesOf(graph);
  const [stack] = manifestOf(graph).get("net.self.q.weight")?.readers ?? [];
  assert.equal(stack.name, "net.self.q.weight + net.self.k.weight + net.self.v.weight");
  const types = { q: "F16", k: "F32", v: "BF16" } as const;
  const dtypes = { F16: "f16", F32: "f32", BF16: "bf16" } as const;
  const { dtype, data } = sourceOf(stack, (name) => {
    const [, , letter] = name.split(".");
    const type = letter === "q" || letter === "k" ? types[letter] : types.v;
    const { buffer } = STORED[type](values[name]);
    return { dtype: dtypes[type], data: new Uint8Array(buffer.slice(0)) };
  });
  assert.equal(dtype, "f32");
  const joined = new Float32Array(data.slice().buffer);
  const expected = ["q", "k", "v"].flatMap((letter) => [...values[`net.self.${letter}.weight`]]);
  assert.equal(joined.length, expected.length);
  joined.forEach((v, i) => assert.ok(Math.abs(v - expected[i]) < 2e-3, `value ${i}`));
});

Deno.test("loadWeights names the tensor of a stack, or of a part, whose value is not finite", async () => {
  await using device = await openDevice({ minimum: true });
  const graph = new Graph();
  layers(graph);
  for (const [name, index] of [["self.k.weight", 17], ["gate.proj.weight", 300]] as const) {
    const values = valuesOf(graph);
    values[`net.${name}`][index] = NaN;
    const size = values[`net.${name}`].length;
    await assert.rejects(
      () => load(device, graph, weightsOf(graph, values, () => "F32")),
      (error) =>
        error instanceof FormatError &&
        error.message.includes(`"file.${name}" of "a.safetensors": value ${index} of ${size} is`),
    );
    assert.equal(device.memory.live, 0);
  }
});

Deno.test("loadWeights names a tensor of a stack that is missing or misshapen by its own name", async () => {
  await using device = await openDevice({ minimum: true });
  const graph = new Graph();
  layers(graph);
  const whole = weightsOf(graph, valuesOf(graph), () => "F32");
  const lacking = new Map(whole.infos);
  lacking.delete("self.v.bias");
  await assert.rejects(
    () => load(device, graph, { ...whole, infos: lacking }),
    /it lacks 1 tensor, "self.v.bias"/,
  );
  const info = whole.infos.get("cross.k.weight");
  assert.ok(info);
  const misshapen = new Map(whole.infos).set("cross.k.weight", { ...info, shape: [12, 19] });
  await assert.rejects(
    () => load(device, graph, { ...whole, infos: misshapen }),
    /"file.cross.k.weight".*its shape is \[12, 19\].*needs \[12, 20\]/,
  );
});
