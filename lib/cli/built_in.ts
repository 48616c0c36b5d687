/** The model that is taken where no other is named: a folder beside cli.ts, beside the one JavaScript file, or in the executable. */

import { fileURLToPath } from "node:url";
import { UsageError } from "../base/errors.ts";

/** What -m calls it, and what its pictures say they were made with. */
export const BUILT_IN_NAME = "emoji";

/** Its folder. Throws `UsageError` where there is none. */
export function builtInPath(): string {
  const path = fileURLToPath(new URL(`fixtures/model/${BUILT_IN_NAME}`, Deno.mainModule));
  try {
    Deno.statSync(path);
  } catch {
    throw new UsageError(
      "There is no model built in yet: -m PATH names a .safetensors file or a diffusers folder",
    );
  }
  return path;
}

/** A path, or the built-in model by its name. Throws `UsageError` where there is none. */
export function checkpointPath(name: string): string {
  return name === BUILT_IN_NAME ? builtInPath() : name;
}
