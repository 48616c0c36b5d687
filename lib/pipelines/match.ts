/**
 * What other tools do where pictures depend on it, so that a seed gives their picture. Everything that a tool decides for its
 * users without asking them stands in one row; whatever a request says itself comes first.
 */

import type { Dialect } from "../diffusion/dialects.ts";
import type { SamplerName, ScheduleName } from "../diffusion/names.ts";
import type { BatchSeeds, MatchName, Rng, Rounding, Weighting } from "./events.ts";

/** One tool's conventions. */
export interface Match {
  /** Whose generator the first noise is. */
  readonly rng: Rng;
  /** Whose generator samplers draw from, begun at the same seed; `undefined` goes on with the first noise's. */
  readonly samplerRng: Rng | undefined;
  /** Whose seeds a batch has. */
  readonly batchSeeds: BatchSeeds;
  /** How prompts are read. */
  readonly weighting: Weighting;
  /** How numbers become 8 bits. */
  readonly rounding: Rounding;
  /** What named schedules mean, and how they are walked. */
  readonly dialect: Dialect;
  /** The schedule where none is asked for; `undefined` is the checkpoint's, or the sampler's own. */
  readonly schedule: (sampler: SamplerName) => ScheduleName | undefined;
  /** When SDXL is told zeros in place of the negative prompt: where there is none, where it is empty, or never. */
  readonly zeroNegative: "absent" | "empty" | "never";
  /**
   * How CLIP skip counts: from the layer that a checkpoint was trained with; so for SD 1 alone, while others do not heed it; or
   * from the last layer, in which SD 2 and XL were trained with 2.
   */
  readonly clipSkip: "own" | "sd1" | "last";
  /**
   * The generator that the noise of SDE samplers comes from as a Brownian tree: "later" is the one of what samplers add. Left
   * out, it is drawn as other samplers' is.
   */
  readonly tree?: "cpu" | "later";
  /** How much a picture changes where nothing is said: one that the walk begins with, and what fills a hole. */
  readonly strength: Readonly<Record<"start" | "mask", number>>;
  /**
   * How what is around a hole stays what it was, with models that see no holes: put back after every step with the noise
   * that is left; put into every guess of the finished picture; or that, and with noise into all that the network is shown.
   */
  readonly around: "steps" | "guesses" | "guesses and input";
  /**
   * Whether latents of pictures are drawn from the encoder's distribution, from the stream of the first noise; else they are
   * its mean, from which what AUTOMATIC1111 and stable-diffusion.cpp draw cannot be told by eye.
   */
  readonly drawsLatents: boolean;
  /** Samplers that are not quite the tool's here, and why. */
  readonly unmatched: Readonly<Partial<Record<SamplerName, string>>>;
  /** The same of walks that begin with a picture alone. */
  readonly unmatchedLate?: Readonly<Partial<Record<SamplerName, string>>>;
}

/** AUTOMATIC1111's "Automatic"; of DDIM, PLMS and UniPC, timesteps of their own. */
const AUTOMATIC: Readonly<Record<SamplerName, ScheduleName | undefined>> = {
  euler: "discrete",
  euler_a: "discrete",
  heun: "discrete",
  lms: "discrete",
  lcm: "discrete",
  dpm2: "karras",
  dpmpp_2m: "karras",
  dpmpp_2m_sde: "exponential",
  ddim: undefined,
  pndm: undefined,
  unipc: undefined,
};

const OWN_UNIPC = "it is another variant of UniPC there";
const OWN_LCM = "it keeps no boundary condition there";
const ABSENT = "there is no such sampler there";

/** Samplers whose noise is a Brownian tree's where the tool has trees. */
export const TREE_SAMPLERS: ReadonlySet<SamplerName> = new Set(["dpmpp_2m_sde"]);

/** What is done where no tool is named: diffusers' pictures, a seed for each, and AUTOMATIC1111's prompts. */
export const USUAL: Match = {
  rng: "cpu",
  samplerRng: undefined,
  batchSeeds: "each",
  weighting: "a1111",
  rounding: "round",
  dialect: "diffusers",
  schedule: () => undefined,
  zeroNegative: "absent",
  clipSkip: "own",
  strength: { start: 0.75, mask: 1 },
  around: "steps",
  drawsLatents: true,
  unmatched: {},
};

/** The conventions of each tool, from its own source (`modules/`, `comfy/`, `src/` of the repositories). */
export const MATCHES: Readonly<Record<MatchName, Match>> = {
  diffusers: {
    ...USUAL,
    batchSeeds: "one",
    weighting: "none",
    strength: { start: 0.8, mask: 1 },
    unmatchedLate: { lms: "its first steps there count slopes that were never computed" },
  },
  a1111: {
    rng: "cuda",
    samplerRng: undefined,
    batchSeeds: "each",
    weighting: "a1111",
    rounding: "truncate",
    dialect: "a1111",
    schedule: (sampler) => AUTOMATIC[sampler],
    zeroNegative: "empty",
    clipSkip: "sd1",
    tree: "later",
    strength: { start: 0.75, mask: 0.75 },
    around: "guesses",
    drawsLatents: false,
    unmatched: { unipc: OWN_UNIPC, lcm: OWN_LCM },
  },
  comfyui: {
    rng: "cpu",
    samplerRng: "cuda",
    batchSeeds: "one",
    weighting: "comfy",
    rounding: "truncate",
    dialect: "comfyui",
    schedule: () => "discrete",
    zeroNegative: "never",
    clipSkip: "last",
    tree: "cpu",
    strength: { start: 1, mask: 1 },
    around: "guesses and input",
    drawsLatents: false,
    unmatched: { unipc: OWN_UNIPC, lcm: OWN_LCM, pndm: ABSENT },
  },
  sdcpp: {
    rng: "cuda",
    samplerRng: undefined,
    batchSeeds: "each",
    weighting: "a1111",
    rounding: "truncate",
    dialect: "sdcpp",
    schedule: () => "discrete",
    zeroNegative: "empty",
    clipSkip: "last",
    strength: { start: 0.75, mask: 0.75 },
    around: "guesses",
    drawsLatents: false,
    unmatched: { unipc: ABSENT, pndm: ABSENT, lcm: OWN_LCM },
  },
};
