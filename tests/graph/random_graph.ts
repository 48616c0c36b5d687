/**
 * Random graphs over all operators, for properties that hold of every graph. Also phrases that models are made of
 * (convolution, bias, activation; gated halves; residuals), since single operators rarely fall together by chance.
 * Values stay moderate, so that results can be compared to ten digits.
 */

import type { Shape } from "../../lib/base/shape.ts";
import type { Expression } from "../../lib/graph/expression.ts";
import type { Values } from "../../lib/graph/interpret.ts";
import type { OpName, Role, View } from "../../lib/graph/ops.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";

export interface RandomGraph {
  readonly outputs: readonly Tensor[];
  readonly values: Values;
}

/** Draws of one seed (mulberry32). */
class Dice {
  #state: number;
  constructor(seed: number) {
    this.#state = Math.imul(seed + 1, 0x9e3779b1) >>> 0;
  }
  /** In [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }
  /** A whole number in [from, to]. */
  whole(from: number, to: number): number {
    return from + Math.floor(this.next() * (to - from + 1));
  }
  pick<T>(list: readonly T[]): T {
    return list[this.whole(0, list.length - 1)];
  }
  chance(p: number): boolean {
    return this.next() < p;
  }
  shuffled<T>(list: readonly T[]): T[] {
    return list.map((item) => ({ item, key: this.next() }))
      .sort((a, b) => a.key - b.key).map(({ item }) => item);
  }
}

/** What a step may use: the dice, the tensors so far, and fresh leaves. */
class Workshop {
  readonly graph = new Graph();
  readonly values: Record<string, ArrayLike<number>> = {};
  readonly pool: Tensor[] = [];
  constructor(readonly dice: Dice) {}

  input(shape: Shape): Tensor {
    const t = this.graph.input(`x${this.graph.nodes.length}`, shape);
    return this.#given(t);
  }
  weight(shape: Shape, role: Role = "vector"): Tensor {
    const t = this.graph.parameter(`w${this.graph.nodes.length}`, shape, role);
    return this.#given(t);
  }
  ids(shape: Shape, rows: number): Tensor {
    const name = `i${this.graph.nodes.length}`;
    const t = this.graph.input(name, shape, "i32");
    this.values[name] = Array.from({ length: t.size }, () => this.dice.whole(0, rows - 1));
    return t;
  }
  #given(t: Tensor): Tensor {
    if ("name" in t.attrs) {
      const { name } = t.attrs;
      this.values[name] = Array.from({ length: t.size }, () => this.dice.next() * 2 - 1);
    }
    return t;
  }

  /** Rather a recent one, so that graphs grow deep. */
  any(): Tensor {
    return this.dice.pick(this.dice.chance(0.6) ? this.pool.slice(-4) : this.pool);
  }
  /** One of the pool that fits, or a new input of the shape. */
  like(shape: Shape, fits: (t: Tensor) => boolean): Tensor {
    const found = this.pool.filter(fits);
    const recent = this.dice.chance(0.6) ? found.slice(-3) : found;
    return recent.length > 0 && this.dice.chance(0.9) ? this.dice.pick(recent) : this.input(shape);
  }
  picture(): Tensor {
    const { dice } = this;
    const shape = [dice.whole(1, 2), dice.whole(1, 4), dice.whole(1, 4), dice.pick([2, 4])];
    return this.like(shape, (t) => t.rank === 4 && t.shape[3] % 2 === 0 && t.size <= 256);
  }
  rows(): Tensor {
    const { dice } = this;
    const shape = [dice.whole(1, 2), dice.whole(1, 3), dice.pick([2, 4, 6])];
    return this.like(shape, (t) => t.rank >= 2 && t.size <= 256);
  }
  /** A shape that broadcasts to `shape`. */
  part(shape: Shape): Shape {
    const { dice } = this;
    const dropped = dice.chance(0.4) ? dice.whole(0, shape.length) : 0;
    return shape.slice(dropped).map((n) => dice.chance(0.4) ? 1 : n);
  }
}

const last = (t: Tensor, back = 1) => t.shape[t.rank - back];
const silu = (x: Tensor) => x.mul(x.sigmoid());
const gelu = (x: Tensor) => x.mul(x.mul(Math.SQRT1_2).erf().add(1)).mul(0.5);
const NUMBERS = [0, 1, -1, 0.5, -2] as const;

