/**
 * How a model that was trained here is best asked, as its model_index.json says it under "_defaults": diffusers passes over
 * names that begin so.
 */

import { FormatError } from "../base/errors.ts";
import type { Defaults } from "./family.ts";
import { fieldOf } from "./field.ts";

/** What a training run knows: its own samples were made so. */
export type OwnDefaults = Pick<Defaults, "steps" | "cfgScale">;

/** Entries for model_index.json. */
export function ownDefaultsJson({ steps, cfgScale }: OwnDefaults): Record<string, unknown> {
  return { _defaults: { steps, cfg_scale: cfgScale } };
}

/** What a pipeline's index says; nothing where it does not. Throws `FormatError` for what makes no sense. */
export function ownDefaults(index: unknown, path: string): Partial<OwnDefaults> {
  const said = fieldOf(index, "_defaults");
  if (said === undefined) return {};
  const [steps, cfgScale] = [fieldOf(said, "steps"), fieldOf(said, "cfg_scale")];
  if (
    typeof steps !== "number" || !Number.isInteger(steps) || steps < 1 ||
    typeof cfgScale !== "number" || cfgScale < 0
  ) {
    throw new FormatError(
      `Cannot use the model_index.json in "${path}": "_defaults" is ${JSON.stringify(said)}, ` +
        `expected steps, a positive whole number, and cfg_scale, 0 or more`,
    );
  }
  return { steps, cfgScale };
}
