/** Latents as small pictures without a decoder: colours are nearly linear in a latent's channels. */

import type { Picture } from "../base/picture.ts";
import type { Latents, Model } from "../engine/model.ts";

type Family = Model["family"];

/** Red, green and blue, 0 … 1, of a latent's channels, and where they are all 0. */
interface Colours {
  readonly factors: readonly (readonly [number, number, number])[];
  readonly bias: readonly [number, number, number];
}

/** Least squares against TAESD's decoder by fixtures/make/preview.py, which explains 86 % of the colours' variance. */
const SD: Colours = {
  factors: [
    [0.1648, 0.1376, 0.1417],
    [0.0899, 0.1625, 0.0284],
    [-0.1126, 0.1053, 0.0856],
    [-0.1124, -0.0969, -0.3002],
  ],
  bias: [0.4985, 0.4624, 0.441],
};

/** The same for SDXL's latents: 84 %. */
const SDXL: Colours = {
  factors: [
    [0.1612, 0.1791, 0.2048],
    [-0.1294, 0.0243, 0.0283],
    [0.0366, 0.0992, -0.0582],
    [-0.1614, -0.0751, -0.105],
  ],
  bias: [0.5609, 0.5129, 0.5239],
};

const COLOURS: Readonly<Record<Family, Colours>> = { sd1: SD, sd2: SD, sdxl: SDXL };

/**
 * A picture of one pixel a latent. Channels beyond the fourth are not looked at: first stages of other widths have colours
 * of their own, and a preview of them is a guess.
 */
export function latentToRgb(
  { data, channels, height, width }: Latents,
  family: Model["family"],
): Picture {
  const { factors, bias } = COLOURS[family];
  const pixels = height * width;
  const bytes = new Uint8ClampedArray(pixels * 3);
  for (let i = 0; i < pixels; i++) {
    for (let c = 0; c < 3; c++) {
      let value = bias[c];
      for (let k = 0; k < Math.min(channels, factors.length); k++) {
        value += factors[k][c] * data[k * pixels + i];
      }
      bytes[i * 3 + c] = value * 255;
    }
  }
  return { width, height, channels: 3, data: new Uint8Array(bytes.buffer) };
}
