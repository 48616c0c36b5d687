import assert from "node:assert/strict";
import { print } from "../../lib/graph/print.ts";
import { rebuild } from "../../lib/graph/rewrite.ts";
import { simplify } from "../../lib/graph/simplify.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";

/** `before` and `after` are built over the same inputs: x [2, 3, 4], y [3, 4], v [4], one [1]. */
type Build = (inputs: { g: Graph; x: Tensor; y: Tensor; v: Tensor; one: Tensor }) => Tensor;

const RULES: Readonly<Record<string, readonly [before: Build, after: Build]>> = {
  "x + 0": [({ x }) => x.add(0), ({ x }) => x],
  "0 + x": [({ g, x }) => g.constant(0).add(x), ({ x }) => x],
  "x - 0": [({ x }) => x.sub(0), ({ x }) => x],
  "0 - x": [({ g, x }) => g.constant(0).sub(x), ({ x }) => x.neg()],
  "x · 1": [({ x }) => x.mul(1), ({ x }) => x],
  "x / 1": [({ x }) => x.div(1), ({ x }) => x],
  "x · -1": [({ x }) => x.mul(-1), ({ x }) => x.neg()],
  "−−x": [({ x }) => x.neg().neg(), ({ x }) => x],
  "−(x − y)": [({ x, y }) => x.sub(y.broadcast([2, 3, 4])).neg(), ({ x, y }) => y.sub(x)],
  "x + −y": [({ x, y }) => x.add(y.neg()), ({ x, y }) => x.sub(y)],
  "−x + y": [({ x, y }) => x.neg().add(y), ({ x, y }) => y.sub(x)],
  "x − −y": [({ x, y }) => x.sub(y.neg()), ({ x, y }) => y.add(x)],
  "−x · 3": [({ x }) => x.neg().mul(3), ({ x }) => x.mul(-3)],
  "−(x · 3)": [({ x }) => x.mul(3).neg(), ({ x }) => x.mul(-3)],
  "x + 2 + 3 − 1": [({ x }) => x.add(2).add(3).sub(1), ({ x }) => x.add(4)],
  "x · 2 · 3": [({ x }) => x.mul(2).mul(3), ({ x }) => x.mul(6)],
  "2 · x": [({ g, x }) => g.constant(2).mul(x), ({ x }) => x.mul(2)],
  "x + tanh y is tanh y + x": [({ x, y }) => x.add(y.tanh()), ({ x, y }) => y.tanh().add(x)],
  "one + zeros of a larger shape": [
    ({ g, one }) => one.add(g.constant(0, [3])),
    ({ one }) => one.broadcast([3]),
  ],
  "x + a constant of its shape": [({ g, x }) => x.add(g.constant(2, x.shape)), ({ x }) => x.add(2)],
  "a value for each element, all equal": [
    ({ g }) => g.constant([5, 5, 5], [3]),
    ({ g }) => g.constant(5, [3]),
  ],
  "constants are computed": [
    ({ g, x }) => x.mul(g.constant(2).add(3).mul(0.5).sqrt()),
    ({ x }) => x.mul(Math.sqrt(2.5)),
  ],
  "lists of constants are computed": [
    ({ g, v }) => v.add(g.constant([1, 2, 3, 4], [4]).mul(g.constant([3], [1])).exp()),
    ({ g, v }) => v.add(g.constant([3, 6, 9, 12].map(Math.exp), [4])),
  ],
  "what is not finite is left alone": [
    ({ g, x }) => x.add(g.constant(1).div(0)),
    ({ g, x }) => g.constant(1).div(0).add(x),
  ],
  "select by a constant": [
    ({ g, x, y }) => g.node("select", [g.constant(0), y, x], {}),
    ({ x }) => x,
  ],
  "reshape of reshape": [
    ({ x }) => x.reshape([6, 4]).reshape([24]),
    ({ x }) => x.reshape([24]),
  ],
  "reshape and back": [({ x }) => x.reshape([6, 4]).reshape([2, 3, 4]), ({ x }) => x],
  "transpose of transpose": [
    ({ x }) => x.transpose([1, 2, 0]).transpose([1, 0, 2]),
    ({ x }) => x.transpose([2, 1, 0]),
  ],
  "transpose and back": [({ x }) => x.transpose([1, 2, 0]).transpose([2, 0, 1]), ({ x }) => x],
  "a transpose that moves lengths of 1": [
    ({ x }) => x.reshape([2, 1, 12]).transpose([1, 0, 2]),
    ({ x }) => x.reshape([1, 2, 12]),
  ],
  "a transpose of two equal axes stays": [
    ({ x }) => x.reshape([2, 12]).slice(1, 0, 2).transpose([1, 0]),
    ({ x }) => x.reshape([2, 12]).slice(1, 0, 2).transpose([1, 0]),
  ],
  "detached": [({ x }) => x.detach().exp(), ({ x }) => x.exp()],
  "a part of a concatenation": [
    ({ g, x }) => g.concat([x, x.exp(), x], 1).slice(1, 4, 6),
    ({ x }) => x.exp().slice(1, 1, 3),
  ],
  "parts of several that are concatenated stay": [
    ({ g, x }) => g.concat([x, x.exp()], 1).slice(1, 2, 4),
    ({ g, x }) => g.concat([x, x.exp()], 1).slice(1, 2, 4),
  ],
  "concatenation of a concatenation": [
    ({ g, x }) => g.concat([g.concat([x, x.exp()], 1), x], 1),
    ({ g, x }) => g.concat([x, x.exp(), x], 1),
  ],
  "sum of what slices give back": [
    ({ x }) => x.pad([0, 0, 4], [0, 0, 2]).add(x.sin().pad([0, 0, 0], [0, 0, 6])),
    ({ g, x }) => g.concat([x.sin(), x], 2).pad([0, 0, 0], [0, 0, 2]),
  ],
  "sum of paddings that overlap, or of two axes": [
    ({ x }) => x.exp().pad([0, 1, 0], [0, 2, 0]).add(x.pad([0, 0, 0], [0, 3, 0])),
    ({ x }) => {
      const older = x.exp().pad([0, 1, 0], [0, 2, 0]);
      return x.pad([0, 0, 0], [0, 3, 0]).add(older);
    },
  ],
  "slice of slice": [
    ({ x }) => x.slice(2, 1, 4).slice(2, 1, 2).slice(0, 1, 2),
    ({ g, x }) => g.node("slice", [x], { begin: [1, 0, 2], end: [2, 3, 3] }),
  ],
  "a slice of everything": [
    ({ g, x }) => g.node("slice", [x], { begin: [0, 0, 0], end: [2, 3, 4] }),
    ({ x }) => x,
  ],
  "broadcasts that elementwise operators do": [
    ({ x, v }) => x.mul(v.broadcast([3, 4]).broadcast([2, 3, 4])),
    ({ x, v }) => v.mul(x),
  ],
  "a broadcast that is needed stays": [
    ({ v }) => v.broadcast([3, 4]).tanh(),
    ({ v }) => v.broadcast([3, 4]).tanh(),
  ],
  "pads": [
    ({ v }) => v.pad([1], [0]).pad([1], [2]),
    ({ v }) => v.pad([2], [2]),
  ],
  "sum of sum": [({ x }) => x.sum([2]).sum([0, 2]), ({ x }) => x.sum([0, 2])],
  "sum over an axis of length 1": [({ one }) => one.sum([0]), ({ one }) => one],
  "concat of one": [({ g, x }) => g.node("concat", [x], { axis: 0 }), ({ x }) => x],
  "upsample by 1": [
    ({ x }) => x.reshape([1, 2, 3, 4]).upsample(1).upsample(2),
    ({ x }) => x.reshape([1, 2, 3, 4]).upsample(2),
  ],
};

for (const [name, [before, after]] of Object.entries(RULES)) {
  Deno.test(`simplify: ${name}`, () => {
    const [actual, expected] = [before, after].map((build) => {
      const g = new Graph();
      const leaf = (name: string, shape: readonly number[]) => g.input(name, shape);
      const inputs = { x: leaf("x", [2, 3, 4]), y: leaf("y", [3, 4]), v: leaf("v", [4]) };
      return build({ g, ...inputs, one: leaf("one", [1]) });
    });
    assert.equal(print(simplify([actual])), print(rebuild([expected], (node) => node)));
  });
}

Deno.test("simplify keeps labels of what remains and scopes", () => {
  const g = new Graph();
  const x = g.input("x", [2]);
  const kept = g.within("block", () => g.label("kept", x.add(0).tanh()));
  g.label("dead", x.exp());
  const [out] = simplify([kept.mul(1)]);
  assert.deepEqual([...out.graph.labels.keys()], ["kept"]);
  assert.equal(out.graph.labels.get("kept"), out);
  assert.equal(out.graph.scopeOf(out), "block");
  assert.equal(out.graph.nodes.length, 2);
});
