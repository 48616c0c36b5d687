import assert from "node:assert/strict";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { verify } from "../../lib/graph/verify.ts";

/** A graph whose last node the constructor let through, and what the law says about it. */
const BROKEN: Readonly<Record<string, readonly [build: (g: Graph) => Tensor, law: RegExp]>> = {
  "a number that is not finite": [
    (g) => g.input("x", [2]).mul(Infinity),
    /constant.*: its attributes hold Infinity, finite numbers were needed/,
  ],
  "arithmetic on integers": [
    (g) => g.input("ids", [2], "i32").neg(),
    /%1 = neg\(%0\) .*: its input %0 is i32/,
  ],
  "parts of different element types": [
    (g) => g.concat([g.input("x", [2]), g.input("ids", [2], "i32")], 0),
    /concat.*: its parts have different element types/,
  ],
  "an empty axis": [
    (g) => g.input("x", [0, 2]),
    /input.*: its axes are not all of a positive length/,
  ],
  "a view that begins before its tensor": [
    (g) =>
      g.node("map", [g.input("x", [4])], {
        shape: [2],
        views: [{ offset: -1, strides: [1] }],
        body: { input: 0 },
      }),
    /map.*: its views are not made of whole, non-negative numbers/,
  ],
  "a body that reads an operand it has not": [
    (g) =>
      g.node("map", [g.input("x", [2])], {
        shape: [2],
        views: [{ offset: 0, strides: [1] }],
        body: { op: "neg", args: [{ input: 1 }] },
      }),
    /map.*: its body reads operand 1 of 1/,
  ],
  "a body with too few arguments": [
    (g) =>
      g.node("map", [g.input("x", [2])], {
        shape: [2],
        views: [{ offset: 0, strides: [1] }],
        body: { op: "add", args: [{ input: 0 }] },
      }),
    /map.*: its body gives add 1 arguments/,
  ],
  "an epilogue that reads an operand it has not": [
    (g) =>
      g.node("matmul", [g.input("a", [2, 2]), g.input("b", [2, 2])], {
        transposeB: false,
        epilogue: { body: { op: "add", args: [{ input: 0 }, { input: 1 }] } },
      }),
    /matmul.*: its body reads operand 1 of 1/,
  ],
  "operands without an epilogue": [
    (g) => {
      const [a, b] = [g.input("a", [2, 2]), g.input("b", [2, 2])];
      return g.node("matmul", [a, b, a], { transposeB: false });
    },
    /matmul.*: it has 1 operands of an epilogue, but no epilogue/,
  ],
};

for (const [name, [build, law]] of Object.entries(BROKEN)) {
  Deno.test(`verify refuses ${name}`, () => {
    assert.throws(() => verify([build(new Graph())]), law);
  });
}

/** A node as no constructor would make it. */
function forged(
  like: Tensor,
  changes: { id?: number; shape?: readonly number[]; inputs?: readonly Tensor[] },
): Tensor {
  return Object.assign(Object.create(Object.getPrototypeOf(like)), like, changes);
}

Deno.test("verify refuses nodes that are not what their graph says", () => {
  const g = new Graph();
  const y = g.input("x", [2]).neg();
  const other = new Graph().input("x", [2]);
  assert.throws(() => verify([forged(y, {})]), /its graph does not hold it/);
  const law = (node: Tensor) => () => {
    const nodes = [...g.nodes];
    nodes[node.id] = node;
    Object.defineProperty(g, "nodes", { value: nodes, configurable: true });
    verify([node]);
  };
  assert.throws(law(forged(y, { shape: [3] })), /its rule gives \[2\] f32/);
  assert.throws(law(forged(y, { inputs: [y] })), /its input %1 is not older/);
  assert.throws(law(forged(y, { inputs: [other] })), /its input %0 belongs to another graph/);
});
