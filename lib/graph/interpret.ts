/**
 * The graph in plain loops: the oracle of every pass and kernel, and a debugger. It computes in double
 * precision; with `precision: "f32"` every operator's result is rounded to single, sums are not.
 */

import { type Shape, show, sizeOf, stridesOf } from "../base/shape.ts";
import type { ElementwiseOp, Expression } from "./expression.ts";
import type { Epilogue, OpName, View } from "./ops.ts";
import { reachable } from "./rewrite.ts";
import type { Tensor, TensorOf } from "./tensor.ts";
import { broadcastView, isWhole, transposeView, wholeView } from "./view.ts";

/** Elements of parameters and inputs by name, row-major, in the graph's layout (see `Ops.parameter`). */
export type Values = Readonly<Record<string, ArrayLike<number>>>;

export interface InterpretOptions {
  /** "f32" rounds the result of every operator to single precision. */
  readonly precision: "f64" | "f32";
}

/**
 * Elements of each output, row-major. Intermediate results are dropped after their last reader.
 * Throws `RangeError` where a value is missing, has the wrong length, or indexes outside a table.
 */
export function interpret(
  outputs: readonly Tensor[],
  values: Values,
  options: InterpretOptions,
): Float64Array[] {
  const nodes = reachable(outputs);
  const lastReader = new Map<Tensor, Tensor>();
  for (const node of nodes) for (const input of node.inputs) lastReader.set(input, node);
  for (const output of outputs) lastReader.delete(output);

  const round = options.precision === "f32" ? Math.fround : exact;
  const results = new Map<Tensor, Float64Array>();
  const resultOf = (tensor: Tensor): Float64Array => {
    const result = results.get(tensor);
    if (!result) throw new Error(`The result of ${tensor.op} was dropped before its last reader`);
    return result;
  };
  for (const node of nodes) {
    const result = evaluate(node, { inputs: node.inputs.map(resultOf), values, round });
    if (round !== exact) { for (let i = 0; i < result.length; i++) result[i] = round(result[i]); }
    results.set(node, result);
    for (const input of node.inputs) if (lastReader.get(input) === node) results.delete(input);
  }
  return outputs.map(resultOf);
}

const exact = (x: number) => x;

interface Context {
  readonly inputs: readonly Float64Array[];
  readonly values: Values;
  readonly round: (x: number) => number;
}

/** What each elementwise operator does to numbers. */
export const SCALAR: Readonly<
  Record<ElementwiseOp, (a: number, b: number, c: number) => number>
> = {
  neg: (a) => -a,
  abs: Math.abs,
  exp: Math.exp,
  log: Math.log,
  sqrt: Math.sqrt,
  sin: Math.sin,
  cos: Math.cos,
  tanh: Math.tanh,
  erf,
  sigmoid: (a) => 1 / (1 + Math.exp(-a)),
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  max: (a, b) => Math.max(a, b),
  min: (a, b) => Math.min(a, b),
  less: (a, b) => a < b ? 1 : 0,
  select: (condition, a, b) => condition !== 0 ? a : b,
};

/** The Gauss error function to about 2 ulp: a series of positive terms near 0, else a continued fraction for 1 − erf. */
function erf(x: number): number {
  const z = Math.abs(x);
  if (!(z < 6)) return Number.isNaN(z) ? z : Math.sign(x); // 1 − erf(6) < 2⁻⁵⁴
  if (z < 2.5) {
    // erf x = 2/√π · e^(−x²) · Σ x (2x²)ⁿ / (1 · 3 · … · (2n + 1))
    let term = x;
    let sum = x;
    for (let n = 1; Math.abs(term) > Math.abs(sum) * 1e-17; n++) {
      term *= 2 * x * x / (2 * n + 1);
      sum += term;
    }
    return 2 / Math.sqrt(Math.PI) * Math.exp(-x * x) * sum;
  }
  // erfc z = e^(−z²)/√π · 1/(z + ½/(z + 1/(z + 1½/(z + …))))
  let fraction = z;
  for (let n = 60; n > 0; n--) fraction = z + n / 2 / fraction;
  return Math.sign(x) * (1 - Math.exp(-z * z) / Math.sqrt(Math.PI) / fraction);
}

