/** The tensors of a model under the names that single files give them: the way back of `checkpoint.ts`, by the same tables. */

import { FormatError } from "../base/errors.ts";
import { joined } from "./changes.ts";
import {
  type Change,
  type ComponentName,
  type Family,
  type Naming,
  PLACES,
  toOriginal,
} from "./keys.ts";
import type { TensorData } from "./safetensors.ts";

/** Where a component's tensors stand in a single file. */
export interface FilePlace {
  /** Before every name. */
  readonly prefix: string;
  readonly naming: Naming;
}

/** The place of a component in a family's checkpoints; `undefined` where these have none. */
export function placeOf(component: ComponentName, family: Family): FilePlace | undefined {
  const place = PLACES.find(({ component: name, written }) =>
    name === component && written.families.includes(family)
  );
  return place && { prefix: place.prefix, naming: place.written.naming };
}

/** How a component in a file of its own is named, without prefixes; a conditioner has no such file. */
export const ALONE: Readonly<Partial<Record<ComponentName, Naming>>> = {
  text_encoder: "clip",
  text_encoder_2: "clip",
  unet: "unet",
  vae: "vae",
  taesd_encoder: "taesd_encoder",
  taesd_decoder: "taesd_decoder",
};

/**
 * A component's tensors, given under diffusers' names, as a single file has them: some become one, each made when it is
 * written. Throws `FormatError` for what has no name there.
 */
export function originalTensors(
  tensors: readonly TensorData[],
  { prefix, naming }: FilePlace,
): TensorData[] {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const { relations, unknown } = toOriginal(naming, [...byName.keys()]);
  if (unknown.length > 0) {
    throw new FormatError(
      `Cannot put "${
        unknown[0]
      }" into a single file: these have no name for it (of ${unknown.length} such); a folder holds it`,
    );
  }
  const groups = new Map<string, { tensor: TensorData; change: Change | undefined }[]>();
  for (const { original, diffusers, change } of relations) {
    const tensor = byName.get(diffusers);
    if (!tensor) throw new TypeError(`"${diffusers}" was not asked for`);
    const group = groups.get(original) ?? [];
    groups.set(original, [...group, { tensor, change }]);
  }
  return [...groups].map(([original, parts]) => joined(`${prefix}${original}`, parts));
}
