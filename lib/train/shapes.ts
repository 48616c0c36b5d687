/** What settings of shape ask for, and which settings would ask for what a checkpoint has. */

import { FormatError } from "../base/errors.ts";
import type { ClipConfig } from "../models/clip.ts";
import type { ConditionerConfig } from "../models/conditioner.ts";
import { factorOf, type VaeConfig } from "../models/vae.ts";
import type { UnetConfig, UnetLevel } from "../models/unet.ts";
import type { AutoencoderConfig, DiffusionConfig } from "./config.ts";

/** Of every norm, as diffusers' AutoencoderKL has it. */
const EPS = 1e-6;

/** The autoencoder that settings ask for. */
export function vaeConfigOf({ autoencoder: settings }: AutoencoderConfig): VaeConfig {
  const levels = Math.log2(settings.f) + 1;
  const multipliers = settings.multipliers.length > 0
    ? settings.multipliers
    : Array.from({ length: levels }, (_, i) => [1, 2, 4][Math.min(i, 2)]);
  return {
    inChannels: settings.colours,
    outChannels: settings.colours,
    latentChannels: settings.channels,
    codes: settings.regulariser === "vq" ? settings.codebook : undefined,
    channels: multipliers.map((multiplier) => multiplier * settings.width),
    layers: settings.layers,
    groups: settings.groups,
    eps: EPS,
    midAttention: settings.attention,
    quantConv: true,
    postQuantConv: true,
    scalingFactor: 1,
    shiftFactor: 0,
  };
}

/** Of the group norms in resnets, of those that open transformers, of layer norms: diffusers' UNet2DConditionModel. */
const NORMS = { eps: 1e-5, transformerEps: 1e-6, layerEps: 1e-5 } as const;

/** The latents that a denoiser works on. */
export interface LatentForm {
  readonly channels: number;
  /** Latents of a side. */
  readonly size: number;
  /** Channels that it sees beside them. */
  readonly beside: number;
}

/** The denoiser that settings ask for. Throws `FormatError` where the heads do not divide the coarsest level. */
export function unetConfigOf(
  { unet: settings }: Pick<DiffusionConfig, "unet">,
  { channels, size, beside }: LatentForm,
): UnetConfig {
  const { width, multipliers, layers, attention, depth, heads, groups, context } = settings;
  const levels = multipliers.map((multiplier, i) => ({
    channels: multiplier * width,
    depth: attention.includes(i) ? depth : undefined,
  }));
  const coarsest = levels[levels.length - 1].channels;
  if (coarsest % heads !== 0) {
    throw new FormatError(
      `Cannot train this denoiser: its coarsest level, which always has attention, has ${coarsest} channels, and that is ` +
        `no multiple of unet.heads, which is ${heads}`,
    );
  }
  const level = (count: number) => (each: typeof levels[number]): UnetLevel => ({
    channels: each.channels,
    heads,
    transformers: Array.from({ length: count }, () => each.depth),
  });
  return {
    ...NORMS,
    inChannels: channels + beside,
    outChannels: channels,
    down: levels.map(level(layers)),
    mid: { heads, transformer: depth },
    up: levels.toReversed().map(level(layers + 1)),
    contextWidth: context,
    groups,
    activation: "gelu",
    linearProjection: false,
    flipSinToCos: true,
    freqShift: 0,
    convInKernel: 3,
    convOutKernel: 3,
    downsamplePadding: 1,
    guidanceWidth: undefined,
    addition: undefined,
    sampleSize: size,
  };
}

/** Largest common divisor. */
function common(numbers: readonly number[]): number {
  const of = (a: number, b: number): number => b === 0 ? a : of(b, a % b);
  return numbers.reduce(of);
}

/** Widths of levels as settings have them. */
function levelsOf(channels: readonly number[]) {
  const width = common(channels);
  return { width, multipliers: channels.map((each) => each / width) };
}

/** The settings that ask for an autoencoder, as far as settings can. */
export function vaeSettingsOf(config: VaeConfig): Readonly<Record<string, unknown>> {
  const { codes } = config;
  return {
    regulariser: codes === undefined ? "kl" : "vq",
    ...(codes !== undefined && { codebook: codes }),
    f: factorOf(config),
    channels: config.latentChannels,
    colours: config.inChannels,
    ...levelsOf(config.channels),
    layers: config.layers,
    groups: config.groups,
    attention: config.midAttention,
  };
}

/** The settings that ask for a denoiser, as far as settings can: `heads` are those of the finest level. */
export function unetSettingsOf(
  { down, mid, contextWidth, groups }: UnetConfig,
): DiffusionConfig["unet"] {
  const depths = [...down.flatMap(({ transformers }) => transformers), mid?.transformer];
  return {
    ...levelsOf(down.map(({ channels }) => channels)),
    layers: down[0].transformers.length,
    attention: down.flatMap(({ transformers }, level) =>
      transformers.some((depth) => depth !== undefined) ? [level] : []
    ),
    depth: Math.max(1, ...depths.map((depth) => depth ?? 0)),
    heads: down[0].heads,
    context: contextWidth,
    groups,
  };
}

/** The settings that ask for a text encoder. */
export function textSettingsOf(
  { width, layers, heads, positions, vocabulary }: ClipConfig,
): DiffusionConfig["text"] {
  return { width, layers, heads, length: positions, vocabulary };
}

/** The settings that ask for what reads boxes. */
export function boxesSettingsOf(
  { layout }: ConditionerConfig,
): DiffusionConfig["boxes"] | undefined {
  if (!layout) return undefined;
  const { width, layers, heads, objects, vocabulary, crop } = layout;
  return { width, layers, heads, objects, vocabulary, crop };
}
