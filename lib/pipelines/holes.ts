/** Masks: what of a picture is made anew, in pixels, in latents, and how it is blended in. */

import { UsageError } from "../base/errors.ts";
import { lumaOf, type Picture } from "../base/picture.ts";

/** A picture with a hole. */
export interface HoledPicture {
  /** What it is for. */
  readonly source: "mask";
  /** What is to stay, and the hole. */
  readonly picture: Picture;
  /** White is made anew, black stays; absent: what is transparent in the picture is made anew. */
  readonly mask?: Picture | undefined;
  /** Black stays to the bit, true where absent; false is all as the model gives it, where black is nearly what it was. */
  readonly keep?: boolean | undefined;
  /** Pixels by which the hole's edge is blended into what stays; 0 where absent. */
  readonly blur?: number | undefined;
}

/** From this brightness on a mask is white, as in diffusers. */
const WHITE = 128;

/**
 * What is to be made anew, as a grey picture of 255 where it is and 0 elsewhere. Throws `UsageError` where nothing says it,
 * or nothing is to be done.
 */
export function holesOf({ picture, mask }: HoledPicture): Picture {
  const cannot = "Cannot fill a hole in a picture";
  const { width, height } = picture;
  if (mask && (mask.width !== width || mask.height !== height)) {
    throw new UsageError(
      `${cannot} of ${width}×${height} pixels with a mask of ${mask.width}×${mask.height}: they must be equally large`,
    );
  }
  if (!mask && picture.channels !== 4) {
    throw new UsageError(
      `${cannot} without a mask: nothing in the picture is transparent; a mask that is white where the picture is to be ` +
        `made anew was needed`,
    );
  }
  const isHole = mask ? whiteIn(mask) : (i: number) => picture.data[i * 4 + 3] < WHITE;
  const data = Uint8Array.from({ length: width * height }, (_, i) => isHole(i) ? 255 : 0);
  if (!data.includes(255)) {
    throw new UsageError(
      `${cannot} with a mask that is black everywhere: white says what is made anew`,
    );
  }
  return { width, height, channels: 1, data };
}

function whiteIn({ channels, data }: Picture): (pixel: number) => boolean {
  if (channels === 1) return (i) => data[i] >= WHITE;
  return (i) => {
    const at = i * channels;
    return lumaOf(data[at], data[at + 1], data[at + 2]) >= WHITE;
  };
}

/** Of `holesOf` in whole latents, 1 where something is made anew: of each latent the pixel in its corner, as diffusers has it. */
export function cellsOf({ width, height, data }: Picture, factor: number): Float32Array {
  const columns = width / factor;
  return Float32Array.from(
    { length: columns * height / factor },
    (_, i) => data[Math.floor(i / columns) * factor * width + (i % columns) * factor] > 0 ? 1 : 0,
  );
}

/**
 * How much of the new picture is seen, from 0 to 255, where its edge is blurred: a normal distribution of `sigma` pixels, cut
 * off at 2½ of them, over rows and then over columns, each rounded; edges are mirrored. So AUTOMATIC1111 makes it of OpenCV.
 */
export function blurred(mask: Picture, sigma: number): Picture {
  const reach = Math.trunc(2.5 * sigma + 0.5);
  const bell = Array.from(
    { length: 2 * reach + 1 },
    (_, i) => Math.exp(-(((i - reach) / sigma) ** 2) / 2),
  );
  const sum = bell.reduce((a, b) => a + b, 0);
  const weights = bell.map((value) => value / sum);
  const { width, height } = mask;
  const along = (data: Uint8Array, of: (x: number, y: number, by: number) => number) =>
    Uint8Array.from({ length: width * height }, (_, i) => {
      const [x, y] = [i % width, Math.floor(i / width)];
      return Math.round(weights.reduce((all, w, j) => all + w * data[of(x, y, j - reach)], 0));
    });
  const rows = along(mask.data, (x, y, by) => y * width + mirrored(x + by, width));
  const data = along(rows, (x, y, by) => mirrored(y + by, height) * width + x);
  return { ...mask, data };
}

/** A place beyond the ends of a line, mirrored at its outermost pixels. */
function mirrored(at: number, length: number): number {
  if (length === 1) return 0;
  const period = 2 * (length - 1);
  const place = ((at % period) + period) % period;
  return place < length ? place : period - place;
}
