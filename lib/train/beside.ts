/**
 * What a denoiser that is trained sees beside noisy latents (Rombach et al. 2022, section 4.3.2 and 4.4), made of the
 * pictures that it is trained with: lib/engine/beside.ts makes the channels.
 */

import { FormatError } from "../base/errors.ts";
import { torchCpu } from "../base/random.ts";
import { emptied, lowChannels, mapChannels, maskChannels } from "../engine/beside.ts";
import { resample } from "../formats/resample.ts";
import { besideChannels } from "../models/beside.ts";
import { pictureOf } from "./component.ts";
import type { DiffusionConfig } from "./config.ts";
import type { ReadyExample } from "./examples.ts";
import type { LatentSource } from "./latents.ts";

type Numbers = Float32Array<ArrayBuffer>;

export interface Beside {
  readonly channels: number;
  /**
   * For each picture, [size, size, channels]; its seed decides what is left to chance. Throws `FormatError` where a map is
   * needed and there is none.
   */
  of(examples: readonly Shown[], seeds: readonly number[]): Promise<Numbers[]>;
}

/** What is known of a picture. */
export type Shown = Pick<ReadyExample, "key" | "picture" | "map">;

/** Whether settings ask for maps. */
export function wantsMaps(
  { diffusion: { conditioner }, concat }: Pick<DiffusionConfig, "diffusion" | "concat">,
): boolean {
  return conditioner.includes("concat") && concat.source === "map";
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
      return mapped(form.size);
  }
}

/** A picture of `side` pixels, brought to the latents' size. */
function low(side: number, size: number): Beside {
  return {
    channels: besideChannels("low", 0),
    of: (examples) =>
      Promise.resolve(examples.map(({ picture: { data, width, channels } }) => {
        const small = resample(pictureOf(data, width, channels), side, side, "bicubic");
        return lowChannels(small, { height: size, width: size });
      })),
  };
}

/** The map of a picture, brought to the latents' size. */
function mapped(size: number): Beside {
  return {
    channels: besideChannels("map", 0),
    // deno-lint-ignore require-await -- what it throws must reject
    async of(examples) {
      return examples.map(({ map, key }) => {
        if (map) {
          return mapChannels(pictureOf(map.data, map.width, 3), { height: size, width: size });
        }
        throw new FormatError(
          `Cannot train with concat.source = "map": "${key}" has no map; metadata name one ("map"), or NAME.map.png lies ` +
            `beside it`,
        );
      });
    },
  };
}

/** A picture with holes of chance. */
function holed({ size, channels, factor }: BesideForm, source: () => LatentSource): Beside {
  return {
    channels: besideChannels("mask", channels),
    async of(examples, seeds) {
      const masks = seeds.map((seed) => holesAt(size, seed));
      const rests = examples.map(({ picture: { data, width, height, channels } }, i) => {
        const isMissing = (pixel: number) => {
          const [x, y] = [pixel % width, Math.floor(pixel / width)];
          return masks[i][Math.floor(y / factor) * size + Math.floor(x / factor)] === 1;
        };
        return { data: emptied(data, channels, 0, isMissing), width, height, channels };
      });
      const latents = await source().fresh(rests);
      return masks.map((mask, i) => maskChannels(mask, latents[i]));
    },
  };
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
