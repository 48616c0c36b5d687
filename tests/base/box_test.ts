import { deepEqual, equal } from "node:assert/strict";
import { areaOf, cropBox, flipBox, intersection, overlapOf, WHOLE } from "../../lib/base/box.ts";

const box = { left: 0.25, top: 0.5, right: 0.75, bottom: 1 };

Deno.test("overlapOf is intersection over union, and 0 for boxes that only touch", () => {
  equal(overlapOf(box, box), 1);
  equal(overlapOf(box, WHOLE), 0.25);
  equal(overlapOf(box, { left: 0, top: 0, right: 0.5, bottom: 1 }), 0.125 / (0.25 + 0.5 - 0.125));
  equal(overlapOf(box, { left: 0.75, top: 0, right: 1, bottom: 1 }), 0);
  equal(areaOf(intersection(box, { left: 0.8, top: 0, right: 1, bottom: 0.1 })), 0);
});

Deno.test("cropBox gives a box in fractions of the part, cut off at its sides, and keeps its label", () => {
  const part = { left: 0.5, top: 0, right: 1, bottom: 0.75 };
  deepEqual(cropBox({ label: "dog", ...box }, part), {
    label: "dog",
    left: 0,
    top: 0.5 / 0.75,
    right: 0.5,
    bottom: 1,
  });
  deepEqual(cropBox(box, WHOLE), box);
});

Deno.test("flipBox exchanges left and right", () => {
  deepEqual(flipBox({ label: "dog", ...box, right: 0.5 }), {
    label: "dog",
    ...box,
    left: 0.5,
    right: 0.75,
  });
  deepEqual(flipBox(flipBox(box)), box);
});
