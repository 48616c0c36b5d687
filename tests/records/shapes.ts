/** Pictures of plain shapes in boxes: drawn, and found again by their colours. */

import type { Box, LabelledBox } from "../../lib/base/box.ts";
import type { Picture } from "../../lib/base/picture.ts";
import { permutation } from "../../lib/train/order.ts";

/** Pixels of a side. */
export const SIDE = 32;
/** Where corners may lie, and how long sides may be. */
export interface Grid {
  /** Pixels from one place to the next. */
  readonly cell: number;
  /** Sides of boxes, in cells. */
  readonly sides: readonly number[];
}
/** A grid of every fourth pixel, and one of every eighth. */
export const FINE: Grid = { cell: 4, sides: [2, 3, 4] };
export const COARSE: Grid = { cell: 8, sides: [1, 2] };
/** The most objects of a picture. */
const MOST = 3;

type Colour = readonly [red: number, green: number, blue: number];

const COLOURS: Readonly<Record<string, Colour>> = {
  red: [215, 40, 40],
  green: [40, 160, 70],
  blue: [45, 80, 215],
  yellow: [240, 190, 30],
};
const PAPER: Colour = [255, 255, 255];

/** Whether a point of the box, −1 … 1 from its middle to its sides, belongs to the shape. */
const SHAPES: Readonly<Record<string, (x: number, y: number) => boolean>> = {
  circle: (x, y) => x * x + y * y <= 1,
  square: () => true,
  triangle: (x, y) => Math.abs(x) <= (y + 1) / 2,
};

/** "red circle" → red, circle */
const wordsOf = (label: string) => label.split(" ");

/** A layout drawn by chance: `random` gives numbers in [0, 1). Each object has a colour of its own; none overlap. */
export function randomLayout(random: () => number, { cell, sides }: Grid): LabelledBox[] {
  const pick = <T>(of: readonly T[]) => of[Math.floor(random() * of.length)];
  const colours = Object.keys(COLOURS);
  const order = permutation(colours.length, Math.floor(random() * 2 ** 32));
  const wanted = 1 + Math.floor(random() * MOST);
  const places = SIDE / cell;
  const boxes: LabelledBox[] = [];
  for (let tries = 0; boxes.length < wanted && tries < 100; tries++) {
    const [width, height] = [pick(sides), pick(sides)];
    const left = Math.floor(random() * (places - width + 1));
    const top = Math.floor(random() * (places - height + 1));
    const box = {
      label: `${colours[order[boxes.length]]} ${pick(Object.keys(SHAPES))}`,
      left: left / places,
      top: top / places,
      right: (left + width) / places,
      bottom: (top + height) / places,
    };
    if (boxes.every((other) => areApart(box, other))) boxes.push(box);
  }
  return boxes;
}

const areApart = (a: Box, b: Box) =>
  a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;

/** Points of a pixel's side that are looked at. */
const POINTS = 4;

/** Objects on white, their edges smooth. */
export function drawShapes(layout: readonly LabelledBox[]): Picture {
  const data = new Uint8Array(SIDE * SIDE * 3);
  for (let y = 0, at = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++, at += 3) {
      const sum = [0, 0, 0];
      for (let point = 0; point < POINTS ** 2; point++) {
        const px = (x + (point % POINTS + 0.5) / POINTS) / SIDE;
        const py = (y + (Math.floor(point / POINTS) + 0.5) / POINTS) / SIDE;
        const colour = colourAt(layout, px, py);
        for (let c = 0; c < 3; c++) sum[c] += colour[c];
      }
      for (let c = 0; c < 3; c++) data[at + c] = Math.round(sum[c] / POINTS ** 2);
    }
  }
  return { width: SIDE, height: SIDE, channels: 3, data };
}

function colourAt(layout: readonly LabelledBox[], x: number, y: number): Colour {
  for (const { label, left, top, right, bottom } of layout) {
    if (x < left || x >= right || y < top || y >= bottom) continue;
    const [colour, shape] = wordsOf(label);
    const across = 2 * (x - left) / (right - left) - 1;
    const down = 2 * (y - top) / (bottom - top) - 1;
    if (SHAPES[shape](across, down)) return COLOURS[colour];
  }
  return PAPER;
}

/** What was found of an object. */
export interface Found {
  readonly box: Box;
  /** The shape that fills its box as far as this one does. */
  readonly shape: string;
}

/** Shares of their boxes that shapes fill. */
const FILLS: readonly (readonly [shape: string, share: number])[] = [
  ["circle", Math.PI / 4],
  ["square", 1],
  ["triangle", 1 / 2],
];
/** Pixels of the least thing that counts as an object. */
const LEAST = 6;

/** The largest thing in a picture that has an object's colour, if there is one. */
export function findShape(picture: Picture, label: string): Found | undefined {
  const [colour] = wordsOf(label);
  const names = Array.from({ length: SIDE * SIDE }, (_, i) => nearestColour(picture, i));
  let largest: number[] = [];
  const seen = new Set<number>();
  for (let i = 0; i < names.length; i++) {
    if (names[i] !== colour || seen.has(i)) continue;
    const pixels = [i];
    seen.add(i);
    for (const pixel of pixels) { // which grows while it is walked
      for (const next of neighboursOf(pixel)) {
        if (names[next] !== colour || seen.has(next)) continue;
        seen.add(next);
        pixels.push(next);
      }
    }
    if (pixels.length > largest.length) largest = pixels;
  }
  return largest.length < LEAST ? undefined : described(largest);
}

/** Name of the colour that a pixel is nearest to; "" is the paper's. */
function nearestColour({ data }: Picture, pixel: number): string {
  const distance = (to: Colour) =>
    to.reduce((sum, v, c) => sum + (v - data[3 * pixel + c]) ** 2, 0);
  let [best, least] = ["", distance(PAPER)];
  for (const [name, colour] of Object.entries(COLOURS)) {
    if (distance(colour) < least) [best, least] = [name, distance(colour)];
  }
  return best;
}

/** Pixels beside, above and below. */
function neighboursOf(pixel: number): number[] {
  const x = pixel % SIDE;
  const [left, right] = [x > 0 ? [pixel - 1] : [], x + 1 < SIDE ? [pixel + 1] : []];
  return [...left, ...right, pixel - SIDE, pixel + SIDE].filter((at) => at >= 0 && at < SIDE ** 2);
}

function described(pixels: readonly number[]): Found {
  const xs = pixels.map((pixel) => pixel % SIDE);
  const ys = pixels.map((pixel) => Math.floor(pixel / SIDE));
  const [left, right] = [Math.min(...xs), Math.max(...xs) + 1];
  const [top, bottom] = [Math.min(...ys), Math.max(...ys) + 1];
  const fill = pixels.length / ((right - left) * (bottom - top));
  const [[shape]] = FILLS.toSorted(([, a], [, b]) => Math.abs(a - fill) - Math.abs(b - fill));
  const box = {
    left: left / SIDE,
    top: top / SIDE,
    right: right / SIDE,
    bottom: bottom / SIDE,
  };
  return { box, shape };
}

/** Whether a label asks for a shape. */
export function isShape(label: string, shape: string): boolean {
  return wordsOf(label)[1] === shape;
}
