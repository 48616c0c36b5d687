import { deepEqual, equal, throws } from "node:assert/strict";
import type { LabelledBox } from "../../lib/base/box.ts";
import { boxesOf, type LayoutForm, layoutLength, layoutTokens } from "../../lib/text/layout.ts";

/** The paper's form for OpenImages. */
const PAPER: LayoutForm = { classes: ["cat", "dog"], objects: 30, vocabulary: 8192, crop: true };
const SMALL: LayoutForm = { classes: ["cat", "dog"], objects: 2, vocabulary: 16, crop: false };
const dog = { label: "dog", left: 0.1, top: 0.2, right: 0.6, bottom: 0.9 };

Deno.test("layoutTokens writes class and corners, none after them, and the whole picture, in 92 tokens", () => {
  // 90 places a side: round(0.2·89)·90 + round(0.1·89), …
  const expected = new Int32Array(92).fill(8191);
  expected.set([1, 18 * 90 + 9, 80 * 90 + 53]);
  expected.set([0, 90 * 90 - 1], 90);
  deepEqual(layoutTokens([dog], PAPER), expected);
  const part = { left: 0, top: 0.5, right: 1, bottom: 1 };
  deepEqual([...layoutTokens([], PAPER, part).slice(90)], [44 * 90, 90 * 90 - 1]);
  equal(layoutLength(SMALL), 6);
});

Deno.test("layoutTokens rounds halves to even, as Python does", () => {
  const at = (x: number) =>
    layoutTokens([{ ...dog, left: x, top: 0, right: 1, bottom: 1 }], SMALL)[1];
  deepEqual([at(0.5 / 3), at(1.5 / 3), at(2.5 / 3), at(0.51 / 3)], [0, 2, 2, 1]);
});

Deno.test("layoutTokens keeps the order of the boxes", () => {
  const cat = { ...dog, label: "cat", left: 0, top: 0 };
  deepEqual([...layoutTokens([dog, cat], SMALL)], [1, 4, 14, 0, 0, 14]);
  deepEqual([...layoutTokens([cat, dog], SMALL)], [0, 0, 14, 1, 4, 14]);
});

Deno.test("boxesOf gives back what layoutTokens wrote, to the nearest place", () => {
  const boxes: LabelledBox[] = [
    { label: "dog", left: 0, top: 1 / 3, right: 2 / 3, bottom: 1 },
    { label: "cat", left: 1 / 3, top: 0, right: 1, bottom: 2 / 3 },
  ];
  deepEqual(boxesOf(layoutTokens(boxes, SMALL), SMALL), boxes);
  deepEqual(boxesOf(layoutTokens([], PAPER), PAPER), []);
});

Deno.test("layoutTokens refuses unknown classes, too many boxes and too few tokens", () => {
  throws(
    () => layoutTokens([{ ...dog, label: "doge" }], PAPER),
    /^UsageError: Cannot use a box of "doge": the model has no such class; did you mean "dog"\?$/,
  );
  throws(
    () => layoutTokens([{ ...dog, label: "submarine" }], PAPER),
    /the model has no such class; it knows cat, dog$/,
  );
  throws(
    () => layoutTokens([dog, dog, dog], SMALL),
    /^UsageError: Cannot use 3 boxes: the model reads at most 2 of a picture$/,
  );
  throws(() => layoutTokens([], { ...SMALL, vocabulary: 2 }), /2 classes with 2 tokens/);
});
