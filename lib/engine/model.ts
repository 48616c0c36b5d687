/**
 * The door between mathematics and machine: a checkpoint bound to a device, with its stages compiled on first use per shape.
 * Host arrays are float32 in torch's order: latents [channels, height, width], pictures [height, width, 3] in 0 … 1.
 */

import type { Beside } from "../models/beside.ts";
import type { ConditionerConfig } from "../models/conditioner.ts";
import type { Defaults, Family, Variant } from "../models/family.ts";
import type { TokenizerFiles } from "../formats/checkpoint.ts";
import type { LoraChoice } from "./lora.ts";
import type { ReadProgress } from "./part.ts";
import type { Lifetime, MemoryPlan } from "./residency.ts";

export type { BesideSource } from "../models/beside.ts";
export type { LoraChoice } from "./lora.ts";
export type { ReadProgress } from "./part.ts";
export type { MemoryPlan, StageMemory } from "./residency.ts";

/** Token ids of one prompt, 77 for each text encoder, in the order of the encoders. */
export type TokenIds = readonly Int32Array[];

/** What the denoiser is told about one prompt. */
export interface TextEmbedding {
  /** Hidden states [tokens, width]. */
  readonly hidden: Float32Array;
  /** How many tokens, of all chunks. */
  readonly tokens: number;
  /** Pooled embedding of SDXL. */
  readonly pooled?: Float32Array;
}

/** What a conditioner is told of a picture; `undefined` is told nothing. */
export interface Told {
  /** Place of its class among the conditioner's. */
  readonly classId?: number;
  /** Tokens of a layout, as many as the conditioner reads. */
  readonly layout?: Int32Array;
}

/** One row of a denoiser's batch. */
export interface Condition {
  /** The states of the prompt. */
  readonly text: TextEmbedding;
  /** SDXL: original height, width, crop top, left, target height, width, in pixels. */
  readonly timeIds?: readonly number[];
  /** LCM: the embedded guidance scale (`guidanceEmbedding` of lib/diffusion). */
  readonly guidance?: Float32Array;
}

/** The denoiser at one size. */
export interface Denoiser extends Disposable {
  /**
   * The network's prediction (ε or v) at timestep t for each condition, from x [channels, height, width] already scaled for
   * its input; where it sees more than latents, that follows as further channels of x.
   */
  predict(
    x: Float32Array,
    timestep: number,
    conditions: readonly Condition[],
  ): Promise<Float32Array<ArrayBuffer>[]>;
}

/** What a denoiser is made for. */
export interface DenoiserRequest {
  /** Latents. */
  readonly height: number;
  /** Latents. */
  readonly width: number;
  /** Lists of conditions to keep ready, as far as there is room; 1 where absent. */
  readonly sets?: number;
  /** Conditions are going to change: counts room for that; false where absent. */
  readonly changes?: boolean;
}

/** Latents in the denoiser's scale. */
export interface Latents {
  /** [channels, height, width]. */
  readonly data: Float32Array;
  /** Numbers of one latent. */
  readonly channels: number;
  /** Rows. */
  readonly height: number;
  /** Columns. */
  readonly width: number;
}

/** Latents of a picture: the mean of the encoder's distribution. */
export interface Encoded extends Latents {
  /** Standard deviations about the mean, in its order; absent where the first stage has no distribution. */
  readonly deviation?: Float32Array;
}

/** A picture as numbers, [height, width, 3] in 0 … 1, not yet clamped or rounded. */
export interface FloatPicture {
  /** Row by row from the top left. */
  readonly data: Float32Array;
  /** Pixels. */
  readonly height: number;
  /** Pixels. */
  readonly width: number;
}

/** How a first stage is run: `on` in tiles, `off` whole, `auto` in tiles when the whole does not fit. All give the same picture. */
export type Tiling = "auto" | "on" | "off";

/** How a first stage is run. */
export interface StageOptions {
  /** "auto" where absent. */
  readonly tiling?: Tiling;
  /** The most pixels of a tile's result. */
  readonly bandPixels?: number;
  /** Called when so many of so many tiles are done. */
  readonly progress?: (done: number, total: number) => void;
}

/** What a pipeline is going to ask of a model, so that memory is planned before anything is read. */
export interface Run {
  /** Pixels. */
  readonly height: number;
  /** Pixels. */
  readonly width: number;
  /** One after another. */
  readonly pictures: number;
  /** Conditions of every step, and the tokens of each. */
  readonly prompts: number;
  /** Tokens of a condition. */
  readonly tokens: number;
  /** Tokens that the text encoders read at a time. */
  readonly chunk: number;
  /** How many lists of conditions the steps switch among; the denoiser keeps as many ready as there is room for. */
  readonly sets: number;
  /** Conditions change while a denoiser is there, which takes room for computing what it keeps of them. */
  readonly changes: boolean;
  /** One denoiser is to serve several pictures, and stays where there is room for it beside the other stages. */
  readonly keeps: boolean;
  /** Pictures are encoded before the first step. */
  readonly encodes: boolean;
  /** As for `encodeText`. */
  readonly clipSkip: number;
  /** Of the first stage. */
  readonly tiling: Tiling;
}