/** A body over `operands` operands that stays moderate. */
function randomBody(dice: Dice, operands: number, depth: number): Expression {
  if (depth === 0 || dice.chance(0.2)) {
    return dice.chance(0.2) ? dice.pick(NUMBERS) : { input: dice.whole(0, operands - 1) };
  }
  const arg = () => randomBody(dice, operands, depth - 1);
  const bounded = (): Expression => ({ op: "tanh", args: [arg()] });
  return dice.pick<() => Expression>([
    () => ({ op: dice.pick(["add", "sub", "max", "min"]), args: [arg(), arg()] }),
    () => ({ op: "mul", args: [arg(), bounded()] }),
    () => ({
      op: dice.pick(["neg", "abs", "sin", "cos", "tanh", "erf", "sigmoid"]),
      args: [arg()],
    }),
    () => ({ op: "exp", args: [bounded()] }),
    () => ({ op: "select", args: [{ op: "less", args: [arg(), 0.1234567] }, arg(), arg()] }),
  ])();
}

/** A view of part of `x` in some order, over `shape`, or nothing where the shape does not lend itself. */
function randomView(dice: Dice, x: Tensor, shape: Shape): View | undefined {
  const strides = shape.map(() => 0);
  let stride = 1;
  for (const axis of dice.shuffled(shape.map((_, i) => i))) {
    if (dice.chance(0.3)) continue; // broadcast
    strides[axis] = stride;
    stride *= shape[axis] + dice.whole(0, 1); // with a gap
  }
  const end = shape.reduce((sum, n, i) => sum + (n - 1) * strides[i], 0);
  return end < x.size ? { offset: dice.whole(0, x.size - 1 - end), strides } : undefined;
}

type Step = (w: Workshop) => Tensor | undefined;