/** A body as a function of the element's index; every operator in it is rounded. */
function compile(
  body: Expression,
  operands: readonly Float64Array[],
  round: (x: number) => number,
): (i: number) => number {
  if (typeof body === "number") return () => body;
  if ("input" in body) {
    const data = operands[body.input];
    return (i) => data[i];
  }
  const [a, b, c] = body.args.map((arg) => compile(arg, operands, round));
  const f = SCALAR[body.op];
  switch (body.args.length) {
    case 1:
      return (i) => round(f(a(i), 0, 0));
    case 2:
      return (i) => round(f(a(i), b(i), 0));
    default:
      return (i) => round(f(a(i), b(i), c(i)));
  }
}

function fill(
  size: number,
  body: Expression,
  operands: readonly Float64Array[],
  round: (x: number) => number,
): Float64Array {
  const at = compile(body, operands, round);
  const out = new Float64Array(size);
  for (let i = 0; i < size; i++) out[i] = at(i);
  return out;
}

/** The elements a view reads, in order; `data` itself where that is all of it. */
function read(data: Float64Array, shape: Shape, view: View): Float64Array {
  if (isWhole(view, shape, data.length)) return data;
  const out = new Float64Array(sizeOf(shape));
  const last = shape.length - 1;
  let o = 0;
  const walk = (axis: number, at: number) => {
    if (axis > last) {
      out[o++] = data[at];
      return;
    }
    const [n, stride] = [shape[axis], view.strides[axis]];
    if (axis < last) {
      for (let i = 0; i < n; i++) walk(axis + 1, at + i * stride);
    } else {
      for (let i = 0; i < n; i++) out[o++] = data[at + i * stride];
    }
  };
  walk(0, view.offset);
  return out;
}

function broadcast(data: Float64Array, from: Shape, to: Shape): Float64Array {
  return read(data, to, broadcastView(wholeView(from), from, to));
}

/** An elementwise operator as a body of one operator over broadcast operands. */
function elementwise(
  node: TensorOf<ElementwiseOp>,
  { inputs, round }: Context,
): Float64Array {
  const tensors: readonly Tensor[] = node.inputs;
  const operands = inputs.map((data, i) => broadcast(data, tensors[i].shape, node.shape));
  const body = { op: node.op, args: operands.map((_, input) => ({ input })) };
  return fill(node.size, body, operands, round);
}

/** The epilogue over a finished result; its operands are the inputs from `base` on. */
function finish(
  node: Tensor,
  epilogue: Epilogue | undefined,
  base: number,
  result: Float64Array,
  { inputs, round }: Context,
): Float64Array {
  if (!epilogue) return result;
  const operands = inputs.slice(base)
    .map((data, i) => broadcast(data, node.inputs[base + i].shape, node.shape));
  if (round !== exact) { for (let i = 0; i < result.length; i++) result[i] = round(result[i]); }
  return fill(node.size, epilogue.body, [result, ...operands], round);
}

function lookUp(kind: string, name: string, shape: Shape, values: Values): Float64Array {
  const given = Object.hasOwn(values, name) ? values[name] : undefined;
  if (!given) throw new RangeError(`Cannot interpret ${kind} "${name}": no values were given`);
  if (given.length !== sizeOf(shape)) {
    throw new RangeError(
      `Cannot interpret ${kind} "${name}": ${given.length} values were given, ${
        show(shape)
      } needs ${sizeOf(shape)}`,
    );
  }
  return Float64Array.from(given);
}

/** `out[to + j] = Σ a[at + i] · b[bt + j · step + i]` over i < k, for j < n: every contraction comes down to it. */
function dots(
  a: Float64Array,
  at: number,
  b: Float64Array,
  bt: number,
  step: number,
  k: number,
  n: number,
  out: Float64Array,
  to: number,
): void {
  let j = 0;
  for (; j + 4 <= n; j += 4) {
    const b0 = bt + j * step, b1 = b0 + step, b2 = b1 + step, b3 = b2 + step;
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (let i = 0; i < k; i++) {
      const x = a[at + i];
      s0 += x * b[b0 + i];
      s1 += x * b[b1 + i];
      s2 += x * b[b2 + i];
      s3 += x * b[b3 + i];
    }
    out[to + j] = s0;
    out[to + j + 1] = s1;
    out[to + j + 2] = s2;
    out[to + j + 3] = s3;
  }
  for (; j < n; j++) {
    let sum = 0;
    for (let i = 0; i < k; i++) sum += a[at + i] * b[bt + j * step + i];
    out[to + j] = sum;
  }
}

