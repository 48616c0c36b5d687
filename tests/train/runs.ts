/** What a run's settings say to its examples and its loop, for tests that make runs of seconds. */

import type { Device } from "../../lib/gpu/device.ts";
import type { AutoencoderConfig, DiffusionConfig, LoraConfig } from "../../lib/train/config.ts";
import type { Dataset } from "../../lib/train/dataset.ts";
import { type ExampleOptions, examples, type ReadyExample } from "../../lib/train/examples.ts";
import type { LoopOptions } from "../../lib/train/loop.ts";
import type { Position } from "../../lib/train/order.ts";

type Config = AutoencoderConfig | DiffusionConfig | LoraConfig;

/** The run's examples in RGB, from a position on. */
export const examplesOf =
  (dataset: Dataset, { data, run }: Config, more: Partial<ExampleOptions> = {}) =>
  (position?: Position): AsyncGenerator<ReadyExample> =>
    examples(dataset, {
      ...{ width: data.size, height: data.size, channels: 3, seed: run.seed, position },
      ...{ crop: data.crop, flip: data.flip, filter: data.filter },
      ...more,
    });

/** `printed`: the settings as the run's folder keeps them. All checkpoints are kept. */
export function loopOptions(
  { run, optimizer, sample }: Config,
  printed: string,
  device: Device,
  more: Partial<LoopOptions> = {},
): LoopOptions {
  const { lr, schedule, warmup, final } = optimizer;
  return {
    ...{ folder: run.folder, config: printed, seed: run.seed, steps: run.steps },
    ...{ batch: optimizer.batch, accumulate: optimizer.accumulate },
    rate: { lr, schedule, warmup, final },
    ...{ saveEvery: run.save_every, keep: 0, sampleEvery: sample.every },
    resume: false,
    memory: () => device.memory.live,
    ...more,
  };
}
