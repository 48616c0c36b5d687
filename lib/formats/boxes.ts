/**
 * Boxes as people write them: `dog@0.1,0.2,0.6,0.9` on the command line, JSON files of such, and the annotations of data
 * sets, whose `bbox` is [x, y, width, height] in pixels (COCO, Hugging Face's imagefolder) unless they say otherwise.
 */

import { areaOf, type LabelledBox } from "../base/box.ts";
import { FormatError, UsageError } from "../base/errors.ts";

/** What the four numbers of an annotation are. */
export type BoxOrder = "xywh" | "xyxy";
export const BOX_ORDERS: readonly BoxOrder[] = ["xywh", "xyxy"];

/** A box as an annotation has it: in pixels, or in fractions where no number is above 1. */
export interface MarkedBox {
  readonly label: string;
  readonly numbers: readonly [number, number, number, number];
}

/** How far beyond the picture a box may reach and is cut off, in fractions of a side: annotations are rounded. */
const SLACK = 0.02;

/** What a box is when it is written. */
const NEEDED = "label@left,top,right,bottom was needed, in fractions of the picture, such as " +
  "dog@0.1,0.2,0.6,0.9";

/**
 * `label@left,top,right,bottom` in fractions of the picture. Throws `UsageError`, where `option` names what was given.
 */
export function parseBox(text: string, option = "--box"): LabelledBox {
  const box = readBox(text);
  if (typeof box === "object") return box;
  const why = box === undefined ? "" : `${box}; `;
  throw new UsageError(`Cannot use ${option} ${JSON.stringify(text)}: ${why}${NEEDED}`);
}

/** A box of its text; what is wrong with it, or nothing where it is something else. */
function readBox(text: string): LabelledBox | string | undefined {
  const at = text.lastIndexOf("@");
  const label = text.slice(0, Math.max(0, at)).trim();
  const words = text.slice(at + 1).split(",").map((word) => word.trim());
  const numbers = words.map((word) => word === "" ? NaN : Number(word));
  return at < 0 || label === "" || numbers.length !== 4 ? undefined : boxOf(label, numbers);
}

/** Corners as a box, or what is wrong with them. */
function boxOf(label: string, numbers: readonly number[]): LabelledBox | string {
  const [left, top, right, bottom] = numbers;
  if (!numbers.every((n) => n >= 0 && n <= 1)) return "a corner is outside of the picture";
  if (!(left < right && top < bottom)) return "it has no area";
  return { label, left, top, right, bottom };
}

/** Boxes in one text, which {@link readBoxes} reads: `dog@0.1,0.2,0.6,0.9; cat@0,0,0.5,1`. */
export function showBoxes(boxes: readonly LabelledBox[]): string {
  return boxes.map(({ label, left, top, right, bottom }) =>
    `${label}@${[left, top, right, bottom].join()}`
  ).join("; ");
}

/** What stands between boxes; a semicolon in a label follows no numbers. */
const BETWEEN = /(?<=@[^@;]*);/;

/**
 * Boxes as settings have them: a text of one or several with semicolons between them, a list, or an object with a list
 * `boxes` or `objects`; also as JSON in a text. Each is a text as {@link parseBox} takes it, or an object with `label` and
 * `box`: [left, top, right, bottom] in fractions. Throws `FormatError`, a phrase that can follow a colon.
 */
export function readBoxes(value: unknown): LabelledBox[] {
  if (typeof value === "string") {
    return /^\s*[[{].*[\]}]\s*$/s.test(value)
      ? readBoxes(parsed(value))
      : listed(value.split(BETWEEN));
  }
  const list = isRecord(value) ? value.boxes ?? value.objects ?? [value] : value;
  if (!Array.isArray(list)) throw new FormatError("it holds no list of boxes");
  return listed(list);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new FormatError("it is not JSON");
  }
}

function listed(items: readonly unknown[]): LabelledBox[] {
  return items.map((item, i) => {
    const box = typeof item === "string" ? readBox(item) : boxIn(item);
    if (typeof box === "object") return box;
    const needed = typeof item === "string"
      ? NEEDED
      : '{"label": "dog", "box": [left, top, right, bottom]} in fractions was needed';
    throw new FormatError(
      `number ${i + 1} is ${JSON.stringify(item)?.slice(0, 60)}${
        box === undefined ? "" : ` (${box})`
      }, and ${needed}`,
    );
  });
}

