/**
 * Second pictures: one to make larger, one with a hole to fill, or a map. The result has the size that the picture asks
 * for, whatever it is: the picture is continued by its edges to a size that the first stage can take, and the result cut.
 */

import { UsageError } from "../base/errors.ts";
import { lumaOf, type Picture } from "../base/picture.ts";
import { emptied, lowChannels, mapAt, mapChannels, maskChannels } from "../engine/beside.ts";
import type { FloatPicture, Model, Tiling } from "../engine/model.ts";
import { toChannelsFirst, toChannelsLast } from "../engine/stages.ts";
import type { Rounding } from "./events.ts";
import { toBytes, toFloats } from "./first_stage.ts";

/** What a model is to see beside latents. */
export type SecondPicture =
  /** To be made larger. */
  | { readonly source: "low"; readonly picture: Picture }
  /** The colours of what lies where. */
  | { readonly source: "map"; readonly picture: Picture }
  | {
    readonly source: "mask";
    readonly picture: Picture;
    /** White is made anew, black stays; absent: what is transparent in the picture is made anew. */
    readonly mask?: Picture | undefined;
    /** Black stays to the bit, true where absent; false is all as the model gives it, where black is nearly what it was. */
    readonly keep?: boolean | undefined;
  };

type Source = SecondPicture["source"];

/** Pixels. */
interface Size {
  readonly width: number;
  readonly height: number;
}

/** What a model that sees something is for, and how it is asked. */
export const PURPOSES: Readonly<Record<Source, { readonly what: string; readonly how: string }>> = {
  low: { what: "makes small pictures large", how: "`ldm upscale` with a picture" },
  mask: { what: "fills holes in pictures", how: "`ldm inpaint` with a picture and a mask" },
  map: { what: "makes pictures of maps", how: "`ldm txt2img --map` with a map" },
};

/** What is wanted of a model that sees something. */
const WANTED: Readonly<Record<Source, string>> = {
  low: "make a picture larger",
  mask: "fill a hole in a picture",
  map: "make a picture of a map",
};

/** The size of what is asked for. Throws `UsageError` where the model sees something else. */
export function secondSize(
  { beside, path }: Model,
  second: SecondPicture | undefined,
): Size | undefined {
  const purpose = beside && PURPOSES[beside.source];
  if (!second) {
    if (!purpose) return undefined;
    throw new UsageError(
      `Cannot make a picture from text alone with "${path}", which ${purpose.what}: use ${purpose.how}`,
    );
  }
  const { source, picture: { width, height } } = second;
  if (source !== beside?.source) {
    const is = purpose ? `it ${purpose.what}` : "it sees no second picture";
    throw new UsageError(
      `Cannot ${WANTED[source]} with "${path}": ${is}; a model that ${
        PURPOSES[source].what
      } is needed`,
    );
  }
  const factor = beside.source === "low" ? beside.factor : 1;
  if (source === "mask") holesOf(second);
  return { width: width * factor, height: height * factor };
}

/** Throws `UsageError` where a size is asked for that the picture does not have; a map is drawn at any. */
export function checkSecondSize(second: SecondPicture | undefined, own: Size, asked: Size): void {
  if (!second || second.source === "map") return;
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

/** Channels [c, h, w] for the denoiser beside latents; `size` is the result's. */
export async function secondChannels(
  model: Model,
  second: SecondPicture,
  size: Size,
  tiling: Tiling,
): Promise<Float32Array> {
  const { factor, beside } = model;
  const padded = paddedSize(model, size);
  const latents = { width: padded.width / factor, height: padded.height / factor };
  const last = async () => {
    const { source, picture } = second;
    const flat = toBytes(toFloats(picture));
    switch (source) {
      case "low": {
        const times = beside?.source === "low" ? beside.factor : 1;
        const [width, height] = [padded.width / times, padded.height / times];
        return lowChannels(extended(flat, { width, height }), latents);
      }
      case "map":
        return mapChannels(extended(mapAt(flat, size), padded), latents);
      case "mask":
        return await holed(model, flat, holesOf(second), padded, tiling);
      default:
        return source satisfies never;
    }
  };
  const channels = await last();
  const pixels = latents.width * latents.height;
  return toChannelsFirst(channels, channels.length / pixels, pixels);
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

/** From this brightness on a mask is white, as in diffusers. */
const WHITE = 128;

/**
 * What is to be made anew, as a grey picture of 255 where it is and 0 elsewhere. Throws `UsageError` where nothing says it,
 * or nothing is to be done.
 */
function holesOf({ picture, mask }: Extract<SecondPicture, { source: "mask" }>): Picture {
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

/** [h, w, 1 + c]: of the mask the pixel in each latent's corner, as diffusers takes it. */
async function holed(
  model: Model,
  picture: Picture,
  holes: Picture,
  padded: Size,
  tiling: Tiling,
): Promise<Float32Array> {
  const { factor } = model;
  const { data: mask } = extended(holes, padded);
  const { data } = toFloats(extended(picture, padded));
  const rest = emptied(data, 3, 0.5, (pixel) => mask[pixel] > 0);
  const { channels, width, height, data: first } = await model.encodeImage(
    { data: rest, ...padded },
    { tiling },
  );
  const cells = Float32Array.from(
    { length: width * height },
    (_, i) =>
      mask[Math.floor(i / width) * factor * padded.width + (i % width) * factor] > 0 ? 1 : 0,
  );
  return maskChannels(cells, toChannelsLast(first, channels, width * height));
}

/** The result cut to its size, in numbers and in bytes; what was to stay is the picture's again. */
export function finished(
  floats: FloatPicture,
  second: SecondPicture | undefined,
  size: Size,
  rounding: Rounding,
): { readonly floats: FloatPicture; readonly image: Picture } {
  const cut = cutTo(floats, size);
  const image = toBytes(cut, rounding);
  if (second?.source !== "mask" || second.keep === false) return { floats: cut, image };
  const { data: holes } = holesOf(second);
  const before = toFloats(second.picture);
  return {
    floats: { ...cut, data: keep(cut.data, before.data, holes) },
    image: { ...image, data: keep(image.data, toBytes(before).data, holes) },
  };
}

function cutTo(picture: FloatPicture, { width, height }: Size): FloatPicture {
  if (width === picture.width && height === picture.height) return picture;
  const data = new Float32Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    const from = y * picture.width * 3;
    data.set(picture.data.subarray(from, from + width * 3), y * width * 3);
  }
  return { width, height, data };
}

/** Puts old pixels of three numbers in the place of new ones wherever there is no hole. */
function keep<T extends Float32Array | Uint8Array>(made: T, before: T, holes: Uint8Array): T {
  for (let i = 0; i < made.length; i++) {
    if (holes[Math.floor(i / 3)] === 0) made[i] = before[i];
  }
  return made;
}
