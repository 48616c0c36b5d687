/** Latents on disk: a safetensors file with one float tensor, [channels, height, width] or one such in a batch. */

import { counted } from "../base/counted.ts";
import { FormatError } from "../base/errors.ts";
import { show } from "../base/shape.ts";
import { SafetensorsFile, writeSafetensors } from "./safetensors.ts";

/** Latents in the denoiser's scale. */
export interface LatentData {
  /** [channels, height, width]. */
  readonly data: Float32Array;
  /** Numbers of one latent. */
  readonly channels: number;
  /** Rows. */
  readonly height: number;
  /** Columns. */
  readonly width: number;
}

const NAME = "latents";

/** Writes `latents` as f32 [1, channels, height, width]. Throws `FileError`. */
export async function writeLatents(
  path: string,
  { data, channels, height, width }: LatentData,
  metadata: Readonly<Record<string, string>>,
): Promise<void> {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const shape = [1, channels, height, width];
  await writeSafetensors(path, [{ name: NAME, dtype: "F32", shape, data: bytes }], metadata);
}

/**
 * Reads what `writeLatents` wrote, or the only tensor of a file. Throws `FormatError` where there is no such tensor, or not
 * one picture's.
 */
export async function readLatents(path: string): Promise<LatentData> {
  using file = await SafetensorsFile.open(path);
  const entry = file.tensors.get(NAME) ??
    (file.tensors.size === 1 ? [...file.tensors.values()][0] : undefined);
  if (!entry) {
    throw new FormatError(
      `Cannot read latents from "${path}": it has ${
        counted(file.tensors.size, "tensor")
      } and none is called "${NAME}"`,
    );
  }
  const { name, shape } = entry;
  const [channels, height, width] = shape.length === 4 && shape[0] === 1 ? shape.slice(1) : shape;
  const isPicture = shape.length - (shape.length === 4 && shape[0] === 1 ? 1 : 0) === 3;
  if (!isPicture || channels * height * width === 0) {
    throw new FormatError(
      `Cannot read latents from "${path}": "${name}" is ${show(shape)}, and ` +
        `[channels, height, width] of one picture was needed`,
    );
  }
  return { data: await file.readTensor(name), channels, height, width };
}
