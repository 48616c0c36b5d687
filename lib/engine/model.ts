/**
 * The door between mathematics and machine: a checkpoint bound to a device, with its stages compiled on first use per shape.
 * Host arrays are float32 in torch's order: latents [channels, height, width], pictures [height, width, 3] in 0 … 1.
 */

/** Token ids of one prompt, 77 for each text encoder, in the order of the encoders. */
export type TokenIds = readonly Int32Array[];

/** What the denoiser is told about one prompt. */
export interface TextEmbedding {
  /** Hidden states [tokens, width]. */
  readonly hidden: Float32Array;
  readonly tokens: number;
  /** Pooled embedding of SDXL. */
  readonly pooled?: Float32Array;
}

/** One row of a denoiser's batch. */
export interface Condition {
  readonly text: TextEmbedding;
  /** SDXL: original height, width, crop top, left, target height, width, in pixels. */
  readonly timeIds?: readonly number[];
  /** LCM: the embedded guidance scale (`guidanceEmbedding` of lib/diffusion). */
  readonly guidance?: Float32Array;
}

/** The denoiser at one size. */
export interface Denoiser extends Disposable {
  /** The network's prediction (ε or v) at timestep t for each condition, from x already scaled for its input. */
  predict(
    x: Float32Array,
    timestep: number,
    conditions: readonly Condition[],
  ): Promise<Float32Array[]>;
}

/** Latents in the denoiser's scale. */
export interface Latents {
  /** [channels, height, width]. */
  readonly data: Float32Array;
  readonly channels: number;
  readonly height: number;
  readonly width: number;
}

/** A picture as numbers, [height, width, 3] in 0 … 1, not yet clamped or rounded. */
export interface FloatPicture {
  readonly data: Float32Array;
  readonly height: number;
  readonly width: number;
}

/** How a first stage is run: `on` in tiles, `off` whole, `auto` in tiles when the whole does not fit. All give the same picture. */
export type Tiling = "auto" | "on" | "off";

export interface LoadOptions {
  /** Another first stage: a VAE file or folder, or a TAESD file or folder. */
  readonly vae?: string;
  readonly taesd?: string;
  /** Weights on the device; f32 keeps what the checkpoint has. */
  readonly weights?: "f16" | "f32";
  /** Called while weights stream in, with bytes read and bytes in all. */
  readonly progress?: (done: number, total: number) => void;
}
