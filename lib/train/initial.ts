/** New weights as PyTorch draws them where nothing else is said; each depends on the seed and its own name alone. */

import { torchCpu } from "../base/random.ts";
import { sizeOf } from "../base/shape.ts";
import type { ManifestEntry } from "../nn/params.ts";
import { seedOf } from "./order.ts";

/** A weight of its own kind: [what its name ends in, how it is drawn]. */
export type Rule = readonly [
  suffix: string,
  draw: (entry: ManifestEntry, random: ReturnType<typeof torchCpu>) => Float32Array<ArrayBuffer>,
];

const codes = new TextEncoder();

/** Values of a parameter, as the graph has it; the first rule whose suffix fits decides, else its role. */
export function initial(
  entry: ManifestEntry,
  seed: number,
  rules: readonly Rule[] = [],
): Float32Array<ArrayBuffer> {
  const random = torchCpu(seedOf(seed, ...codes.encode(entry.name)));
  const rule = rules.find(([suffix]) => entry.name.endsWith(suffix));
  if (rule) return rule[1](entry, random);
  const { name, role, shape } = entry;
  const size = sizeOf(shape);
  switch (role) {
    case "vector": // of norms, and biases
      return new Float32Array(size).fill(name.endsWith("weight") ? 1 : 0);
    case "embedding":
      return random.normal(size).map((value) => value * 0.02);
    case "linear":
    case "conv":
      return uniform(random, size, 1 / Math.sqrt(size / shape[0]));
  }
}

/** Numbers between −bound and bound. */
export function uniform(
  random: ReturnType<typeof torchCpu>,
  size: number,
  bound: number,
): Float32Array<ArrayBuffer> {
  return random.uniform(size).map((value) => (2 * value - 1) * bound);
}

/** Zeros: a layer that adds nothing at first. */
export const zeros: Rule[1] = ({ shape }) => new Float32Array(sizeOf(shape));

/** Normal numbers around `mean`. */
export function normal(mean: number, deviation: number): Rule[1] {
  return ({ shape }, random) =>
    random.normal(sizeOf(shape)).map((value) => mean + value * deviation);
}
