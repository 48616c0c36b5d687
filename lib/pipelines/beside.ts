/**
 * Second pictures: one to make larger, one with a hole to fill, a map, or one that the walk begins with. The result has the
 * size that the picture asks for, whatever it is: the picture is continued by its edges to a size that the first stage can
 * take, and the result cut.
 */

import { UsageError } from "../base/errors.ts";
import type { Picture } from "../base/picture.ts";
import { emptied, lowChannels, mapAt, mapChannels, pictureAt } from "../engine/beside.ts";
import type { BesideSource, Encoded, Model, Tiling } from "../engine/model.ts";
import { toChannelsFirst } from "../engine/stages.ts";
import type { Sees } from "./events.ts";
import { toBytes, toFloats } from "./first_stage.ts";
import { cellsOf, type HoledPicture, holesOf } from "./holes.ts";

/** What a picture is made of beside words. */
export type SecondPicture =
  /** To be made larger. */
  | { readonly source: "low"; readonly picture: Picture }
  /** The colours of what lies where. */
  | { readonly source: "map"; readonly picture: Picture }
  /** To be changed, by any model that makes pictures from text alone: the walk begins with it and some noise. */
  | { readonly source: "start"; readonly picture: Picture }
  /** To be filled, by a model for that, or by any that makes pictures from text alone. */
  | HoledPicture;

/** Pixels. */
interface Size {
  readonly width: number;
  readonly height: number;
}

/** What a model that sees something is for, and how it is asked. */
export const PURPOSES: Readonly<
  Record<BesideSource, { readonly what: string; readonly how: string }>
> = {
  low: { what: "makes small pictures large", how: "`ldm upscale` with a picture" },
  mask: { what: "fills holes in pictures", how: "`ldm inpaint` with a picture and a mask" },
  map: { what: "makes pictures of maps", how: "`ldm txt2img --map` with a map" },
};

/** What is wanted of a model. */
const WANTED: Readonly<Record<Sees, string>> = {
  low: "make a picture larger",
  mask: "fill a hole in a picture",
  map: "make a picture of a map",
  start: "change a picture",
};

/** Whether a model that sees nothing beside latents can do it as well. */
const IS_ANYBODYS: Readonly<Record<Sees, boolean>> = {
  low: false,
  mask: true,
  map: false,
  start: true,
};

/** What is asked of a model of a size, as far as it is. */
interface Asked {
  readonly width?: number | undefined;
  readonly height?: number | undefined;
}

/** The size of what is asked for. Throws `UsageError` where the model sees something else. */
export function secondSize(
  { beside, path }: Model,
  second: SecondPicture | undefined,
  asked: Asked,
): Size | undefined {
  const purpose = beside && PURPOSES[beside.source];
  if (!second) {
    if (!purpose) return undefined;
    throw new UsageError(
      `Cannot make a picture from text alone with "${path}", which ${purpose.what}: use ${purpose.how}`,
    );
  }
  const { source, picture } = second;
  if (source === "start") {
    if (!purpose) return fitted(picture, asked);
    throw new UsageError(
      `Cannot ${WANTED.start} with "${path}", which ${purpose.what}: use ${purpose.how}`,
    );
  }
  if (beside ? source !== beside.source : !IS_ANYBODYS[source]) {
    const is = purpose ? `it ${purpose.what}` : "it sees no second picture";
    throw new UsageError(
      `Cannot ${WANTED[source]} with "${path}": ${is}; a model that ${
        PURPOSES[source].what
      } is needed`,
    );
  }
  const factor = beside?.source === "low" ? beside.factor : 1;
  if (source === "mask") holesOf(second);
  return { width: picture.width * factor, height: picture.height * factor };
}

/** A picture's size; where one side is asked for, the other one as far as its shape asks. */
function fitted({ width, height }: Size, asked: Asked): Size {
  const side = (own: number, times: number) => Math.max(1, Math.round(own * times));
  return {
    width: asked.height === undefined ? width : side(width, asked.height / height),
    height: asked.width === undefined ? height : side(height, asked.width / width),
  };
}