function matmul(node: TensorOf<"matmul">, context: Context): Float64Array {
  const [a, b] = node.inputs;
  const { transposeB, epilogue } = node.attrs;
  const k = a.shape[a.rank - 1];
  const n = node.shape[node.rank - 1];
  const rows = node.size / n;
  const swapped = b.shape.map((_, i) => i < b.rank - 2 ? i : 2 * b.rank - 3 - i);
  const columns = transposeB ? context.inputs[1] : read(
    context.inputs[1],
    swapped.map((axis) => b.shape[axis]),
    transposeView(wholeView(b.shape), swapped),
  ); // […, n, k]
  const rowsPerBatch = b.rank === 2 ? rows : a.shape[a.rank - 2];
  const out = new Float64Array(node.size);
  for (let i = 0; i < rows; i++) {
    const batch = Math.floor(i / rowsPerBatch);
    dots(context.inputs[0], i * k, columns, batch * n * k, k, k, n, out, i * n);
  }
  return finish(node, epilogue, 2, out, context);
}

function conv2d(node: TensorOf<"conv2d">, context: Context): Float64Array {
  const { stride, padding, upsample, epilogue } = node.attrs;
  const [, h, w, ci] = node.inputs[0].shape;
  const [co, kh, kw] = node.inputs[1].shape;
  const [n, oh, ow] = node.shape;
  const [x, weight] = context.inputs;
  const k = kh * kw * ci;
  const patch = new Float64Array(k); // the pixels under the kernel, zero outside the picture
  const out = new Float64Array(node.size);
  let to = 0;
  for (let image = 0; image < n; image++) {
    for (let oy = 0; oy < oh; oy++) {
      for (let ox = 0; ox < ow; ox++, to += co) {
        for (let ky = 0, p = 0; ky < kh; ky++) {
          const y = oy * stride - padding.top + ky; // in the enlarged picture
          for (let kx = 0; kx < kw; kx++, p += ci) {
            const column = ox * stride - padding.left + kx;
            if (y < 0 || y >= h * upsample || column < 0 || column >= w * upsample) {
              patch.fill(0, p, p + ci);
              continue;
            }
            const row = image * h + Math.floor(y / upsample);
            const from = (row * w + Math.floor(column / upsample)) * ci;
            for (let c = 0; c < ci; c++) patch[p + c] = x[from + c];
          }
        }
        dots(patch, 0, weight, 0, k, k, co, out, to);
      }
    }
  }
  return finish(node, epilogue, 2, out, context);
}

/** What a convolution reads: calls `visit` for each place of the kernel and each tap that is inside the picture. */
function eachTap(
  { x, y, kernel: [kh, kw], attrs: { stride, padding, upsample } }: {
    readonly x: Shape;
    readonly y: Shape;
    readonly kernel: readonly [number, number];
    readonly attrs: Pick<TensorOf<"conv2dWeight">["attrs"], "stride" | "padding" | "upsample">;
  },
  visit: (pixelOfX: number, tap: number, pixelOfY: number) => void,
): void {
  const [n, h, w] = x;
  const [, oh, ow] = y;
  for (let line = 0; line < n * oh; line++) {
    for (let tap = 0; tap < kh * kw; tap++) {
      const row = line % oh * stride - padding.top + Math.floor(tap / kw);
      if (row < 0 || row >= h * upsample) continue;
      const first = (Math.floor(line / oh) * h + Math.floor(row / upsample)) * w;
      for (let ox = 0; ox < ow; ox++) {
        const column = ox * stride - padding.left + tap % kw;
        if (column < 0 || column >= w * upsample) continue;
        visit(first + Math.floor(column / upsample), tap, line * ow + ox);
      }
    }
  }
}

