/** Products for GPUs: every tile where it would not be chosen, what is chosen, and how coarse f16 is. */

import assert from "node:assert/strict";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import type { Kernel, LayoutOf, NodeOf, Profile } from "../../lib/kernels/kernel.ts";
import { matmul, stagedProducts } from "../../lib/kernels/matmul.ts";
import { panelsOf } from "../../lib/kernels/product.ts";
import { variantsOf } from "../../lib/kernels/select.ts";
import { TILES } from "../../lib/kernels/workgroup.ts";
import { profileOf, subgroupDevice } from "../gpu.ts";
import { nmse } from "../tolerance.ts";
import { kernelTest, normals } from "./harness.ts";
import { meaning } from "./meaning.ts";
import { LEAST } from "./profiles.ts";
import { prepare } from "./runner.ts";

const linear = (m: number, n: number, k: number) => (g: Graph): Tensor =>
  g.input("x", [m, k]).matmul(g.parameter("w", [n, k], "linear"), { transposeB: true });

/** Products by every tile, whatever would be chosen. */
const everyTile: Kernel<"matmul"> = (node, profile, layoutOf) => {
  const [a, b] = node.inputs;
  const [n, k] = [node.shape[node.rank - 1], a.shape[a.rank - 1]];
  const batch = b.size / (n * k);
  const residences = ["buffer", "buffer"] as const;
  const product = { batch, m: node.size / n / batch, n, k, residences, bytes: b.size * 4 };
  const operand = panelsOf(layoutOf(b)) ?? (node.attrs.transposeB ? "rows" : "columns");
  const [first, ...others] = TILES.flatMap((tile) =>
    stagedProducts(node, product, operand, profile, { tiles: [tile] })
  );
  return [first, ...others];
};

kernelTest("matmul", {
  kernel: everyTile,
  oracle: meaning,
  reduction: ({ inputs: [a] }) => a.shape[a.rank - 1],
  cases: {
    "every tile, whole, split and f16": {
      build: linear(150, 140, 1028),
      approximate: true,
      fills: ["ordinary"],
      profile: { kind: "gpu" },
      expect: (variants, { f16 }) =>
        assert.equal(variants.length, TILES.length * (f16 === true ? 3 : 2)),
    },
    "every tile, activations by columns": {
      build: (g) =>
        g.input("a", [2, 70, 20]).matmul(g.input("b", [2, 20, 132]), { transposeB: false }),
      fills: ["ordinary"],
      profile: { kind: "gpu" },
    },
  },
});

const GPU: Profile = { kind: "gpu", ...LEAST, f16: true };
const layoutOf: LayoutOf = ({ op }) =>
  op === "parameter"
    ? { format: "panels16", residence: "buffer" }
    : { format: "rows32", residence: "buffer" };

const conv = (n: number, side: number, ci: number, co: number) => (g: Graph): Tensor =>
  g.input("x", [n, side, side, ci]).conv2d(g.parameter("w", [co, 3, 3, ci], "conv"), {
    stride: 1,
    padding: { top: 1, bottom: 1, left: 1, right: 1 },
  });

const CHOSEN: Readonly<Record<string, readonly [build: (g: Graph) => Tensor, first: string]>> = {
  "time embedding": [linear(2, 1280, 1280), "vector"],
  "linear at 64²": [linear(8192, 320, 320), "workgroup 128×64"],
  "feed-forward at 64²": [linear(8192, 2560, 320), "workgroup 128×128"],
  "feed-forward at 8²": [linear(128, 1280, 5120), "split 64×64"],
  "keys of the text": [linear(154, 320, 768), "split 32×64"],
  "convolution at 64²": [conv(2, 64, 320, 320), "workgroup 128×64"],
  "convolution at 8²": [conv(2, 8, 1280, 1280), "split 64×64"],
  "convolution at 8², one picture": [conv(1, 8, 1280, 1280), "split 64×64"],
  "last convolution": [conv(1, 64, 320, 4), "split 64×64"],
};

for (const [name, [build, first]] of Object.entries(CHOSEN)) {
  Deno.test(`GPUs compute by ${first}: ${name}`, () => {
    const variants = variantsOf(build(new Graph()), GPU, layoutOf);
    assert.equal(variants[0].name, first);
    assert.equal(new Set(variants.map(({ name }) => name)).size, variants.length);
    const approximate = variants.filter((variant) => variant.approximate);
    assert.ok(approximate.every(({ name }) => name.endsWith("f16")), "names tell");
    assert.ok(variants.every((v) => v.approximate || !v.dispatches.some((d) => d.shader.f16)));
    const without = variantsOf(build(new Graph()), { ...GPU, f16: false }, layoutOf);
    assert.ok(without.every((variant) => !variant.approximate));
  });
}

Deno.test("products of f16 sums differ from f32 by an NMSE of 1e-6 at most", async () => {
  const device = await subgroupDevice();
  if (device === undefined || !profileOf(device, {}).f16) return;
  const [m, n, k] = [64, 64, 1280];
  const node = linear(m, n, k)(new Graph());
  const [x, w] = node.inputs;
  const [ofX, ofW] = [normals(1), normals(2)];
  const values = {
    x: Float32Array.from({ length: m * k }, ofX),
    w: Float32Array.from({ length: n * k }, () => ofW() / 32),
  };
  values.w = new Float32Array(new Float16Array(values.w));
  const expected = meaning(node, values);
  const product: NodeOf<"matmul"> | undefined = node.op === "matmul" ? node : undefined;
  assert.ok(product);
  for (const variant of matmul(product, profileOf(device, { kind: "gpu" }), layoutOf)) {
    using prepared = await prepare(
      device,
      node,
      variant,
      new Map([[x, values.x], [w, values.w]]),
      layoutOf,
    );
    prepared.reset();
    prepared.submit(1);
    const error = nmse(await prepared.read(), expected);
    const [least, most] = variant.approximate ? [1e-8, 1e-6] : [0, 1e-11];
    assert.ok(error >= least && error <= most, `${variant.name}: NMSE ${error}`);
  }
  device.check();
});
