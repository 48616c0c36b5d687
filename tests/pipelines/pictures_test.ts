/**
 * Whole pictures: every entry of fixtures/make/pictures.py (diffusers' own pipelines, every sampler) made again here.
 * Two samplers can give nearly the same picture, so the latents are compared as well.
 */

import assert from "node:assert/strict";
import { loadModel } from "../../lib/engine/load.ts";
import { SafetensorsFile } from "../../lib/formats/safetensors.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { type TextToImage, textToImage } from "../../lib/pipelines/text_to_image.ts";
import { fixture } from "../fixture.ts";
import { entriesOf, type Entry, psnr, withScheduler } from "../pictures.ts";
import { nmse } from "../tolerance.ts";

/** Entries whose seed this tool's range (0 … 2³²−1) does not hold. */
const beyondSeeds = ({ seed }: Entry) => seed >= 2 ** 32;

function requestOf(entry: Entry): TextToImage {
  return {
    prompt: entry.prompt,
    ...(entry.negative_prompt !== null && { negativePrompt: entry.negative_prompt }),
    width: entry.width,
    height: entry.height,
    steps: entry.steps,
    cfgScale: entry.guidance,
    seed: entry.seed,
    sampler: entry.sampler,
    ...(entry.call.guidance_rescale !== undefined &&
      { guidanceRescale: entry.call.guidance_rescale }),
    ...(entry.call.eta !== undefined && { eta: entry.call.eta }),
  };
}

/** Picture in dB and latents in NMSE: f32 rounding through all steps; f16 rounding of the weights. */
const BOUNDS = {
  f32: { picture: 50, latents: 1e-7 },
  f16: { picture: 45, latents: 1e-3 },
} as const;

for (const family of ["sd1", "sd2", "sdxl", "lcm"]) {
  for (const weights of ["f32", "f16"] as const) {
    Deno.test(`textToImage makes diffusers' pictures with every sampler from the tiny ${family} model in ${weights}`, async (t) => {
      using golden = await SafetensorsFile.open(fixture(`goldens/pictures_${family}.safetensors`));
      const entries: Record<string, Entry> = entriesOf(golden);
      await using device = await openDevice();
      await using model = await loadModel(device, fixture(`tiny/${family}`), { weights });
      for (const [name, entry] of Object.entries(entries)) {
        if (beyondSeeds(entry)) continue;
        await t.step(name, async () => {
          const scheduler = { ...entry.scheduler, _class_name: entry.class };
          const asked = withScheduler(model, scheduler);
          for await (const event of textToImage(asked, requestOf(entry))) {
            if (event.kind !== "image") continue;
            const latents = nmse(event.latents.data, await golden.readTensor(`${name}.latents`));
            const picture = psnr(event.image.data, await golden.read(`${name}.picture`));
            const { [weights]: bound } = BOUNDS;
            assert.ok(latents <= bound.latents, `latents: NMSE ${latents.toExponential(2)}`);
            assert.ok(picture >= bound.picture, `picture: ${picture.toFixed(1)} dB`);
            return;
          }
          assert.fail("no picture was made");
        });
      }
    });
  }
}
