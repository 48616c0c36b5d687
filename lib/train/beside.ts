/**
 * What a denoiser sees beside noisy latents, pixel for pixel (Rombach et al. 2022, section 4.3.2 and 4.4): a small picture
 * of what it is to make large, or a picture with a hole.
 */

import { FormatError } from "../base/errors.ts";
import { torchCpu } from "../base/random.ts";
import { resample } from "../formats/resample.ts";
import { pictureOf } from "./component.ts";
import type { DiffusionConfig } from "./config.ts";
import type { FittedPicture } from "./images.ts";
import type { LatentInput, LatentSource } from "./latents.ts";

type Numbers = Float32Array<ArrayBuffer>;

export interface Beside {
  readonly channels: number;
  /** For one picture, [size, size, channels]; the seed decides what is left to chance. */
  of(picture: FittedPicture, seed: number): Promise<Numbers>;
}

/** Latents of a side, channels of one, and pixels to one along a side. */
export interface BesideForm {
  readonly size: number;
  readonly channels: number;
  readonly factor: number;
}

/**
 * What settings ask for; `undefined` where that is nothing. `source` is asked for when latents are wanted. Throws
 * `FormatError`.
 */
export function besideOf(
  { diffusion: { conditioner }, concat, data }: Pick<
    DiffusionConfig,
    "diffusion" | "concat" | "data"
  >,
  form: BesideForm,
  source: () => LatentSource,
): Beside | undefined {
  if (!conditioner.includes("concat")) return undefined;
  switch (concat.source) {
    case "low": {
      const side = data.size / concat.factor;
      if (Number.isInteger(side)) return low(side, form.size);
      throw new FormatError(
        `Cannot train with pictures of ${data.size} pixels and small ones of a ${concat.factor}th of that: data.size must ` +
          `be a multiple of concat.factor`,
      );
    }
    case "mask":
      return holed(form, source);
    case "map":
      throw new FormatError(
        `Cannot train with concat.source = "map" yet: data sets have no maps; low and mask are made of the pictures`,
      );
  }
}

/** A picture of `side` pixels, brought to the latents' size. */
function low(side: number, size: number): Beside {
  return {
    channels: 3,
    of({ data, width, channels }) {
      const small = resample(pictureOf(data, width, channels), side, side, "bicubic");
      const fitted = side === size ? small : resample(small, size, size, "bilinear");
      const repeat = 3 / fitted.channels; // grey is three equal colours
      return Promise.resolve(
        Float32Array.from(
          { length: size * size * 3 },
          (_, i) => fitted.data[Math.floor(i / repeat)] / 127.5 - 1,
        ),
      );
    },
  };
}

/** 1 where something is missing, then the latents of the picture without it: the order of diffusers' inpainting models. */
function holed({ size, channels, factor }: BesideForm, source: () => LatentSource): Beside {
  return {
    channels: 1 + channels,
    async of(picture, seed) {
      const mask = holesAt(size, seed);
      const latents = await source().fresh(withHoles(picture, mask, factor));
      const out = new Float32Array(size * size * (1 + channels));
      for (let i = 0; i < size * size; i++) {
        out[i * (1 + channels)] = mask[i];
        out.set(latents.subarray(i * channels, (i + 1) * channels), i * (1 + channels) + 1);
      }
      return out;
    },
  };
}

/** Grey, which is 0, where the mask is 1. */
function withHoles(picture: FittedPicture, mask: Numbers, factor: number): LatentInput {
  const { data, width, height, channels } = picture;
  const size = width / factor;
  const cell = (i: number) => {
    const pixel = Math.floor(i / channels);
    const [x, y] = [pixel % width, Math.floor(pixel / width)];
    return mask[Math.floor(y / factor) * size + Math.floor(x / factor)];
  };
  return { width, height, channels, data: data.map((value, i) => cell(i) === 1 ? 0 : value) };
}

const MOST_HOLES = 4;

/** A few boxes of chance in size × size cells, each side an eighth to a half of the picture's: 1 inside, 0 outside. */
export function holesAt(size: number, seed: number): Numbers {
  const random = torchCpu(seed);
  const [count] = random.integers(1, MOST_HOLES + 1, 1);
  const mask = new Float32Array(size * size);
  for (let hole = 0; hole < count; hole++) {
    const least = Math.max(1, Math.floor(size / 8));
    const most = Math.max(least, Math.floor(size / 2));
    const [height, width] = random.integers(least, most + 1, 2);
    const [top] = random.integers(0, size - height + 1, 1);
    const [left] = random.integers(0, size - width + 1, 1);
    for (let y = top; y < top + height; y++) {
      mask.fill(1, y * size + left, y * size + left + width);
    }
  }
  return mask;
}
