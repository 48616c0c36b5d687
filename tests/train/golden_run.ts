/** Runs of torch as goldens (fixtures/make/training.py), and how ours are held to them. */

import assert from "node:assert/strict";
import type { AdamW } from "../../lib/train/optimizer.ts";
import type { Trainer } from "../../lib/train/trainer.ts";
import type { readGolden } from "../golden.ts";
import { channelsFirst, channelsLast } from "../models/tiny.ts";
import { nmse } from "../tolerance.ts";

/** As fixtures/make/training.py. */
export const SETTINGS: AdamW = {
  beta1: 0.5,
  beta2: 0.9,
  eps: 1e-8,
  weightDecay: 0.01,
  clip: 1,
  ema: 0.9,
};
export const RATE = 2e-3;
export const STEPS = 10;

/** A gradient in f32 against torch's: rounding of a few hundred operations, of which norms lose digits. */
export const GRADIENT = 1e-8;
/** Ten steps later; Adam divides by small gradients, which makes more of what was lost. */
export const LATER = 1e-6;

export type Golden = Awaited<ReturnType<typeof readGolden>>;

export function given({ tensors }: Golden, name: string): Float32Array<ArrayBuffer> {
  return Float32Array.from(tensors.get(name) ?? assert.fail(`the golden has no ${name}`));
}

/** Checkpoint order to the graph's: [co, ci, kh, kw] → [co, kh, kw, ci]. */
function toGraph(values: Float32Array<ArrayBuffer>, shape: readonly number[]) {
  if (shape.length !== 4) return values;
  const [co, kh, kw, ci] = shape;
  return channelsLast(values, [co, ci, kh, kw]);
}

/** Begins with values in a checkpoint's order, by the names that the trainer's graph has. */
export function setUp(trainer: Trainer, values: (name: string) => Float32Array<ArrayBuffer>) {
  const start = new Map(
    [...trainer.vectors.places].map(([name, { entry }]) =>
      [name, toGraph(values(name), entry.shape)] as const
    ),
  );
  trainer.vectors.write("weight", start);
  trainer.vectors.write("average", start);
}

/** Holds a vector to the golden's; `keyOf` is the golden's name of a parameter's. */
export async function compare(
  trainer: Trainer,
  vector: "gradient" | "average",
  golden: Golden,
  bound: number,
  keyOf = (name: string) => name.replace(".", `.${vector}.`),
): Promise<void> {
  for (const [name, values] of await trainer.vectors.read(vector)) {
    // softmax does not feel a bias of the keys: its gradient is rounding, of which Adam makes whole steps
    if (/\.(to_k|k_proj)\.bias$/.test(name)) continue;
    const { shape } = trainer.vectors.places.get(name)?.entry ?? assert.fail(name);
    const actual = shape.length === 4 ? channelsFirst(Float64Array.from(values), shape) : values;
    const expected = given(golden, keyOf(name));
    const error = nmse(actual, expected);
    assert.ok(error <= bound, `${vector} of ${name}: NMSE ${error.toExponential(2)}`);
  }
}

export const near = (a: number, b: number, bound: number, what: string) =>
  assert.ok(Math.abs(a - b) <= bound * Math.max(1e-3, Math.abs(b)), `${what}: ${a}, expected ${b}`);
