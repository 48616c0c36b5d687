/**
 * Pictures at other sizes as Pillow makes them (`Image.resize`, and torchvision's `Resize` of a Pillow picture): each new
 * pixel is a mean under a filter that widens when the picture shrinks ("antialias"). Rows come first, then columns, each
 * rounded to 8 bits with weights of 22 binary digits, so that the pixels are Pillow's own, bit for bit.
 */

import type { Picture } from "../base/picture.ts";

/** A filter: half its width in pixels of the coarser side, and its value at a distance from the middle. */
interface Filter {
  readonly support: number;
  readonly at: (x: number) => number;
}

/** Keys 1981 with a = −1/2. */
function cubic(x: number): number {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

/** Pillow's filters by its names. */
const FILTERS = {
  box: { support: 0.5, at: (x) => x > -0.5 && x <= 0.5 ? 1 : 0 },
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, at: cubic },
  lanczos: { support: 3, at: (x) => Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0 },
} as const satisfies Readonly<Record<string, Filter>>;

export type FilterName = keyof typeof FILTERS;
export const FILTER_NAMES: readonly FilterName[] = ["box", "bilinear", "bicubic", "lanczos"];

/** Weights are whole numbers of 2⁻²². */
const ONE = 2 ** 22;

/** The old pixels that a new one is made of: from `first` on, with these weights. */
interface Taps {
  readonly first: number;
  readonly weights: Float64Array;
}

function tapsOf(from: number, to: number, { support, at }: Filter): Taps[] {
  const scale = from / to;
  const stretch = Math.max(1, scale);
  const reach = support * stretch;
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(from, Math.trunc(centre + reach + 0.5));
    const weights = Float64Array.from(
      { length: end - first },
      (_, j) => at((first + j - centre + 0.5) * (1 / stretch)),
    );
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((w) => roundAway((w / sum) * ONE)) };
  });
}

/** Half away from zero, as a C cast of x ± 0.5 rounds. */
function roundAway(x: number): number {
  return Math.trunc(x + (x < 0 ? -0.5 : 0.5));
}

/** A sum of bytes times weights as a byte; its half is added before the digits below one are cut off. */
function toByte(sum: number): number {
  return Math.max(0, Math.min(255, Math.floor((sum + ONE / 2) / ONE)));
}

/**
 * A picture of `width`×`height` pixels; the same picture where it has that size. "nearest" blends nothing. Transparency is
 * resized like a colour: lay it over something first. Throws `RangeError` where a side is not a positive whole number.
 */
export function resample(
  picture: Picture,
  width: number,
  height: number,
  filter: FilterName | "nearest",
): Picture {
  if (!(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0)) {
    throw new RangeError(`Cannot resample a picture to ${width}×${height} pixels`);
  }
  if (filter === "nearest") return picked(picture, width, height);
  const kind = FILTERS[filter];
  const wide = width === picture.width ? picture : across(picture, width, kind);
  return height === picture.height ? wide : down(wide, height, kind);
}

/** Of each new pixel the old one under its middle. */
function picked(picture: Picture, width: number, height: number): Picture {
  const { channels, data } = picture;
  const out = new Uint8Array(width * height * channels);
  for (let y = 0, to = 0; y < height; y++) {
    const row = Math.floor((y + 0.5) * picture.height / height) * picture.width;
    for (let x = 0; x < width; x++, to += channels) {
      const from = (row + Math.floor((x + 0.5) * picture.width / width)) * channels;
      for (let c = 0; c < channels; c++) out[to + c] = data[from + c];
    }
  }
  return { width, height, channels, data: out };
}

function across(picture: Picture, width: number, filter: Filter): Picture {
  const { height, channels, data } = picture;
  const out = new Uint8Array(width * height * channels);
  for (const [x, { first, weights }] of tapsOf(picture.width, width, filter).entries()) {
    for (let y = 0; y < height; y++) {
      for (let c = 0; c < channels; c++) {
        let at = (y * picture.width + first) * channels + c;
        let sum = 0;
        for (let j = 0; j < weights.length; j++, at += channels) sum += weights[j] * data[at];
        out[(y * width + x) * channels + c] = toByte(sum);
      }
    }
  }
  return { width, height, channels, data: out };
}

function down(picture: Picture, height: number, filter: Filter): Picture {
  const { width, channels, data } = picture;
  const stride = width * channels;
  const out = new Uint8Array(stride * height);
  const sums = new Float64Array(stride);
  for (const [y, { first, weights }] of tapsOf(picture.height, height, filter).entries()) {
    sums.fill(0);
    for (let j = 0; j < weights.length; j++) {
      const row = (first + j) * stride;
      const weight = weights[j];
      for (let i = 0; i < stride; i++) sums[i] += weight * data[row + i];
    }
    for (let i = 0; i < stride; i++) out[y * stride + i] = toByte(sums[i]);
  }
  return { width, height, channels, data: out };
}
