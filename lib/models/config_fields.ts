/** Fields of diffusers' config files, checked as they are read, and refusals by name of what is not built here. */

import { FormatError } from "../base/errors.ts";

type Json = Readonly<Record<string, unknown>>;

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
export const isNumber = (value: unknown): value is number =>
  typeof value === "number" && Number.isFinite(value);
const isCount = (value: unknown): value is number =>
  isNumber(value) && Number.isInteger(value) && value > 0;
const isString = (value: unknown): value is string => typeof value === "string";
const isBoolean = (value: unknown): value is boolean => typeof value === "boolean";

/** The fields of one config file, checked as they are read; null is as good as absent. */
export class Fields {
  readonly #json: Json;
  constructor(json: unknown, readonly where: string) {
    if (!isObject(json)) throw new FormatError(`Cannot use ${where}: it is not a JSON object`);
    this.#json = json;
  }
  has(key: string): boolean {
    return this.raw(key) !== undefined;
  }
  raw(key: string): unknown {
    return this.#json[key] ?? undefined;
  }
  /** Whether the file says null, rather than nothing. */
  isNull(key: string): boolean {
    return this.#json[key] === null;
  }
  fail(key: string, expected: string): FormatError {
    const value = JSON.stringify(this.#json[key]) ?? "missing";
    return new FormatError(`Cannot use ${this.where}: "${key}" is ${value}, expected ${expected}`);
  }
  #read<T>(key: string, is: (v: unknown) => v is T, what: string, fallback: T | undefined): T {
    const value = this.raw(key) ?? fallback;
    if (!is(value)) throw this.fail(key, what);
    return value;
  }
  count(key: string, fallback?: number): number {
    return this.#read(key, isCount, "a positive whole number", fallback);
  }
  number(key: string, fallback?: number): number {
    return this.#read(key, isNumber, "a number", fallback);
  }
  string(key: string, fallback?: string): string {
    return this.#read(key, isString, "a text", fallback);
  }
  boolean(key: string, fallback?: boolean): boolean {
    return this.#read(key, isBoolean, "true or false", fallback);
  }
  /** One of the texts in `choices`. */
  choice<T extends string>(key: string, choices: readonly T[], fallback?: T): T {
    const value = this.string(key, fallback);
    const found = choices.find((choice) => choice === value);
    if (found === undefined) throw this.fail(key, `one of ${choices.join(", ")}`);
    return found;
  }
  counts(key: string): number[] {
    const value = this.raw(key);
    if (!Array.isArray(value) || value.length === 0 || !value.every(isCount)) {
      throw this.fail(key, "a list of positive whole numbers");
    }
    return value;
  }
  strings(key: string): string[] {
    const value = this.raw(key);
    if (!Array.isArray(value) || !value.every(isString)) throw this.fail(key, "a list of texts");
    return value;
  }
  /** One value for each level: a list of that length, or one value for all. */
  perLevel(key: string, levels: number, fallback: number): number[] {
    const value = this.raw(key) ?? fallback;
    const list = Array.isArray(value) ? value : Array.from({ length: levels }, () => value);
    if (list.length !== levels || !list.every(isCount)) {
      throw this.fail(key, `a positive whole number, or one for each of ${levels} levels`);
    }
    return list;
  }
}

/** Classes that users meet, by what they are called. */
export const OTHER_CLASSES: Readonly<Record<string, string>> = {
  AsymmetricAutoencoderKL: "an asymmetric autoencoder",
  AutoencoderDC: "a deep compression autoencoder",
  AutoencoderKLTemporalDecoder: "the autoencoder of Stable Video Diffusion",
  ConsistencyDecoderVAE: "a consistency decoder",
  ControlNetModel: "a ControlNet",
  FluxTransformer2DModel: "Flux",
  HunyuanDiT2DModel: "Hunyuan-DiT",
  MotionAdapter: "an AnimateDiff motion adapter",
  PixArtTransformer2DModel: "PixArt",
  SD3Transformer2DModel: "Stable Diffusion 3",
  StableCascadeUNet: "Stable Cascade",
  T2IAdapter: "a T2I-Adapter",
  T5EncoderModel: "a T5 text encoder",
  UNet2DModel: "an unconditional U-Net",
  UNet3DConditionModel: "a text-to-video U-Net",
  UNetMotionModel: "AnimateDiff",
  UNetSpatioTemporalConditionModel: "Stable Video Diffusion",
};

export function refuse(where: string, what: string, only: string): never {
  throw new FormatError(`Cannot use ${where}: it is ${what}, and only ${only} is supported`);
}

export function checkClass(fields: Fields, expected: string): void {
  const found = fields.string("_class_name", expected);
  if (found !== expected) refuse(fields.where, OTHER_CLASSES[found] ?? `a ${found}`, expected);
}

/** Components that show that a pipeline is not a Stable Diffusion of the supported families. */
const OTHER_COMPONENTS: Readonly<Record<string, string>> = {
  transformer: "a diffusion transformer (such as Stable Diffusion 3, Flux or PixArt)",
  controlnet: "a ControlNet pipeline",
  motion_adapter: "an AnimateDiff pipeline",
  adapter: "a T2I-Adapter pipeline",
  prior: "a pipeline with a prior (such as Kandinsky or Stable Cascade)",
  image_normalizer: "an unCLIP pipeline",
  low_res_scheduler: "an upscaler pipeline",
  depth_estimator: "a depth-to-image pipeline",
};

/** Refuses a pipeline of another architecture by name. Throws `FormatError`. */
export function checkPipeline(json: unknown, where = "model_index.json"): void {
  const fields = new Fields(json, where);
  for (const [component, what] of Object.entries(OTHER_COMPONENTS)) {
    const entry = fields.raw(component);
    const present = Array.isArray(entry)
      ? entry.some((part) => part !== null)
      : entry !== undefined;
    if (present) refuse(where, what, "Stable Diffusion 1, 2 or XL");
  }
}
