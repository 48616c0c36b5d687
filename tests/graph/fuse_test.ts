/** What the three rules make of what models say. Nodes are written without leaves and numbers of nodes. */

import assert from "node:assert/strict";
import { fuse } from "../../lib/graph/fuse.ts";
import { print, printExpression } from "../../lib/graph/print.ts";
import { reachable } from "../../lib/graph/rewrite.ts";
import { simplify } from "../../lib/graph/simplify.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { verify } from "../../lib/graph/verify.ts";

const around = { top: 1, bottom: 1, left: 1, right: 1 };
const silu = (x: Tensor) => x.mul(x.sigmoid());
const gelu = (x: Tensor) => x.mul(x.mul(Math.SQRT1_2).erf().add(1)).mul(0.5);
const GELU = (x: string) => `mul(mul(add(erf(mul(${x}, ${Math.SQRT1_2})), 1), ${x}), 0.5)`;

/** Leaves by name, made where a case asks for them. */
class Bench {
  readonly g = new Graph();
  /** [2, 4, 4, 6] */
  readonly x = this.g.input("x", [2, 4, 4, 6]);
  /** [2, 5, 6] */
  readonly rows = this.g.input("rows", [2, 5, 6]);
  input(name: string, ...shape: number[]): Tensor {
    return this.g.input(name, shape);
  }
  weight(name: string, ...shape: number[]): Tensor {
    return this.g.parameter(name, shape, "vector");
  }
  conv(x: Tensor, name = "conv"): Tensor {
    const weight = this.weight(`${name}.weight`, 6, 3, 3, x.shape[3]);
    return x.conv2d(weight, { stride: 1, padding: around });
  }
  bias(x: Tensor, name = "conv"): Tensor {
    return x.add(this.weight(`${name}.bias`, x.shape[x.rank - 1]));
  }
  linear(x: Tensor, width: number, name = "linear"): Tensor {
    const weight = this.weight(`${name}.weight`, width, x.shape[x.rank - 1]);
    return this.bias(x.matmul(weight, { transposeB: true }), name);
  }
  norm(x: Tensor): Tensor {
    const [w, b] = [this.weight("norm.weight", 6), this.weight("norm.bias", 6)];
    return x.groupNormalize(x.groupMoments(2), w, b, { groups: 2, eps: 1e-5 });
  }
}

/** Operators of the fused graph in order: `op name,name [shape] body`, leaves by their names, others by their place. */
function summary(outputs: readonly Tensor[]): string[] {
  const nodes = reachable(outputs).filter(({ inputs }) => inputs.length > 0);
  const name = (t: Tensor) => "name" in t.attrs ? t.attrs.name : `#${nodes.indexOf(t)}`;
  return nodes.map((node) => {
    const { op, inputs, shape, attrs } = node;
    const body = "body" in attrs
      ? attrs.body
      : "epilogue" in attrs
      ? attrs.epilogue?.body
      : undefined;
    const text = body === undefined ? "" : ` ${printExpression(body)}`;
    const heads = "heads" in attrs && attrs.heads
      ? ` ${attrs.heads.count} heads from ${attrs.heads.first}`
      : "";
    return `${op}(${inputs.map(name).join(", ")}) [${shape.join(", ")}]${text}${heads}`;
  });
}

