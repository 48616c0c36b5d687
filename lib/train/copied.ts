/** Components of other checkpoints, written into a run's folder as diffusers has them: tensors as they are, configs made. */

import { join } from "node:path";
import { FormatError } from "../base/errors.ts";
import { architectureOf } from "../engine/architecture.ts";
import { type Checkpoint, openCheckpoint } from "../formats/checkpoint.ts";
import { tensorsOf, WEIGHT_FILES, writeComponent } from "../formats/diffusers_folder.ts";
import type { TensorData } from "../formats/safetensors.ts";
import { taesdJson, vaeJson } from "../models/diffusers_json.ts";

/**
 * Copies the first stage of a checkpoint into `vae/` and returns diffusers' class. Throws `FileError`, and `FormatError`
 * where there is none.
 */
export async function copyFirstStage(path: string, folder: string): Promise<string> {
  await using checkpoint = await openCheckpoint(path);
  const { components } = checkpoint;
  const { vae, taesd } = await architectureOf(checkpoint);
  const write = (config: unknown, tensors: readonly TensorData[]) =>
    writeComponent(join(folder, "vae"), config, tensors, WEIGHT_FILES.diffusers);
  const halves = (["taesd_encoder", "taesd_decoder"] as const).map((name) => components.get(name));
  if (taesd && halves[0] && halves[1]) {
    await write(taesdJson(taesd), halves.flatMap((half) => half ? tensorsOf(half) : []));
    return "AutoencoderTiny";
  }
  const weights = components.get("vae");
  if (!vae || !weights) {
    throw new FormatError(`Cannot use "${path}" as a first stage: it holds no whole autoencoder`);
  }
  const text = await checkpoint.configText("vae");
  await write(text ?? vaeJson(vae, 2 ** (vae.channels.length - 1) * 64), tensorsOf(weights));
  return vae.codes === undefined ? "AutoencoderKL" : "VQModel";
}

/** Copies the text encoder of a checkpoint, with `config` where it has none of its own. Throws `FileError`. */
export async function copyTextEncoder(
  checkpoint: Checkpoint,
  config: Readonly<Record<string, unknown>>,
  folder: string,
): Promise<void> {
  const weights = checkpoint.components.get("text_encoder");
  if (!weights) throw new TypeError("There is no text encoder");
  await writeComponent(
    join(folder, "text_encoder"),
    await checkpoint.configText("text_encoder") ?? config,
    tensorsOf(weights),
    WEIGHT_FILES.transformers,
  );
}
