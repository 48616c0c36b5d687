/** Which variant is taken: tables, shape classes, and what happens to names that nobody knows. */

import assert from "node:assert/strict";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import type { LayoutOf } from "../../lib/kernels/kernel.ts";
import { select, variantsOf } from "../../lib/kernels/select.ts";
import { BUILT_IN, choiceOf, classOf, sizeClass } from "../../lib/kernels/table.ts";
import { LLVMPIPE } from "./profiles.ts";

const layoutOf: LayoutOf = (tensor) =>
  tensor.op === "parameter"
    ? { format: "panels16", residence: "texture" }
    : { format: "rows32", residence: "buffer" };

function attention(tokens: number, keys: number, d: number): Tensor {
  const g = new Graph();
  const of = (name: string, n: number) => g.input(name, [1, n, 8, d]);
  return of("q", tokens).attention(of("k", keys), of("v", keys), { scale: 1, causal: false });
}

Deno.test("select takes the first variant where no table says otherwise, always the same", () => {
  const node = attention(4096, 77, 40);
  const variants = variantsOf(node, LLVMPIPE, layoutOf);
  assert.ok(variants.length > 1);
  assert.equal(select(node, LLVMPIPE, layoutOf, () => undefined).name, variants[0].name);
  const built = BUILT_IN.software.get(classOf(node, layoutOf)) ?? variants[0].name;
  assert.equal(select(node, LLVMPIPE, layoutOf).name, built);
  assert.deepEqual(select(node, LLVMPIPE, layoutOf), select(node, LLVMPIPE, layoutOf));
});

Deno.test("select takes the variant that a table names for the shape class, and only there", () => {
  const node = attention(4096, 77, 40);
  const [first, second] = variantsOf(node, LLVMPIPE, layoutOf);
  const choice = choiceOf(LLVMPIPE, new Map([[classOf(node, layoutOf), second.name]]));
  assert.notEqual(first.name, second.name);
  assert.equal(select(node, LLVMPIPE, layoutOf, choice).name, second.name);
  const other = attention(4096, 4096, 160);
  assert.equal(
    select(other, LLVMPIPE, layoutOf, choice).name,
    select(other, LLVMPIPE, layoutOf).name,
  );
});

Deno.test("select falls back to the first variant where a table names one that does not exist", () => {
  const node = attention(4096, 77, 40);
  const choice = () => "a variant of another version";
  const [first] = variantsOf(node, LLVMPIPE, layoutOf);
  assert.equal(select(node, LLVMPIPE, layoutOf, choice).name, first.name);
});

Deno.test("choiceOf asks the given table before the built-in one", () => {
  for (const kind of ["software", "gpu"] as const) {
    for (const [shapeClass, name] of BUILT_IN[kind]) {
      assert.equal(choiceOf({ kind })(shapeClass), name);
      assert.equal(choiceOf({ kind }, new Map([[shapeClass, "x"]]))(shapeClass), "x");
    }
    assert.equal(choiceOf({ kind })("nothing 1×1"), undefined);
  }
});

Deno.test("sizeClass rounds up to powers of two and halves between them", () => {
  const classes = [0, 1, 2, 3, 4, 5, 6, 7, 64, 77, 320, 512, 513, 1280, 4096].map(sizeClass);
  assert.deepEqual(classes, [0, 1, 2, 3, 4, 6, 6, 8, 64, 96, 384, 512, 768, 1536, 4096]);
});

Deno.test("classOf tells apart what decides between variants, and nothing else", () => {
  const g = new Graph();
  const linear = (m: number, n: number, k: number) =>
    g.input(`x${m}.${k}`, [m, k])
      .matmul(g.parameter(`w${n}.${k}`, [n, k], "linear"), { transposeB: true });
  const conv = (side: number, ci: number, co: number, stride: number) =>
    g.input(`x${side}.${ci}`, [1, side, side, ci])
      .conv2d(g.parameter(`w${co}.${ci}`, [co, 3, 3, ci], "conv"), {
        stride,
        padding: { top: 1, bottom: 1, left: 1, right: 1 },
      });
  const [a, b] = [g.input("a", [16, 77, 40]), g.input("b", [16, 77, 40])];
  const found = [
    linear(4096, 320, 320),
    linear(4000, 380, 330),
    a.matmul(b, { transposeB: true }),
    conv(64, 320, 640, 1),
    conv(64, 320, 640, 2),
    attention(1024, 77, 80),
    g.input("h", [2, 64, 64, 320]).groupMoments(32),
    g.input("s", [77, 768]).softmax(),
    g.input("e", [8, 5]).add(1),
  ].map((node) => classOf(node, layoutOf));
  assert.deepEqual(found, [
    "matmul 1×4096×384×384 panels16",
    "matmul 1×4096×384×384 panels16",
    "matmul 16×96×96×48 rows32",
    "conv2d 3×3 4096×384×768 panels16",
    "conv2d 3×3 stride 2 1024×384×768 panels16",
    "attention 8×1024×96 head 80",
    "groupMoments 8192×384",
    "softmax 96×768",
    "add 8×6",
  ]);
});
