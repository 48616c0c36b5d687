/**
 * What can be set of a training run, as tables: each setting's name, what is accepted, what holds where nothing is said,
 * and what it is for. Defaults are the paper's (Rombach et al. 2022, appendix E) or those of diffusers' training scripts
 * where the paper leaves them open.
 */

import { PREDICTIONS } from "../diffusion/denoiser.ts";
import { BOX_ORDERS } from "../formats/boxes.ts";
import { LORA_NAMINGS } from "../formats/lora_writer.ts";
import { FILTER_NAMES } from "../formats/resample.ts";
import { FLOAT_TYPES } from "../formats/safetensors.ts";
import { choice, flag, list, number, requiredText, text, whole } from "../formats/settings.ts";
import { BESIDE_SOURCES } from "../models/beside.ts";
import { BARE_TOKENS, CLIP_TOKENS } from "../text/vocabulary.ts";

const positive = { least: 1 } as const;
const notNegative = { least: 0 } as const;
const share = { least: 0, most: 1 } as const;

const run = {
  folder: requiredText("where everything that the run makes is put"),
  seed: whole(0, { least: 0, most: 2 ** 32 - 1 }, "of order, crops, noise and new weights"),
  steps: whole(10_000, positive, "how often the weights are changed"),
  save_every: whole(1000, notNegative, "steps from one checkpoint to the next; 0: only at the end"),
  keep: whole(2, notNegative, "how many checkpoints are kept; 0: all"),
  dtype: choice(FLOAT_TYPES, "f32", "of the weights that are left in the end"),
};

const data = (size: number) => ({
  path: requiredText("a folder of pictures, WebDataset .tar files, or IDX files"),
  size: whole(size, positive, "pixels of a side"),
  crop: choice(["centre", "random"], "centre", "what is kept of pictures that are not square"),
  flip: flag(false, "mirror every other picture, by chance"),
  filter: choice(FILTER_NAMES, "bilinear", "how pictures are made smaller, as Pillow does"),
  caption: text("", "the text of pictures that have none"),
  labels: list(text("", ""), [], "names of the classes 0, 1, … where data have numbers"),
  boxes: choice(BOX_ORDERS, "xywh", "what the numbers of a bbox are, in pixels or fractions"),
  ahead: whole(8, notNegative, "pictures that are decoded before they are needed"),
  threads: whole(2, notNegative, "that decode pictures; 0: none but the program's own"),
  keep_mib: whole(256, notNegative, "MiB of resized pictures that are kept in memory"),
});

const optimizer = ({ lr, ema }: { readonly lr: number; readonly ema: number }) => ({
  lr: number(lr, { above: 0 }, "learning rate at its highest (AdamW)"),
  schedule: choice(["constant", "linear", "cosine"], "constant", "how the rate falls to the end"),
  warmup: whole(0, notNegative, "steps in which the rate rises from 0"),
  final: number(0, share, "share of the rate that is left at the end"),
  betas: list(number(0, { least: 0, below: 1 }, ""), [0.9, 0.999], "decay of both moments", 2),
  eps: number(1e-8, { above: 0 }, "added to the root of the second moment"),
  weight_decay: number(0.01, notNegative, "decoupled, times the rate"),
  clip: number(1, notNegative, "the most that the gradients' norm may be; 0: no limit"),
  batch: whole(4, positive, "pictures at once"),
  accumulate: whole(1, positive, "batches to a step"),
  ema: number(ema, { least: 0, below: 1 }, "decay of the weights' running mean; 0: none"),
  memory_mib: whole(0, notNegative, "MiB that training may use on the device; 0: all there is"),
});

const sample = {
  every: whole(500, notNegative, "steps from one grid of samples to the next; 0: none"),
  prompts: list(text("", ""), [], "what the samples show: texts, or names of classes"),
  boxes: list(text("", ""), [], "what lies where in samples: label@left,top,right,bottom"),
  count: whole(4, positive, "samples in a grid, or of each prompt"),
  steps: whole(
    20,
    positive,
    "of the sampler, in samples and where the model is asked for nothing else",
  ),
  cfg_scale: number(5, notNegative, "guidance, likewise"),
  seed: whole(0, { least: 0, most: 2 ** 32 - 1 }, "of the samples' noise"),
};

const autoencoder = {
  from: text("", "an autoencoder to go on from, whose shape it is; empty: a new one"),
  regulariser: choice(["kl", "vq"], "kl", "a slight Gaussian prior, or a codebook"),
  f: choice([2, 4, 8, 16, 32], 8, "how many pixels of a side become one latent"),
  channels: whole(4, positive, "of the latents"),
  colours: choice([1, 3], 3, "of the pictures: grey or RGB"),
  width: whole(128, positive, "channels at the finest level"),
  multipliers: list(whole(1, positive, ""), [], "of the width, a level each; empty: 1, 2, 4, 4, …"),
  layers: whole(2, positive, "residual blocks of a level"),
  groups: whole(32, positive, "of group norms"),
  attention: flag(true, "one layer of it in the middle"),
  reconstruction: choice(["l1", "l2"], "l1", "the distance from the picture"),
  kl_weight: number(1e-6, notNegative, "of the Gaussian prior"),
  codebook: whole(8192, { least: 2 }, "entries of the codebook"),
  commitment: number(0.25, notNegative, "weight of the loss that keeps latents near their entries"),
  perceptual: text("", "LPIPS weights (.safetensors); empty: no perceptual loss"),
  perceptual_weight: number(1, notNegative, "of the perceptual loss"),
};