/** The box of an object. */
function boxIn(item: unknown): LabelledBox | string | undefined {
  const label = isRecord(item) ? labelOf(item) : undefined;
  const corners = isRecord(item) ? fourNumbers(item.box ?? item.bbox) : undefined;
  return label === undefined || corners === undefined ? undefined : boxOf(label, corners);
}

/** The boxes of a JSON file, as {@link readBoxes} takes them. Throws `FormatError`. */
export function parseBoxes(text: string, name: string): LabelledBox[] {
  try {
    return readBoxes(parsed(text));
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    throw new FormatError(`Cannot read the boxes of ${name}: ${error.message}`);
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const LABELS = ["label", "category", "categories", "class", "name", "phrase"] as const;

/** The name that an object has under one of the usual keys; numbers of classes are names as well. */
function labelOf(object: Readonly<Record<string, unknown>>): string | undefined {
  for (const key of LABELS) {
    const value = object[key];
    if (typeof value === "string" && value.trim() !== "") return value.trim();
    if (typeof value === "number") return String(value);
  }
  return undefined;
}

function fourNumbers(value: unknown): MarkedBox["numbers"] | undefined {
  const isFour = Array.isArray(value) && value.length === 4 &&
    value.every((n) => typeof n === "number" && Number.isFinite(n));
  return isFour ? [value[0], value[1], value[2], value[3]] : undefined;
}

/**
 * The `objects` of an annotation: a list of `{bbox, label}`, or Hugging Face's lists side by side, `{bbox: […],
 * categories: […]}`. Throws `FormatError`, a phrase that can follow a colon.
 */
export function markedBoxes(objects: unknown): MarkedBox[] {
  return itemsOf(objects).map((item, i) => {
    const label = isRecord(item) ? labelOf(item) : undefined;
    const numbers = isRecord(item) ? fourNumbers(item.bbox ?? item.box) : undefined;
    if (label === undefined || numbers === undefined) {
      const missing = label === undefined ? '"label"' : '"bbox" of four numbers';
      throw new FormatError(`number ${i + 1} of its objects has no ${missing}`);
    }
    return { label, numbers };
  });
}

function itemsOf(objects: unknown): readonly unknown[] {
  if (Array.isArray(objects)) return objects;
  const boxes = isRecord(objects) ? objects.bbox ?? objects.box : undefined;
  const names = isRecord(objects)
    ? [...LABELS, "labels"].map((key) => objects[key]).find(Array.isArray)
    : undefined;
  if (!Array.isArray(boxes) || names === undefined) {
    throw new FormatError("its objects are neither a list nor lists bbox and categories");
  }
  if (boxes.length !== names.length) {
    throw new FormatError(`its objects have ${boxes.length} boxes and ${names.length} names`);
  }
  return boxes.map((bbox: unknown, i) => ({ bbox, label: names[i] }));
}

/**
 * An annotation's box in fractions of a picture of this size, cut off where it reaches a little beyond. Throws
 * `FormatError`, a phrase that can follow a colon, where it reaches far beyond or has no area.
 */
export function placeBox(
  { label, numbers }: MarkedBox,
  size: { readonly width: number; readonly height: number },
  order: BoxOrder,
): LabelledBox {
  const inFractions = numbers.every((n) => n <= 1);
  const [width, height] = inFractions ? [1, 1] : [size.width, size.height];
  const [a, b, c, d] = numbers;
  const [right, bottom] = order === "xywh" ? [a + c, b + d] : [c, d];
  const exact = {
    label,
    left: a / width,
    top: b / height,
    right: right / width,
    bottom: bottom / height,
  };
  const clip = (n: number) => Math.max(0, Math.min(1, n));
  const box = {
    label,
    left: clip(exact.left),
    top: clip(exact.top),
    right: clip(exact.right),
    bottom: clip(exact.bottom),
  };
  const beyond = Math.max(-exact.left, -exact.top, exact.right - 1, exact.bottom - 1);
  if (beyond > SLACK || !(areaOf(box) > 0)) {
    const where = `the box [${numbers.join(", ")}] of ${JSON.stringify(label)}`;
    const what = beyond > SLACK
      ? `reaches beyond its picture of ${size.width}×${size.height} pixels`
      : "has no area";
    throw new FormatError(`${where}, read as ${order}, ${what}`);
  }
  return box;
}
