/** What becomes of a decoded picture that was made with another one: it is cut to size, and what was to stay stays. */

import type { Picture } from "../base/picture.ts";
import type { FloatPicture } from "../engine/model.ts";
import type { SecondPicture } from "./beside.ts";
import type { Rounding } from "./events.ts";
import { toBytes, toFloats } from "./first_stage.ts";
import { blurred, type HoledPicture, holesOf } from "./holes.ts";

/** The result cut to its size, in numbers and in bytes; what was to stay is the picture's again. */
export function finished(
  floats: FloatPicture,
  second: SecondPicture | undefined,
  size: { readonly width: number; readonly height: number },
  rounding: Rounding,
): { readonly floats: FloatPicture; readonly image: Picture } {
  const cut = cutTo(floats, size);
  if (second?.source !== "mask" || second.keep === false) {
    return { floats: cut, image: toBytes(cut, rounding) };
  }
  const share = shareOf(second);
  const before = toFloats(second.picture);
  const blended = { ...cut, data: blend(cut.data, before.data, share) };
  return { floats: blended, image: toBytes(blended, rounding) };
}

/** How much of each pixel is new, from 0 to 255. */
function shareOf(second: HoledPicture): Uint8Array {
  const holes = holesOf(second);
  const { blur = 0 } = second;
  return (blur > 0 ? blurred(holes, blur) : holes).data;
}

function cutTo(
  picture: FloatPicture,
  { width, height }: { readonly width: number; readonly height: number },
): FloatPicture {
  if (width === picture.width && height === picture.height) return picture;
  const data = new Float32Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    const from = y * picture.width * 3;
    data.set(picture.data.subarray(from, from + width * 3), y * width * 3);
  }
  return { width, height, data };
}

/** New pixels of three numbers over old ones. */
function blend(made: Float32Array, before: Float32Array, share: Uint8Array): Float32Array {
  return made.map((value, i) => {
    const part = share[Math.floor(i / 3)] / 255;
    return part === 1 ? value : part === 0 ? before[i] : value * part + before[i] * (1 - part);
  });
}
