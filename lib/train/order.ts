/**
 * The order in which examples are taken, as a function of seed and position alone: whoever knows how far a run has come
 * goes on exactly where it was.
 */

import { torchCpu } from "../base/random.ts";

/** How far a run has come through its data: the example to take next. */
export interface Position {
  /** From 0; all of the data are taken once in each, in an order of its own. */
  readonly epoch: number;
  /** From 0, in the epoch's order. */
  readonly index: number;
}

export const BEGINNING: Position = { epoch: 0, index: 0 };

/** Numbers as one of 32 bits, in which each bit of each counts (Appleby's MurmurHash3 and its finaliser). */
export function seedOf(...words: readonly number[]): number {
  let hash = 0;
  for (const word of words) {
    hash = Math.imul(mixed(word >>> 0) ^ hash, 5) + 0xe6546b64;
  }
  return mixed(hash >>> 0);
}

function mixed(word: number): number {
  let h = word;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** The numbers below `length` in an order that the seed decides (Fisher & Yates). */
export function permutation(length: number, seed: number): Uint32Array {
  const order = Uint32Array.from({ length }, (_, i) => i);
  const random = torchCpu(seed);
  for (let i = length - 1; i > 0; i--) {
    const [j] = random.integers(0, i + 1, 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

/** Where a run of `length` examples is after one more. */
export function after({ epoch, index }: Position, length: number): Position {
  return index + 1 < length ? { epoch, index: index + 1 } : { epoch: epoch + 1, index: 0 };
}