function conv2dTranspose(node: TensorOf<"conv2dTranspose">, { inputs }: Context): Float64Array {
  const [y, weight] = inputs;
  const [{ shape }, { shape: [co, kh, kw, ci] }] = node.inputs;
  const attrs = { ...node.attrs, upsample: 1 };
  const out = new Float64Array(node.size);
  eachTap({ x: node.shape, y: shape, kernel: [kh, kw], attrs }, (to, tap, from) => {
    for (let o = 0; o < co; o++) {
      const value = y[from * co + o];
      const row = (o * kh * kw + tap) * ci;
      for (let i = 0; i < ci; i++) out[to * ci + i] += value * weight[row + i];
    }
  });
  return out;
}

function conv2dWeight(node: TensorOf<"conv2dWeight">, { inputs: [x, y] }: Context): Float64Array {
  const { attrs, shape: [co, kh, kw, ci] } = node;
  const shapes = { x: node.inputs[0].shape, y: node.inputs[1].shape };
  const out = new Float64Array(node.size);
  eachTap({ ...shapes, kernel: [kh, kw], attrs }, (pixel, tap, place) => {
    for (let o = 0; o < co; o++) {
      const value = y[place * co + o];
      const row = (o * kh * kw + tap) * ci;
      for (let i = 0; i < ci; i++) out[row + i] += value * x[pixel * ci + i];
    }
  });
  return out;
}

/** Softmax of `row[0 … n − 1]`, in place. */
function softmaxRow(row: Float64Array, n: number): void {
  let top = -Infinity;
  for (let i = 0; i < n; i++) top = Math.max(top, row[i]);
  let sum = 0;
  for (let i = 0; i < n; i++) sum += row[i] = Math.exp(row[i] - top);
  for (let i = 0; i < n; i++) row[i] /= sum;
}

function attention(node: TensorOf<"attention">, { inputs }: Context): Float64Array {
  const { scale, causal } = node.attrs;
  const [n, t, heads, d] = node.shape;
  const s = node.inputs[1].shape[1];
  const [q, k, v] = inputs;
  const [qStep, kStep, vStep] = node.inputs.map(({ shape }) => shape[2] * d); // between tokens
  const [qFirst, kFirst, vFirst] = node.attrs.heads?.first ?? [0, 0, 0];
  const row = new Float64Array(s);
  const out = new Float64Array(node.size);
  for (let image = 0; image < n; image++) {
    for (let head = 0; head < heads; head++) {
      const keys = image * s * kStep + (kFirst + head) * d;
      const values = image * s * vStep + (vFirst + head) * d;
      for (let i = 0; i < t; i++) {
        const query = (image * t + i) * qStep + (qFirst + head) * d;
        const to = ((image * t + i) * heads + head) * d;
        const seen = causal ? Math.min(i + 1, s) : s;
        dots(q, query, k, keys, kStep, d, seen, row, 0);
        for (let j = 0; j < seen; j++) row[j] *= scale;
        softmaxRow(row, seen);
        for (let j = 0; j < seen; j++) {
          for (let c = 0; c < d; c++) out[to + c] += row[j] * v[values + j * vStep + c];
        }
      }
    }
  }
  return out;
}

/** Calls `visit` for each query, the keys that it sees, and their scores, for each sample and head. */
function eachQuery(
  { q, k, attrs: { scale, causal } }: {
    readonly q: { readonly data: Float64Array; readonly shape: Shape };
    readonly k: { readonly data: Float64Array; readonly shape: Shape };
    readonly attrs: { readonly scale: number; readonly causal: boolean };
  },
  visit: (query: number, scores: Float64Array, keyOf: (i: number) => number) => void,
): void {
  const [n, t, heads, d] = q.shape;
  const s = k.shape[1];
  const row = new Float64Array(s);
  for (let image = 0; image < n; image++) {
    for (let head = 0; head < heads; head++) {
      const keyOf = (i: number) => (image * s + i) * heads + head;
      for (let i = 0; i < t; i++) {
        const query = (image * t + i) * heads + head;
        const seen = causal ? Math.min(i + 1, s) : s;
        dots(q.data, query * d, k.data, keyOf(0) * d, heads * d, d, seen, row, 0);
        visit(query, row.subarray(0, seen).map((score) => score * scale), keyOf);
      }
    }
  }
}

