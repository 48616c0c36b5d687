import assert from "node:assert/strict";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import type { Expression } from "../../lib/graph/expression.ts";
import type { Variant } from "../../lib/kernels/kernel.ts";
import { mapKernel } from "../../lib/kernels/map.ts";
import divideSource from "../../wgsl/divide.wgsl" with { type: "text" };
import { testDevice } from "../gpu.ts";
import { type KernelCase, kernelTest } from "./harness.ts";
import { meaning } from "./meaning.ts";
import { LEAST } from "./profiles.ts";
import { prepare } from "./runner.ts";

const declared = { kernel: mapKernel, oracle: meaning, reduction: () => 0 };
const x = (g: Graph, shape: readonly number[]) => g.input("x", shape);
const y = (g: Graph, shape: readonly number[]) => g.input("y", shape);

/** Asserts how many numbers an invocation computes, so that each path is known to be tested. */
const of = (type: "f32" | "vec4f"): Pick<KernelCase, "expect"> => ({
  expect: ([{ dispatches }]) => dispatches.forEach(({ shader }) => assert.equal(shader.type, type)),
});

/** Kernels are told that only this many bytes can be bound. */
const bound = (maxBinding: number, dispatches: number): Partial<KernelCase> => ({
  profile: { maxBinding },
  expect: ([variant]) => assert.ok(variant.dispatches.length >= dispatches),
});

kernelTest("add", {
  ...declared,
  cases: {
    "one number": { build: (g) => x(g, [1]).add(y(g, [1])), ...of("f32") },
    "scalars of no axis": { build: (g) => x(g, []).add(y(g, [])), ...of("f32") },
    "four numbers": { build: (g) => x(g, [4]).add(y(g, [4])), ...of("vec4f") },
    "flat, beyond a workgroup": { build: (g) => x(g, [3, 7, 52]).add(y(g, [3, 7, 52])) },
    "flat, odd": { build: (g) => x(g, [3, 7, 11]).add(y(g, [3, 7, 11])), ...of("f32") },
    "a channel vector": { build: (g) => x(g, [2, 9, 40]).add(y(g, [40])), ...of("vec4f") },
    "a sample's vector": { build: (g) => x(g, [3, 5, 5, 8]).add(y(g, [3, 1, 1, 8])) },
    "a column": { build: (g) => x(g, [6, 12]).add(y(g, [6, 1])), ...of("vec4f") },
    "a number": { build: (g) => x(g, [6, 12]).add(g.constant(0.37)), ...of("vec4f") },
    "both broadcast": { build: (g) => x(g, [5, 1, 8]).add(y(g, [1, 3, 8])), ...of("vec4f") },
    "an embedding of positions": {
      build: (g) => x(g, [2, 5, 12]).add(g.parameter("p", [5, 12], "embedding")),
      ...of("vec4f"),
    },
    "an odd embedding of positions": {
      build: (g) => x(g, [2, 5, 7]).add(g.parameter("p", [5, 7], "embedding")),
      ...of("f32"),
    },
    "cut into windows": {
      build: (g) => x(g, [50, 52]).add(y(g, [50, 52])),
      ...bound(1024, 11),
    },
    "cut into windows, odd": {
      build: (g) => x(g, [51, 37]).add(y(g, [37])),
      ...bound(2048, 4),
    },
    "an embedding cut into windows": {
      build: (g) => x(g, [100, 12]).add(g.parameter("p", [100, 12], "embedding")),
      ...bound(1024, 5),
    },
  },
});

for (const op of ["neg", "abs", "sqrt", "sin", "cos", "tanh", "erf", "sigmoid", "exp"] as const) {
  const tame: KernelCase["fills"] = op === "sin" || op === "cos" || op === "exp"
    ? ["ordinary", "zeros", "denormals"]
    : ["ordinary", "zeros", "offset", "denormals"];
  kernelTest(op, {
    ...declared,
    cases: {
      "of many numbers": {
        build: (g) => g.node(op, [x(g, [4096])], {}),
        fills: op === "sqrt" ? ["zeros", "offset"] : tame,
      },
    },
  });
}

kernelTest("select", {
  ...declared,
  cases: {
    "by a comparison": {
      build: (g) => g.node("select", [g.input("c", [8, 1]), x(g, [8, 12]), y(g, [12])], {}),
    },
  },
});

