/** What pipelines tell their caller while they work. They never print: a command line, a server or a test listens. */

import type { Latents, MemoryPlan } from "../engine/model.ts";
import type { SamplerName, ScheduleName } from "../diffusion/names.ts";

/** Everything that determines a picture but its seed, with every default filled in. */
export interface Settings {
  readonly prompt: string;
  readonly negativePrompt: string;
  /** Pixels. */
  readonly width: number;
  readonly height: number;
  readonly steps: number;
  readonly cfgScale: number;
  readonly guidanceRescale: number;
  readonly sampler: SamplerName;
  /** `undefined` is the checkpoint's own. */
  readonly schedule: ScheduleName | undefined;
  /** `undefined` is the sampler's own. */
  readonly eta: number | undefined;
  readonly clipSkip: number;
  readonly rng: Rng;
}

/** Whose generator the noise equals: torch's on a CPU (mt19937) or on CUDA (Philox). */
export type Rng = "cpu" | "cuda";

/** Pixels of 8 bits, row by row from the top left: grey, RGB, or RGBA with alpha not multiplied in. */
export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 3 | 4;
  readonly data: Uint8Array;
}

/** What a pipeline yields, in this order: warnings and the plan, then for each picture its steps, its decoding, itself. */
export type PipelineEvent =
  | { readonly kind: "warning"; readonly message: string }
  | {
    readonly kind: "plan";
    readonly settings: Settings;
    /** One for each picture. */
    readonly seeds: readonly number[];
    /** The noise at the beginning of each step and at the end. */
    readonly sigmas: readonly number[];
    readonly timesteps: readonly number[];
    /** What it will take on the device. */
    readonly memory: MemoryPlan;
  }
  | {
    readonly kind: "step";
    /** Which picture, from 0. */
    readonly image: number;
    /** Which step is done, from 0, and how many there are. */
    readonly index: number;
    readonly of: number;
    /** The noise that is left. */
    readonly sigma: number;
    /** The guess of the finished latents, for previews. */
    readonly x0: Latents;
  }
  | {
    readonly kind: "decode";
    readonly image: number;
    readonly done: number;
    readonly of: number;
  }
  | {
    readonly kind: "image";
    readonly image: Picture;
    readonly latents: Latents;
    readonly seed: number;
    /** Which picture, from 0. */
    readonly index: number;
    readonly settings: Settings;
  }
  | { readonly kind: "done"; readonly images: number };