function attentionLogSum(
  node: TensorOf<"attentionLogSum">,
  { inputs: [q, k] }: Context,
): Float64Array {
  const out = new Float64Array(node.size);
  const [{ shape }, { shape: keys }] = node.inputs;
  const operands = { q: { data: q, shape }, k: { data: k, shape: keys } };
  eachQuery({ ...operands, attrs: node.attrs }, (query, scores) => {
    const top = scores.reduce((a, b) => Math.max(a, b), -Infinity);
    out[query] = top + Math.log(scores.reduce((sum, score) => sum + Math.exp(score - top), 0));
  });
  return out;
}

function attentionGradient(
  node: TensorOf<"attentionGradient">,
  { inputs: [q, k, v, dy, logSum, along] }: Context,
): Float64Array {
  const { of, scale } = node.attrs;
  const [{ shape }, { shape: keys }] = node.inputs;
  const d = shape[3];
  const out = new Float64Array(node.size);
  const add = (to: number, factor: number, x: Float64Array, from: number) => {
    for (let c = 0; c < d; c++) out[to * d + c] += factor * x[from * d + c];
  };
  const operands = { q: { data: q, shape }, k: { data: k, shape: keys } };
  eachQuery({ ...operands, attrs: node.attrs }, (query, scores, keyOf) => {
    scores.forEach((score, i) => {
      const key = keyOf(i);
      const weight = Math.exp(score - logSum[query]);
      let change = 0;
      for (let c = 0; c < d; c++) change += dy[query * d + c] * v[key * d + c];
      const dScore = weight * (change - along[query]) * scale;
      if (of === "q") add(query, dScore, k, key);
      else if (of === "k") add(key, dScore, q, query);
      else add(key, weight, dy, query);
    });
  });
  return out;
}

/** Mean and variance of `count` runs of `length` elements that lie `step` apart, from `at` on. */
function moments(
  x: Float64Array,
  at: number,
  length: number,
  step: number,
  count: number,
): [mean: number, variance: number] {
  let sum = 0;
  for (let r = 0; r < count; r++) {
    for (let i = 0; i < length; i++) sum += x[at + r * step + i];
  }
  const mean = sum / (length * count);
  let squares = 0;
  for (let r = 0; r < count; r++) {
    for (let i = 0; i < length; i++) squares += (x[at + r * step + i] - mean) ** 2;
  }
  return [mean, squares / (length * count)];
}

function groupMoments(node: TensorOf<"groupMoments">, { inputs: [x] }: Context): Float64Array {
  const [{ shape }] = node.inputs;
  const { groups } = node.attrs;
  const c = shape[shape.length - 1];
  const width = c / groups;
  const pixels = x.length / shape[0] / c;
  const out = new Float64Array(node.size);
  for (let i = 0; i < shape[0] * groups; i++) {
    const at = Math.floor(i / groups) * pixels * c + i % groups * width;
    out.set(moments(x, at, width, c, pixels), 2 * i);
  }
  return out;
}

function groupNormalize(node: TensorOf<"groupNormalize">, context: Context): Float64Array {
  const { groups, eps, epilogue } = node.attrs;
  const [x, statistics, weight, bias] = context.inputs;
  const c = node.shape[node.rank - 1];
  const perImage = node.size / node.shape[0];
  const out = new Float64Array(node.size);
  for (let i = 0; i < out.length; i++) {
    const channel = i % c;
    const group = Math.floor(i / perImage) * groups + Math.floor(channel / (c / groups));
    const scale = weight[channel] / Math.sqrt(statistics[2 * group + 1] + eps);
    out[i] = (x[i] - statistics[2 * group]) * scale + bias[channel];
  }
  return finish(node, epilogue, 4, out, context);
}

function layerNorm(node: TensorOf<"layerNorm">, context: Context): Float64Array {
  const { eps, epilogue } = node.attrs;
  const [x, weight, bias] = context.inputs;
  const c = node.shape[node.rank - 1];
  const out = new Float64Array(node.size);
  for (let at = 0; at < out.length; at += c) {
    const [mean, variance] = moments(x, at, c, c, 1);
    const scale = 1 / Math.sqrt(variance + eps);
    for (let i = 0; i < c; i++) out[at + i] = (x[at + i] - mean) * scale * weight[i] + bias[i];
  }
  return finish(node, epilogue, 3, out, context);
}

