/** The file that the training of a LoRA leaves. */

import { basename, join, resolve } from "node:path";
import { unetManifest } from "../engine/stages.ts";
import { makeFolder } from "../formats/diffusers_folder.ts";
import { LORA_COMPONENTS } from "../formats/lora_names.ts";
import { type LoraLayerData, type LoraNaming, writeLora } from "../formats/lora_writer.ts";
import type { Family } from "../models/family.ts";
import { DOWN, UP } from "../nn/lora.ts";
import { checkpointShape, type Manifest } from "../nn/params.ts";
import type { BaseModel } from "./base_model.ts";
import { toCheckpoint, type Weight } from "./component.ts";
import type { LoraConfig } from "./config.ts";

/**
 * Writes a LoRA as one file, under the folder's name in kohya's naming, under the one that diffusers looks for in its own.
 * Throws `FileError`.
 */
export async function saveLora(
  folder: string,
  weights: readonly Weight[],
  settings: LoraConfig,
  { family, unet }: Pick<BaseModel, "family" | "unet">,
): Promise<void> {
  const { rank, alpha, names } = settings.lora;
  await makeFolder(folder);
  await writeLora(join(folder, fileOf(names, folder)), layersData(weights, alpha || rank), {
    naming: names,
    sdxl: family === "sdxl" ? { unet: layersIn("unet", unetManifest(unet)) } : undefined,
    dtype: settings.run.dtype,
    metadata: metadataOf(settings, family, basename(resolve(folder))),
  });
}

/** The layers of a component, without its name. */
function layersIn(component: string, manifest: Manifest): string[] {
  const weights = [...manifest.keys()].filter((name) => name.endsWith(".weight"));
  return weights.map((name) => name.slice(component.length + 1, -".weight".length));
}

/** The name of a LoRA's file in a run's folder. */
export function fileOf(naming: LoraNaming, folder: string): string {
  const name = naming === "diffusers" ? "pytorch_lora_weights" : basename(resolve(folder));
  return `${name}.safetensors`;
}

/** Trained parameters as a file has them, by layers. */
function layersData(weights: readonly Weight[], alpha: number): LoraLayerData[] {
  const matrices = new Map(weights.map(({ entry, values }) => {
    const data = entry.role === "conv" ? toCheckpoint(values, entry.shape) : values;
    return [entry.name, { shape: checkpointShape(entry), data }];
  }));
  return [...matrices].flatMap(([key, down]) => {
    const [layer, end] = key.split(`${DOWN}.`);
    const up = matrices.get(`${layer}${UP}.${end}`);
    const component = LORA_COMPONENTS.find((each) => layer.startsWith(`${each}.`));
    if (end === undefined || !up || !component) return [];
    return [{ component, name: layer.slice(component.length + 1), down, up, alpha }];
  });
}

/** What kohya's tools call the families. */
const KOHYA_FAMILIES: Readonly<Record<Family, readonly [version: string, architecture: string]>> = {
  sd1: ["sd_v1", "stable-diffusion-v1/lora"],
  sd2: ["sd_v2", "stable-diffusion-v2/lora"],
  sdxl: ["sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"],
};

/** What tools show and sort by, under the names of kohya's trainers and of modelspec. */
function metadataOf(
  { lora, run, data, optimizer }: LoraConfig,
  family: Family,
  name: string,
): Record<string, string> {
  const [version, architecture] = KOHYA_FAMILIES[family];
  const { rank, alpha, model, text_encoder } = lora;
  return {
    "modelspec.architecture": architecture,
    "modelspec.title": name,
    ss_base_model_version: version,
    ss_learning_rate: String(optimizer.lr),
    ss_max_train_steps: String(run.steps),
    ss_min_snr_gamma: lora.min_snr > 0 ? String(lora.min_snr) : "None",
    ss_network_alpha: String(alpha || rank),
    ss_network_dim: String(rank),
    ss_network_module: "networks.lora",
    ss_optimizer: "AdamW",
    ss_output_name: name,
    ss_resolution: `(${data.size}, ${data.size})`,
    ss_sd_model_name: basename(model),
    ss_seed: String(run.seed),
    ss_text_encoder_lr: text_encoder ? String(optimizer.lr) : "None",
    ss_total_batch_size: String(optimizer.batch * optimizer.accumulate),
    ss_unet_lr: String(optimizer.lr),
    ss_v2: family === "sd2" ? "True" : "False",
  };
}
