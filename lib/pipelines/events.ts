/** What pipelines tell their caller while they work. They never print: a command line, a server or a test listens. */

import type { LabelledBox } from "../base/box.ts";
import type { Picture } from "../base/picture.ts";
import type { BesideSource, FloatPicture, Latents, MemoryPlan } from "../engine/model.ts";
import type { SamplerName, ScheduleName } from "../diffusion/names.ts";
import type { Weighting } from "../text/prompt.ts";

export type { Picture } from "../base/picture.ts";
export type { Weighting } from "../text/prompt.ts";

/** Everything that determines a picture but its seed, with every default filled in. */
export interface Settings {
  /** What to show, as it was written. */
  readonly prompt: string;
  /** What not to show; "" where nothing was given. */
  readonly negativePrompt: string;
  /** Class of the picture, for models that know classes. */
  readonly label?: string;
  /** What lies where, for models that read layouts. */
  readonly boxes?: readonly LabelledBox[];
  /** What a second picture is: a small picture, one with a hole, a map, or one that the walk begins with. */
  readonly sees?: Sees;
  /** With a hole: what is around it stays to the bit. */
  readonly keep?: boolean;
  /** With a hole that is blended in: how far, in pixels. */
  readonly maskBlur?: number;
  /** Of a picture that is changed, or whose hole is filled: how much, from 0 to 1. */
  readonly strength?: number;
  /** Pixels. */
  readonly width: number;
  /** Pixels. */
  readonly height: number;
  /** Sampling steps. */
  readonly steps: number;
  /** Classifier-free guidance; 1 is off. */
  readonly cfgScale: number;
  /** 0 is off. */
  readonly guidanceRescale: number;
  /** Walks from noise to latents. */
  readonly sampler: SamplerName;
  /** `undefined` is the checkpoint's own. */
  readonly schedule: ScheduleName | undefined;
  /** `undefined` is the sampler's own. */
  readonly eta: number | undefined;
  /** 1 is the family's own layer of the text encoder, or as the matched tool counts. */
  readonly clipSkip: number;
  /** The text encoder's layer that is read, from its last, which is 1, where it is not the family's own. */
  readonly clipLayer?: number;
  /** Whose generator the noise is. */
  readonly rng: Rng;
  /** Whose generator samplers draw from, begun at the same seed; `undefined` goes on with the first noise's. */
  readonly samplerRng: Rng | undefined;
  /** How the pictures of a batch get their noise. */
  readonly batchSeeds: BatchSeeds;
  /** Pictures of the batch that the noise is drawn for, with `batchSeeds` "one". */
  readonly batchCount: number;
  /** How prompts are read. */
  readonly weighting: Weighting;
  /** How numbers become 8 bits. */
  readonly rounding: Rounding;
  /** SDXL is told zeros in place of the negative prompt. */
  readonly zeroNegative: boolean;
  /** The tool whose conventions fill in what was not asked for. */
  readonly match: MatchName | undefined;
}

/** What a second picture is for. */
export type Sees = BesideSource | "start";

/** Whose generator the noise equals: torch's on a CPU (mt19937) or on CUDA (Philox). */
export type Rng = "cpu" | "cuda";

/** Every picture of a batch has a generator of its own, seeds counting up; or one draws for the whole batch. */
export const BATCH_SEEDS = ["each", "one"] as const;
/** Whose seeds a batch has. */
export type BatchSeeds = (typeof BATCH_SEEDS)[number];

/** To the nearest of 256 values (diffusers), or down (AUTOMATIC1111, ComfyUI, stable-diffusion.cpp). */
export const ROUNDINGS = ["round", "truncate"] as const;
/** A way to round. */
export type Rounding = (typeof ROUNDINGS)[number];

/** Tools whose conventions can be taken over. */
export const MATCH_NAMES = ["diffusers", "a1111", "comfyui", "sdcpp"] as const;
/** The name of a tool. */
export type MatchName = (typeof MATCH_NAMES)[number];

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
    /** The same before it was rounded. */
    readonly floats: FloatPicture;
    readonly latents: Latents;
    readonly seed: number;
    /** Which picture, from 0. */
    readonly index: number;
    readonly settings: Settings;
  }
  | { readonly kind: "done"; readonly images: number };
