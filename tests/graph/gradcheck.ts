/** Gradients against central differences along random directions, in double precision. */

import assert from "node:assert/strict";
import { sizeOf } from "../../lib/base/shape.ts";
import { gradients } from "../../lib/graph/grad.ts";
import { interpret, type Values } from "../../lib/graph/interpret.ts";
import { print } from "../../lib/graph/print.ts";
import { reachable } from "../../lib/graph/rewrite.ts";
import type { Tensor } from "../../lib/graph/tensor.ts";
import { verify } from "../../lib/graph/verify.ts";

/** Numbers in (−1, 1) from a seed, no two alike. */
export function draws(seed: number): () => number {
  let state = Math.imul(seed + 1, 0x9e3779b1) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1;
  };
}

const filled = (size: number, draw: () => number) => Float64Array.from({ length: size }, draw);

type Leaf = Extract<Tensor, { op: "input" | "parameter" }>;

/** The leaves that can be differentiated by. */
function leavesOf(outputs: readonly Tensor[]): Leaf[] {
  return reachable(outputs).flatMap((t) =>
    (t.op === "input" || t.op === "parameter") && t.dtype === "f32" ? [t] : []
  );
}

/** Elements of a leaf, and of the named values that they are, from where on. */
interface Part {
  readonly name: string;
  /** Of all values of the name. */
  readonly size: number;
  readonly from: number;
  readonly at: number;
  readonly count: number;
}

/** Where the values of a leaf come from: its own, or rows of some weights. */
export function partsOf(leaf: Leaf): Part[] {
  const pieces = leaf.op === "parameter" ? leaf.attrs.pieces : undefined;
  const { attrs: { name }, size } = leaf;
  if (!pieces) return [{ name, size, from: 0, at: 0, count: size }];
  let at = 0;
  return pieces.map(({ name, shape, begin, end }) => {
    const row = sizeOf(shape.slice(1));
    const count = (end - begin) * row;
    at += count;
    return { name, size: sizeOf(shape), from: begin * row, at: at - count, count };
  });
}

/** Values for every leaf of f32 that has none. */
export function withDraws(outputs: readonly Tensor[], given: Values, seed: number): Values {
  const values: Record<string, ArrayLike<number>> = { ...given };
  for (const { name, size } of leavesOf(outputs).flatMap(partsOf)) {
    const number = [...name].reduce((sum, letter) => sum * 31 + letter.charCodeAt(0), seed);
    values[name] ??= filled(size, draws(number));
  }
  return values;
}

/** Along a direction, half the step to each side. */
const STEP = 1e-5;
/**
 * A third derivative of a few hundreds times the step squared, and the rounding of values of about a hundred over the
 * step, beside the sum of what each element contributes.
 */
const TOLERANCE = 1e-7;

/**
 * Compares gradients of a random weighting of the outputs by all leaves with differences along random directions, one a leaf
 * and one in all. Returns false where the outputs have a corner at these values, so that there is nothing to compare.
 */
export function gradcheck(outputs: readonly Tensor[], given: Values, seed: number): boolean {
  const { graph } = outputs[0];
  const leaves = leavesOf(outputs);
  const draw = draws(seed);
  const loss = outputs.map((y) => {
    const weight = graph.constant([...filled(y.size, draw)], y.shape);
    return y.mul(weight).sum(y.shape.map((_, i) => i)).reshape([]);
  }).reduce((a, b) => a.add(b));
  const values = withDraws(outputs, given, seed);
  const found = gradients(loss, leaves);
  verify(found);
  found.forEach((g, i) => assert.deepEqual(g.shape, leaves[i].shape));
  const results = interpret(found, values, { precision: "f64" });

  const lossAt = (directions: ReadonlyMap<string, Float64Array>, step: number): number => {
    const moved = { ...values };
    for (const [name, direction] of directions) {
      moved[name] = direction.map((v, i) => values[name][i] + step * v);
    }
    return interpret([loss], moved, { precision: "f64" })[0][0];
  };
  const here = lossAt(new Map(), 0);
  const parts = leaves.map(partsOf);
  const all = new Map(parts.flat().map(({ name, size }) => [name, filled(size, draw)]));
  const alone = [...all].map((one) => new Map([one]));
  for (const directions of [all, ...alone]) {
    const [more, less] = [lossAt(directions, STEP), lossAt(directions, -STEP)];
    let [expected, scale] = [0, 1];
    for (const [i, leaf] of parts.entries()) {
      for (const { name, from, at, count } of leaf) {
        const direction = directions.get(name);
        for (let j = 0; direction && j < count; j++) {
          const term = direction[from + j] * results[i][at + j];
          expected += term;
          scale += Math.abs(term);
        }
      }
    }
    // At a corner the slopes of both sides differ; elsewhere by the curvature times the step.
    if (Math.abs(more + less - 2 * here) / STEP > 100 * STEP * scale) return false;
    const difference = (more - less) / (2 * STEP);
    const which = [...directions.keys()].join();
    assert.ok(
      Math.abs(difference - expected) <= TOLERANCE * scale,
      `by ${which}: ${expected}, differences say ${difference}\n${print(outputs)}`,
    );
  }
  return true;
}