/** Throws `UsageError` where a size is asked for that the picture does not have; a map and a beginning are drawn at any. */
export function checkSecondSize(second: SecondPicture | undefined, own: Size, asked: Size): void {
  if (!second || second.source === "map" || second.source === "start") return;
  if (own.width === asked.width && own.height === asked.height) return;
  throw new UsageError(
    `Cannot ${
      WANTED[second.source]
    } of ${second.picture.width}×${second.picture.height} pixels at ` +
      `${asked.width}×${asked.height}: it gives ${own.width}×${own.height}; leave out width and height`,
  );
}

/** The size of a result continued to what the first stage can take, in whole pixels of the picture. */
export function paddedSize({ beside, factor }: Model, { width, height }: Size): Size {
  const step = beside?.source === "low" ? beside.factor : 1;
  const padded = (side: number) => {
    let next = side;
    while (next % factor !== 0) next += step;
    return next;
  };
  return { width: padded(width), height: padded(height) };
}

/** A second picture in latents, of the same size. */
export interface SeenLatents {
  /** The picture itself. */
  readonly picture?: Encoded;
  /** 1 where something is made anew, 0 elsewhere [h, w]. */
  readonly holes?: Float32Array;
  /** The picture with grey in its hole, which is channels for the denoiser. */
  readonly rest?: Encoded;
  /** Channels [c, h, w] for the denoiser beside latents. */
  readonly channels?: Float32Array;
}

/** What is needed of a second picture in latents. `size` is the result's; `whole`: the picture itself as well. */
export async function seenLatents(
  model: Model,
  second: SecondPicture,
  { size, tiling, whole }: {
    readonly size: Size;
    readonly tiling: Tiling;
    readonly whole: boolean;
  },
): Promise<SeenLatents> {
  const { factor, beside } = model;
  const padded = paddedSize(model, size);
  const latents = { width: padded.width / factor, height: padded.height / factor };
  const flat = toBytes(toFloats(second.picture));
  const channels = (last: Float32Array) => {
    const pixels = latents.width * latents.height;
    return { channels: toChannelsFirst(last, last.length / pixels, pixels) };
  };
  const encoded = (picture: Picture) => model.encodeImage(toFloats(picture), { tiling });
  switch (second.source) {
    case "low": {
      const times = beside?.source === "low" ? beside.factor : 1;
      const small = { width: padded.width / times, height: padded.height / times };
      return channels(lowChannels(extended(flat, small), latents));
    }
    case "map":
      return channels(mapChannels(extended(mapAt(flat, size), padded), latents));
    case "start":
      return { picture: await encoded(extended(pictureAt(flat, size), padded)) };
    case "mask": {
      const mask = extended(holesOf(second), padded);
      const all = extended(flat, padded);
      return {
        holes: cellsOf(mask, factor),
        ...(whole && { picture: await encoded(all) }),
        ...(beside && { rest: await model.encodeImage(emptiedBy(mask, all), { tiling }) }),
      };
    }
    default:
      return second satisfies never;
  }
}

function emptiedBy(mask: Picture, picture: Picture) {
  const { data, width, height } = toFloats(picture);
  return { width, height, data: emptied(data, 3, 0.5, (pixel) => mask.data[pixel] > 0) };
}

/** A picture continued to the right and below by its last pixels. */
function extended(picture: Picture, { width, height }: Size): Picture {
  if (width === picture.width && height === picture.height) return picture;
  const { channels } = picture;
  const data = new Uint8Array(width * height * channels);
  for (let y = 0, to = 0; y < height; y++) {
    const row = Math.min(y, picture.height - 1) * picture.width;
    for (let x = 0; x < width; x++, to += channels) {
      const from = (row + Math.min(x, picture.width - 1)) * channels;
      data.set(picture.data.subarray(from, from + channels), to);
    }
  }
  return { width, height, channels, data };
}