/** What a case builds, and the nodes that remain. */
const CASES: Readonly<Record<string, readonly [(b: Bench) => Tensor, string[]]>> = {
  "convolution, bias": [
    (b) => b.bias(b.conv(b.x)),
    ["conv2d(x, conv.weight, conv.bias) [2, 4, 4, 6] add($0, $1)"],
  ],
  "convolution, bias, time": [
    (b) => b.bias(b.conv(b.x)).add(b.input("time", 2, 6).reshape([2, 1, 1, 6])),
    [
      "reshape(time) [2, 1, 1, 6]",
      "conv2d(x, conv.weight, #0, conv.bias) [2, 4, 4, 6] add($1, add($0, $2))",
    ],
  ],
  "convolution, bias, time that is a product": [
    (b) => {
      const time = b.linear(b.input("time", 2, 8), 6).reshape([2, 1, 1, 6]);
      return b.bias(b.conv(b.x)).add(time);
    },
    [
      "matmul(time, linear.weight, linear.bias) [2, 6] add($0, $1)",
      "reshape(#0) [2, 1, 1, 6]",
      "conv2d(x, conv.weight, conv.bias, #1) [2, 4, 4, 6] add(add($0, $1), $2)",
    ],
  ],
  "convolution, bias, residual": [
    (b) => b.x.add(b.bias(b.conv(b.x))),
    ["conv2d(x, conv.weight, conv.bias, x) [2, 4, 4, 6] add(add($0, $1), $2)"],
  ],
  "two convolutions with biases, added": [
    (b) => b.bias(b.conv(b.x, "a"), "a").add(b.bias(b.conv(b.x, "b"), "b")),
    [
      "conv2d(x, a.weight, a.bias) [2, 4, 4, 6] add($0, $1)",
      "conv2d(x, b.weight, b.bias, #0) [2, 4, 4, 6] add(add($0, $1), $2)",
    ],
  ],
  "group norm, SiLU": [
    (b) => silu(b.norm(b.x)),
    [
      "groupMoments(x) [2, 2, 2]",
      "groupNormalize(x, #0, norm.weight, norm.bias) [2, 4, 4, 6] mul(sigmoid($0), $0)",
    ],
  ],
  "convolution, bias, group norm: moments read what the norm reads": [
    (b) => b.norm(b.bias(b.conv(b.x))),
    [
      "conv2d(x, conv.weight, conv.bias) [2, 4, 4, 6] add($0, $1)",
      "groupMoments(#0) [2, 2, 2]",
      "groupNormalize(#0, #1, norm.weight, norm.bias) [2, 4, 4, 6]",
    ],
  ],
  "linear, bias, GELU": [
    (b) => gelu(b.linear(b.rows, 6)),
    [`matmul(rows, linear.weight, linear.bias) [2, 5, 6] ${GELU("add($0, $1)")}`],
  ],
  "linear, bias, residual": [
    (b) => b.linear(b.rows, 6).add(b.rows),
    ["matmul(rows, linear.weight, linear.bias, rows) [2, 5, 6] add(add($0, $1), $2)"],
  ],
  "linear over pixels, reshaped, residual": [
    (b) => b.linear(b.x.reshape([2, 16, 6]), 6).reshape([2, 4, 4, 6]).add(b.x),
    [
      "reshape(x) [2, 16, 6]",
      "matmul(#0, linear.weight, linear.bias, #0) [2, 16, 6] add(add($0, $1), $2)",
      "reshape(#1) [2, 4, 4, 6]",
    ],
  ],
  "GEGLU is one map over two views": [
    (b) => {
      const both = b.linear(b.rows, 8);
      return both.slice(-1, 0, 4).mul(gelu(both.slice(-1, 4, 8)));
    },
    [
      "matmul(rows, linear.weight, linear.bias) [2, 5, 8] add($0, $1)",
      `map(#0, #0) [2, 5, 4] mul(${GELU("$0")}, $1)`,
    ],
  ],
  "an epilogue grows": [
    (b) => silu(b.bias(b.conv(b.x)).mul(2)).neg(),
    [
      "conv2d(x, conv.weight, conv.bias) [2, 4, 4, 6] " +
      "neg(mul(sigmoid(mul(add($0, $1), 2)), mul(add($0, $1), 2)))",
    ],
  ],
  "positions spread over the batch stay a map": [
    (b) => b.linear(b.rows, 6).add(b.input("positions", 5, 6)),
    [
      "matmul(rows, linear.weight) [2, 5, 6]",
      "map(#0, linear.bias, positions) [2, 5, 6] add(add($0, $1), $2)",
    ],
  ],
  "an operand that depends on the product stays outside": [
    (b) => {
      const y = b.conv(b.x);
      return y.add(y.sum([1, 2]));
    },
    [
      "conv2d(x, conv.weight) [2, 4, 4, 6]",
      "sum(#0) [2, 1, 1, 6]",
      "map(#1, #0) [2, 4, 4, 6] add($0, $1)",
    ],
  ],
  "a chain that others read too is stored once": [
    (b) => {
      const y = silu(b.x.mul(b.x).add(b.input("y", 6)));
      return y.softmax().add(y.exp());
    },
    [
      "map(x, y) [2, 4, 4, 6] " +
      "mul(sigmoid(add(mul($0, $0), $1)), add(mul($0, $0), $1))",
      "softmax(#0) [2, 4, 4, 6]",
      "map(#0, #1) [2, 4, 4, 6] add(exp($0), $1)",
    ],
  ],
  "a cheap chain is computed by each of its readers": [
    (b) => {
      const y = b.x.mul(2).add(1);
      return b.g.concat([y.exp().sum([3]), y.sin()], 3);
    },
    [
      "map(x) [2, 4, 4, 6] exp(add(mul($0, 2), 1))",
      "sum(#0) [2, 4, 4, 1]",
      "map(x) [2, 4, 4, 6] sin(add(mul($0, 2), 1))",
      "concat(#1, #2) [2, 4, 4, 7]",
    ],
  ],
  "a costly chain is not computed again for every pixel": [
    (b) => b.x.add(gelu(b.input("time", 2, 6)).reshape([2, 1, 1, 6])),
    [
      `map(time) [2, 1, 1, 6] ${GELU("$0")}`,
      "map(#0, x) [2, 4, 4, 6] add($0, $1)",
    ],
  ],
  "upsampling folds into the convolution": [
    (b) => b.bias(b.conv(b.x.upsample(2))),
    ["conv2d(x, conv.weight, conv.bias) [2, 8, 8, 6] add($0, $1)"],
  ],
  "upsampling that nobody takes copies": [
    (b) => b.x.upsample(2).softmax(),
    [
      "map(x) [2, 4, 2, 4, 2, 6] $0",
      "reshape(#0) [2, 8, 8, 6]",
      "softmax(#1) [2, 8, 8, 6]",
    ],
  ],
  "slices of one product fold into attention": [
    (b) => {
      const all = b.linear(b.rows, 18);
      const [q, k, v] = [0, 1, 2].map((i) => all.slice(2, 6 * i, 6 * i + 6).reshape([2, 5, 2, 3]));
      return q.attention(k, v, { scale: 1, causal: false });
    },
    [
      "matmul(rows, linear.weight, linear.bias) [2, 5, 18] add($0, $1)",
      "reshape(#0) [2, 5, 6, 3]",
      "attention(#1, #1, #1) [2, 5, 2, 3] 2 heads from 0,2,4",
    ],
  ],
  "slices of heads and of stacks fold into attention; whole operands stay": [
    (b) => {
      const q = b.input("q", 2, 5, 4, 3).slice(2, 1, 3);
      const kv = b.input("kv", 2, 4, 2, 2, 3);
      const [k, v] = [1, 0].map((i) => kv.slice(2, i, i + 1).reshape([2, 4, 2, 3]));
      const first = q.attention(k, v, { scale: 1, causal: false });
      return first.add(q.attention(k, b.input("v", 2, 4, 6).reshape([2, 4, 2, 3]), {
        scale: 1,
        causal: false,
      }));
    },
    [
      "reshape(kv) [2, 4, 4, 3]",
      "attention(q, #0, #0) [2, 5, 2, 3] 2 heads from 1,2,0",
      "reshape(v) [2, 4, 2, 3]",
      "attention(q, #0, #2) [2, 5, 2, 3] 2 heads from 1,2,0",
      "map(#3, #1) [2, 5, 2, 3] add($0, $1)",
    ],
  ],
  "slices that are not whole heads of each token are copied for attention": [
    (b) => {
      const x = b.input("x", 2, 6, 8);
      const [tokens, halves] = [x.slice(1, 1, 3), x.slice(2, 2, 6)];
      const q = tokens.reshape([2, 2, 2, 4]);
      const k = halves.reshape([2, 6, 1, 4]).reshape([2, 3, 2, 4]);
      return q.attention(k, k, { scale: 1, causal: false });
    },
    [
      "map(x) [2, 2, 2, 4] $0",
      "map(x) [2, 3, 2, 4] $0",
      "attention(#0, #1, #1) [2, 2, 2, 4]",
    ],
  ],
  "a transposed factor": [
    (b) =>
      b.rows.matmul(b.weight("w", 6, 3), { transposeB: false }).matmul(
        b.weight("v", 4, 3).transpose([1, 0]),
        { transposeB: false },
      ),
    ["matmul(rows, w) [2, 5, 3]", "matmul(#0, v) [2, 5, 4]"],
  ],
  "moves that nobody takes copy": [
    (b) => b.g.concat([b.rows.transpose([0, 2, 1]), b.rows.slice(1, 0, 3).reshape([2, 6, 3])], 2),
    ["map(rows) [2, 6, 5] $0", "map(rows) [2, 6, 3] $0", "concat(#0, #1) [2, 6, 8]"],
  ],
  "integers are moved as they are": [
    (b) => b.weight("table", 9, 6).gather(b.g.input("ids", [2, 4], "i32").slice(1, 1, 3)),
    ["slice(ids) [2, 2]", "gather(table, #0) [2, 2, 6]"],
  ],
};

