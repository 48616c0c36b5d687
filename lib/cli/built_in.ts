/** The model that is taken where no other is named: a folder beside cli.ts, beside the one JavaScript file, or in the executable. */

import { fileURLToPath } from "node:url";
import { UsageError } from "../base/errors.ts";

/** What -m calls it, and what its pictures say they were made with. */
export const BUILT_IN_NAME = "emoji";

/** Its folder. Throws `UsageError` where there is none. */
export function builtInPath(): string {
  const path = fileURLToPath(new URL(`fixtures/model/${BUILT_IN_NAME}`, Deno.mainModule));
  if (exists(path)) return path;
  throw new UsageError(
    "There is no model built in here: -m PATH names a .safetensors file or a diffusers folder",
  );
}

/** A path, or the built-in model by its name where nothing is called so. Throws `UsageError` where there is none. */
export function checkpointPath(name: string): string {
  return name === BUILT_IN_NAME && !exists(name) ? builtInPath() : name;
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}
