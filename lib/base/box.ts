/**
 * Boxes around things in a picture. Convention: fractions of the picture's width and height, from its top left corner, so
 * that a box means the same at every size.
 */

/** Its sides, each a fraction of the picture's. */
export interface Box {
  /** Of the width. */
  readonly left: number;
  /** Of the height. */
  readonly top: number;
  /** Of the width. */
  readonly right: number;
  /** Of the height. */
  readonly bottom: number;
}

/** Something in a picture: what it is, by a class's name or a phrase, and where. */
export interface LabelledBox extends Box {
  /** The class, or the phrase. */
  readonly label: string;
}

/** All of a picture. */
export const WHOLE: Box = { left: 0, top: 0, right: 1, bottom: 1 };

/** The share of the picture that a box covers. */
export function areaOf({ left, top, right, bottom }: Box): number {
  return Math.max(0, right - left) * Math.max(0, bottom - top);
}

/** What two boxes have in common; its area is 0 where that is nothing. */
export function intersection(a: Box, b: Box): Box {
  return {
    left: Math.max(a.left, b.left),
    top: Math.max(a.top, b.top),
    right: Math.min(a.right, b.right),
    bottom: Math.min(a.bottom, b.bottom),
  };
}

/** Intersection over union: 1 for equal boxes, 0 for boxes apart. */
export function overlapOf(a: Box, b: Box): number {
  const common = areaOf(intersection(a, b));
  return common === 0 ? 0 : common / (areaOf(a) + areaOf(b) - common);
}

/** A box of the picture as a box of the picture's part `crop`, cut off at its sides. */
export function cropBox<B extends Box>(box: B, crop: Box): B {
  const [width, height] = [crop.right - crop.left, crop.bottom - crop.top];
  const { left, top, right, bottom } = intersection(box, crop);
  return {
    ...box,
    left: (left - crop.left) / width,
    top: (top - crop.top) / height,
    right: (right - crop.left) / width,
    bottom: (bottom - crop.top) / height,
  };
}

/** A box of the picture's mirror image, left and right exchanged. */
export function flipBox<B extends Box>(box: B): B {
  return { ...box, left: 1 - box.right, right: 1 - box.left };
}
