import assert from "node:assert/strict";
import type { Graph } from "../../lib/graph/tensor.ts";
import { mapKernel } from "../../lib/kernels/map.ts";
import { gather, scatterAdd } from "../../lib/kernels/index.ts";
import { type KernelCase, kernelTest } from "./harness.ts";
import { meaning } from "./meaning.ts";

const declared = { kernel: mapKernel, oracle: meaning, reduction: () => 0 };
const x = (g: Graph, shape: readonly number[]) => g.input("x", shape);
const fills = ["ordinary", "denormals"] as const;

kernelTest("transpose", {
  ...declared,
  cases: {
    "a matrix": { build: (g) => x(g, [12, 20]).transpose([1, 0]), fills },
    "an odd matrix": { build: (g) => x(g, [13, 21]).transpose([1, 0]), fills },
    "outer axes, in vec4s": { build: (g) => x(g, [3, 5, 2, 8]).transpose([0, 2, 1, 3]), fills },
    "all axes": { build: (g) => x(g, [2, 3, 4, 5]).transpose([3, 1, 0, 2]), fills },
    "cut into windows": {
      build: (g) => x(g, [64, 48]).transpose([1, 0]),
      fills,
      profile: { maxBinding: 8192 },
      expect: ([{ dispatches }]) => assert.ok(dispatches.length > 1),
    },
  },
});

kernelTest("slice", {
  ...declared,
  cases: {
    "rows": { build: (g) => x(g, [9, 6]).slice(0, 2, 7), fills },
    "channels, aligned": { build: (g) => x(g, [5, 24]).slice(1, 8, 20), fills },
    "channels, not aligned": { build: (g) => x(g, [5, 24]).slice(1, 7, 19), fills },
  },
});

kernelTest("broadcast", {
  ...declared,
  cases: {
    "rows": { build: (g) => x(g, [1, 12]).broadcast([7, 12]), fills },
    "a number": { build: (g) => x(g, []).broadcast([3, 8]), fills },
  },
});

kernelTest("upsample", {
  ...declared,
  cases: {
    "by two": { build: (g) => x(g, [2, 3, 5, 8]).upsample(2), fills },
    "by three, odd channels": { build: (g) => x(g, [1, 4, 3, 3]).upsample(3), fills },
  },
});

kernelTest("concat", {
  ...declared,
  cases: {
    "channels": {
      build: (g) => g.concat([x(g, [2, 3, 5, 8]), g.input("y", [2, 3, 5, 12])], 3),
      fills,
    },
    "channels, not aligned": {
      build: (g) => g.concat([x(g, [6, 4]), g.input("y", [6, 3]), g.input("z", [6, 5])], 1),
      fills,
    },
    "samples, twice the same": { build: (g) => g.concat([x(g, [3, 7]), x(g, [3, 7])], 0), fills },
    "ten inputs": {
      build: (g) => g.concat(Array.from({ length: 10 }, (_, i) => g.input(`x${i}`, [2, 4])), 1),
      fills,
    },
    "cut into windows": {
      build: (g) => g.concat([x(g, [60, 8]), g.input("y", [60, 12])], 1),
      fills,
      profile: { maxBinding: 2048 },
      expect: ([{ dispatches }]) => assert.ok(dispatches.length > 2),
    },
  },
});

kernelTest("pad", {
  ...declared,
  cases: {
    "below and to the right": {
      build: (g) => x(g, [1, 4, 6, 8]).pad([0, 0, 0, 0], [0, 1, 1, 0]),
      fills,
    },
    "around, channels too": { build: (g) => x(g, [3, 5, 2]).pad([0, 2, 1], [1, 1, 0]), fills },
  },
});

const ids = Int32Array.from([3, 0, 12, 12, 7, 5, 1]);
const table = (width: number): KernelCase => ({
  build: (g) => g.parameter("table", [13, width], "embedding").gather(g.input("ids", [7], "i32")),
  values: { ids },
  fills,
});

kernelTest("gather", {
  kernel: gather,
  oracle: meaning,
  reduction: () => 0,
  cases: {
    "rows in vec4s": table(12),
    "odd rows": table(7),
    "of an activation": {
      build: (g) => x(g, [13, 8]).gather(g.input("ids", [7], "i32")),
      values: { ids },
      fills,
    },
    "ids of two axes": {
      build: (g) => x(g, [13, 8]).gather(g.input("ids", [1, 7], "i32")),
      values: { ids },
      fills,
    },
    "cut into windows": {
      ...table(28),
      profile: { maxBinding: 512 },
      expect: ([{ dispatches }]) => assert.ok(dispatches.length > 1),
    },
    "odd rows cut into windows": {
      ...table(27),
      profile: { maxBinding: 512 },
      expect: ([{ dispatches }]) => assert.ok(dispatches.length > 1),
    },
  },
});

const sums = (width: number, rest: Partial<KernelCase> = {}): KernelCase => ({
  build: (g) => x(g, [7, width]).scatterAdd(g.input("ids", [7], "i32"), 13),
  values: { ids: Int32Array.from([3, 0, 12, 3, 7, 12, 3]) },
  ...rest,
});

kernelTest("scatterAdd", {
  kernel: scatterAdd,
  oracle: meaning,
  reduction: () => 3,
  cases: {
    "rows in vec4s": sums(12),
    "odd rows": sums(7),
    "ids of two axes": {
      build: (g) => x(g, [1, 7, 8]).scatterAdd(g.input("ids", [1, 7], "i32"), 13),
      values: { ids },
      fills,
    },
    "cut into windows": sums(28, {
      profile: { maxBinding: 1024 },
      fills,
      expect: ([{ dispatches }]) => assert.ok(dispatches.length > 2),
    }),
  },
});
