/** Checks of what callers ask for, shared by the pipelines. Each throws `UsageError`. */

import { UsageError } from "../base/errors.ts";

export function requireInteger(name: string, value: number, least: number, most: number): void {
  if (Number.isInteger(value) && value >= least && value <= most) return;
  throw new UsageError(
    `Cannot set ${name} to ${value}: a whole number from ${least} to ${most} was needed`,
  );
}

export function requireNumber(name: string, value: number, least: number, most: number): void {
  if (Number.isFinite(value) && value >= least && value <= most) return;
  const range = most === Infinity ? `of at least ${least}` : `from ${least} to ${most}`;
  throw new UsageError(`Cannot set ${name} to ${value}: a number ${range} was needed`);
}

/** Pixels of a side that nobody means. */
const LARGEST = 16384;

/** Width and height in pixels against the first stage's factor. */
export function checkSize(width: number, height: number, factor: number): void {
  for (const [name, value] of [["width", width], ["height", height]] as const) {
    if (value > LARGEST) {
      throw new UsageError(
        `Cannot make a picture of ${width}×${height} pixels: ${LARGEST} are the most of a side`,
      );
    }
    requireInteger(`the ${name}`, value, 1, LARGEST);
    if (value % factor === 0) continue;
    const below = Math.max(factor, Math.floor(value / factor) * factor);
    throw new UsageError(
      `Cannot make a picture of ${width}×${height} pixels: the ${name} must be a multiple of ${factor}; ` +
        `${below} and ${below + factor} are near`,
    );
  }
}