function groupSums(
  node: TensorOf<"groupSums">,
  { inputs: [x, statistics, dy] }: Context,
): Float64Array {
  const { groups, eps } = node.attrs;
  const [, n, c] = node.shape;
  const perImage = x.length / n;
  const out = new Float64Array(node.size);
  for (let i = 0; i < x.length; i++) {
    const image = Math.floor(i / perImage);
    const channel = i % c;
    const group = image * groups + Math.floor(channel / (c / groups));
    const to = image * c + channel;
    out[to] += dy[i];
    out[n * c + to] += dy[i] * (x[i] - statistics[2 * group]) /
      Math.sqrt(statistics[2 * group + 1] + eps);
  }
  return out;
}

function layerNormGradient(
  node: TensorOf<"layerNormGradient">,
  { inputs: [x, weight, dy] }: Context,
): Float64Array {
  const c = node.shape[node.rank - 1];
  const out = new Float64Array(node.size);
  for (let at = 0; at < out.length; at += c) {
    const [mean, variance] = moments(x, at, c, c, 1);
    const scale = 1 / Math.sqrt(variance + node.attrs.eps);
    let [change, along] = [0, 0];
    for (let i = 0; i < c; i++) {
      change += dy[at + i] * weight[i] / c;
      along += dy[at + i] * weight[i] * (x[at + i] - mean) * scale / c;
    }
    for (let i = 0; i < c; i++) {
      out[at + i] = scale * (dy[at + i] * weight[i] - change - (x[at + i] - mean) * scale * along);
    }
  }
  return out;
}

function softmax(node: TensorOf<"softmax">, { inputs: [x] }: Context): Float64Array {
  const out = x.slice();
  const n = node.shape[node.rank - 1];
  for (let at = 0; at < out.length; at += n) softmaxRow(out.subarray(at, at + n), n);
  return out;
}

/** Combines all elements that fall on the same element of the result, beginning with `first`. */
function reduce(
  node: TensorOf<"sum" | "maximum">,
  x: Float64Array,
  first: number,
  combine: (a: number, b: number) => number,
): Float64Array {
  const [{ shape }] = node.inputs;
  const strides = stridesOf(node.shape).map((s, i) => node.attrs.axes.includes(i) ? 0 : s);
  const indices = Float64Array.from({ length: node.size }, (_, i) => i);
  const targets = read(indices, shape, { offset: 0, strides });
  const out = new Float64Array(node.size).fill(first);
  for (let i = 0; i < x.length; i++) out[targets[i]] = combine(out[targets[i]], x[i]);
  return out;
}

/** Writes `part` into a row-major block of shape `shape`, from element `begin` of each axis on. */
function place(
  out: Float64Array,
  shape: Shape,
  part: Float64Array,
  partShape: Shape,
  begin: readonly number[],
): void {
  const strides = stridesOf(shape);
  const width = partShape[partShape.length - 1] ?? 1;
  for (let from = 0; from < part.length; from += width) {
    let rest = from;
    let to = 0;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      to += (begin[axis] + rest % partShape[axis]) * strides[axis];
      rest = Math.floor(rest / partShape[axis]);
    }
    out.set(part.subarray(from, from + width), to);
  }
}

function gather(node: TensorOf<"gather">, { inputs: [table, ids] }: Context): Float64Array {
  const [rows, width] = node.inputs[0].shape;
  const out = new Float64Array(node.size);
  ids.forEach((id, i) => {
    if (!(id >= 0 && id < rows)) {
      throw new RangeError(`Cannot look up row ${id}: the table has ${rows} rows`);
    }
    out.set(table.subarray(id * width, (id + 1) * width), i * width);
  });
  return out;
}

function scatterAdd(node: TensorOf<"scatterAdd">, { inputs: [x, ids] }: Context): Float64Array {
  const [rows, width] = node.shape;
  const out = new Float64Array(node.size);
  ids.forEach((id, i) => {
    if (!(id >= 0 && id < rows)) throw new RangeError(`Cannot add to row ${id} of ${rows}`);
    for (let c = 0; c < width; c++) out[id * width + c] += x[i * width + c];
  });
  return out;
}