for (const [name, [build, expected]] of Object.entries(CASES)) {
  Deno.test(`fuse: ${name}`, () => {
    const fused = fuse(simplify([build(new Bench())]));
    verify(fused);
    assert.deepEqual(summary(fused), expected, print(fused));
  });
}

Deno.test("fuse keeps an output that would be fused away, and its label", () => {
  const b = new Bench();
  const inner = b.g.label("inner", b.bias(b.conv(b.x)));
  const outer = b.g.label("outer", inner.exp());
  assert.deepEqual([...fuse([outer])[0].graph.labels.keys()], ["outer"]);
  const [kept, last] = fuse([inner, outer]);
  assert.deepEqual(summary([kept, last]), [
    "conv2d(x, conv.weight, conv.bias) [2, 4, 4, 6] add($0, $1)",
    "map(#0) [2, 4, 4, 6] exp($0)",
  ]);
  assert.equal(kept.graph.labels.get("inner"), kept);
  assert.equal(kept.graph.labels.get("outer"), last);
});

Deno.test("fuse reads at most six tensors in one operator", () => {
  const b = new Bench();
  const many = Array.from({ length: 12 }, (_, i) => b.input(`y${i}`, 2, 4, 4, 6));
  const fused = fuse(simplify([many.reduce((sum, y) => sum.add(y.exp()), b.conv(b.x))]));
  for (const { inputs, op } of reachable(fused)) assert.ok(inputs.length <= 6, op);
  assert.ok(reachable(fused).filter(({ inputs }) => inputs.length > 0).length <= 4, print(fused));
});
