/** What runs leave behind, as diffusers reads it: a folder with config.json and weights under diffusers' names. */

import type { Picture } from "../base/picture.ts";
import { WEIGHT_FILES, writeComponent } from "../formats/diffusers_folder.ts";
import { floatTensor, type FloatType, type TensorData } from "../formats/safetensors.ts";
import { checkpointShape, type ManifestEntry } from "../nn/params.ts";
import type { Trainer } from "./trainer.ts";

/** [n, a, b] → [n, b, a] */
function swapped(
  values: Float32Array<ArrayBuffer>,
  n: number,
  a: number,
  b: number,
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(values.length);
  for (let o = 0, from = 0; o < n; o++) {
    for (let i = 0; i < a; i++) {
      for (let j = 0; j < b; j++) out[(o * b + j) * a + i] = values[from++];
    }
  }
  return out;
}

/** A convolution's weight as a checkpoint has it: [co, kh, kw, ci] → [co, ci, kh, kw]. */
export function toCheckpoint(
  values: Float32Array<ArrayBuffer>,
  [co, kh, kw, ci]: readonly number[],
): Float32Array<ArrayBuffer> {
  return swapped(values, co, kh * kw, ci);
}

/** The reverse; the shape is the graph's, [co, kh, kw, ci]. */
export function fromCheckpoint(
  values: Float32Array<ArrayBuffer>,
  [co, kh, kw, ci]: readonly number[],
): Float32Array<ArrayBuffer> {
  return swapped(values, co, ci, kh * kw);
}

/** A parameter and its values, as the graph has them. */
export interface Weight {
  readonly entry: ManifestEntry;
  readonly values: Float32Array<ArrayBuffer>;
}

/** All that a trainer changes, at its best. */
export async function weightsOf({ vectors }: Trainer): Promise<Weight[]> {
  const values = await vectors.read(vectors.best);
  return [...vectors.places].map(([name, { entry }]) => ({
    entry,
    values: values.get(name) ?? new Float32Array(),
  }));
}

/** Weights under `scope` as a checkpoint has them, the scope cut off their names. */
export function tensorsUnder(
  scope: string,
  weights: readonly Weight[],
  dtype: FloatType,
): TensorData[] {
  return weights.filter(({ entry }) => entry.name.startsWith(`${scope}.`)).map(
    ({ entry, values }) => {
      const data = entry.role === "conv" ? toCheckpoint(values, entry.shape) : values;
      return floatTensor(entry.name.slice(scope.length + 1), checkpointShape(entry), data, dtype);
    },
  );
}

/**
 * Writes the trainer's parameters under `scope` into a folder, the scope cut off their names. Each file is written
 * whole. Throws `FileError`.
 */
export async function saveComponent(
  folder: string,
  config: Readonly<Record<string, unknown>>,
  trainer: Trainer,
  scope: string,
  { dtype }: { readonly dtype: FloatType },
): Promise<void> {
  const tensors = tensorsUnder(scope, await weightsOf(trainer), dtype);
  await writeComponent(folder, config, tensors, WEIGHT_FILES.diffusers);
}

/** −1 … 1 to bytes. */
export function pictureOf(values: ArrayLike<number>, side: number, channels: 1 | 3): Picture {
  const bytes = Uint8ClampedArray.from(values, (value) => (value + 1) * 127.5);
  return { width: side, height: side, channels, data: new Uint8Array(bytes.buffer) };
}
