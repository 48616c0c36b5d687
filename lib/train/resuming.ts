/** What may not change between the beginning of a run and going on with it. */

import { join } from "node:path";
import { counted } from "../base/counted.ts";
import { UsageError } from "../base/errors.ts";
import { isFile } from "../formats/reading.ts";
import { readSettingsFile } from "../formats/settings.ts";

/** What a run is to go on with. */
export interface Resumed {
  readonly folder: string;
  readonly seed: number;
  readonly steps: number;
}

/**
 * Throws `UsageError` for fewer steps than the `done` ones, and for another seed than the run's own settings have: what comes
 * would not follow from what was.
 */
export async function checkResumed({ folder, seed, steps }: Resumed, done: number): Promise<void> {
  if (steps < done) {
    throw new UsageError(
      `Cannot resume "${folder}" with run.steps=${steps}: ${counted(done, "step")} of it ${
        done === 1 ? "is" : "are"
      } done, so that nothing is left; ask for more`,
    );
  }
  const began = await seedOf(join(folder, "config.toml"));
  if (began === undefined || began === seed) return;
  throw new UsageError(
    `Cannot resume "${folder}" with run.seed=${seed}: it began with ${began}, from which its order and noise follow; ` +
      `leave run.seed out, or begin anew in another folder`,
  );
}

/** The seed in a run's settings; `undefined` where they are gone, or do not say. Throws `FileError` and `FormatError`. */
async function seedOf(path: string): Promise<number | undefined> {
  if (!await isFile(path)) return undefined;
  const { run } = (await readSettingsFile(path)).values;
  if (typeof run !== "object" || run === null || !("seed" in run)) return undefined;
  return typeof run.seed === "number" ? run.seed : undefined;
}
