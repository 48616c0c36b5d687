import assert from "node:assert/strict";
import { assemble } from "../../lib/gpu/compile.ts";
import { interpret } from "../../lib/graph/interpret.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { attention } from "../../lib/kernels/attention.ts";
import { lower } from "../../lib/kernels/lower.ts";
import { nmse } from "../tolerance.ts";
import { type KernelCase, kernelTest, normals } from "./harness.ts";
import { meaning } from "./meaning.ts";
import { LEAST } from "./profiles.ts";

/** How q, k and v lie: each alone, side by side in one tensor [q|k|v], or k and v so: [v|k]. */
type Lying = "apart" | "stacked" | "keys and values";

interface Sizes {
  readonly n?: number;
  readonly t: number;
  readonly s: number;
  readonly heads?: number;
  readonly d: number;
  readonly causal?: boolean;
  readonly lying?: Lying;
}

const attend = (
  g: Graph,
  { n = 1, t, s, heads = 2, d, causal = false, lying = "apart" }: Sizes,
): Tensor => {
  const options = { scale: 1 / Math.sqrt(d), causal };
  const wide = (name: string, tokens: number, operands: number) =>
    g.input(name, [n, tokens, operands * heads, d]);
  const part = (first: readonly [number, number, number]) => ({
    ...options,
    heads: { count: heads, first },
  });
  if (lying === "stacked") {
    const all = wide("qkv", t, 3);
    return g.node("attention", [all, all, all], part([0, heads, 2 * heads]));
  }
  if (lying === "keys and values") {
    const both = wide("kv", s, 2);
    return g.node("attention", [wide("q", t, 1), both, both], part([0, heads, 0]));
  }
  return wide("q", t, 1).attention(wide("k", s, 1), wide("v", s, 1), options);
};

const sized = (sizes: Sizes): KernelCase => ({
  build: (g) => attend(g, sizes),
  // A large offset would make every score exceed what f32 can tell apart.
  fills: ["ordinary", "zeros", "denormals"],
});

kernelTest("attention", {
  kernel: attention,
  oracle: meaning,
  reduction: ({ inputs: [q, k] }) => q.shape[3] + k.shape[1],
  cases: {
    "one query, one key": sized({ t: 1, s: 1, d: 4 }),
    "fewer keys than a step": sized({ t: 5, s: 3, d: 8 }),
    "tails of queries and keys": sized({ n: 2, t: 37, s: 77, heads: 3, d: 8 }),
    "beyond a workgroup": sized({ t: 67, s: 80, d: 8 }),
    "causal": sized({ n: 2, t: 77, s: 77, d: 8, causal: true }),
    "heads of 24": sized({ t: 24, s: 40, d: 24 }),
    "heads of 40 over a text": sized({ t: 35, s: 77, heads: 1, d: 40 }),
    "heads of 48, causal": sized({ t: 35, s: 35, heads: 1, d: 48, causal: true }),
    "wide heads": sized({ t: 9, s: 11, heads: 1, d: 160 }),
    "so many keys that two share a round": {
      build: (g) => attend(g, { t: 3, s: 58_400, heads: 1, d: 4 }),
      fills: ["ordinary"],
    },
    "q, k and v in one tensor": sized({ n: 2, t: 37, s: 37, heads: 3, d: 8, lying: "stacked" }),
    "k and v in one tensor": sized({ n: 2, t: 21, s: 13, d: 8, lying: "keys and values" }),
    "one tensor cut into windows": {
      ...sized({ n: 2, t: 60, s: 60, heads: 1, d: 8, lying: "stacked" }),
      profile: { maxBinding: 6144 },
      expect: ([{ dispatches }], { kind }) => assert.ok(kind !== "gpu" || dispatches.length >= 2),
    },
    "cut into windows": {
      ...sized({ n: 2, t: 90, s: 30, d: 8 }),
      profile: { maxBinding: 4096 },
      expect: ([{ dispatches }]) => assert.ok(dispatches.length >= 4),
    },
    "keys packed for one sample after the other": {
      ...sized({ n: 3, t: 17, s: 60, heads: 1, d: 8 }),
      profile: { maxBinding: 4608 },
      expect: ([{ name, dispatches }]) =>
        assert.equal(
          dispatches.length,
          name === "subgroups" || name === "few rows" ? 6 : name === "tiles" ? 3 : 1,
        ),
    },
  },
});

const plain = () => ({ format: "rows32", residence: "buffer" }) as const;

function randomValues(node: Tensor) {
  const inputs: readonly Tensor[] = node.inputs;
  return new Map(inputs.map((x) => {
    const normal = normals(x.id + 1);
    return [x, Float32Array.from({ length: x.size }, () => normal())] as const;
  }));
}

/** Values by the names of their inputs. */
const named = (values: ReadonlyMap<Tensor, Float32Array>) =>
  Object.fromEntries([...values].map(([x, list]) => ["name" in x.attrs ? x.attrs.name : "", list]));

Deno.test("attention counts its rounds and stays below the limit for 65,536 keys", () => {
  for (
    const [d, kind, subgroups] of [
      [40, "software", true],
      [160, "software", true],
      [40, "software", false],
      [40, "gpu", false],
    ] as const
  ) {
    const node = attend(new Graph(), { t: 8, s: 65_536, heads: 1, d });
    assert.ok(node.op === "attention");
    const profile = { kind, subgroups, ...LEAST };
    const [{ dispatches }] = attention(node, profile, plain);
    dispatches.forEach(({ iterations }) => assert.ok(iterations <= 65_535, `${iterations}`));
  }
});

Deno.test("lower replaces wide and odd heads by operators of the same meaning", () => {
  for (
    const sizes of [
      { n: 2, t: 9, s: 7, heads: 1, d: 164 },
      { n: 2, t: 9, s: 7, heads: 3, d: 164 },
      { n: 2, t: 6, s: 5, d: 6 },
      { t: 4, s: 5, heads: 1, d: 161 },
      { t: 5, s: 5, d: 3, causal: true },
      { n: 2, t: 5, s: 5, d: 6, lying: "stacked" },
      { n: 2, t: 6, s: 7, heads: 1, d: 164, lying: "keys and values" },
    ] as const
  ) {
    const node = attend(new Graph(), sizes);
    const [lowered] = lower([node]);
    assert.notEqual(lowered, node);
    const values = named(randomValues(node));
    const [expected] = interpret([node], values, { precision: "f64" });
    const [actual] = interpret([lowered], values, { precision: "f64" });
    assert.ok(nmse(actual, expected) < 1e-24, JSON.stringify(sizes));
  }
});

Deno.test("attention reads slices of one tensor where they lie, staged once", () => {
  const g = new Graph();
  const all = g.input("qkv", [2, 12, 3 * 16]);
  const [q, k, v] = [0, 16, 32].map((at) => all.slice(2, at, at + 16).reshape([2, 12, 2, 8]));
  const y = q.attention(k, v, { scale: 1, causal: false });
  const profile = { kind: "software", ...LEAST } as const;
  const { steps } = assemble(new Map([["y", y]]), profile, plain);
  assert.deepEqual(steps.map(({ kind }) => kind), ["stage", "dispatch"]);
});
