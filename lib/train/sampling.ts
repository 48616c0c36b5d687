/** Pictures by a denoiser that is being trained. */

import type { Picture } from "../base/picture.ts";
import { torchCpu } from "../base/random.ts";
import { denoiser, type Predict } from "../diffusion/denoiser.ts";
import { planSampling, type SchedulerConfig } from "../diffusion/plan.ts";
import { sample } from "../diffusion/samplers.ts";
import type { LoadedFirstStage } from "../engine/load.ts";
import { toChannelsFirst, toChannelsLast } from "../engine/stages.ts";
import { pictureOf } from "./component.ts";

export interface SamplingSettings {
  readonly scheduler: SchedulerConfig;
  readonly steps: number;
  /** Of the noise, torch's. */
  readonly seed: number;
  /** Latents of a side. */
  readonly size: number;
}

/** A square picture by DDIM. `predict` sees and gives latents [h, w, c], guided where that is wanted. */
export async function samplePicture(
  predict: Predict,
  stage: Pick<LoadedFirstStage, "decode" | "factor" | "latentChannels">,
  { scheduler, steps, seed, size }: SamplingSettings,
): Promise<Picture> {
  const { latentChannels: channels, factor } = stage;
  const pixels = size * size;
  const plan = planSampling({ sampler: "ddim", steps, scheduler });
  const noise = torchCpu(seed);
  let x = toChannelsLast(noise.normal(channels * pixels), channels, pixels)
    .map((value) => value * plan.initialScale);
  const denoise = denoiser(plan.prediction, predict);
  for await (const step of sample(plan, denoise, x, { noise })) x = step.x;
  const data = toChannelsFirst(x, channels, pixels);
  const picture = await stage.decode({ data, channels, height: size, width: size });
  return pictureOf(picture.data.map((value) => 2 * value - 1), size * factor, 3);
}
