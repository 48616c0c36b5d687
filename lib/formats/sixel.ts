/**
 * Sixel graphics (DEC VT340 programmer reference manual, chapter 14): a picture as characters, each six pixels of one
 * colour one above the other. Colours are chosen by median cut (Heckbert 1982) and dithered (Floyd & Steinberg 1976).
 */

import type { Picture } from "./png.ts";

/** Colours that every terminal with sixels but the oldest has registers for. */
const SIXEL_COLOURS = 256;

/** The control sequence that draws a picture at the cursor. Transparency is laid over black. */
export function sixel(picture: Picture, colours = SIXEL_COLOURS): string {
  const { width, height } = picture;
  const rgb = opaque(picture);
  const palette = paletteOf(rgb, colours);
  const indices = dithered(rgb, width, height, palette);
  const registers = palette.map((percents, i) => `#${i};2;${percents.join(";")}`).join("");
  const bands: string[] = [];
  for (let y = 0; y < height; y += 6) {
    bands.push(bandOf(indices.subarray(y * width, (y + 6) * width), width));
  }
  // aspect ratio by the raster attributes, background left as it is
  return `\x1bP0;1;0q"1;1;${width};${height}${registers}${bands.join("-")}\x1b\\`;
}

/** RGB of any picture. */
function opaque({ width, height, channels, data }: Picture): Uint8Array {
  if (channels === 3) return data;
  const out = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) {
    const alpha = channels === 4 ? data[i * 4 + 3] / 255 : 1;
    for (let c = 0; c < 3; c++) {
      out[i * 3 + c] = alpha * data[i * channels + (channels === 1 ? 0 : c)];
    }
  }
  return out;
}

/** Red, green and blue, each from 0 to 100, as sixel's registers take them. */
type Percents = readonly [number, number, number];

const toByte = (percent: number) => Math.round((percent * 255) / 100);

/** Pixels whose colours agree in the highest five bits of each channel. */
interface Bin {
  readonly key: number;
  /** Sums over the pixels. */
  count: number;
  readonly sums: [number, number, number];
}

const keyOf = (r: number, g: number, b: number) => ((r >> 3) << 10) | ((g >> 3) << 5) | (b >> 3);

/** At most `most` colours: boxes of colours are cut at the median of their longest side, the box of most pixels × length first. */
function paletteOf(rgb: Uint8Array, most: number): Percents[] {
  const bins = new Map<number, Bin>();
  for (let i = 0; i < rgb.length; i += 3) {
    const key = keyOf(rgb[i], rgb[i + 1], rgb[i + 2]);
    let bin = bins.get(key);
    if (bin === undefined) bins.set(key, bin = { key, count: 0, sums: [0, 0, 0] });
    bin.count += 1;
    for (let c = 0; c < 3; c++) bin.sums[c] += rgb[i + c];
  }
  const boxes = [boxOf([...bins.values()])];
  while (boxes.length < most) {
    const worst = boxes.reduce((a, b) => b.weight > a.weight ? b : a);
    if (worst.weight === 0) break;
    boxes.splice(boxes.indexOf(worst), 1, ...halves(worst));
  }
  const colours = boxes.map(({ bins, count }): Percents => {
    const mean = (c: number) =>
      Math.round((bins.reduce((sum, { sums }) => sum + sums[c], 0) / count) * (100 / 255));
    return [mean(0), mean(1), mean(2)];
  });
  return [...new Map(colours.map((colour) => [colour.join(), colour])).values()];
}

interface Box {
  readonly bins: readonly Bin[];
  readonly count: number;
  /** The channel in which it is longest. */
  readonly axis: number;
  /** How much is gained by cutting it; 0 for a single bin. */
  readonly weight: number;
}

const mean = ({ sums, count }: Bin, c: number) => sums[c] / count;

function boxOf(bins: readonly Bin[]): Box {
  const count = bins.reduce((sum, { count }) => sum + count, 0);
  const lengths = [0, 1, 2].map((c) => {
    let [low, high] = [255, 0];
    for (const bin of bins) {
      low = Math.min(low, mean(bin, c));
      high = Math.max(high, mean(bin, c));
    }
    return high - low;
  });
  const length = Math.max(...lengths);
  return {
    bins,
    count,
    axis: lengths.indexOf(length),
    weight: bins.length < 2 ? 0 : count * length,
  };
}

function halves({ bins, count, axis }: Box): [Box, Box] {
  const sorted = [...bins].sort((a, b) => mean(a, axis) - mean(b, axis));
  let at = 0;
  for (let before = 0; at < sorted.length - 1; at++) {
    before += sorted[at].count;
    if (before * 2 >= count) break;
  }
  const cut = Math.min(sorted.length - 1, at + 1);
  return [boxOf(sorted.slice(0, cut)), boxOf(sorted.slice(cut))];
}

/** For each pixel its place in the palette, the error of each spread over its neighbours. */
function dithered(
  rgb: Uint8Array,
  width: number,
  height: number,
  palette: readonly Percents[],
): Uint8Array {
  const colours = palette.map(([r, g, b]) => [toByte(r), toByte(g), toByte(b)]);
  const nearest = new Int16Array(1 << 15).fill(-1);
  const out = new Uint8Array(width * height);
  const clamp = (value: number) => Math.min(255, Math.max(0, value));
  // errors that the pixels above and left hand on, a pixel of room at both ends
  let above = new Float32Array((width + 2) * 3);
  let below = new Float32Array((width + 2) * 3);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const e = (x + 1) * 3;
      const r = clamp(rgb[at * 3] + above[e]);
      const g = clamp(rgb[at * 3 + 1] + above[e + 1]);
      const b = clamp(rgb[at * 3 + 2] + above[e + 2]);
      const key = keyOf(r, g, b);
      if (nearest[key] < 0) nearest[key] = nearestTo(r, g, b, colours);
      const index = nearest[key];
      out[at] = index;
      for (const [c, value] of [r, g, b].entries()) {
        const error = (value - colours[index][c]) / 16;
        above[e + 3 + c] += error * 7;
        below[e - 3 + c] += error * 3;
        below[e + c] += error * 5;
        below[e + 3 + c] += error;
      }
    }
    [above, below] = [below, above.fill(0)];
  }
  return out;
}

function nearestTo(r: number, g: number, b: number, colours: readonly number[][]): number {
  let best = 0;
  let least = Infinity;
  for (const [i, [red, green, blue]] of colours.entries()) {
    const distance = (r - red) ** 2 + (g - green) ** 2 + (b - blue) ** 2;
    if (distance < least) [best, least] = [i, distance];
  }
  return best;
}

/** Up to six rows: a pass over the width for each colour in them, passes parted by "$". */
function bandOf(rows: Uint8Array, width: number): string {
  const height = rows.length / width;
  const passes: string[] = [];
  for (const colour of [...new Set(rows)].sort((a, b) => a - b)) {
    let pass = `#${colour}`;
    let run = 0;
    let last = 0;
    const flush = () => {
      const character = String.fromCharCode(63 + last);
      pass += run > 3 ? `!${run}${character}` : character.repeat(run);
    };
    for (let x = 0; x < width; x++) {
      let bits = 0;
      for (let y = 0; y < height; y++) if (rows[y * width + x] === colour) bits |= 1 << y;
      if (bits !== last) {
        flush();
        run = 0;
        last = bits;
      }
      run += 1;
    }
    if (last !== 0) flush(); // what is empty at the end need not be said
    passes.push(pass);
  }
  return passes.join("$");
}