const gelu = (input: Expression): Expression => ({
  op: "mul",
  args: [{ op: "mul", args: [input, 0.5] }, {
    op: "add",
    args: [1, { op: "erf", args: [{ op: "mul", args: [input, Math.SQRT1_2] }] }],
  }],
});

/** The second of each pair, times what lies side by side. */
function everySecond(g: Graph, pairs: Tensor): Tensor {
  const [rows, columns] = pairs.shape;
  return g.node("map", [pairs, y(g, [rows, columns])], {
    shape: [rows, columns],
    body: { op: "mul", args: [{ input: 0 }, { input: 1 }] },
    views: [
      { offset: 1, strides: [2 * columns, 2] },
      { offset: 0, strides: [columns, 1] },
    ],
  });
}

/** On software devices four numbers are computed at once even where operands lie apart. */
const apart: Pick<KernelCase, "expect"> = {
  expect: ([{ dispatches: [{ shader }] }], { kind }) =>
    assert.equal(shader.type, kind === "software" ? "vec4f" : "f32"),
};

kernelTest("map", {
  ...declared,
  cases: {
    "a gated half": {
      build: (g) => {
        const u = x(g, [3, 5, 24]);
        const strides = [120, 24, 1];
        const attrs = {
          shape: [3, 5, 12],
          body: { op: "mul", args: [{ input: 0 }, gelu({ input: 1 })] } as const,
          views: [{ offset: 0, strides }, { offset: 12, strides }],
        };
        return g.node("map", [u, u], attrs);
      },
      ...of("vec4f"),
    },
    "every second number beside all": {
      build: (g) => everySecond(g, x(g, [6, 8, 2])),
      ...apart,
    },
    "every second number of an embedding": {
      build: (g) => everySecond(g, g.parameter("p", [6, 8, 2], "embedding")),
      ...apart,
    },
    "every second number, cut into windows": {
      build: (g) => everySecond(g, x(g, [60, 8, 2])),
      ...bound(1024, 2),
    },
    "five axes": {
      build: (g) =>
        g.node("map", [x(g, [2, 3, 4, 5, 6])], {
          shape: [6, 5, 4, 3, 2],
          body: { op: "neg", args: [{ input: 0 }] },
          views: [{ offset: 0, strides: [1, 6, 30, 120, 360] }],
        }),
      ...of("f32"),
    },
    "no input": {
      build: (g) => g.node("map", [], { shape: [7], body: 0.25, views: [] }),
    },
  },
});

Deno.test("mapKernel refuses whole numbers", () => {
  const ids: Tensor = new Graph().input("ids", [4], "i32");
  const node = ids.add(ids);
  const profile = { kind: "gpu", ...LEAST, maxBinding: 1024 } as const;
  assert.throws(
    () => mapKernel(node, profile, () => ({ format: "rows32", residence: "buffer" })),
    RangeError,
  );
});

/** Counts, for each of 4096 divisors, the quotients near multiples of it up to 2³¹ that `divide` gets wrong. */
const countWrong = `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let d = select(id.x + 1u, (id.x - 2047u) * 524287u + id.x, id.x >= 2048u);
  var wrong = 0.0;
  for (var j = 1u; j <= 64u; j++) {
    let multiple = (2147483000u / d) * j / 64u * d;
    for (var near = 0u; near < 3u; near++) {
      let i = min(max(multiple, 1u) - 1u + near, 2147483647u);
      wrong += select(0.0, 1.0, divide(i, d) != i / d);
    }
  }
  result[id.x] = wrong;
}`;

Deno.test("divide is whole division near multiples of small and large divisors", async () => {
  const device = await testDevice();
  const g = new Graph();
  const node = x(g, [4096]).neg();
  const variant: Variant = {
    name: "divide",
    scratch: [],
    dispatches: [{
      shader: {
        source: countWrong,
        type: "f32",
        constants: {},
        functions: divideSource,
        bindings: [{
          name: "result",
          source: "result",
          element: "f32",
          access: "read_write",
          residence: "buffer",
        }],
      },
      params: { u32: {} },
      grid: [64, 1, 1],
      iterations: 256,
    }],
  };
  const plain = () => ({ format: "rows32", residence: "buffer" }) as const;
  using prepared = await prepare(device, node, variant, new Map(), plain);
  prepared.reset();
  prepared.submit(1);
  const wrong = await prepared.read();
  assert.deepEqual([...wrong].flatMap((n, i) => n === 0 ? [] : [i]), []);
});
