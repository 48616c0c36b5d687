import assert from "node:assert/strict";
import { groupSums, layerNormGradient } from "../../lib/kernels/norm_gradient.ts";
import { type KernelCase, kernelTest } from "./harness.ts";
import { meaning } from "./meaning.ts";

/** Moments of samples' groups that no offset of the pixels is far from. */
const moments = (count: number) =>
  Float32Array.from({ length: 2 * count }, (_, i) => i % 2 === 0 ? i / 9 : 0.3 + i);

const sums = (shape: readonly number[], groups: number): KernelCase => ({
  build: (g) => {
    const inputs = [g.input("x", shape), g.input("m", [shape[0], groups, 2])] as const;
    return g.node("groupSums", [...inputs, g.input("dy", shape)], { groups, eps: 1e-5 });
  },
  values: { m: moments(shape[0] * groups) },
  fills: ["ordinary", "zeros", "denormals"],
});

/** How many dispatches the only variant has. */
const dispatches = (count: number): Pick<KernelCase, "expect"> => ({
  expect: ([variant], { kind }) => {
    if (kind === "software") assert.equal(variant.dispatches.length, count);
  },
});

kernelTest("groupSums", {
  kernel: groupSums,
  oracle: meaning,
  reduction: ({ inputs: [x] }) => x.size / x.shape[0] / x.shape[x.rank - 1],
  cases: {
    "one pixel": { ...sums([2, 1, 1, 8], 2), ...dispatches(1) },
    "three channels in a group, chunks": { ...sums([2, 9, 11, 12], 4), ...dispatches(2) },
    "odd channels": sums([2, 7, 6, 9], 3),
    "a group of one channel": sums([1, 5, 8], 8),
    "more columns than keep a device busy": { ...sums([40, 3, 3, 64], 4), ...dispatches(1) },
    "more pixels than one sums up": { ...sums([40, 23, 23, 64], 4), ...dispatches(2) },
  },
});

const rows = (shape: readonly number[]): KernelCase => ({
  build: (g) => {
    const weight = g.parameter("weight", shape.slice(-1), "vector");
    const inputs = [g.input("x", shape), weight, g.input("dy", shape)] as const;
    return g.node("layerNormGradient", inputs, { eps: 1e-5 });
  },
  fills: ["ordinary", "zeros", "denormals"],
});

kernelTest("layerNormGradient", {
  kernel: layerNormGradient,
  oracle: meaning,
  // It is divided by the deviation, and what is left of sums over the row is what they differ in.
  reduction: ({ shape }) => 8 * shape[shape.length - 1],
  cases: {
    "one row": rows([1, 8]),
    "odd channels": rows([5, 7]),
    "more rows than lanes": rows([2, 77, 40]),
    "more channels than lanes": rows([3, 5, 320]),
    "a distant mean": {
      ...rows([3, 9, 64]),
      values: { x: Float32Array.from({ length: 27 * 64 }, (_, i) => 100 + i * 7919 % 101 / 50) },
    },
    "cut into windows": {
      ...rows([2, 90, 16]),
      profile: { maxBinding: 4096 },
      expect: ([{ dispatches }], { kind }) =>
        assert.ok(dispatches.length > 1, `${dispatches.length} on ${kind}`),
    },
  },
});
