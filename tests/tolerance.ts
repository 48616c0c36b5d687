/**
 * The tolerance table: what f32 arithmetic may differ from a double-precision oracle.
 * For a reduction of length K, NMSE ≤ 16·u²·(1 + K) with u = 2⁻²⁴, plus 16·v² with v = 2⁻¹¹ where values are stored as f16
 * (and the oracle does not round them likewise). The largest error is held to √bound of the largest expected value,
 * since NMSE forgives one wild element. Changing the table needs a reason in the commit.
 */

import assert from "node:assert/strict";

const U = 2 ** -24;
const V = 2 ** -11;

export interface Tolerance {
  /** Length of the longest sum behind an element; 0 for elementwise work. */
  readonly reduction: number;
  /** Inputs or outputs were rounded to f16 and the oracle's were not. */
  readonly half?: boolean;
}

/** The largest normalised mean square error allowed. */
function nmseBound({ reduction, half = false }: Tolerance): number {
  return 16 * U ** 2 * (1 + reduction) + (half ? 16 * V ** 2 : 0);
}

/** Σ(a − e)² / Σe². Infinite where a value is not finite, or where all of `expected` is zero and `actual` is not. */
export function nmse(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let [error, power] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i] - expected[i]) ** 2;
    power += expected[i] ** 2;
  }
  if (error === 0) return 0;
  return Number.isNaN(error) || power === 0 ? Infinity : error / power;
}

/**
 * Fails unless `actual` is within the table of `expected`.
 * Devices may flush f32 denormals, so errors below K of the smallest normal numbers (times 64 for what multiplies them) are none.
 */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: Tolerance,
  label: string,
): void {
  assert.equal(actual.length, expected.length, `${label}: length`);
  const flushed = 2 ** -120 * (1 + tolerance.reduction);
  let [error, power, worst, at, largest] = [0, 0, 0, 0, 0];
  for (let i = 0; i < expected.length; i++) {
    assert.ok(
      Number.isFinite(actual[i]),
      `${label}: element ${i} is ${actual[i]}, expected ${expected[i]}`,
    );
    const distance = Math.abs(actual[i] - expected[i]);
    power += expected[i] ** 2;
    largest = Math.max(largest, Math.abs(expected[i]));
    if (distance <= flushed) continue;
    error += distance ** 2;
    if (distance > worst) [worst, at] = [distance, i];
  }
  if (error === 0) return;
  const bound = nmseBound(tolerance);
  assert.ok(
    error <= bound * power,
    `${label}: NMSE ${(error / power).toExponential(2)} exceeds ${bound.toExponential(2)}`,
  );
  assert.ok(
    worst <= Math.sqrt(bound) * largest,
    `${label}: element ${at} is ${actual[at]}, expected ${expected[at]}`,
  );
}
