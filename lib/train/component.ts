/** What runs leave behind, as diffusers reads it: a folder with config.json and weights under diffusers' names. */

import { join } from "node:path";
import type { Picture } from "../base/picture.ts";
import { fileError, writeWhole } from "../formats/files.ts";
import { type TensorData, writeSafetensors } from "../formats/safetensors.ts";
import { checkpointShape } from "../nn/params.ts";
import type { Trainer } from "./trainer.ts";

/** A weight as a checkpoint has it: [co, kh, kw, ci] → [co, ci, kh, kw]. */
export function toCheckpoint(
  values: Float32Array<ArrayBuffer>,
  shape: readonly number[],
): Float32Array<ArrayBuffer> {
  const [co, kh, kw, ci] = shape;
  const taps = kh * kw;
  const out = new Float32Array(values.length);
  for (let o = 0, from = 0; o < co; o++) {
    for (let tap = 0; tap < taps; tap++) {
      for (let i = 0; i < ci; i++) out[(o * ci + i) * taps + tap] = values[from++];
    }
  }
  return out;
}

/** The reverse. */
export function fromCheckpoint(
  values: Float32Array<ArrayBuffer>,
  shape: readonly number[],
): Float32Array<ArrayBuffer> {
  const [co, kh, kw, ci] = shape;
  const taps = kh * kw;
  const out = new Float32Array(values.length);
  for (let o = 0, to = 0; o < co; o++) {
    for (let tap = 0; tap < taps; tap++) {
      for (let i = 0; i < ci; i++) out[to++] = values[(o * ci + i) * taps + tap];
    }
  }
  return out;
}

/**
 * Writes the trainer's parameters under `scope` into a folder, f32, the scope cut off their names. Each file is written
 * whole. Throws `FileError`.
 */
export async function saveComponent(
  folder: string,
  config: Readonly<Record<string, unknown>>,
  { vectors }: Trainer,
  scope: string,
  from: "weight" | "average",
): Promise<void> {
  const tensors: TensorData[] = [];
  for (const [name, values] of await vectors.read(from)) {
    const entry = vectors.places.get(name)?.entry;
    if (!entry || !name.startsWith(`${scope}.`)) continue;
    const data = entry.role === "conv" ? toCheckpoint(values, entry.shape) : values;
    tensors.push({
      name: name.slice(scope.length + 1),
      dtype: "F32",
      shape: checkpointShape(entry),
      data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    });
  }
  await Deno.mkdir(folder, { recursive: true }).catch((error) => {
    throw fileError("write", folder, error);
  });
  const weights = join(folder, "diffusion_pytorch_model.safetensors");
  await writeSafetensors(weights, tensors, { format: "pt" });
  const json = `${JSON.stringify(config, null, 2)}\n`;
  await writeWhole(join(folder, "config.json"), new TextEncoder().encode(json));
}

/** −1 … 1 to bytes. */
export function pictureOf(values: ArrayLike<number>, side: number, channels: 1 | 3): Picture {
  const bytes = Uint8ClampedArray.from(values, (value) => (value + 1) * 127.5);
  return { width: side, height: side, channels, data: new Uint8Array(bytes.buffer) };
}
