/**
 * The noise of a Brownian tree (Li et al. 2020, "Scalable gradients for stochastic differential equations"), as k-diffusion's
 * SDE samplers draw it by torchsde: one path for each seed, whatever the steps. Times are levels of noise. The path's
 * increment over the whole is drawn first; halves are drawn given their whole, each from a seed of its own, until a time
 * that is asked for, to six digits, is an end.
 */

import type { NoiseSource } from "../base/random.ts";
import { seedSequence } from "../base/seed_sequence.ts";

/** Standard normal numbers for the way from one level of noise down to another. */
export type NoiseBetween = (from: number, to: number) => Float32Array<ArrayBuffer>;

export interface BrownianOptions {
  readonly seed: number;
  /** The lowest and the highest level that will be asked for. */
  readonly least: number;
  readonly most: number;
  /** Numbers of a draw. */
  readonly count: number;
  /** A stream of the kind of generator that is drawn from. */
  readonly source: (seed: number) => NoiseSource;
}

const f32 = Math.fround;

/** torchsde's pool of seeds. */
const POOL = 24;

/** Increments that are kept: torchsde's number. */
const KEPT = 45;

/** Between two times; halves come when a time within is asked for. */
interface Interval {
  readonly start: number;
  readonly end: number;
  readonly parent: Interval | undefined;
  /** Its path from the whole: a digit for each halving, 0 for the earlier half. */
  readonly key: number;
  readonly depth: number;
  halves?: readonly [Interval, Interval];
}

/** The tree's noise. Levels are rounded to f32 first, as torch's are. */
export function brownianNoise({ seed, least, most, count, source }: BrownianOptions): NoiseBetween {
  const draw = (seed: number) => source(seed).normal(count);
  const [begin, finish] = [f32(least), f32(most)];
  const whole: Interval = {
    start: sixDigits(begin),
    end: sixDigits(finish),
    parent: undefined,
    key: 0,
    depth: 0,
  };
  const [first] = seedSequence(seed, [], POOL, 3);
  const increment = scaled(draw(first), Math.sqrt(finish - begin));
  const kept = new Map<Interval, Float32Array<ArrayBuffer>>();

  const incrementOf = (interval: Interval): Float32Array<ArrayBuffer> => {
    const { parent } = interval;
    if (parent === undefined) return increment;
    const known = kept.get(interval);
    if (known) return known;
    const value = ofHalf(parent, interval, incrementOf(parent));
    kept.set(interval, value);
    const [oldest] = kept.keys();
    if (kept.size > KEPT) kept.delete(oldest);
    return value;
  };

  /** The earlier half is drawn around its share of the whole; the later one is what is left. */
  const ofHalf = (
    { start, end, key, depth, halves }: Interval,
    half: Interval,
    all: Float32Array,
  ): Float32Array<ArrayBuffer> => {
    const middle = halves ? halves[0].end : NaN;
    const [before, after, share] = [middle - start, end - middle, 1 / (end - start)];
    const [seedOfHalf] = seedSequence(seed, [key, depth], POOL, 4);
    const noise = draw(seedOfHalf);
    const [wide, spread] = [f32(before), f32(Math.sqrt(before * after * share))];
    const earlier = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      earlier[i] = f32(f32(wide * all[i]) * f32(share)) + f32(spread * noise[i]);
    }
    return half === halves?.[0] ? earlier : earlier.map((value, i) => all[i] - value);
  };

  return (from, to) => {
    if (to === 0) return new Float32Array(count); // the last way ends without noise
    const [a, b] = [f32(to), f32(from)];
    const start = Math.max(a, whole.start);
    const end = Math.min(b, whole.end);
    let sum: Float32Array<ArrayBuffer> | undefined;
    for (const interval of covering(whole, sixDigits(start), sixDigits(end))) {
      const value = incrementOf(interval);
      const before = sum;
      sum = before === undefined ? value : before.map((x, i) => x + value[i]);
    }
    const root = f32(Math.sqrt(f32(b - a)));
    return (sum ?? new Float32Array(count)).map((x) => x / root);
  };
}

function scaled(x: Float32Array<ArrayBuffer>, factor: number): Float32Array<ArrayBuffer> {
  const rounded = f32(factor);
  return x.map((value) => value * rounded);
}

/** The intervals between two times, in order; makes halves where there are none. */
function* covering(interval: Interval, start: number, end: number): Generator<Interval> {
  if (start >= end) return;
  if (start === interval.start && end === interval.end) {
    yield interval;
    return;
  }
  const [earlier, later] = interval.halves ?? splitAt(
    interval,
    start === interval.start ? end : start,
  );
  const middle = earlier.end;
  yield* covering(earlier, start, Math.min(end, middle));
  yield* covering(later, Math.max(start, middle), end);
}

/** Halves an interval, and its halves, until a time within is an end. */
function splitAt(interval: Interval, time: number): readonly [Interval, Interval] {
  const { start, end, key, depth } = interval;
  const middle = sixDigits(0.5 * (end + start));
  const half = (start: number, end: number, digit: number): Interval => ({
    ...{ start, end, parent: interval, key: 2 * key + digit, depth: depth + 1 },
  });
  const halves = [half(start, middle, 0), half(middle, end, 1)] as const;
  interval.halves = halves;
  if (time > middle) splitAt(halves[1], time);
  else if (time < middle) splitAt(halves[0], time);
  return halves;
}

/** Python's `round(x, 6)`: to the nearest, of two as near the even one. */
function sixDigits(x: number): number {
  // a binary fraction lies half-way between two decimals of six digits only at odd multiples of 1/128
  const isTie = Math.abs(x * 128 % 2) === 1;
  const below = Math.floor(x * 1e6);
  return isTie ? (below + below % 2) / 1e6 : Number(x.toFixed(6));
}
