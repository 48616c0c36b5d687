/**
 * What a denoiser sees beside noisy latents, pixel for pixel (Rombach et al. 2022, section 3.3, "concatenation"): a small
 * picture of what it is to make large, a picture with a hole, or a map of what lies where.
 */

import { FormatError } from "../base/errors.ts";
import { fieldOf } from "./field.ts";
import type { UnetConfig } from "./unet.ts";

/** What can be seen. */
export type BesideSource = "low" | "mask" | "map";
/** All of it. */
export const BESIDE_SOURCES: readonly BesideSource[] = ["low", "mask", "map"];

/** Channels of a source; `latents`: numbers of one latent. */
const CHANNELS: Readonly<Record<BesideSource, (latents: number) => number>> = {
  low: () => 3,
  mask: (latents) => 1 + latents,
  map: () => 3,
};

/** What a denoiser sees beside latents. */
export type Beside =
  /** A picture `factor` times smaller along each side. */
  | { readonly source: "low"; readonly factor: number }
  | { readonly source: "mask" | "map" };

/** Channels beside `latents` of them. */
export function besideChannels(source: BesideSource, latents: number): number {
  return CHANNELS[source](latents);
}

/**
 * What a denoiser sees: what the pipeline's index says under "concat", else by channels. One more than twice the latents'
 * is diffusers' and everybody's inpainting model: latents, mask, latents of the picture without what is masked. `undefined`
 * where it sees nothing. Throws `FormatError` for channels that nothing explains.
 */
export function besideOf(
  index: unknown,
  { inChannels, outChannels }: Pick<UnetConfig, "inChannels" | "outChannels">,
  path: string,
): Beside | undefined {
  const said = fieldOf(index, "concat");
  if (said === undefined && inChannels === outChannels) return undefined;
  const beside = said === undefined ? { source: "mask" as const } : besideFromJson(said, path);
  const channels = outChannels + besideChannels(beside.source, outChannels);
  if (channels === inChannels) return beside;
  const what = `Cannot make pictures with "${path}": its UNet takes ${inChannels} channels`;
  throw new FormatError(
    said === undefined
      ? `${what} and returns ${outChannels}, so it is an editing model or another one that sees more than latents; ` +
        `a text-to-image or inpainting checkpoint is needed, or one that was trained here`
      : `${what}, and with what "concat" of its model_index.json says it must take ${channels}`,
  );
}

function besideFromJson(json: unknown, path: string): Beside {
  const named = fieldOf(json, "source");
  const source = BESIDE_SOURCES.find((each) => each === named);
  const factor = fieldOf(json, "factor");
  if (source !== undefined && source !== "low") return { source };
  if (source === "low" && typeof factor === "number" && Number.isInteger(factor) && factor > 0) {
    return { source, factor };
  }
  throw new FormatError(
    `Cannot use the model_index.json in "${path}": "concat" is ${
      JSON.stringify(json)
    }, expected a source ` +
      `(${BESIDE_SOURCES.join(", ")}), and for low a factor, a positive whole number`,
  );
}
