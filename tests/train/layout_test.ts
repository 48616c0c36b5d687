import { deepEqual, equal } from "node:assert/strict";
import { shuffledLayout } from "../../lib/train/layout.ts";

const form = {
  classes: ["a", "b", "c", "d", "e"],
  objects: 3,
  vocabulary: 100,
  crop: false,
};
const boxes = form.classes.map((label) => ({ label, left: 0, top: 0, right: 1, bottom: 1 }));

Deno.test("shuffledLayout takes an order and a choice that the seed decides", () => {
  const classes = (seed: number, count = 5) =>
    [0, 3, 6].map((i) => shuffledLayout(boxes.slice(0, count), form, seed)[i]);
  deepEqual(classes(1), classes(1));
  const seen = new Set(Array.from({ length: 400 }, (_, seed) => classes(seed).join()));
  equal(seen.size, 5 * 4 * 3);
  deepEqual(classes(1, 2).toSorted((a, b) => a - b), [0, 1, 99]);
});