/** One way to make each operator; operators that have attributes draw them. */
const STEPS: Readonly<Record<Exclude<OpName, "parameter" | "input">, Step>> = {
  constant: ({ dice, graph }) => {
    const shape = [dice.whole(1, 3), dice.whole(1, 3)];
    const values = Array.from({ length: shape[0] * shape[1] }, () => dice.pick(NUMBERS));
    return graph.constant(dice.chance(0.5) ? dice.pick(NUMBERS) : values, shape);
  },
  neg: (w) => w.any().neg(),
  abs: (w) => w.graph.node("abs", [w.any()], {}),
  exp: (w) => w.any().min(1).exp(),
  log: (w) => w.graph.node("log", [w.graph.node("abs", [w.any()], {}).add(0.5)], {}),
  sqrt: (w) => w.graph.node("abs", [w.any()], {}).add(0.1).sqrt(),
  sin: (w) => w.any().sin(),
  cos: (w) => w.any().cos(),
  tanh: (w) => w.any().tanh(),
  erf: (w) => w.any().erf(),
  sigmoid: (w) => w.any().sigmoid(),
  add: (w) => w.any().add(operand(w)),
  sub: (w) => w.any().sub(operand(w)),
  mul: (w) => {
    const other = operand(w);
    return w.any().mul(typeof other === "number" ? other : other.tanh());
  },
  div: (w) => w.any().div(w.graph.node("abs", [w.any()], {}).add(1)),
  max: (w) => w.any().max(operand(w)),
  min: (w) => w.any().min(operand(w)),
  less: (w) => w.graph.node("less", [w.any(), w.graph.constant(0.1234567)], {}),
  select: (w) => {
    const x = w.any();
    const condition = w.graph.node("less", [x, w.graph.constant(0.7654321)], {});
    return w.graph.node("select", [condition, w.any(), x], {});
  },
  detach: (w) => w.any().detach(),
  map: (w) => {
    const { dice } = w;
    const shape = Array.from({ length: dice.whole(0, 4) }, () => dice.whole(1, 3));
    const inputs: Tensor[] = [];
    const views: View[] = [];
    for (let i = 0; i < 3; i++) {
      const x = w.any();
      const view = randomView(dice, x, shape);
      if (!view) continue;
      inputs.push(x);
      views.push(view);
    }
    if (inputs.length === 0) return undefined;
    return w.graph.node("map", inputs, { shape, views, body: randomBody(dice, inputs.length, 3) });
  },
  sum: (w) => {
    const x = w.any();
    return x.sum(x.shape.flatMap((_, i) => w.dice.chance(0.5) ? [i] : [])).mul(0.5);
  },
  maximum: (w) => {
    const x = w.any();
    return x.maximum(x.shape.flatMap((_, i) => w.dice.chance(0.5) ? [i] : []));
  },
  matmul: (w) => {
    const { dice } = w;
    const a = w.rows();
    const batch = dice.chance(0.3) ? a.shape.slice(0, -2) : [];
    const [k, n] = [last(a), dice.pick([2, 3, 4])];
    const transposeB = dice.chance(0.5);
    const b = w.weight([...batch, ...transposeB ? [n, k] : [k, n]]);
    if (dice.chance(0.3)) {
      const order = b.shape.map((_, i) => i < batch.length ? i : 2 * b.rank - 3 - i);
      return a.matmul(b.transpose(order), { transposeB: !transposeB });
    }
    return a.matmul(b, { transposeB });
  },
  conv2d: (w) => {
    const { dice } = w;
    const x = w.picture();
    const [kh, kw] = [dice.whole(1, 3), dice.whole(1, 3)];
    const side = () => dice.whole(1, 2);
    const padding = { top: side(), bottom: side(), left: side(), right: side() };
    const weight = w.weight([dice.pick([2, 4]), kh, kw, last(x)], "conv");
    const upsample = dice.pick([1, 1, 2]);
    return w.graph.node("conv2d", [x, weight], { stride: dice.whole(1, 2), padding, upsample });
  },
  conv2dTranspose: (w) => {
    const { dice } = w;
    const y = w.picture();
    const [stride, kh, kw] = [dice.whole(1, 2), dice.whole(1, 3), dice.whole(1, 3)];
    const side = () => dice.whole(0, 2);
    const padding = { top: side(), bottom: side(), left: side(), right: side() };
    const [, oh, ow, co] = y.shape;
    const size = [
      (oh - 1) * stride + kh - padding.top - padding.bottom,
      (ow - 1) * stride + kw - padding.left - padding.right,
    ] as const;
    if (size.some((n) => n < 1)) return undefined;
    const weight = w.weight([co, kh, kw, dice.pick([2, 4])]); // in rows
    return y.conv2dTranspose(weight, { size, stride, padding });
  },
  conv2dWeight: (w) => {
    const { dice } = w;
    const x = w.picture();
    const kernel = [dice.whole(1, 3), dice.whole(1, 3)] as const;
    const side = () => dice.whole(1, 2);
    const padding = { top: side(), bottom: side(), left: side(), right: side() };
    const [stride, upsample] = [dice.whole(1, 2), dice.pick([1, 1, 2])];
    const places = w.graph.node("conv2d", [x, w.weight([2, ...kernel, last(x)], "conv")], {
      ...{ stride, padding, upsample },
    });
    return x.conv2dWeight(places, { kernel, stride, padding, upsample }).mul(0.1);
  },
  attention: (w) => {
    const { dice } = w;
    const [n, t, heads, d] = [dice.whole(1, 2), dice.whole(1, 3), dice.whole(1, 2), 2];
    const causal = dice.chance(0.5);
    const s = dice.whole(1, 3);
    const c = heads * d;
    const stacked = t === s ? w.input([n, t, 3 * c]).mul(2) : undefined; // q, k and v side by side
    const [q, k, v] = [t, s, s].map((tokens, i) => {
      const x = stacked?.slice(2, i * c, i * c + c) ?? w.input([n, tokens, c]).mul(2);
      return x.reshape([n, tokens, heads, d]);
    });
    return q.attention(k, v, { scale: 0.7, causal }).reshape([n, t, heads * d]);
  },
  attentionLogSum: (w) => {
    const { dice } = w;
    const [n, heads] = [dice.whole(1, 2), dice.whole(1, 2)];
    const [q, k] = [dice.whole(1, 3), dice.whole(1, 3)].map((t) => w.input([n, t, heads, 2]));
    return w.graph.node("attentionLogSum", [q, k], { scale: 0.7, causal: dice.chance(0.5) });
  },
  attentionGradient: (w) => {
    const { dice } = w;
    const [n, heads] = [dice.whole(1, 2), dice.whole(1, 2)];
    const [t, s] = [dice.whole(1, 3), dice.whole(1, 3)];
    const [q, k, v, dy] = [t, s, s, t].map((rows) => w.input([n, rows, heads, 2]));
    const [sums, along] = [w.input([n, t, heads, 1]).add(1), w.input([n, t, heads, 1])];
    const attrs = { of: dice.pick(["q", "k", "v"] as const), scale: 0.7, causal: dice.chance(0.5) };
    return w.graph.node("attentionGradient", [q, k, v, dy, sums, along], attrs);
  },
  groupMoments: (w) => w.picture().groupMoments(2),
  groupNormalize: (w) => {
    const x = w.picture();
    const c = last(x);
    return x.groupNormalize(x.groupMoments(2), w.weight([c]), w.weight([c]), {
      groups: 2,
      eps: 1e-2,
    });
  },
  layerNorm: (w) => {
    const x = w.rows();
    return x.layerNorm(w.weight([last(x)]), w.weight([last(x)]), { eps: 1e-2 });
  },
  groupSums: (w) => {
    const x = w.picture();
    const inputs = [x, x.groupMoments(2), w.input(x.shape)] as const;
    return w.graph.node("groupSums", inputs, { groups: 2, eps: 1e-2 });
  },
  layerNormGradient: (w) => {
    const x = w.rows();
    const inputs = [x, w.weight([last(x)]), w.input(x.shape)] as const;
    return w.graph.node("layerNormGradient", inputs, { eps: 1e-2 });
  },
  softmax: (w) => w.rows().softmax(),
  reshape: (w) => {
    const x = w.any();
    const [n] = x.shape;
    const shapes = [[x.size], [1, x.size], [...x.shape, 1], [1, ...x.shape]];
    if (x.rank > 1) shapes.push([n, x.size / n], [n, 1, ...x.shape.slice(1)]);
    if (x.rank > 2) shapes.push([x.size / last(x), last(x)]);
    if (last(x) % 2 === 0) shapes.push([...x.shape.slice(0, -1), last(x) / 2, 2]);
    return x.reshape(w.dice.pick(shapes.filter((shape) => shape.length <= 5)));
  },
  transpose: (w) => {
    const x = w.any();
    return x.transpose(w.dice.shuffled(x.shape.map((_, i) => i)));
  },
  broadcast: (w) => {
    const x = w.any();
    const shape = x.shape.map((n) => n === 1 ? w.dice.whole(1, 3) : n);
    return x.broadcast(w.dice.chance(0.3) && x.rank < 4 ? [2, ...shape] : shape);
  },
  slice: (w) => {
    const x = w.any();
    const begin = x.shape.map((n) => w.dice.chance(0.5) ? 0 : w.dice.whole(0, n - 1));
    const end = x.shape.map((n, i) => w.dice.chance(0.5) ? n : w.dice.whole(begin[i] + 1, n));
    return w.graph.node("slice", [x], { begin, end });
  },
  concat: (w) => {
    const x = w.any();
    if (x.rank === 0) return undefined;
    const axis = w.dice.whole(0, x.rank - 1);
    const other = w.input(x.shape.map((n, i) => i === axis ? w.dice.whole(1, 2) : n));
    return w.graph.node("concat", w.dice.shuffled([x, other, x]).slice(0, w.dice.whole(1, 3)), {
      axis,
    });
  },
  pad: (w) => {
    const x = w.any();
    const some = () => x.shape.map(() => w.dice.chance(0.7) ? 0 : 1);
    return w.graph.node("pad", [x], { before: some(), after: some() });
  },
  upsample: (w) => {
    const { dice } = w;
    const enlarged = w.picture().upsample(dice.whole(1, 2));
    if (dice.chance(0.4)) return enlarged;
    const weight = w.weight([2, 2, 2, last(enlarged)], "conv");
    const padding = { top: 0, bottom: 1, left: 1, right: 0 };
    return enlarged.conv2d(weight, { stride: 1, padding });
  },
  gather: (w) => {
    const table = w.dice.chance(0.5) ? w.weight([3, 4]) : w.like([3, 4], ({ rank }) => rank === 2);
    return table.gather(w.ids(w.dice.chance(0.5) ? [2, 3] : [2], table.shape[0]));
  },
  scatterAdd: (w) => {
    const x = w.rows();
    return x.scatterAdd(w.ids(x.shape.slice(0, -1), 3), 3);
  },
};

