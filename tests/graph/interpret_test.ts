import assert from "node:assert/strict";
import { interpret } from "../../lib/graph/interpret.ts";
import { Graph } from "../../lib/graph/tensor.ts";

const F64 = { precision: "f64" } as const;
const list = (values: Float64Array) => [...values];

Deno.test("interpret reads a map's views: offset, transposed, broadcast", () => {
  const g = new Graph();
  const x = g.input("x", [2, 3]);
  const y = g.node("map", [x, x], {
    shape: [3, 2],
    views: [{ offset: 0, strides: [1, 3] }, { offset: 4, strides: [0, 1] }],
    body: { op: "sub", args: [{ input: 0 }, { op: "mul", args: [{ input: 1 }, 10] }] },
  });
  const [out] = interpret([y], { x: [1, 2, 3, 4, 5, 6] }, F64);
  assert.deepEqual(list(out), [-49, -56, -48, -55, -47, -54]);
});

Deno.test("interpret applies an epilogue whose operands broadcast", () => {
  const g = new Graph();
  const [a, b] = [g.input("a", [2, 1, 2]), g.input("b", [2, 2])];
  const [sample, channel] = [g.input("s", [2, 1, 1]), g.input("c", [2])];
  const y = g.node("matmul", [a, b, sample, channel], {
    transposeB: true,
    epilogue: {
      body: {
        op: "add",
        args: [{ op: "mul", args: [{ input: 0 }, { input: 1 }] }, { input: 2 }],
      },
    },
  });
  const values = { a: [1, 2, 3, 4], b: [1, 0, 1, 1], s: [10, 100], c: [0.5, 0.25] };
  assert.deepEqual(list(interpret([y], values, F64)[0]), [10.5, 30.25, 300.5, 700.25]);
});

Deno.test("interpret moves, reduces and looks up", () => {
  const g = new Graph();
  const x = g.input("x", [2, 3]);
  const ids = g.input("ids", [2], "i32");
  const outputs = [
    x.transpose([1, 0]),
    x.slice(1, 1, 3),
    x.pad([0, 1], [1, 0]),
    g.concat([x, x.slice(1, 0, 1)], 1),
    x.sum([0]),
    x.maximum([1]),
    x.reshape([3, 2]).gather(ids),
  ];
  const results = interpret(outputs, { x: [1, 2, 3, 4, 5, 6], ids: [2, 0] }, F64);
  assert.deepEqual(results.map(list), [
    [1, 4, 2, 5, 3, 6],
    [2, 3, 5, 6],
    [0, 1, 2, 3, 0, 4, 5, 6, 0, 0, 0, 0],
    [1, 2, 3, 1, 4, 5, 6, 4],
    [5, 7, 9],
    [3, 6],
    [5, 6, 1, 2],
  ]);
});

Deno.test("interpret rounds every operator to single precision when asked", () => {
  const g = new Graph();
  const x = g.input("x", [1]);
  const y = x.add(1).sub(1);
  assert.deepEqual(list(interpret([y], { x: [1e-9] }, F64)[0]), [1 + 1e-9 - 1]);
  assert.deepEqual(list(interpret([y], { x: [1e-9] }, { precision: "f32" })[0]), [0]);
});

Deno.test("interpret keeps an output that others read", () => {
  const g = new Graph();
  const x = g.input("x", [1]);
  const y = x.exp();
  assert.deepEqual(interpret([y, y.neg(), x], { x: [0] }, F64).map(list), [[1], [-1], [0]]);
});

Deno.test("interpret refuses missing values, wrong lengths and rows outside a table", () => {
  const g = new Graph();
  const w = g.parameter("layer.weight", [2, 3], "linear");
  const ids = g.input("ids", [1], "i32");
  const run = (values: Record<string, readonly number[]>) => () =>
    interpret([w.gather(ids)], values, F64);
  assert.throws(run({ ids: [0] }), {
    message: 'Cannot interpret parameter "layer.weight": no values were given',
  });
  assert.throws(run({ "layer.weight": [1, 2], ids: [0] }), {
    message: 'Cannot interpret parameter "layer.weight": 2 values were given, [2, 3] needs 6',
  });
  assert.throws(run({ "layer.weight": [1, 2, 3, 4, 5, 6], ids: [2] }), {
    message: "Cannot look up row 2: the table has 2 rows",
  });
});
