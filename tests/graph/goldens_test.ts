/** `interpret` against torch in double precision: fixtures/make/ops.py. */

import assert from "node:assert/strict";
import { SafetensorsFile, toFloat32 } from "../../lib/formats/safetensors.ts";
import { interpret } from "../../lib/graph/interpret.ts";
import type { Padding } from "../../lib/graph/ops.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { fixture } from "../fixture.ts";

type Build = (operands: Readonly<Record<string, Tensor>>) => Tensor;

const pad = (left: number, right: number, top: number, bottom: number) => ({
  left,
  right,
  top,
  bottom,
});

function convolution(stride: number, padding: Padding, upsample: number): Build {
  return ({ x, weight }) => x.graph.node("conv2d", [x, weight], { stride, padding, upsample });
}

function groupNorm(groups: number, eps: number): Build {
  return ({ x, weight, bias }) =>
    x.groupNormalize(x.groupMoments(groups), weight, bias, { groups, eps });
}

const matmul = (transposeB: boolean): Build => ({ a, b }) => a.matmul(b, { transposeB });

const attention = (causal: boolean): Build => ({ q, k, v }) =>
  q.attention(k, v, { scale: 0.3, causal });

/** The graph of each case in the file. */
const CASES: Readonly<Record<string, Build>> = {
  conv3x3: convolution(1, pad(1, 1, 1, 1), 1),
  conv1x1: convolution(1, pad(0, 0, 0, 0), 1),
  strided: convolution(2, pad(1, 1, 1, 1), 1),
  asymmetric: convolution(2, pad(0, 1, 0, 1), 1),
  lopsided: convolution(1, pad(2, 0, 1, 3), 1),
  upsampled: convolution(1, pad(1, 1, 1, 1), 2),
  upsampled3: convolution(2, pad(1, 0, 0, 2), 3),
  group_norm: groupNorm(4, 1e-5),
  group_norm_tokens: groupNorm(3, 1e-2),
  layer_norm: ({ x, weight, bias }) => x.layerNorm(weight, bias, { eps: 1e-5 }),
  softmax: ({ x }) => x.softmax(),
  attention: attention(false),
  attention_causal: attention(true),
  erf: ({ x }) => x.erf(),
  tanh: ({ x }) => x.tanh(),
  sigmoid: ({ x }) => x.sigmoid(),
  gelu: ({ x }) => x.mul(x.mul(Math.SQRT1_2).erf().add(1)).mul(0.5),
  gelu_tanh: ({ x }) => {
    const inner = x.mul(x).mul(x).mul(0.044715).add(x).mul(Math.sqrt(2 / Math.PI));
    return x.mul(inner.tanh().add(1)).mul(0.5);
  },
  silu: ({ x }) => x.mul(x.sigmoid()),
  upsample: ({ x }) => x.upsample(3),
  matmul: matmul(false),
  matmul_transposed: matmul(true),
  matmul_rows: matmul(false),
  matmul_rows_transposed: matmul(true),
  matmul_batched: matmul(false),
  matmul_batched_transposed: matmul(true),
};

const path = fixture("goldens/ops.safetensors");

Deno.test("interpret agrees with torch on every golden operator", async (t) => {
  using file = await SafetensorsFile.open(path);
  const names = [...file.tensors.keys()];
  const inFile = new Set(names.map((name) => name.split(".")[0]));
  assert.deepEqual([...inFile].sort(), Object.keys(CASES).sort(), "cases in the file and here");

  for (const [name, build] of Object.entries(CASES)) {
    await t.step(name, async () => {
      const graph = new Graph();
      const operands: Record<string, Tensor> = {};
      const values: Record<string, Float32Array> = {};
      for (const full of names.filter((full) => full.startsWith(`${name}.`))) {
        const operand = full.slice(name.length + 1);
        if (operand === "out") continue;
        const { shape, dtype } = file.entry(full);
        operands[operand] = graph.input(operand, shape);
        values[operand] = toFloat32(dtype, await file.read(full), full);
      }
      const result = build(operands);
      const expected = new Float64Array((await file.read(`${name}.out`)).buffer);
      assert.deepEqual(result.shape, file.entry(`${name}.out`).shape);

      const [exact] = interpret([result], values, { precision: "f64" });
      const [single] = interpret([result], values, { precision: "f32" });
      // Two orders of summation of at most 63 doubles; every result rounded to single a few times.
      // A group around 3 with deviation 0.004: torch takes its variance as E[x²] − E[x]², and a mean
      // rounded to single is off by 3e-5 deviations.
      const [unit64, unit32] = name.startsWith("group_norm") ? [1e-10, 1e-5] : [1e-14, 1e-6];
      const scale = expected.reduce((top, v) => Math.max(top, Math.abs(v)), 0);
      assert.ok(farthest(exact, expected) <= unit64 * scale, `f64: ${farthest(exact, expected)}`);
      assert.ok(farthest(single, expected) <= unit32 * scale, `f32: ${farthest(single, expected)}`);
      assert.ok(single.every((v) => v === Math.fround(v)), "f32 results are single precision");
    });
  }
});

function farthest(a: Float64Array, b: Float64Array): number {
  assert.equal(a.length, b.length);
  return a.reduce((worst, v, i) => Math.max(worst, Math.abs(v - b[i])), 0);
}
