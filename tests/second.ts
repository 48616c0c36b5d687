/** Pictures made of second pictures as fixtures/make recorded them of diffusers, made again here. */

import assert from "node:assert/strict";
import type { Model } from "../lib/engine/model.ts";
import type { SafetensorsFile } from "../lib/formats/safetensors.ts";
import type { SecondPicture } from "../lib/pipelines/beside.ts";
import { textToImage } from "../lib/pipelines/text_to_image.ts";
import { type Entry, psnr, withScheduler } from "./pictures.ts";
import { nmse } from "./tolerance.ts";

/** The picture of an entry. */
export async function madeOf(model: Model, entry: Entry, second: SecondPicture) {
  const asked = withScheduler(model, { ...entry.scheduler, _class_name: entry.class });
  const request = {
    ...{ prompt: entry.prompt, steps: entry.steps, cfgScale: entry.guidance, seed: entry.seed },
    ...(entry.negative_prompt !== null && { negativePrompt: entry.negative_prompt }),
    ...(entry.call.strength !== undefined && { strength: entry.call.strength }),
    sampler: entry.sampler,
    second,
  };
  for await (const event of textToImage(asked, request)) if (event.kind === "image") return event;
  return assert.fail("no picture was made");
}

/** Fails where it is not diffusers': f32 rounding through all steps is allowed. */
export async function isDiffusers(
  { image, latents }: Awaited<ReturnType<typeof madeOf>>,
  golden: SafetensorsFile,
  name: string,
): Promise<void> {
  const distance = nmse(latents.data, await golden.readTensor(`${name}.latents`));
  const picture = psnr(image.data, await golden.read(`${name}.picture`));
  assert.ok(distance <= 1e-7, `latents: NMSE ${distance.toExponential(2)}`);
  assert.ok(picture >= 50, `picture: ${picture.toFixed(1)} dB`);
}
