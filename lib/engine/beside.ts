/**
 * The channels that a denoiser sees beside noisy latents, made of pictures: one place for training and for making pictures.
 * Convention: results are [h, w, channels] of latents, colours −1 … 1.
 */

import type { Picture } from "../base/picture.ts";
import { resample } from "../formats/resample.ts";

type Numbers = Float32Array<ArrayBuffer>;

interface Size {
  readonly height: number;
  readonly width: number;
}

/** Of a small picture, grey or RGB: brought to the latents' size, smoothly. [h, w, 3] */
export function lowChannels(small: Picture, { height, width }: Size): Numbers {
  return colours(resample(small, width, height, "bilinear"));
}

/** Of any kind: brought to another size as most tools do that begin with a picture (Pillow's Lanczos), whatever its shape. */
export function pictureAt(picture: Picture, { height, width }: Size): Picture {
  const { width: w, height: h } = picture;
  return w === width && h === height ? picture : resample(picture, width, height, "lanczos");
}

/** A map at another size: of each pixel the colour under its middle, never a blend of two. */
export function mapAt(map: Picture, { height, width }: Size): Picture {
  return resample(map, width, height, "nearest");
}

/** Of a map, grey or RGB: as `mapAt` brings it to the latents' size. [h, w, 3] */
export function mapChannels(map: Picture, size: Size): Numbers {
  return colours(mapAt(map, size));
}

/** Grey is three equal colours. */
function colours({ data, width, height, channels }: Picture): Numbers {
  const repeat = 3 / channels;
  return Float32Array.from(
    { length: width * height * 3 },
    (_, i) => data[Math.floor(i / repeat)] / 127.5 - 1,
  );
}

/** A mask [h, w], 1 where something is missing, then latents [h, w, c] of the picture without it. [h, w, 1 + c] */
export function maskChannels(mask: Float32Array, latents: Float32Array): Numbers {
  const channels = latents.length / mask.length;
  const out = new Float32Array(mask.length * (1 + channels));
  for (let i = 0; i < mask.length; i++) {
    out[i * (1 + channels)] = mask[i];
    out.set(latents.subarray(i * channels, (i + 1) * channels), i * (1 + channels) + 1);
  }
  return out;
}

/** Pixels of `channels` numbers, `grey` where something is missing. */
export function emptied(
  data: Float32Array,
  channels: number,
  grey: number,
  isMissing: (pixel: number) => boolean,
): Numbers {
  return Float32Array.from(
    data,
    (value, i) => isMissing(Math.floor(i / channels)) ? grey : value,
  );
}
