import assert from "node:assert/strict";
import { interpret } from "../../lib/graph/interpret.ts";
import { Graph } from "../../lib/graph/tensor.ts";
import type { Epilogue } from "../../lib/graph/ops.ts";
import type { Expression } from "../../lib/graph/expression.ts";
import { groupMoments, groupNormalize, layerNorm, softmax } from "../../lib/kernels/norm.ts";
import { profileOf, subgroupDevice, testDevice } from "../gpu.ts";
import { type KernelCase, kernelTest, normals } from "./harness.ts";
import { meaning } from "./meaning.ts";
import { prepare } from "./runner.ts";

const several: KernelCase["expect"] = ([{ dispatches }], { kind }) => {
  if (kind === "gpu") assert.ok(dispatches.length > 2, "the case is cut into windows");
};

const moments = (shape: readonly number[], groups: number): KernelCase => ({
  build: (g) => g.input("x", shape).groupMoments(groups),
});

kernelTest("groupMoments", {
  kernel: groupMoments,
  oracle: meaning,
  reduction: ({ inputs: [x], attrs: { groups } }) => x.size / x.shape[0] / groups,
  cases: {
    "one pixel": moments([2, 1, 1, 8], 2),
    "tiny": moments([2, 3, 3, 4], 2),
    "no pixels' axis": moments([3, 12], 3),
    "ten channels in a group": moments([2, 9, 11, 40], 4),
    "odd channels": moments([1, 7, 6, 9], 3),
    "many chunks": moments([1, 67, 61, 8], 2),
    "cut into windows": {
      ...moments([2, 40, 40, 8], 2),
      profile: { maxBinding: 16384 },
      expect: several,
    },
  },
});

const silu: Expression = {
  op: "mul",
  args: [{ input: 0 }, { op: "sigmoid", args: [{ input: 0 }] }],
};
const residual: Expression = { op: "add", args: [silu, { input: 1 }] };

const normalized = (
  shape: readonly number[],
  groups: number,
  body?: Expression,
  operand?: readonly number[],
): KernelCase => ({
  build: (g) => {
    const c = shape[shape.length - 1];
    const epilogue: { epilogue?: Epilogue } = body === undefined ? {} : { epilogue: { body } };
    const operands = operand ? [g.input("residual", operand)] : [];
    const x = g.input("x", shape);
    const weight = g.parameter("weight", [c], "vector");
    const bias = g.parameter("bias", [c], "vector");
    const m = g.input("m", [shape[0], groups, 2]);
    const attrs = { groups, eps: 1e-5, ...epilogue };
    return g.node("groupNormalize", [x, m, weight, bias, ...operands], attrs);
  },
  values: {
    m: Float32Array.from(
      { length: shape[0] * groups * 2 },
      (_, i) => i % 2 === 0 ? i / 9 : 0.3 + i,
    ),
  },
  fills: ["ordinary", "zeros", "denormals"],
});

kernelTest("groupNormalize", {
  kernel: groupNormalize,
  oracle: meaning,
  reduction: () => 4,
  cases: {
    "one pixel": normalized([2, 1, 1, 8], 2),
    "ten channels in a group": normalized([2, 9, 11, 40], 4),
    "odd channels": normalized([2, 7, 6, 9], 3),
    "with an activation": normalized([2, 5, 5, 16], 4, silu),
    "with a residual": normalized([2, 5, 5, 16], 4, residual, [2, 5, 5, 16]),
    "with a sample's vector": normalized([3, 5, 15, 16], 4, residual, [3, 1, 1, 16]),
    "with a channel's vector": normalized([2, 5, 5, 6], 2, residual, [6]),
    "cut into windows": {
      ...normalized([2, 30, 30, 8], 2, residual, [2, 30, 30, 8]),
      profile: { maxBinding: 16384 },
      expect: several,
    },
    "a sample's vector, cut into windows": {
      ...normalized([3, 20, 20, 8], 2, residual, [3, 1, 1, 8]),
      profile: { maxBinding: 8192 },
      expect: several,
    },
  },
});

