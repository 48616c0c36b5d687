/** The noise of one picture: where it starts, and what samplers add. */

import { type NoiseSource, torchCpu, torchCuda } from "../base/random.ts";
import { brownianNoise, type NoiseBetween } from "../diffusion/brownian.ts";
import type { Rng, Settings } from "./events.ts";

const GENERATORS: Readonly<Record<Rng, (seed: number) => NoiseSource>> = {
  cpu: torchCpu,
  cuda: torchCuda,
};

/** Streams of a picture; the same one twice where samplers go on with the first. */
export interface Noises {
  readonly first: NoiseSource;
  /** The first stream for draws that serve the whole batch at once; where each picture has a generator, the same. */
  readonly common: NoiseSource;
  readonly later: NoiseSource;
}

/**
 * The streams of picture `index` of a batch of `batchCount`. With `batchSeeds` "one" a generator draws for the whole batch at once and
 * each picture has its share of every draw; each picture draws the whole anew, so that it can be made alone.
 */
export function noisesOf(
  { rng, samplerRng, batchSeeds, batchCount }: Pick<
    Settings,
    "rng" | "samplerRng" | "batchSeeds" | "batchCount"
  >,
  seed: number,
  index: number,
): Noises {
  const stream = (source: NoiseSource) =>
    batchSeeds === "one" && batchCount > 1 ? share(source, index, batchCount) : source;
  const common = GENERATORS[rng](seed);
  const first = stream(common);
  const later = samplerRng === undefined ? first : stream(GENERATORS[samplerRng](seed));
  return { first, common, later };
}

/** The noise of a Brownian tree over a plan's levels, which has the picture's seed. */
export function treeNoise(
  settings: Parameters<typeof noisesOf>[0],
  { seed, index }: { readonly seed: number; readonly index: number },
  sigmas: readonly number[],
  count: number,
): NoiseBetween {
  const noisy = sigmas.filter((sigma) => sigma > 0);
  return brownianNoise({
    ...{ seed, count, least: Math.min(...noisy), most: Math.max(...noisy) },
    source: (seed) => noisesOf(settings, seed, index).later,
  });
}

/** Part `index` of `count` equal parts of every draw. */
function share(source: NoiseSource, index: number, count: number): NoiseSource {
  return {
    normal: (length) => source.normal(length * count).slice(index * length, (index + 1) * length),
  };
}
