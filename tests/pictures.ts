/** What fixtures/make/pictures.py recorded of whole pictures, and how near a picture is to another. */

import assert from "node:assert/strict";
import type { Model } from "../lib/engine/model.ts";
import type { SafetensorsFile } from "../lib/formats/safetensors.ts";

/** One picture by diffusers. */
export interface Entry {
  readonly sampler: string;
  readonly height: number;
  readonly width: number;
  readonly steps: number;
  readonly guidance: number;
  readonly seed: number;
  readonly prompt: string;
  readonly negative_prompt: string | null;
  readonly call: Readonly<Record<string, number>>;
  readonly scheduler: Readonly<Record<string, unknown>>;
  readonly class: string;
}

/** The entries of a golden. Python writes infinities (σ of zero-terminal SNR) as JSON does not. */
export function entriesOf({ metadata }: SafetensorsFile): Record<string, Entry> {
  return JSON.parse((metadata.get("entries") ?? "{}").replaceAll(/-?Infinity/g, "null"));
}

/** Peak signal-to-noise ratio of 8-bit pictures in dB. */
export function psnr(actual: Uint8Array, expected: Uint8Array): number {
  assert.equal(actual.length, expected.length);
  const error = expected.reduce((sum, v, i) => sum + (v - actual[i]) ** 2, 0) / expected.length;
  return error === 0 ? Infinity : 10 * Math.log10(255 ** 2 / error);
}

/** The same model under another scheduler_config.json. */
export function withScheduler(model: Model, scheduler: unknown): Model {
  return {
    ...model,
    scheduler,
    encodeText: (prompts, clipSkip) => model.encodeText(prompts, clipSkip),
    denoiser: (size) => model.denoiser(size),
    decodeImage: (latents, options) => model.decodeImage(latents, options),
    useLoras: (choices) => model.useLoras(choices),
    encodeImage: (picture, options) => model.encodeImage(picture, options),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
