import { deepEqual, throws } from "node:assert/strict";
import {
  markedBoxes,
  parseBox,
  parseBoxes,
  placeBox,
  readBoxes,
  showBoxes,
} from "../../lib/formats/boxes.ts";

const dog = { label: "dog", left: 0.1, top: 0.2, right: 0.6, bottom: 0.9 };

Deno.test("parseBox reads a label, which may hold an @ or be a phrase, and four fractions", () => {
  deepEqual(parseBox("dog@0.1,0.2,0.6,0.9"), dog);
  deepEqual(parseBox(" a dog @ home @ 0.1, .2,6e-1 , 0.9 "), { ...dog, label: "a dog @ home" });
  deepEqual(parseBox("x@0,0,1,1"), { label: "x", left: 0, top: 0, right: 1, bottom: 1 });
});

Deno.test("parseBox refuses what is no box, and says why", () => {
  const form = "label@left,top,right,bottom was needed, in fractions of the picture, " +
    "such as dog@0.1,0.2,0.6,0.9";
  const cases: [string, string][] = [
    ["dog", ""],
    ["@0,0,1,1", ""],
    ["dog@0,0,1", ""],
    ["dog@0,0,1,", "a corner is outside of the picture; "],
    ["dog@0,0,20,1", "a corner is outside of the picture; "],
    ["dog@0.5,0,0.5,1", "it has no area; "],
    ["dog@0,0.9,1,0.2", "it has no area; "],
  ];
  for (const [text, why] of cases) {
    throws(() => parseBox(text), {
      name: "UsageError",
      message: `Cannot use --box ${JSON.stringify(text)}: ${why}${form}`,
    });
  }
});

Deno.test("parseBoxes reads texts and objects, in a list or under a name", () => {
  const object = { label: "dog", box: [0.1, 0.2, 0.6, 0.9] };
  deepEqual(parseBoxes(JSON.stringify([object, "dog@0.1,0.2,0.6,0.9"]), "x"), [dog, dog]);
  deepEqual(parseBoxes(JSON.stringify({ boxes: [{ ...object, label: 3 }] }), "x"), [
    { ...dog, label: "3" },
  ]);
  deepEqual(parseBoxes(`{"objects": []}`, "x"), []);
});

Deno.test("parseBoxes refuses other JSON, and says which box is wrong", () => {
  const cases: [string, RegExp][] = [
    ["{", /^Cannot read the boxes of x: it is not JSON$/],
    ["3", /^Cannot read the boxes of x: it holds no list of boxes$/],
    [`[{"label": "a", "box": [0, 0, 1]}]`, /: number 1 is \{"label":"a","box":\[0,0,1\]\}, and /],
    [`["a@0,0,1,1", {"box": [0, 0, 1, 1]}]`, /: number 2 is /],
    [`[{"label": "a", "box": [0, 0, 30, 1]}]`, / \(a corner is outside of the picture\), and /],
    [
      `["a@0,0,30,1"]`,
      /: number 1 is "a@0,0,30,1" \(a corner is outside of the picture\), and label@/,
    ],
  ];
  for (const [text, message] of cases) {
    throws(() => parseBoxes(text, "x"), { name: "FormatError", message });
  }
});

Deno.test("showBoxes writes boxes in one text that readBoxes reads, to the last bit", () => {
  const boxes = ["dog", "a;b @ home", "[x]", "a, b", "@"].map((label, i) => ({
    label,
    left: 1 / 3,
    top: 1e-7 * i,
    right: 0.1 + 0.2 + 0.1 * (i + 1),
    bottom: 1,
  }));
  for (let n = 0; n <= boxes.length; n++) {
    const some = boxes.slice(boxes.length - n);
    if (n > 0) deepEqual(readBoxes(showBoxes(some)), some);
  }
  deepEqual(showBoxes([dog, dog]), "dog@0.1,0.2,0.6,0.9; dog@0.1,0.2,0.6,0.9");
});

Deno.test("readBoxes reads values of JSON and JSON in a text, and leaves out nothing that it cannot read", () => {
  const object = { label: "dog", box: [0.1, 0.2, 0.6, 0.9] };
  for (const value of [object, [object], { boxes: [object] }, ["dog@0.1,0.2,0.6,0.9"]]) {
    deepEqual(readBoxes(value), [dog]);
    deepEqual(readBoxes(` ${JSON.stringify(value)}\n`), [dog]);
  }
  deepEqual(readBoxes([]), []);
  const cases: [unknown, RegExp][] = [
    ["dog@0.1,0.2,0.6,0.9; cat", /^number 2 is " cat", and label@left,/],
    ["dog@0.1,0.2,0.6,0.9;", /^number 2 is "", and label@/],
    ["", /^number 1 is "", and label@/],
    [3, /^it holds no list of boxes$/],
    [[3], /^number 1 is 3, and \{"label"/],
    ["[1", /^number 1 is "\[1"/],
    ["[1,]", /^it is not JSON$/],
  ];
  for (const [value, message] of cases) throws(() => readBoxes(value), { message });
});

Deno.test("markedBoxes reads a list of objects and Hugging Face's lists side by side", () => {
  const expected = [
    { label: "dog", numbers: [1, 2, 3, 4] },
    { label: "0", numbers: [5, 6, 7, 8] },
  ];
  deepEqual(
    markedBoxes([{ bbox: [1, 2, 3, 4], label: "dog" }, { bbox: [5, 6, 7, 8], category: 0 }]),
    expected,
  );
  deepEqual(
    markedBoxes({ bbox: [[1, 2, 3, 4], [5, 6, 7, 8]], categories: ["dog", 0] }),
    expected,
  );
  throws(() => markedBoxes([{ bbox: [1, 2, 3, 4] }]), /^FormatError: number 1 .* no "label"$/);
  throws(() => markedBoxes([{ label: "a", bbox: [1, 2, "3", 4] }]), /no "bbox" of four numbers$/);
  throws(() => markedBoxes({ bbox: [[1, 2, 3, 4]], categories: [] }), /have 1 boxes and 0 names$/);
  throws(() => markedBoxes("dog"), /neither a list nor lists bbox and categories$/);
});

Deno.test("placeBox takes pixels and fractions, either order, and cuts off what reaches a little beyond", () => {
  const size = { width: 200, height: 100 };
  const place = (numbers: [number, number, number, number], order: "xywh" | "xyxy") =>
    placeBox({ label: "dog", numbers }, size, order);
  const expected = { label: "dog", left: 0.25, top: 0.25, right: 0.5, bottom: 0.75 };
  deepEqual(place([50, 25, 50, 50], "xywh"), expected);
  deepEqual(place([50, 25, 100, 75], "xyxy"), expected);
  deepEqual(place([0.25, 0.25, 0.25, 0.5], "xywh"), expected);
  deepEqual(place([0.25, 0.25, 0.5, 0.75], "xyxy"), expected);
  deepEqual(place([-1, 0, 202, 101], "xywh"), {
    label: "dog",
    left: 0,
    top: 0,
    right: 1,
    bottom: 1,
  });
  throws(
    () => place([50, 25, 190, 75], "xywh"),
    /^FormatError: the box \[50, 25, 190, 75\] of "dog", read as xywh, reaches beyond its picture of 200×100 pixels$/,
  );
  throws(() => place([50, 25, 0, 75], "xywh"), /has no area$/);
});
