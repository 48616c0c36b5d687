import assert from "node:assert/strict";
import { reachable, readersOf, rebuild, rewrite } from "../../lib/graph/rewrite.ts";
import { Graph } from "../../lib/graph/tensor.ts";

Deno.test("reachable lists what outputs depend on, oldest first, and refuses two graphs", () => {
  const g = new Graph();
  const [x, y] = [g.input("x", [2]), g.input("y", [2])];
  const unused = x.exp();
  const sum = y.add(x.neg());
  assert.deepEqual(reachable([sum, x]), [x, y, sum.inputs[1], sum]);
  assert.ok(!reachable([sum]).includes(unused));
  assert.throws(() => reachable([sum, new Graph().input("x", [2])]), /different graphs/);
});

Deno.test("readersOf lists a reader once for each time it reads", () => {
  const g = new Graph();
  const x = g.input("x", [2]);
  const square = x.mul(x);
  const readers = readersOf([square, x]);
  assert.deepEqual(readers.get(x), [square, square]);
  assert.deepEqual(readers.get(square), []);
});

Deno.test("rebuild shows its rule the copy and the original, and drops what nobody reads", () => {
  const g = new Graph();
  const x = g.input("x", [2]);
  const inner = g.label("inner", x.exp());
  const y = g.label("y", g.within("block", () => inner.neg()));
  g.label("gone", x.sin());
  const [out] = rebuild([y], (node, original) => {
    assert.equal(original.graph, g);
    return node.op === "neg" ? node.inputs[0].mul(node.inputs[0]) : node;
  });
  assert.equal(out.op, "mul");
  assert.deepEqual(out.graph.nodes.map(({ op }) => op), ["input", "exp", "mul"]);
  assert.equal(out.graph.scopeOf(out), "block");
  assert.deepEqual([...out.graph.labels], [["inner", out.inputs[0]], ["y", out]]);
  assert.equal(g.nodes.length, 4);
});

Deno.test("rewrite tells whether its rule replaced anything", () => {
  const y = new Graph().input("x", [2]).exp();
  assert.equal(rewrite([y], (node) => node).changed, false);
  assert.equal(rewrite([y], (node) => node.op === "exp" ? node.neg() : node).changed, true);
});

Deno.test("rebuild refuses a rule that changes a shape", () => {
  const y = new Graph().input("x", [2]).exp();
  assert.throws(
    () => rebuild([y], (node) => node.op === "exp" ? node.reshape([1, 2]) : node),
    /A pass replaced exp \[2\] f32 of "" by reshape \[1, 2\] f32/,
  );
});
