/** Families of models: how they are recognised, and what each was trained as and is used with. */

import type { ClipConfig, ClipOutput } from "./clip.ts";
import { Fields } from "./config_fields.ts";
import type { UnetConfig } from "./unet.ts";

/** What a network can be trained to predict. */
export type Prediction = "epsilon" | "v_prediction" | "sample";

/** Whose original files and defaults a model has. */
export type Family = "sd1" | "sd2" | "sdxl";
/** How a family's model was distilled: few steps, and guidance inside the network or none. */
export type Variant = "base" | "lcm" | "turbo";

/** The family of a UNet: SDXL has pooled conditioning, SD 2 linear projections. */
export function familyOf(config: UnetConfig): Family {
  if (config.addition) return "sdxl";
  return config.linearProjection ? "sd2" : "sd1";
}

/**
 * LCM embeds the guidance scale; Turbo (and Lightning) models come with trailing timesteps.
 * `scheduler` is the contents of scheduler_config.json.
 */
export function variantOf(config: UnetConfig, scheduler: unknown): Variant {
  if (config.guidanceWidth !== undefined) return "lcm";
  if (typeof scheduler !== "object" || scheduler === null) return "base";
  const fields = new Fields(scheduler, "scheduler_config.json");
  if (fields.raw("_class_name") === "LCMScheduler") return "lcm";
  const trailing = fields.raw("timestep_spacing") === "trailing";
  return trailing && fields.raw("rescale_betas_zero_snr") !== true ? "turbo" : "base";
}

/** What a person gets who asks for nothing in particular. */
export interface Defaults {
  /** Sampling steps. */
  readonly steps: number;
  /** 1 is no guidance. */
  readonly cfgScale: number;
  /** Names as in lib/diffusion. */
  readonly sampler: string;
  /** Likewise. */
  readonly schedule: string;
}

export interface FamilyFacts {
  readonly title: string;
  readonly defaults: Defaults;
  /** Pixels along one side that it was trained at, where the config does not say. */
  readonly size: number;
  /** Scale of the latents, for files without configs. */
  readonly latentScale: number;
  /** Contents of scheduler_config.json, for files without configs. */
  readonly scheduler: Readonly<Record<string, unknown>>;
  /** Id that each tokenizer pads with: end of text, or "!". */
  readonly padTokens: readonly number[];
}

/**
 * All of Stable Diffusion: CompVis' v1-inference.yaml, Stability's v2-inference.yaml and
 * sd_xl_base.yaml.
 */
const TRAINING = {
  _class_name: "PNDMScheduler",
  num_train_timesteps: 1000,
  beta_start: 0.00085,
  beta_end: 0.012,
  beta_schedule: "scaled_linear",
  clip_sample: false,
  prediction_type: "epsilon",
  timestep_spacing: "leading",
  steps_offset: 1,
  set_alpha_to_one: false,
  skip_prk_steps: true,
};

/**
 * The families. Defaults: SD 1 as A1111 has them; SD 2 as in Stability's own script; SDXL as in
 * diffusers' pipeline. Latent scales and schedulers: the models' own configs. Padding: their
 * tokenizer_config.json and special_tokens_map.json.
 */
export const FAMILIES: Readonly<Record<Family, FamilyFacts>> = {
  sd1: {
    title: "Stable Diffusion 1",
    defaults: { steps: 20, cfgScale: 7, sampler: "dpmpp_2m", schedule: "karras" },
    size: 512,
    latentScale: 0.18215,
    scheduler: TRAINING,
    padTokens: [49407],
  },
  sd2: {
    title: "Stable Diffusion 2",
    defaults: { steps: 50, cfgScale: 9, sampler: "ddim", schedule: "leading" },
    size: 768,
    latentScale: 0.18215,
    scheduler: { ...TRAINING, _class_name: "DDIMScheduler", prediction_type: "v_prediction" },
    padTokens: [0],
  },
  sdxl: {
    title: "Stable Diffusion XL",
    defaults: { steps: 50, cfgScale: 5, sampler: "euler", schedule: "leading" },
    size: 1024,
    latentScale: 0.13025,
    scheduler: { ...TRAINING, _class_name: "EulerDiscreteScheduler" },
    padTokens: [49407, 0],
  },
};

/**
 * What the distilled variants change; LCM's guidance is embedded (Luo et al. 2023), Turbo's is none
 * (Sauer et al. 2023).
 */
const VARIANTS: Readonly<Record<Variant, Partial<Defaults>>> = {
  base: {},
  lcm: { steps: 4, cfgScale: 8.5, sampler: "lcm", schedule: "leading" },
  turbo: { steps: 1, cfgScale: 1, sampler: "euler_a", schedule: "trailing" },
};

export function defaultsOf(family: Family, variant: Variant): Defaults {
  return { ...FAMILIES[family].defaults, ...VARIANTS[variant] };
}

/**
 * Which states of each text encoder condition the denoiser. `clipSkip` counts from 1, the family's
 * own layer, downward (diffusers' clip_skip plus one). SD 1: last layer, normed. SD 2: the
 * penultimate of OpenCLIP's 24, normed; diffusers' folders keep 23, of which it is the last, and no
 * projection. SDXL: the penultimate of both encoders, not normed.
 */
export function clipOutput(family: Family, config: ClipConfig, clipSkip: number): ClipOutput {
  const complete = config.layers === 24 || config.projection !== undefined;
  const own = family === "sdxl" || (family === "sd2" && complete) ? 1 : 0;
  return { skip: own + clipSkip - 1, finalNorm: family !== "sdxl" };
}

/**
 * Where ComfyUI's `supported_models.py` looks to tell v-prediction from ε-prediction in SD 2 files.
 */
export const SD2_PREDICTION_TENSOR = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias";

/** What a file without configs tells about its training. */
export interface Evidence {
  /** Names of all tensors, also those that belong to no component. */
  readonly names: ReadonlySet<string>;
  /** `__metadata__` of the file. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Input channels of the UNet. */
  readonly inChannels: number;
  /** The values of `SD2_PREDICTION_TENSOR`, where the UNet has it. */
  readonly bias?: ArrayLike<number>;
}

/**
 * What a single file's UNet predicts, and whether its schedule ends in pure noise. In this order:
 * `modelspec.predict_key` of its metadata (Stability's model specification), an empty tensor named
 * `v_pred` (with `ztsnr` for the schedule; the convention of SDXL fine-tunes), and for SD 2 with
 * four input channels the spread of one bias: above 0.09 is v-prediction, a heuristic of ComfyUI.
 * Otherwise ε.
 */
export function predictionOf(
  family: Family,
  evidence: Evidence,
): { readonly prediction: Prediction; readonly rescaleBetasZeroSnr: boolean } {
  const { names, metadata, inChannels, bias } = evidence;
  const said = metadata.get("modelspec.predict_key") ?? metadata.get("modelspec.prediction_type");
  const rescaleBetasZeroSnr = names.has("ztsnr");
  const found = (prediction: Prediction) => ({ prediction, rescaleBetasZeroSnr });
  if (said === "v" || said === "v_prediction") return found("v_prediction");
  if (said === "epsilon") return found("epsilon");
  if (names.has("v_pred")) return found("v_prediction");
  if (family !== "sd2" || inChannels !== 4) return found("epsilon");
  if (bias === undefined) return found("v_prediction");
  const values = Array.from(bias);
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length;
  return found(Math.sqrt(variance) > 0.09 ? "v_prediction" : "epsilon");
}
