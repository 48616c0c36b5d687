/** Boxes drawn into a picture, each with its label, a colour for each label. */

import type { LabelledBox } from "../base/box.ts";
import { drawText, GLYPH, textWidth } from "./font.ts";
import type { Picture } from "../base/picture.ts";

type Colour = readonly [red: number, green: number, blue: number];

/** Light enough for black letters, each easily told from the next. */
const COLOURS: readonly Colour[] = [
  [255, 209, 102],
  [102, 217, 255],
  [160, 230, 120],
  [255, 150, 130],
  [200, 170, 255],
  [255, 170, 220],
  [240, 240, 120],
  [120, 230, 200],
  [255, 185, 110],
  [205, 205, 205],
];

/** A copy of a picture with boxes; grey becomes RGB. Labels stand inside at the top left, as far as the picture reaches. */
export function drawBoxes(picture: Picture, boxes: readonly LabelledBox[]): Picture {
  const out = copyOf(picture);
  const { width, height } = out;
  const short = Math.min(width, height);
  const line = Math.max(1, Math.round(short / 200));
  const scale = Math.max(1, Math.round(short / 500));
  const labels = [...new Set(boxes.map(({ label }) => label))];
  for (const { label, ...box } of boxes) {
    const colour = COLOURS[labels.indexOf(label) % COLOURS.length];
    const left = Math.round(box.left * width);
    const top = Math.round(box.top * height);
    const right = Math.max(left + 1, Math.round(box.right * width));
    const bottom = Math.max(top + 1, Math.round(box.bottom * height));
    fill(out, left, top, right, top + line, colour);
    fill(out, left, bottom - line, right, bottom, colour);
    fill(out, left, top, left + line, bottom, colour);
    fill(out, right - line, top, right, bottom, colour);
    const [x, y] = [left + line, top + line];
    fill(out, x, y, x + textWidth(label, scale) + 2 * scale, y + GLYPH.height * scale, colour);
    drawText(out, label, x + scale, y, scale);
  }
  return out;
}

function copyOf({ width, height, channels, data }: Picture): Picture {
  if (channels !== 1) return { width, height, channels, data: data.slice() };
  const rgb = new Uint8Array(data.length * 3);
  for (let i = 0; i < rgb.length; i++) rgb[i] = data[Math.floor(i / 3)];
  return { width, height, channels: 3, data: rgb };
}

/** Fills columns `left` ≤ x < `right` of rows `top` ≤ y < `bottom`; what is outside is left out. */
function fill(
  { width, height, channels, data }: Picture,
  left: number,
  top: number,
  right: number,
  bottom: number,
  colour: Colour,
): void {
  for (let y = Math.max(0, top); y < Math.min(height, bottom); y++) {
    for (let x = Math.max(0, left); x < Math.min(width, right); x++) {
      data.set(colour, (y * width + x) * channels);
      if (channels === 4) data[(y * width + x) * 4 + 3] = 255;
    }
  }
}
