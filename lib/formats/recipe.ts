/**
 * What a picture is made with, as prompt files and the metadata of pictures say it. Fields are named as a request to the
 * pipelines is, so that a recipe can be laid over one; names of samplers and schedules are still those of the file.
 */

import type { LabelledBox } from "../base/box.ts";

/** Whatever a file leaves out is undefined. */
export interface Recipe {
  /** What to show. */
  readonly prompt?: string;
  /** What not to show. */
  readonly negativePrompt?: string;
  /** Class of the picture, for models that know classes. */
  readonly label?: string;
  /** What lies where, for models that read layouts. */
  readonly boxes?: readonly LabelledBox[];
  /** What a second picture is for: a small picture, one with a hole, a map, or one that the walk begins with. */
  readonly sees?: "low" | "mask" | "map" | "start";
  /** Path of that picture. */
  readonly image?: string;
  /** Path of a picture as large that is white where something is to be made anew. */
  readonly mask?: string;
  /** With a hole: what is around it stays. */
  readonly keep?: boolean;
  /** With a hole: pixels by which its edge is blended. */
  readonly maskBlur?: number;
  /** How much a picture is to change, from 0 to 1. */
  readonly strength?: number;
  /** Pixels. */
  readonly width?: number;
  /** Pixels. */
  readonly height?: number;
  /** Sampling steps. */
  readonly steps?: number;
  /** Classifier-free guidance; 1 is off. */
  readonly cfgScale?: number;
  /** From 0, off, to 1. */
  readonly guidanceRescale?: number;
  /** Any tool's spelling. */
  readonly sampler?: string;
  /** Any tool's spelling. */
  readonly schedule?: string;
  /** Share of fresh noise. */
  readonly eta?: number;
  /** −1 draws one. */
  readonly seed?: number;
  /** Pictures. */
  readonly batchCount?: number;
  /** Only this picture of the batch, from 0. */
  readonly batchIndex?: number;
  /** Each picture of a batch has a seed of its own, or one generator serves all of them. */
  readonly batchSeeds?: "each" | "one";
  /** Whose generator the noise is: torch's on a CPU or on CUDA. */
  readonly rng?: "cpu" | "cuda";
  /** The generator of the noise that samplers add, where it is another one. */
  readonly samplerRng?: "cpu" | "cuda";
  /** 1 is the family's own layer of the text encoder. */
  readonly clipSkip?: number;
  /** Whose grammar and arithmetic of emphasis. */
  readonly weighting?: "a1111" | "comfy" | "none";
  /** How 0 … 1 becomes a byte. */
  readonly rounding?: "round" | "truncate";
  /** SDXL: zeros stand for the negative prompt. */
  readonly zeroNegative?: boolean;
  /** The tool whose conventions hold where nothing else is said. */
  readonly match?: "diffusers" | "a1111" | "comfyui" | "sdcpp";
}

/** Programs whose pictures are understood, and what they are called. */
export const TOOLS = {
  ldm: "ldm",
  a1111: "AUTOMATIC1111's web UI",
  comfyui: "ComfyUI",
  sdcpp: "stable-diffusion.cpp",
  invokeai: "InvokeAI",
  fooocus: "Fooocus",
  kohya: "kohya's gen_img",
} as const;
/** One of `TOOLS`. */
export type Tool = keyof typeof TOOLS;

/** What a file is for; named as the option that takes it. */
export type FileRole = "model" | "vae" | "taesd" | "tokenizer" | "image" | "mask";

/** How a picture was made, as its file says. */
export interface Remembered {
  /** Who made it. */
  readonly tool: Tool;
  /** What it was made with. */
  readonly recipe: Recipe;
  /** Names of files and folders that it was made with, never paths; the checkpoint's may lack its extension. */
  readonly files: Readonly<Partial<Record<FileRole, string>>>;
  /** The first ten hexadecimal digits of the SHA-256 of the checkpoint's file, as AUTOMATIC1111 writes them. */
  readonly modelHash?: string;
  /**
   * What it was made with beside words, as AUTOMATIC1111 writes it in prompts, from which it is taken out here:
   * `<lora:name:0.8>`, of text encoders and denoiser `<lora:name:0.5:0.8>`. Pictures of ours keep it in their prompts.
   */
  readonly networks?: readonly string[];
  /** Type of the weights on the device. */
  readonly dtype?: "f16" | "f32";
  /** With kernels that were tuned for the device. */
  readonly tuned?: boolean;
  /** What the file says and a recipe cannot, each as a phrase that can follow "cannot match". */
  readonly unmatched: readonly string[];
}

/** A LoRA as `Remembered.networks` has it, by its file and how much of it there was. */
export function loraTag(file: string, multiplier = 1, textMultiplier = multiplier): string {
  const name = fileName(file).replace(/\.(safetensors|pt|ckpt|bin)$/, "");
  const both = textMultiplier === multiplier ? multiplier : `${textMultiplier}:${multiplier}`;
  return `<lora:${name}:${both}>`;
}

/** Fields with a value: an undefined one is no field. */
export function defined<T extends object>(
  fields: T,
): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== undefined),
  ) as { [K in keyof T]: Exclude<T[K], undefined> };
}

/** The last part of a path of any system. */
export function fileName(path: string): string {
  return path.replace(/[\\/]+$/, "").replace(/^.*[\\/]/, "");
}

const SEEDS = 2n ** 32n;

/**
 * A seed that another program used, of any size. torch's CPU generator takes the low 32 bits of a seed, so these give the
 * same noise; its CUDA generator takes 64, of which only 32 can be asked for here.
 */
export function seedOf(
  value: unknown,
  rng: "cpu" | "cuda",
): { readonly seed: number | undefined; readonly unmatched: readonly string[] } {
  const isWhole = typeof value === "bigint" ||
    typeof value === "string" && /^-?\d{1,30}$/.test(value) ||
    typeof value === "number" && Number.isInteger(value);
  const whole = isWhole ? BigInt(value as bigint | string | number) : undefined;
  if (whole === undefined || whole < 0n) return { seed: undefined, unmatched: [`the seed`] };
  const seed = Number(whole % SEEDS);
  return { seed, unmatched: whole < SEEDS || rng === "cpu" ? [] : [`the seed ${whole}`] };
}
