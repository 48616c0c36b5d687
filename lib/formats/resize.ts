/** Smaller pictures, each pixel the mean of what it covers. Convention: means are of the stored values, as most tools take them. */

import type { Picture } from "./png.ts";

/** A picture of `width`×`height` pixels, each the mean of the area that it covers. Throws `RangeError` where a side would grow. */
export function shrink(picture: Picture, width: number, height: number): Picture {
  if (width === picture.width && height === picture.height) return picture;
  if (!(width >= 1 && height >= 1 && width <= picture.width && height <= picture.height)) {
    throw new RangeError(
      `Cannot shrink a picture of ${picture.width}×${picture.height} pixels to ${width}×${height}`,
    );
  }
  const { channels } = picture;
  const columns = coverage(picture.width, width);
  const rows = coverage(picture.height, height);
  const data = new Uint8Array(width * height * channels);
  const sums = new Float64Array(channels);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at += channels) {
      sums.fill(0);
      for (const [sourceY, high] of rows[y]) {
        for (const [sourceX, wide] of columns[x]) {
          const from = (sourceY * picture.width + sourceX) * channels;
          for (let c = 0; c < channels; c++) sums[c] += high * wide * picture.data[from + c];
        }
      }
      for (let c = 0; c < channels; c++) data[at + c] = Math.round(sums[c]);
    }
  }
  return { width, height, channels, data };
}

/** The largest size of the same shape within `width`×`height`; the picture's own where that is smaller. */
export function sizeWithin(
  picture: { readonly width: number; readonly height: number },
  width: number,
  height: number,
): { width: number; height: number } {
  const scale = Math.min(1, width / picture.width, height / picture.height);
  return {
    width: Math.max(1, Math.floor(picture.width * scale)),
    height: Math.max(1, Math.floor(picture.height * scale)),
  };
}

/** For each of `to` new pixels in a row the old ones under it, each with its share; shares sum to 1. */
function coverage(from: number, to: number): (readonly [index: number, share: number])[][] {
  const size = from / to;
  return Array.from({ length: to }, (_, i) => {
    const [begin, end] = [i * size, Math.min(from, (i + 1) * size)];
    const shares: [number, number][] = [];
    for (let j = Math.floor(begin); j < end; j++) {
      const share = (Math.min(end, j + 1) - Math.max(begin, j)) / size;
      if (share > 1e-9) shares.push([j, share]);
    }
    return shares;
  });
}