/** What models say. */
const PHRASES: readonly Step[] = [
  // A finished contraction or norm with what follows it.
  (w) => {
    const bare = w.dice.pick([STEPS.matmul, STEPS.conv2d, STEPS.groupNormalize, STEPS.layerNorm])(
      w,
    );
    if (!bare) return undefined;
    let x = bare;
    for (let i = w.dice.whole(0, 3); i > 0; i--) {
      const n = x.shape[0];
      x = w.dice.pick<() => Tensor>([
        () => x.add(w.weight([last(x)])),
        () => silu(x),
        () => gelu(x),
        () => x.add(w.input(x.shape)),
        () => x.add(w.input([n, ...x.shape.slice(1, -1).map(() => 1), last(x)])),
        () => x.add(w.input(w.part(x.shape))),
        () => x.mul(0.5),
        () => w.input(x.shape).sub(x),
        () => x.reshape([n, x.size / n / last(x), last(x)]),
      ])();
    }
    return x;
  },
  // An epilogue as the fuse pass leaves it.
  (w) => {
    const bare = w.dice.pick([STEPS.matmul, STEPS.conv2d, STEPS.groupNormalize, STEPS.layerNorm])(
      w,
    );
    if (bare?.op !== "matmul" && bare?.op !== "layerNorm") return bare;
    const body = randomBody(w.dice, 2, 3);
    const operand = w.input(w.dice.chance(0.5) ? bare.shape : [last(bare)]);
    const attrs = { ...bare.attrs, epilogue: { body } };
    return w.graph.copy(bare, [...bare.inputs, operand], attrs);
  },
  // Gated halves of a product.
  (w) => {
    const x = w.rows();
    const both = x.matmul(w.weight([8, last(x)], "linear"), { transposeB: true }).add(
      w.weight([8]),
    );
    return both.slice(-1, 0, 4).mul(gelu(both.slice(-1, 4, 8)));
  },
  // A chain of cheap operators on one tensor.
  (w) => {
    let x = w.any();
    for (let i = w.dice.whole(1, 6); i > 0; i--) {
      x = w.dice.pick<() => Tensor>([
        () => x.add(w.dice.pick(NUMBERS)),
        () => x.mul(w.dice.pick(NUMBERS)),
        () => x.neg(),
        () => x.sub(w.dice.pick(NUMBERS)).neg(),
        () => x.sub(x.tanh()),
        () => x.transpose(x.shape.map((_, i) => x.rank - 1 - i)),
        () => x.reshape([x.size]).reshape(x.shape),
        () => x.add(w.input(w.part(x.shape))),
      ])();
    }
    return x;
  },
];

