import assert from "node:assert/strict";
import { interpret } from "../../lib/graph/interpret.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { attention } from "../../lib/kernels/attention.ts";
import { lower } from "../../lib/kernels/lower.ts";
import { profileOf, subgroupDevice } from "../gpu.ts";
import { assertClose, nmse } from "../tolerance.ts";
import { type KernelCase, kernelTest, normals } from "./harness.ts";
import { meaning } from "./meaning.ts";
import { prepare } from "./runner.ts";

interface Sizes {
  readonly n?: number;
  readonly t: number;
  readonly s: number;
  readonly heads?: number;
  readonly d: number;
  readonly causal?: boolean;
}

const attend = (g: Graph, { n = 1, t, s, heads = 2, d, causal = false }: Sizes): Tensor => {
  const q = g.input("q", [n, t, heads, d]);
  const [k, v] = [g.input("k", [n, s, heads, d]), g.input("v", [n, s, heads, d])];
  return q.attention(k, v, { scale: 1 / Math.sqrt(d), causal });
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
    "wide heads": sized({ t: 9, s: 11, heads: 1, d: 160 }),
    "cut into windows": {
      ...sized({ n: 2, t: 90, s: 30, d: 8 }),
      profile: { maxBinding: 4096 },
      expect: ([{ dispatches }]) => assert.ok(dispatches.length >= 4),
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

Deno.test("attention by subgroups equals its meaning", async () => {
  const device = await subgroupDevice();
  if (device === undefined) return;
  for (
    const sizes of [
      { t: 1, s: 1, d: 4 },
      { n: 2, t: 37, s: 77, heads: 3, d: 8 },
      { n: 2, t: 77, s: 77, d: 8, causal: true },
    ]
  ) {
    const node = attend(new Graph(), sizes);
    assert.ok(node.op === "attention");
    const profile = profileOf(device, { subgroups: true });
    const [variant] = attention(node, profile, plain);
    assert.equal(variant.name, "subgroups");
    const values = randomValues(node);
    const [q, k, v] = node.inputs.map((x) => values.get(x) ?? []);
    const expected = interpret([node], { q, k, v }, { precision: "f64" })[0];
    using prepared = await prepare(device, node, variant, values, plain);
    prepared.reset();
    prepared.submit(1);
    assertClose(await prepared.read(), expected, { reduction: sizes.d + sizes.s }, "subgroups");
  }
  device.check();
});

Deno.test("attention counts its rounds and stays below the limit for 65,536 keys", () => {
  const node = attend(new Graph(), { t: 8, s: 65_536, heads: 1, d: 40 });
  assert.ok(node.op === "attention");
  for (const kind of ["software", "gpu"] as const) {
    const profile = {
      kind,
      maxBinding: 2 ** 27,
      maxTextureSide: 8192,
      maxWorkgroupMemory: 16384,
      maxInvocations: 256,
      f16: false,
    };
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
    ]
  ) {
    const node = attend(new Graph(), sizes);
    const [lowered] = lower([node]);
    assert.notEqual(lowered, node);
    const inputs: readonly Tensor[] = node.inputs;
    const values = Object.fromEntries(
      [...randomValues(node)].map(([x, list]) => ["qkv"[inputs.indexOf(x)], list]),
    );
    const [expected] = interpret([node], values, { precision: "f64" });
    const [actual] = interpret([lowered], values, { precision: "f64" });
    assert.ok(nmse(actual, expected) < 1e-24, JSON.stringify(sizes));
  }
});