type Evaluator<K extends OpName> = (node: TensorOf<K>, context: Context) => Float64Array;

/** Reads a moved tensor through the view that says what the operator does. */
const moved = (node: Tensor, { inputs: [x] }: Context, view: View) => read(x, node.shape, view);
const same = (_: Tensor, { inputs: [x] }: Context) => x;

const EVALUATORS: { readonly [K in OpName]: Evaluator<K> } = {
  parameter: ({ attrs, size }, { values }) => {
    if (!attrs.pieces) return lookUp("parameter", attrs.name, attrs.shape, values);
    const out = new Float64Array(size);
    let at = 0;
    for (const { name, shape, begin, end } of attrs.pieces) {
      const row = sizeOf(shape) / shape[0];
      const rows = lookUp("parameter", name, shape, values).subarray(begin * row, end * row);
      out.set(rows, at);
      at += rows.length;
    }
    return out;
  },
  input: ({ attrs }, { values }) => lookUp("input", attrs.name, attrs.shape, values),
  constant: ({ attrs: { values }, size }) =>
    values.length === 1 ? new Float64Array(size).fill(values[0]) : Float64Array.from(values),

  neg: elementwise,
  abs: elementwise,
  exp: elementwise,
  log: elementwise,
  sqrt: elementwise,
  sin: elementwise,
  cos: elementwise,
  tanh: elementwise,
  erf: elementwise,
  sigmoid: elementwise,
  add: elementwise,
  sub: elementwise,
  mul: elementwise,
  div: elementwise,
  max: elementwise,
  min: elementwise,
  less: elementwise,
  select: elementwise,
  detach: same,
  map: ({ attrs: { shape, body, views } }, { inputs, round }) => {
    const operands = inputs.map((data, i) => read(data, shape, views[i]));
    return fill(sizeOf(shape), body, operands, round);
  },

  sum: (node, { inputs: [x] }) => reduce(node, x, 0, (a, b) => a + b),
  maximum: (node, { inputs: [x] }) => reduce(node, x, -Infinity, Math.max),

  matmul,
  conv2d,
  conv2dTranspose,
  conv2dWeight,
  attention,
  attentionLogSum,
  attentionGradient,

  groupMoments,
  groupNormalize,
  groupSums,
  layerNormGradient,
  layerNorm,
  softmax,

  reshape: same,
  transpose: (node, context) =>
    moved(node, context, transposeView(wholeView(node.inputs[0].shape), node.attrs.order)),
  broadcast: (node, { inputs: [x] }) => broadcast(x, node.inputs[0].shape, node.shape),
  slice: (node, context) => {
    const strides = stridesOf(node.inputs[0].shape);
    const offset = node.attrs.begin.reduce((sum, b, i) => sum + b * strides[i], 0);
    return moved(node, context, { offset, strides });
  },
  concat: (node, { inputs }) => {
    const out = new Float64Array(node.size);
    const begin = node.shape.map(() => 0);
    node.inputs.forEach(({ shape }, i) => {
      place(out, node.shape, inputs[i], shape, begin);
      begin[node.attrs.axis] += shape[node.attrs.axis];
    });
    return out;
  },
  pad: (node, { inputs: [x] }) => {
    const out = new Float64Array(node.size);
    place(out, node.shape, x, node.inputs[0].shape, node.attrs.before);
    return out;
  },
  upsample: (node, { inputs: [x] }) => {
    const [n, h, w, c] = node.shape;
    const { factor } = node.attrs;
    const out = new Float64Array(node.size);
    for (let row = 0, to = 0; row < n * h; row++) {
      for (let column = 0; column < w; column++, to += c) {
        const image = Math.floor(row / h) * (h / factor);
        const y = image + Math.floor(row % h / factor);
        const from = (y * (w / factor) + Math.floor(column / factor)) * c;
        out.set(x.subarray(from, from + c), to);
      }
    }
    return out;
  },
  gather,
  scatterAdd,
};

function evaluate<K extends OpName>(node: TensorOf<K>, context: Context): Float64Array {
  return EVALUATORS[node.op](node, context);
}
