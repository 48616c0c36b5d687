/** What the walk of one picture begins with, and what stays of another one on its way. */

import type { NoiseSource } from "../base/random.ts";
import { type Denoise, type Latents, weigh } from "../diffusion/denoiser.ts";
import type { Plan } from "../diffusion/plan.ts";
import type { Level } from "../diffusion/schedule.ts";
import type { Encoded } from "../engine/model.ts";
import type { SeenLatents } from "./beside.ts";
import { joined } from "./conditions.ts";
import type { Settings } from "./events.ts";
import type { Match } from "./match.ts";
import type { Noises } from "./noise.ts";

/** Everything about one picture that follows from its noise and from the picture that it is made of. */
export interface Start {
  /** The first x. */
  readonly x: Latents;
  /** Channels [c, h, w] that the denoiser sees beside latents. */
  readonly shown: Float32Array | undefined;
  /** Puts back what is around a hole: see `SamplingOptions`. */
  readonly land?: (x: Latents, level: Level) => Latents;
  /** Makes guesses in which what is around a hole is what it was. */
  readonly held: (denoise: Denoise) => Denoise;
}

type Wanted = Pick<Settings, "sees" | "strength">;

/** Whether the walk begins with nothing but noise: so do diffusers' pipelines for holes where nothing is to stay in them. */
export function beginsWithNoise({ sees, strength }: Wanted, { around }: Match): boolean {
  return sees === "mask" && strength === 1 && around === "steps";
}

/** Whether the walk needs the picture itself in latents: a model for holes that begins with noise does not. */
export function needsPicture(wanted: Wanted, isForHoles: boolean, match: Match): boolean {
  return wanted.sees === "start" ||
    wanted.sees === "mask" && !(isForHoles && beginsWithNoise(wanted, match));
}

/** Draws what a picture begins with, in diffusers' order: the picture's latents, the noise, those of what is around a hole. */
export function startOf(
  wanted: Wanted,
  { plan, match, count }: { readonly plan: Plan; readonly match: Match; readonly count: number },
  seen: SeenLatents,
  { first, common }: Noises,
): Start {
  const { picture, holes, rest, channels } = seen;
  const drawn = (latents: Encoded) =>
    match.drawsLatents ? sampled(latents, common) : f32(latents.data);
  const before = picture && drawn(picture);
  const noise = first.normal(count);
  // diffusers encodes what is around a hole for every model
  if (holes && !rest && match.drawsLatents && picture?.deviation) common.normal(count);
  const shown = holes && rest ? joined([holes, drawn(rest)]) : channels;
  const { start, initialScale } = plan;
  const x = before && !beginsWithNoise(wanted, match)
    ? weigh([start.alpha, before], [start.sigma, noise])
    : weigh([initialScale, noise]);
  if (!before || !holes || (rest && match.around === "steps")) {
    return { x, shown, held: (denoise) => denoise };
  }
  const around = (latents: Latents, old: Latents) =>
    latents.map((value, i) => holes[i % holes.length] === 1 ? value : old[i]);
  const noisy = ({ alpha, sigma }: Level) => weigh([alpha, before], [sigma, noise]);
  const land = (x: Latents, level: Level) => around(x, noisy(level));
  if (match.around === "steps") return { x, shown, land, held: (denoise) => denoise };
  const input = match.around === "guesses" ? (x: Latents) => x : land;
  return {
    x,
    shown,
    held: (denoise) => async (x, level) => around(await denoise(input(x, level), level), before),
  };
}

/** Latents of a picture, one draw from their distribution; the mean where there is none. */
function sampled({ data, deviation }: Encoded, noise: NoiseSource): Latents {
  const mean = f32(data);
  if (!deviation) return mean;
  const normal = noise.normal(data.length);
  return mean.map((value, i) => value + deviation[i] * normal[i]);
}

function f32(data: Float32Array): Latents {
  return Float32Array.from(data);
}
