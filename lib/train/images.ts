/**
 * From a decoded picture to what a model takes: resized, cropped, flipped, −1 … 1; boxes go along. As diffusers' training
 * scripts do it with torchvision: the picture is resized to cover the size, the rest cut off.
 */

import { areaOf, type Box, cropBox, flipBox, intersection, type LabelledBox } from "../base/box.ts";
import { lumaOf, type Picture } from "../base/picture.ts";
import { type FilterName, resample } from "../formats/resample.ts";

export interface Fitting {
  /** Pixels. */
  readonly width: number;
  readonly height: number;
  /** Colours of the result: grey or RGB. */
  readonly channels: 1 | 3;
  /** Which part is kept. */
  readonly crop: "centre" | "random";
  /** Whether every other picture, by chance, is mirrored left to right. */
  readonly flip: boolean;
  readonly filter: FilterName;
}

/** A picture for a model. */
export interface FittedPicture {
  /** [height, width, channels], −1 … 1. */
  readonly data: Float32Array<ArrayBuffer>;
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 3;
  /** The part of the whole picture that this is. */
  readonly crop: Box;
  /** Its top left corner in the resized picture, in pixels, which SDXL is told. */
  readonly cropLeft: number;
  readonly cropTop: number;
  readonly isFlipped: boolean;
}

/** A box of which less than this is left after cropping is dropped: nobody could tell what was in it. */
const LEAST_LEFT = 0.2;

/** Transparency laid over white; grey or RGB as asked. Grey is luma. */
export function flatten({ width, height, channels, data }: Picture, to: 1 | 3): Picture {
  const pixels = width * height;
  const out = new Uint8Array(pixels * to);
  for (let i = 0; i < pixels; i++) {
    const at = i * channels;
    const alpha = channels === 4 ? data[at + 3] : 255;
    const over = (c: number) =>
      Math.round((data[channels === 1 ? at : at + c] * alpha + 255 * (255 - alpha)) / 255);
    if (to === 1) out[i] = lumaOf(over(0), over(1), over(2));
    else for (let c = 0; c < 3; c++) out[i * 3 + c] = over(c);
  }
  return { width, height, channels: to, data: out };
}

/** The smallest size of a picture's shape that covers another: one side is equal, the other at least as long. */
export function coveringSize(
  picture: { readonly width: number; readonly height: number },
  { width, height }: Pick<Fitting, "width" | "height">,
): { width: number; height: number } {
  return width * picture.height >= height * picture.width
    ? { width, height: Math.floor((picture.height * width) / picture.width) }
    : { width: Math.floor((picture.width * height) / picture.height), height };
}

/** A picture as it is before chance decides anything: flat, and just large enough. */
export function coverPicture(picture: Picture, fitting: Fitting): Picture {
  const { width, height } = coveringSize(picture, fitting);
  return resample(flatten(picture, fitting.channels), width, height, fitting.filter);
}

/** A map as large as what `coverPicture` made of its picture; no two colours are blended. */
export function coverMap(map: Picture, { width, height }: Picture): Picture {
  return resample(flatten(map, 3), width, height, "nearest");
}

/**
 * The part of a picture that a model takes; `random` gives numbers in [0, 1): for the part's left, its top, and flipping.
 * `cover` is what {@link coverPicture} made.
 */
export function cutPicture(cover: Picture, fitting: Fitting, random: () => number): FittedPicture {
  const { width, height, channels } = fitting;
  const [x, y, mirror] = [random(), random(), random()];
  const [spareX, spareY] = [cover.width - width, cover.height - height];
  const isRandom = fitting.crop === "random";
  const cropLeft = Math.floor(isRandom ? x * (spareX + 1) : spareX / 2);
  const cropTop = Math.floor(isRandom ? y * (spareY + 1) : spareY / 2);
  const isFlipped = fitting.flip && mirror < 0.5;
  const data = new Float32Array(height * width * channels);
  for (let j = 0, to = 0; j < height; j++) {
    const row = (cropTop + j) * cover.width + cropLeft;
    for (let i = 0; i < width; i++) {
      const from = (row + (isFlipped ? width - 1 - i : i)) * channels;
      for (let c = 0; c < channels; c++) data[to++] = cover.data[from + c] / 127.5 - 1;
    }
  }
  const crop = {
    left: cropLeft / cover.width,
    top: cropTop / cover.height,
    right: (cropLeft + width) / cover.width,
    bottom: (cropTop + height) / cover.height,
  };
  return { data, width, height, channels, crop, cropLeft, cropTop, isFlipped };
}

/** Boxes of a whole picture as boxes of the part that was taken; those that are cut away are left out. */
export function cutBoxes(
  boxes: readonly LabelledBox[],
  { crop, isFlipped }: Pick<FittedPicture, "crop" | "isFlipped">,
): LabelledBox[] {
  return boxes
    .filter((box) => areaOf(intersection(box, crop)) >= LEAST_LEFT * areaOf(box))
    .map((box) => cropBox(box, crop))
    .map((box) => isFlipped ? flipBox(box) : box);
}