const layer = (
  shape: readonly number[],
  body?: Expression,
  operand?: readonly number[],
): KernelCase => ({
  build: (g) => {
    const c = shape[shape.length - 1];
    const epilogue: { epilogue?: Epilogue } = body === undefined ? {} : { epilogue: { body } };
    const operands = operand ? [g.input("residual", operand)] : [];
    const weight = g.parameter("weight", [c], "vector");
    const bias = g.parameter("bias", [c], "vector");
    const x = g.input("x", shape);
    return g.node("layerNorm", [x, weight, bias, ...operands], { eps: 1e-5, ...epilogue });
  },
});

kernelTest("layerNorm", {
  kernel: layerNorm,
  oracle: meaning,
  reduction: ({ inputs: [x] }) => x.shape[x.rank - 1],
  cases: {
    "one row": layer([1, 8]),
    "odd channels": layer([5, 7]),
    "more rows than lanes": layer([2, 77, 40]),
    "more channels than lanes": layer([3, 5, 320]),
    "with a residual": layer([2, 9, 16], residual, [2, 9, 16]),
    "cut into windows": {
      ...layer([2, 90, 16], residual, [2, 90, 16]),
      profile: { maxBinding: 4096 },
      expect: several,
    },
  },
});

const rows = (shape: readonly number[]): KernelCase => ({
  build: (g) => g.input("x", shape).softmax(),
});

kernelTest("softmax", {
  kernel: softmax,
  oracle: meaning,
  reduction: ({ inputs: [x] }) => x.shape[x.rank - 1],
  cases: {
    "one number": rows([1]),
    "odd rows": rows([3, 77]),
    "many rows": rows([2, 70, 8]),
    "long rows": rows([2, 4100]),
    "the longest rows": { ...rows([1, 65_536]), fills: ["ordinary"] },
    "the longest odd rows": { ...rows([1, 65_535]), fills: ["ordinary"] },
    "cut into windows": {
      ...rows([100, 20]),
      profile: { maxBinding: 2048 },
      expect: several,
    },
    "large numbers": {
      ...rows([4, 12]),
      values: { x: Float32Array.from({ length: 48 }, (_, i) => (i % 5 - 2) * 5e3) },
      fills: ["ordinary"],
    },
  },
});

Deno.test("groupMoments keeps the variance where the mean is 10,000 deviations", async () => {
  const shape = [1, 64, 64, 12];
  const layoutOf = () => ({ format: "rows32", residence: "buffer" }) as const;
  for (const outlier of [false, true]) {
    const node = new Graph().input("x", shape).groupMoments(3);
    assert.equal(node.op, "groupMoments");
    if (node.op !== "groupMoments") return;
    const normal = normals(7);
    const x = Float32Array.from({ length: 64 * 64 * 12 }, () => 100 + 0.01 * normal());
    if (outlier) x[0] = -400; // in the first group: nothing may be centred on it
    const expected = interpret([node], { x }, { precision: "f64" })[0];
    const devices = [await testDevice(), await subgroupDevice()].filter((device) => !!device);
    for (const device of devices) {
      for (const kind of ["software", "gpu"] as const) {
        for (const variant of groupMoments(node, profileOf(device, { kind }), layoutOf)) {
          using prepared = await prepare(
            device,
            node,
            variant,
            new Map([[node.inputs[0], x]]),
            layoutOf,
          );
          prepared.reset();
          prepared.submit(1);
          const actual = await prepared.read();
          for (let i = 1; i < actual.length; i += 2) {
            const error = Math.abs(actual[i] / expected[i] - 1);
            const label = `${kind} ${variant.name}`;
            assert.ok(error < 1e-4, `${label}: variance ${actual[i]}, expected ${expected[i]}`);
          }
        }
      }
    }
  }
});
