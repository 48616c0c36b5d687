/** A device and a model for a command, with the news of their loading, freed when the command is done. */

import { UsageError } from "../base/errors.ts";
import type { LoadOptions } from "../engine/model.ts";
import { tunedTable } from "../engine/tuning.ts";
import { type Device, openDevice } from "../gpu/device.ts";
import type { ModelOptions } from "./options.ts";
import { duration, fileSize, type Progress } from "./progress.ts";
import { printJson } from "./terminal.ts";

/** Which checkpoint, by options. Throws `UsageError` where there is none. */
export function modelPath({ model, vae, taesd }: ModelOptions): string {
  if (vae !== undefined && taesd !== undefined) {
    throw new UsageError("Cannot use --vae and --taesd together: both replace the first stage");
  }
  if (model !== undefined) return model;
  throw new UsageError(
    "There is no model built in yet: -m PATH names a .safetensors file or a diffusers folder",
  );
}

/** The model for the first stage alone: --vae or --taesd may stand for it. */
export function firstStagePath(options: ModelOptions): string {
  const { model, vae, taesd } = options;
  return model === undefined && (vae === undefined || taesd === undefined)
    ? vae ?? taesd ?? modelPath(options)
    : modelPath(options);
}

/** Loads something from a path to a device. */
type Load<T> = (device: Device, path: string, options: LoadOptions) => Promise<T>;

/** What is told of what was loaded. */
interface Loaded {
  readonly warnings: readonly string[];
  readonly family?: string;
}

/** Opens the device, loads, tells what loading noticed, runs `work` and frees everything. */
export async function withLoaded<T extends Loaded & (Disposable | AsyncDisposable)>(
  load: Load<T>,
  path: string,
  options: ModelOptions,
  progress: Progress,
  work: (model: T) => Promise<void>,
): Promise<void> {
  const start = performance.now();
  const { memoryBudget, dtype, vae, taesd, tuned } = options;
  await using device = await openDevice({
    ...(memoryBudget !== undefined && { memoryBudget: memoryBudget * 2 ** 20 }),
    ...(tuned && { table: tunedTable((message) => progress.warn(message)) }),
  });
  progress.detail(`device: ${device.name}`);
  const opened = performance.now();
  let bytes = 0;
  await using model = await load(device, path, {
    ...(vae !== undefined && vae !== path && { vae }),
    ...(taesd !== undefined && taesd !== path && { taesd }),
    ...(dtype !== undefined && { weights: dtype }),
    progress(done, of) {
      bytes = of;
      progress.show("loading", done, of, `${fileSize(done)} of ${fileSize(of)}`);
    },
  });
  const now = performance.now();
  progress.clear();
  progress.detail(`loaded ${fileSize(bytes)} of ${path} in ${duration(now - opened)}`);
  if (options.json) {
    await printJson({
      event: "load",
      model: path,
      family: model.family,
      device: device.name,
      bytes,
      seconds: seconds(now - start),
    });
  }
  for (const message of model.warnings) {
    progress.warn(message);
    if (options.json) await printJson({ event: "warning", message });
  }
  await work(model);
  const peak = Math.ceil(device.memory.peak / 2 ** 20);
  progress.detail(`GPU memory: at most ${peak} MiB`);
}

/** Milliseconds as seconds for a machine. */
export function seconds(milliseconds: number): number {
  return Math.round(milliseconds) / 1000;
}
