/** A device and a model for a command, with the news of their loading, freed when the command is done. */

import { UsageError } from "../base/errors.ts";
import type { LoadOptions, MemoryPlan, ReadProgress } from "../engine/model.ts";
import { tunedTable } from "../engine/tuning.ts";
import { type Device, type DeviceOptions, mib, openDevice } from "../gpu/device.ts";
import { BUILT_IN_NAME, checkpointPath } from "./built_in.ts";
import type { ModelOptions } from "./options.ts";
import { duration, fileSize, type Progress } from "./progress.ts";
import { printJson, printJsonSync } from "./terminal.ts";

/** Which checkpoint, by options; where they name none, the built-in one. Throws `UsageError`. */
export function modelPath({ model, vae, taesd }: ModelOptions): string {
  if (vae !== undefined && taesd !== undefined) {
    throw new UsageError("Cannot use --vae and --taesd together: both replace the first stage");
  }
  return checkpointPath(model ?? BUILT_IN_NAME);
}

/** The model for the first stage alone: --vae or --taesd may stand for it. */
export function firstStagePath(options: ModelOptions): string {
  const { model, vae, taesd } = options;
  return model === undefined && (vae === undefined || taesd === undefined)
    ? vae ?? taesd ?? modelPath(options)
    : modelPath(options);
}

type Lifetime = NonNullable<LoadOptions["lifetime"]>;

/** Loads something from a path to a device. */
type Load<T> = (device: Device, path: string, options: LoadOptions) => Promise<T>;

/** What is told of what was opened. */
interface Loaded {
  readonly warnings: readonly string[];
  readonly family?: string;
  readonly fileBytes: number;
}

/**
 * Opens the device and a model, tells what that noticed, runs `work` and frees everything. A model that is used again and
 * again lives as long as "model".
 */
export async function withLoaded<T extends Loaded & (Disposable | AsyncDisposable)>(
  load: Load<T>,
  path: string,
  options: ModelOptions,
  progress: Progress,
  work: (model: T, device: Device) => Promise<void>,
  lifetime: Lifetime = "run",
): Promise<void> {
  const start = performance.now();
  const { dtype, vae, taesd } = options;
  await using device = await openDevice(deviceOptions(options, progress));
  progress.detail(`device: ${device.name}`);
  await using model = await load(device, path, {
    ...(vae !== undefined && vae !== path && { vae }),
    ...(taesd !== undefined && taesd !== path && { taesd }),
    ...(dtype !== undefined && { weights: dtype }),
    lifetime,
    progress: reading(options, progress),
  });
  if (options.json) {
    await printJson({
      event: "load",
      model: path,
      family: model.family,
      device: device.name,
      bytes: model.fileBytes,
      seconds: seconds(performance.now() - start),
    });
  }
  for (const message of model.warnings) {
    progress.warn(message);
    if (options.json) await printJson({ event: "warning", message });
  }
  await work(model, device);
  const peak = Math.ceil(device.memory.peak / 2 ** 20);
  progress.detail(`GPU memory: at most ${peak} MiB`);
}

/** How the device is opened. */
export function deviceOptions(
  { memoryBudget, tuned }: Pick<ModelOptions, "memoryBudget" | "tuned">,
  progress: Progress,
): DeviceOptions {
  return {
    ...(memoryBudget !== undefined && { memoryBudget: memoryBudget * 2 ** 20 }),
    ...(tuned && { table: tunedTable((message) => progress.warn(message)) }),
  };
}

/** Tells how a part is read, whenever one is; a machine hears of it when it wants details. */
function reading({ json, verbose }: ModelOptions, progress: Progress): ReadProgress {
  let since = 0;
  return (done, of, part) => {
    if (done === 0) since = performance.now();
    progress.show(`loading ${part}`, done, of, `${fileSize(done)} of ${fileSize(of)}`);
    if (done < of) return;
    const elapsed = performance.now() - since;
    progress.clear();
    progress.detail(`loaded ${part}: ${fileSize(of)} in ${duration(elapsed)}`);
    if (json && verbose) {
      printJsonSync({ event: "part", part, bytes: of, seconds: seconds(elapsed) });
    }
  };
}

/** What a run takes on the device, a line a stage. */
export function describeMemory({ stages, peak, turns }: MemoryPlan): string[] {
  const lines = stages.map(({ part, weights, beside, activations, kept }) => {
    const others = beside > 0 ? ` + ${mib(beside)} MiB of other weights` : "";
    const stay = kept > 0 ? ` + ${mib(kept)} MiB that stay of other parts` : "";
    const sum = mib(weights + beside + activations + kept);
    return `memory of ${part}: ${mib(weights)} MiB of weights${others} + ${
      mib(activations)
    } MiB of activations${stay} = ${sum} MiB`;
  });
  const how = turns ? "parts take turns on the device" : "parts stay while they are needed";
  return [...lines, `memory planned: at most ${mib(peak)} MiB; ${how}`];
}

/** Milliseconds as seconds for a machine. */
export function seconds(milliseconds: number): number {
  return Math.round(milliseconds) / 1000;
}
