/** The first stage alone: pictures to latents and back (Rombach et al. 2022, section 3.1). */

import { OverflowError, UsageError } from "../base/errors.ts";
import type { FloatPicture, Latents, Model, Tiling } from "../engine/model.ts";
import type { Picture, PipelineEvent, Rounding } from "./events.ts";

/** A part of the work is done: this many of so many tiles. */
export type Report = (done: number, of: number) => void;

/**
 * The latents of a picture in the denoiser's scale: the mean of the encoder's distribution, so that the same picture
 * always gives the same latents. Transparency is laid over white. Throws `UsageError` where a side is not a multiple of
 * the first stage's factor.
 */
export async function encodePicture(
  stage: { readonly factor: number; readonly encode: Model["encodeImage"] },
  picture: Picture,
  tiling: Tiling = "auto",
  report: Report = () => {},
): Promise<Latents> {
  requireFactor(picture, stage.factor);
  return await stage.encode(toFloats(picture), { tiling, progress: report });
}

/** Throws `UsageError` where a side of a picture is not a multiple of the first stage's factor. */
export function requireFactor({ width, height }: Size, factor: number): void {
  if (width % factor === 0 && height % factor === 0) return;
  throw new UsageError(
    `Cannot encode a picture of ${width}×${height} pixels: both sides must be multiples of ` +
      `${factor}; crop it to ${floor(width, factor)}×${floor(height, factor)} first`,
  );
}
type Size = Pick<Picture, "width" | "height">;

const floor = (n: number, factor: number) => Math.max(factor, Math.floor(n / factor) * factor);

/** Decodes latents, yielding progress. Throws `OverflowError` where the picture's numbers are not finite. */
export async function* decodeLatents(
  decode: Model["decodeImage"],
  latents: Latents,
  tiling: Tiling = "auto",
  image = 0,
): AsyncGenerator<PipelineEvent, FloatPicture, undefined> {
  const reports: { done: number; of: number }[] = [];
  let wake = () => {};
  const progress: Report = (done, of) => {
    reports.push({ done, of });
    wake();
  };
  const work = decode(latents, { tiling, progress });
  // the callback's news become this generator's events while the work goes on
  const end = work.then(() => true, () => true);
  for (let finished = false; !finished;) {
    const news = new Promise<false>((resolve) => wake = () => resolve(false));
    if (reports.length === 0) finished = await Promise.race([end, news]);
    for (const report of reports.splice(0)) yield { kind: "decode", image, ...report };
  }
  const picture = await work;
  requireFinite(picture.data, "a picture of latents", "decoding;");
  return picture;
}

/** Throws `OverflowError`: what is no number would be black, and nobody would know why. `after`: what gave it, and a remedy. */
export function requireFinite(numbers: Float32Array, what: string, after: string): void {
  if (numbers.every(Number.isFinite)) return;
  throw new OverflowError(
    `Cannot make ${what}: its numbers are not finite after ${after} --dtype f32 may help`,
  );
}

/**
 * A picture of 8 bits: 255·x in f32, clamped; rounded half to even, which is diffusers' way and that of clamped arrays, or
 * truncated. NaN is 0.
 */
export function toBytes(
  { data, width, height }: FloatPicture,
  rounding: Rounding = "round",
): Picture {
  const bytes = new Uint8ClampedArray(data.length);
  const whole = rounding === "round" ? (value: number) => value : Math.floor;
  for (let i = 0; i < data.length; i++) bytes[i] = whole(Math.fround(data[i] * 255));
  return { width, height, channels: 3, data: new Uint8Array(bytes.buffer) };
}

/** Bytes to 0 … 1; grey is repeated, transparency laid over white. */
export function toFloats({ data, width, height, channels }: Picture): FloatPicture {
  const pixels = width * height;
  const out = new Float32Array(pixels * 3);
  for (let i = 0; i < pixels; i++) {
    const at = i * channels;
    const alpha = channels === 4 ? data[at + 3] / 255 : 1;
    for (let c = 0; c < 3; c++) {
      const value = data[channels === 1 ? at : at + c] / 255;
      out[i * 3 + c] = value * alpha + 1 - alpha;
    }
  }
  return { data: out, width, height };
}
