/** Pictures by a denoiser that is being trained. */

import type { Picture } from "../base/picture.ts";
import { torchCpu } from "../base/random.ts";
import { denoiser, guide, type Predict } from "../diffusion/denoiser.ts";
import { planSampling, type SchedulerConfig } from "../diffusion/plan.ts";
import { sample } from "../diffusion/samplers.ts";
import type { LoadedFirstStage } from "../engine/load.ts";
import type { Program } from "../gpu/program.ts";
import { toChannelsFirst, toChannelsLast } from "../engine/stages.ts";
import { pictureOf } from "./component.ts";
import type { Inputs } from "./trainer.ts";

export interface SamplingSettings {
  readonly scheduler: SchedulerConfig;
  readonly steps: number;
  /** Of the noise, torch's. */
  readonly seed: number;
  /** Latents of a side. */
  readonly size: number;
}

/** Rows of a denoiser's batch: under guidance what is told nothing, then what is told; else the latter alone. */
export function rowsOf(cfgScale: number): 1 | 2 {
  return cfgScale === 1 || cfgScale === 0 ? 1 : 2;
}

/**
 * What a program of inputs "sample" and "timestep" predicts, as "prediction" of `rowsOf(cfgScale)` rows, brought to one by
 * guidance. `told`: its other inputs.
 */
export function predictionOf(program: Program, told: Inputs, cfgScale: number): Predict {
  const rows = rowsOf(cfgScale);
  return async (sample, t) => {
    const timestep = new Float32Array(rows).fill(t);
    const result = (await program.run({ ...told, sample, timestep })).get("prediction");
    if (!result) throw new TypeError("The denoiser returned nothing");
    if (rows === 1) return result;
    const half = result.length / 2;
    return guide(result.slice(0, half), result.slice(half), cfgScale);
  };
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
