/** A training run's settings: read, checked against each other, written into the run's folder and read from there. */

import { counted } from "../base/counted.ts";
import { FormatError } from "../base/errors.ts";
import {
  changedSettings,
  parseSetting,
  printSettings,
  readSettings,
  type Settings,
  type Source,
} from "../formats/settings.ts";
import { smallestJudged } from "../models/discriminator.ts";
import { type Kind, KINDS, SCHEMAS } from "./schema.ts";

export type AutoencoderConfig = Settings<typeof SCHEMAS.autoencoder>;
export type DiffusionConfig = Settings<typeof SCHEMAS.diffusion>;
export type LoraConfig = Settings<typeof SCHEMAS.lora>;

/** The settings of an autoencoder's run; later sources before earlier ones. Throws `FormatError` and `UsageError`. */
export function autoencoderConfig(sources: readonly Source[]): AutoencoderConfig {
  const config = readSettings(SCHEMAS.autoencoder, ofKind("autoencoder", sources));
  const where = nameOf(sources);
  const { f, multipliers, width, groups } = config.autoencoder;
  const levels = Math.log2(f) + 1;
  if (multipliers.length !== 0 && multipliers.length !== levels) {
    throw new FormatError(
      `Cannot use ${where}: autoencoder.multipliers has ${
        counted(multipliers.length, "level")
      }, and f = ${f} needs ${levels}`,
    );
  }
  requireMultiple(where, "data.size", config.data.size, "autoencoder.f", f);
  requireMultiple(where, "autoencoder.width", width, "autoencoder.groups", groups);
  const { weight, layers } = config.discriminator;
  const least = smallestJudged(layers);
  if (weight > 0 && config.data.size < least) {
    throw new FormatError(
      `Cannot use ${where}: data.size is ${config.data.size}, and a discriminator of ${
        counted(layers, "layer")
      } sees nothing of less ` +
        `than ${least} pixels; lower discriminator.layers, or set discriminator.weight to 0`,
    );
  }
  return config;
}

/** The settings of a denoiser's run. Throws `FormatError` and `UsageError`. */
export function diffusionConfig(sources: readonly Source[]): DiffusionConfig {
  const config = readSettings(SCHEMAS.diffusion, ofKind("diffusion", sources));
  const where = nameOf(sources);
  const { width, multipliers, attention, heads, groups } = config.unet;
  const levels = multipliers.length;
  if (levels === 0) throw new FormatError(`Cannot use ${where}: unet.multipliers has no level`);
  requireMultiple(where, "unet.width", width, "unet.groups", groups);
  for (const level of attention) {
    if (level >= levels) {
      throw new FormatError(
        `Cannot use ${where}: unet.attention names level ${level}, and the levels are 0 to ${
          levels - 1
        }`,
      );
    }
    const channels = width * multipliers[level];
    requireMultiple(
      where,
      `the width ${channels} of level ${level}`,
      channels,
      "unet.heads",
      heads,
    );
  }
  const { conditioner, beta_start, beta_end } = config.diffusion;
  for (const name of ["text", "boxes"] as const) {
    if (!conditioner.includes(name)) continue;
    requireMultiple(
      where,
      `${name}.width`,
      config[name].width,
      `${name}.heads`,
      config[name].heads,
    );
  }
  if (conditioner.includes("clip") && config.clip.path === "") {
    throw new FormatError(
      `Cannot use ${where}: diffusion.conditioner names clip, and clip.path is missing`,
    );
  }
  if (conditioner.includes("clip") && conditioner.includes("text")) {
    throw new FormatError(
      `Cannot use ${where}: diffusion.conditioner names both text and clip, which read the same texts; take one of them`,
    );
  }
  if (beta_start > beta_end) {
    throw new FormatError(
      `Cannot use ${where}: diffusion.beta_start is ${beta_start}, above beta_end, which is ${beta_end}`,
    );
  }
  return config;
}

/** The settings of a LoRA's run. Throws `FormatError` and `UsageError`. */
export function loraConfig(sources: readonly Source[]): LoraConfig {
  const config = readSettings(SCHEMAS.lora, ofKind("lora", sources));
  if (config.lora.targets.length === 0) {
    throw new FormatError(`Cannot use ${nameOf(sources)}: lora.targets names no layer`);
  }
  return config;
}

/** A word such as `optimizer.lr=1e-4` or `lr=1e-4` as a source. Throws `UsageError`. */
export function settingOf(kind: Kind, word: string): Source {
  return parseSetting(SCHEMAS[kind], word);
}

/** All settings as TOML, which reads as the same settings again. */
export function printConfig<K extends Kind>(
  kind: K,
  config: Settings<(typeof SCHEMAS)[K]>,
): string {
  return `kind = "${kind}"\n\n${printSettings(SCHEMAS[kind], config)}`;
}

/** What a run's own file says. */
export interface ConfigReport {
  readonly kind: Kind;
  readonly steps: number;
  /** Settings that are not as they are where nothing is said, by section.key. */
  readonly changed: ReadonlyMap<string, unknown>;
}

const REPORTS: { readonly [K in Kind]: (source: Source) => Omit<ConfigReport, "kind"> } = {
  autoencoder: (source) => reportOf(SCHEMAS.autoencoder, autoencoderConfig([source])),
  diffusion: (source) => reportOf(SCHEMAS.diffusion, diffusionConfig([source])),
  lora: (source) => reportOf(SCHEMAS.lora, loraConfig([source])),
};

function reportOf<S extends Pick<typeof SCHEMAS[Kind], "run">>(schema: S, settings: Settings<S>) {
  return { steps: settings.run.steps, changed: changedSettings(schema, settings) };
}

/** Reads the file that a run keeps its settings in. Throws `FormatError`. */
export function readConfig(source: Source): ConfigReport {
  const kind = KINDS.find((name) => name === source.values.kind);
  if (kind !== undefined) return { kind, ...REPORTS[kind](source) };
  throw new FormatError(
    `Cannot use ${source.name}: its kind is ${JSON.stringify(source.values.kind)}, and one of ${
      KINDS.join(", ")
    } was needed`,
  );
}

/** Takes the `kind` out of files; what is of another kind is refused. */
function ofKind(kind: Kind, sources: readonly Source[]): Source[] {
  return sources.map(({ values: { kind: said, ...values }, ...source }) => {
    if (said !== undefined && said !== kind) {
      throw new FormatError(
        `Cannot use ${source.name}: its kind is ${
          JSON.stringify(said)
        }, and ${kind} is to be trained`,
      );
    }
    const other = Object.keys(values).find((section) =>
      !Object.hasOwn(SCHEMAS[kind], section) &&
      KINDS.some((name) => Object.hasOwn(SCHEMAS[name], section))
    );
    if (other !== undefined) {
      const home = KINDS.filter((name) => Object.hasOwn(SCHEMAS[name], other)).join(" or ");
      throw new FormatError(
        `Cannot use ${source.name}: its section [${other}] is for training ${home}, and ${kind} is to be trained`,
      );
    }
    return { ...source, values };
  });
}

function nameOf(sources: readonly Source[]): string {
  return sources.find(({ isTyped }) => !isTyped)?.name ?? "these settings";
}

function requireMultiple(where: string, what: string, n: number, of: string, factor: number) {
  if (n % factor === 0) return;
  const value = what.includes(" ") ? what : `${what}, which is ${n},`;
  throw new FormatError(
    `Cannot use ${where}: ${value} is no multiple of ${of}, which is ${factor}`,
  );
}
