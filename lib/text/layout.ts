/**
 * A layout as tokens, for a transformer to read (Rombach et al. 2022, section 4.3.1, after Jahn et al. 2021): for each
 * object its class, its top left and its bottom right corner, then empty ones; and where it is wanted the corners of the
 * part of the picture that is shown. Numbers are those of taming-transformers' `objects_bbox.py`, so that models trained
 * with it are read alike.
 */

import { type Box, type LabelledBox, WHOLE } from "../base/box.ts";
import { UsageError } from "../base/errors.ts";
import { hintOf } from "../base/nearest.ts";

/** How a model's layouts are written. */
export interface LayoutForm {
  /** Names of the classes; a class's token is its place. */
  readonly classes: readonly string[];
  /** The most objects. */
  readonly objects: number;
  /** Tokens there are: classes and corners share them, the last one is "none". */
  readonly vocabulary: number;
  /** Whether two tokens at the end say what part of the picture is shown. */
  readonly crop: boolean;
}

/** Tokens of a layout: three for each object. */
export function layoutLength({ objects, crop }: LayoutForm): number {
  return 3 * objects + (crop ? 2 : 0);
}

/** The token that stands where there is no object. */
function noneToken({ vocabulary }: LayoutForm): number {
  return vocabulary - 1;
}

/** Places for corners along a side. */
function placesOf({ vocabulary }: LayoutForm): number {
  return Math.floor(Math.sqrt(vocabulary));
}

/**
 * The tokens of boxes in their order, none after them. Where the form has `crop`, the boxes are of the whole picture, of
 * which `shown` is shown. Throws `UsageError` for a label that is no class of the model, for too many boxes and
 * for more classes than tokens.
 */
export function layoutTokens(
  boxes: readonly LabelledBox[],
  form: LayoutForm,
  shown: Box = WHOLE,
): Int32Array {
  if (boxes.length > form.objects) {
    throw new UsageError(
      `Cannot use ${boxes.length} boxes: the model reads at most ${form.objects} of a picture`,
    );
  }
  if (form.classes.length >= form.vocabulary) {
    throw new UsageError(
      `Cannot write layouts of ${form.classes.length} classes with ${form.vocabulary} tokens: more tokens than classes ` +
        `were needed`,
    );
  }
  const tokens = new Int32Array(layoutLength(form)).fill(noneToken(form));
  for (const [i, box] of boxes.entries()) {
    tokens.set([classOf(box.label, form), ...cornersOf(box, form)], 3 * i);
  }
  if (form.crop) tokens.set(cornersOf(shown, form), 3 * form.objects);
  return tokens;
}

function classOf(label: string, { classes }: LayoutForm): number {
  const index = classes.indexOf(label);
  if (index >= 0) return index;
  throw new UsageError(
    `Cannot use a box of ${JSON.stringify(label)}: the model has no such class; ${
      hintOf(label, classes)
    }`,
  );
}

/** Top left and bottom right. */
function cornersOf({ left, top, right, bottom }: Box, form: LayoutForm): [number, number] {
  const last = placesOf(form) - 1;
  const token = (x: number, y: number) => halfToEven(y * last) * (last + 1) + halfToEven(x * last);
  return [token(left, top), token(right, bottom)];
}

/** As Python rounds. */
function halfToEven(x: number): number {
  const floor = Math.floor(x);
  return x - floor === 0.5 ? floor + floor % 2 : Math.round(x);
}

/** The boxes that tokens stand for, as exact as the tokens are. */
export function boxesOf(tokens: ArrayLike<number>, form: LayoutForm): LabelledBox[] {
  const places = placesOf(form);
  const corner = (token: number) =>
    [(token % places) / (places - 1), Math.floor(token / places) / (places - 1)] as const;
  const boxes: LabelledBox[] = [];
  for (let i = 0; i < form.objects; i++) {
    const label = form.classes[tokens[3 * i]];
    if (tokens[3 * i] === noneToken(form) || label === undefined) continue;
    const [left, top] = corner(tokens[3 * i + 1]);
    const [right, bottom] = corner(tokens[3 * i + 2]);
    boxes.push({ label, left, top, right, bottom });
  }
  return boxes;
}
