import { deepEqual, equal, notDeepEqual, ok } from "node:assert/strict";
import { drawBoxes } from "../../lib/formats/draw_boxes.ts";
import type { Picture } from "../../lib/base/picture.ts";

const plain = (width: number, height: number, channels: 1 | 3 | 4): Picture => ({
  width,
  height,
  channels,
  data: new Uint8Array(width * height * channels).fill(50),
});
const dog = { label: "", left: 0.25, top: 0.1, right: 0.75, bottom: 0.9 };
const at = (
  { width, channels, data }: Picture,
  x: number,
  y: number,
) => [...data.subarray((y * width + x) * channels, (y * width + x + 1) * channels)];

Deno.test("drawBoxes draws on the edge of a box, inside it, and leaves the given picture alone", () => {
  const picture = plain(40, 20, 3);
  const out = drawBoxes(picture, [dog]);
  ok(picture.data.every((value) => value === 50));
  const colour = at(out, 10, 2);
  notDeepEqual(colour, [50, 50, 50]);
  for (let x = 0; x < 40; x++) {
    for (let y = 14; y < 20; y++) { // below the label
      const isEdge = x >= 10 && x < 30 && y < 18 && (x === 10 || x === 29 || y === 17);
      // an empty label is a strip of its margins, two pixels wide and a letter high
      const isLabel = x >= 11 && x < 13 && y < 16 && y >= 3;
      deepEqual(at(out, x, y), isEdge || isLabel ? colour : [50, 50, 50], `${x} ${y}`);
    }
  }
});

Deno.test("drawBoxes writes the label in black on its colour, one colour for each label", () => {
  const out = drawBoxes(plain(100, 60, 3), [
    { ...dog, label: "fox" },
    { label: "cat", left: 0, top: 0.5, right: 0.2, bottom: 1 },
    { label: "fox", left: 0.9, top: 0, right: 1, bottom: 0.2 },
  ]);
  const [fox, cat, other] = [at(out, 25, 53), at(out, 19, 59), at(out, 90, 0)];
  notDeepEqual(fox, cat);
  deepEqual(fox, other);
  let black = 0;
  for (let y = 7; y < 20; y++) for (let x = 26; x < 46; x++) if (at(out, x, y)[0] === 0) black++;
  ok(black > 10, `${black}`);
});

Deno.test("drawBoxes makes grey pictures RGB, keeps alpha, and leaves out what is outside", () => {
  const grey = drawBoxes(plain(9, 9, 1), []);
  deepEqual([grey.channels, at(grey, 3, 3)], [3, [50, 50, 50]]);
  const clear = drawBoxes(plain(9, 9, 4), [{
    label: "a long label",
    left: 0.9,
    top: 0.9,
    right: 1,
    bottom: 1,
  }]);
  equal(at(clear, 8, 8)[3], 255);
  equal(at(clear, 0, 0)[3], 50);
});