const discriminator = {
  weight: number(
    0.5,
    notNegative,
    "of its part in the autoencoder's loss, before balancing; 0: none",
  ),
  start: whole(50_001, notNegative, "the step at which it begins to count"),
  width: whole(64, positive, "channels of its first layer"),
  layers: whole(3, positive, "of stride 2"),
};

/** What a denoiser can be told. */
const CONDITIONERS = ["text", "clip", "class", "boxes", "concat"] as const;

const diffusion = {
  first_stage: requiredText("an autoencoder: a vae folder, a checkpoint, or TAESD"),
  from: text("", "a checkpoint to go on from, whose shape it is; empty: a new denoiser"),
  conditioner: list(choice(CONDITIONERS, "text", ""), ["text"], "what it is told; []: nothing"),
  train_conditioner: flag(true, "together with the denoiser (CLIP stays as it is)"),
  caption_dropout: number(0.1, share, "share of examples that are told nothing, for guidance"),
  prediction: choice(PREDICTIONS, "epsilon", "what the denoiser gives: noise, velocity, picture"),
  beta_schedule: choice(["linear", "scaled_linear", "cosine"], "scaled_linear", "of the noise"),
  beta_start: number(0.00085, { above: 0, below: 1 }, "variance of the first step"),
  beta_end: number(0.012, { above: 0, below: 1 }, "variance of the last step"),
  timesteps: whole(1000, positive, "from picture to noise"),
  zero_terminal_snr: flag(false, "nothing of the picture is left at the last step"),
  min_snr: number(0, notNegative, "gamma of min-SNR weighting; 0: none"),
  cache_latents: flag(true, "encode each picture once and keep its latents on the disk"),
};

const unet = {
  width: whole(128, positive, "channels at the finest level"),
  multipliers: list(whole(1, positive, ""), [1, 2, 4, 4], "of the width, a level each"),
  layers: whole(2, positive, "residual blocks of a level"),
  attention: list(whole(0, notNegative, ""), [0, 1, 2], "levels with attention; 0 is the finest"),
  depth: whole(1, positive, "transformer blocks of a layer with attention"),
  heads: whole(8, positive, "of attention"),
  context: whole(512, positive, "width of what the conditioner gives"),
  groups: whole(32, positive, "of group norms"),
};

const transformer = (layers: number) => ({
  width: whole(512, positive, "of a token"),
  layers: whole(layers, positive, "of the transformer"),
  heads: whole(8, positive, "of attention"),
});

const conditioners = {
  text: {
    ...transformer(12),
    length: whole(77, { least: 2 }, "tokens of a prompt"),
    vocabulary: whole(
      CLIP_TOKENS,
      { least: BARE_TOKENS, most: CLIP_TOKENS },
      "tokens: CLIP's most frequent; rarer words are spelled",
    ),
  },
  clip: {
    path: text("", "a checkpoint with the text encoder and tokenizer that are used"),
  },
  boxes: {
    ...transformer(16),
    objects: whole(30, positive, "the most objects of a picture; three tokens each"),
    vocabulary: whole(
      8192,
      { least: 5 },
      "tokens: classes and corners share them, the last is none",
    ),
    crop: flag(false, "two tokens more that say which part of the picture is shown"),
  },
  concat: {
    source: choice(BESIDE_SOURCES, "low", "a small picture, one with a hole, or a map"),
    factor: whole(4, positive, "how many times smaller the small picture is"),
  },
};

const lora = {
  model: requiredText("the checkpoint to train for"),
  rank: whole(4, positive, "of the products that are added to weights"),
  alpha: number(0, notNegative, "they are scaled by alpha / rank; 0: as the rank"),
  targets: list(
    text("", ""),
    ["to_q", "to_k", "to_v", "to_out.0"],
    "layers that are trained, by the ends of their names",
  ),
  text_encoder: flag(false, "train those of the text encoder as well"),
  weights: choice(
    ["f16", "f32"],
    "f16",
    "of the checkpoint on the device; f32: as the file has them",
  ),
  names: choice(LORA_NAMINGS, "kohya", "whose names are in its file; all tools read kohya's"),
  caption_dropout: number(0, share, "share of examples that are told nothing"),
  min_snr: number(0, notNegative, "gamma of min-SNR weighting; 0: none"),
  cache_latents: flag(true, "encode each picture once and keep its latents on the disk"),
};

/** Kind of run → its sections. */
export const SCHEMAS = {
  autoencoder: {
    run,
    data: data(256),
    optimizer: optimizer({ lr: 1e-4, ema: 0 }),
    autoencoder,
    discriminator,
    sample: { every: sample.every, count: sample.count },
  },
  diffusion: {
    run,
    data: data(256),
    optimizer: optimizer({ lr: 1e-4, ema: 0.9999 }),
    diffusion,
    unet,
    ...conditioners,
    sample,
  },
  lora: {
    run,
    data: data(512),
    optimizer: optimizer({ lr: 1e-4, ema: 0 }),
    lora,
    sample,
  },
} as const;

export type Kind = keyof typeof SCHEMAS;
export const KINDS: readonly Kind[] = ["autoencoder", "diffusion", "lora"];