/** A number, or a tensor that the others may or may not broadcast with. */
function operand(w: Workshop): number | Tensor {
  return w.dice.chance(0.4) ? w.dice.pick(NUMBERS) : w.any();
}

/** A graph of `steps` random steps and two to five outputs, with values for its leaves; the same for the same seed. */
export function randomGraph(seed: number, steps = 30): RandomGraph {
  const w = new Workshop(new Dice(seed));
  w.pool.push(w.input([2, 3, 2, 4]), w.input([2, 3, 4]), w.input([4]), w.weight([3, 1, 4]));
  const moves = Object.values(STEPS);
  for (let i = 0; i < steps; i++) {
    const step = w.dice.pick(w.dice.chance(0.3) ? PHRASES : moves);
    const scope = w.dice.chance(0.5) ? `step.${i}` : "";
    const made = w.graph.within(scope, () => attempt(step, w));
    if (made && made.dtype === "f32" && made.size <= 1024 && made.rank <= 5) {
      w.pool.push(made);
      if (w.dice.chance(0.2)) w.graph.label(`made.${i}`, made);
    }
  }
  const outputs = [
    w.pool[w.pool.length - 1],
    ...w.dice.shuffled(w.pool).slice(w.dice.whole(0, 2), 2),
  ];
  return { outputs, values: w.values };
}

/** Nothing where the operands that were drawn do not fit each other. */
function attempt(step: Step, w: Workshop): Tensor | undefined {
  try {
    return step(w);
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}