/** How a model is loaded. */
export interface LoadOptions {
  /** Another first stage: a VAE file or folder. */
  readonly vae?: string;
  /** TAESD as the first stage: a file or folder. */
  readonly taesd?: string;
  /** LoRAs in use from the beginning. */
  readonly loras?: readonly LoraChoice[];
  /** Weights on the device: f16 (the default), or f32, which keeps what the checkpoint has. */
  readonly weights?: "f16" | "f32";
  /**
   * How long weights stay on the device, where they fit together. "model": all are read now and stay, for a model that is
   * used again and again (the default). "run": each part is read when it is first used, and freed when the run that was
   * prepared needs it no more. Where they do not fit together, parts take turns either way.
   */
  readonly lifetime?: Lifetime;
  /** Called while weights stream in, with bytes of a part that are read, bytes in all, and its name. */
  readonly progress?: ReadProgress;
}

/** A checkpoint on a device. Dispose of it to free its weights. */
export interface Model extends AsyncDisposable {
  /** Pixels to one latent along one side. */
  readonly factor: number;
  /** Numbers of one latent. */
  readonly latentChannels: number;
  /** Where the checkpoint is. */
  readonly path: string;
  /** Which architecture it is. */
  readonly family: Family;
  /** How it was distilled, if it was. */
  readonly variant: Variant;
  /** What the family's users expect where nothing is asked for; width and height in pixels. */
  readonly defaults: Defaults & { readonly width: number; readonly height: number };
  /** Contents of scheduler_config.json: the checkpoint's, else the family's. */
  readonly scheduler: unknown;
  /** One entry a text encoder; `undefined` where the checkpoint brings no vocabulary. */
  readonly tokenizers: readonly (TokenizerFiles | undefined)[];
  /** Padding id of each tokenizer that the checkpoint does not bring. */
  readonly padTokens: readonly number[];
  /** An empty negative prompt is all zeros (SDXL). */
  readonly zeroEmptyPrompt: boolean;
  /** Width of the embedded guidance scale, for LCM. */
  readonly guidanceWidth: number | undefined;
  /** SDXL conditions on sizes. */
  readonly wantsSizes: boolean;
  /** What loading noticed. */
  readonly warnings: readonly string[];
  /** Bytes of the checkpoint that making pictures reads. */
  readonly fileBytes: number;
  /**
   * Decides from sizes alone which parts are on the device when, and says what each stage will take, exactly. Throws
   * `MemoryError` with both numbers where a stage does not fit even alone. Without it parts stay, or take turns, as for a
   * picture of the usual size.
   */
  prepare(run: Run): MemoryPlan;
  /** Width of each text encoder's states, in the order in which they stand side by side in a token's. */
  readonly textWidths: readonly number[];
  /**
   * States of the text encoders. `clipSkip` counts from 1, the family's own layer. Those of a prompt do not depend on what
   * else is encoded, to the bit.
   */
  encodeText(prompts: readonly TokenIds[], clipSkip?: number): Promise<TextEmbedding[]>;
  /** What it can be told beside text; `undefined` where that is nothing. */
  readonly conditioner: ConditionerConfig | undefined;
  /** What it sees beside latents, as lib/engine/beside.ts makes it; `undefined` where that is nothing. */
  readonly beside: Beside | undefined;
  /** Tokens that the conditioner gives beside those of the text. */
  readonly toldTokens: number;
  /** Whether prompts mean anything to it. */
  readonly readsText: boolean;
  /** The conditioner's tokens; what a layout is not told of must be told by its tokens for nothing. */
  encodeTold(told: readonly Told[]): Promise<TextEmbedding[]>;
  /** The denoiser at a size in latents; dispose of it to free what it holds. */
  denoiser(size: DenoiserRequest): Denoiser;
  /**
   * Uses these LoRAs and no others from now on: what they change is read again. Returns what is to be told, such as layers
   * that this model does not have. No denoiser may be there, and what was encoded before was encoded without them, so
   * pipelines must be disposed of. Throws `FileError`, and `FormatError` for what is no LoRA for this model; then all stays
   * as it was.
   */
  useLoras(choices: readonly LoraChoice[]): Promise<readonly string[]>;
  /** The picture of some latents. */
  decodeImage(latents: Latents, options?: StageOptions): Promise<FloatPicture>;
  /** The latents of a picture. */
  encodeImage(picture: FloatPicture, options?: StageOptions): Promise<Encoded>;
}
