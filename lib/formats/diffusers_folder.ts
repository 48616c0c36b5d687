/** Components of a model as diffusers keeps them: a folder with config.json and weights, or the files of a tokenizer. */

import { join } from "node:path";
import type { TokenizerFiles } from "../base/tokenizer_files.ts";
import type { Weights } from "./checkpoint.ts";
import { fileError, writeWhole } from "./files.ts";
import { type TensorData, writeSafetensors } from "./safetensors.ts";

/** diffusers' name of a file of weights, and transformers'. */
export const WEIGHT_FILES = {
  diffusers: "diffusion_pytorch_model",
  transformers: "model",
} as const;

/** The tensors of a component, each read when it is written. */
export function tensorsOf(weights: Weights): TensorData[] {
  return [...weights.infos.values()].map(({ name, dtype, shape }) => ({
    name,
    dtype,
    shape,
    data: async () => (await weights.read(name)).data,
  }));
}

/** Writes config.json, a value or its text, and weights into a folder, each file whole. Throws `FileError`. */
export async function writeComponent(
  folder: string,
  config: unknown,
  tensors: readonly TensorData[],
  file: string,
): Promise<void> {
  await makeFolder(folder);
  await writeSafetensors(join(folder, `${file}.safetensors`), tensors, { format: "pt" });
  const path = join(folder, "config.json");
  await (typeof config === "string" ? writeText(path, config) : writeJson(path, config));
}

/** Writes a JSON file whole, as Python's json.dump does with an indent of 2. Throws `FileError`. */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeText(path, `${JSON.stringify(value, null, 2)}\n`);
}

/** Writes a file of text whole. Throws `FileError`. */
export async function writeText(path: string, text: string): Promise<void> {
  await writeWhole(path, new TextEncoder().encode(text));
}

/** Makes a folder and those above it. Throws `FileError`. */
export async function makeFolder(path: string): Promise<void> {
  await Deno.mkdir(path, { recursive: true }).catch((error) => {
    throw fileError("write", path, error);
  });
}

/** Writes the files of a tokenizer into a folder. Throws `FileError`. */
export async function writeTokenizer(files: TokenizerFiles, path: string): Promise<void> {
  await makeFolder(path);
  await writeText(join(path, "vocab.json"), files.vocab);
  await writeText(join(path, "merges.txt"), files.merges);
  await writeJson(join(path, "tokenizer_config.json"), files.config ?? {});
  if (files.specialTokens !== undefined) {
    await writeJson(join(path, "special_tokens_map.json"), files.specialTokens);
  }
}
