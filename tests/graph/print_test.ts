import assert from "node:assert/strict";
import { print } from "../../lib/graph/print.ts";
import { Graph } from "../../lib/graph/tensor.ts";

Deno.test("print writes one line per node", () => {
  const g = new Graph();
  const x = g.input("x", [1, 4, 4, 2]);
  const unused = x.exp();
  const y = g.within("down_blocks.0", () => {
    const weight = g.parameter("down_blocks.0.weight", [3, 3, 3, 2], "conv");
    const padding = { top: 1, bottom: 1, left: 0, right: 1 };
    return x.conv2d(weight, { stride: 2, padding });
  });
  const both = g.node("map", [y, y], {
    shape: [4, 3],
    views: [{ offset: 0, strides: [3, 1] }, { offset: 2, strides: [0, 0] }],
    body: { op: "mul", args: [{ input: 0 }, { op: "max", args: [{ input: 1 }, 0.5] }] },
  });
  const normed = g.node("layerNorm", [both, g.constant(1, [3]), g.constant([1, 2, 3], [3]), both], {
    eps: 1e-5,
    epilogue: { body: { op: "add", args: [{ input: 0 }, { input: 1 }] } },
  });
  const rows = normed.gather(g.input("ids", [2], "i32"));
  const long = g.constant(Array.from({ length: 12 }, (_, i) => i), [12]);
  assert.ok(unused.id > 0);
  assert.equal(
    print([rows, long]),
    `\
%0 = input() [1, 4, 4, 2] {name: "x"}
%2 = parameter() [3, 3, 3, 2] {name: "down_blocks.0.weight", role: "conv"} "down_blocks.0"
%3 = conv2d(%0, %2) [1, 2, 2, 3] {stride: 2, padding: {top: 1, bottom: 1, left: 0, right: 1}, upsample: 1} "down_blocks.0"
%4 = map(%3, %3) [4, 3] {views: [0+[3, 1], 2+[0, 0]], body: mul($0, max($1, 0.5))}
%5 = constant() [3] {values: [1]}
%6 = constant() [3] {values: [1, 2, 3]}
%7 = layerNorm(%4, %5, %6, %4) [4, 3] {eps: 0.00001, epilogue: add($0, $1)}
%8 = input() [2] i32 {name: "ids"}
%9 = gather(%7, %8) [2, 3]
%10 = constant() [12] {values: [0, 1, 2, … 12 in all …, 11]}
outputs %9, %10`,
  );
});
