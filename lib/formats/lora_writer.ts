/** Writes LoRA files in the names of each kind of tool (lora_names.ts reads them). */

import type { Shape } from "../base/shape.ts";
import type { LoraComponent } from "./lora_names.ts";
import { floatTensor, type FloatType, type TensorData, writeSafetensors } from "./safetensors.ts";

/** A layer to be written. */
export interface LoraLayerData {
  readonly component: LoraComponent;
  /** diffusers' name of the layer, without the component's. */
  readonly name: string;
  /** [rank, in] or [rank, in, kh, kw] */
  readonly down: { readonly shape: Shape; readonly data: Float32Array<ArrayBuffer> };
  /** [out, rank] or [out, rank, 1, 1] */
  readonly up: { readonly shape: Shape; readonly data: Float32Array<ArrayBuffer> };
  readonly alpha: number;
}

export const LORA_NAMINGS = ["kohya", "diffusers"] as const;
export type LoraNaming = (typeof LORA_NAMINGS)[number];

/** The tensors of a layer under the names of each kind of tool. `twoEncoders`: the model is an SDXL. */
const WRITERS: Readonly<
  Record<
    LoraNaming,
    (
      layer: LoraLayerData,
      options: { readonly twoEncoders: boolean; readonly dtype: FloatType },
    ) => TensorData[]
  >
> = {
  kohya({ component, name, down, up, alpha }, { twoEncoders, dtype }) {
    const prefix = {
      unet: "lora_unet",
      text_encoder: twoEncoders ? "lora_te1" : "lora_te",
      text_encoder_2: "lora_te2",
    }[component];
    const layer = `${prefix}_${name.replaceAll(".", "_")}`;
    return [
      floatTensor(`${layer}.lora_down.weight`, down.shape, down.data, dtype),
      floatTensor(`${layer}.lora_up.weight`, up.shape, up.data, dtype),
      floatTensor(`${layer}.alpha`, [], Float32Array.of(alpha), dtype),
    ];
  },
  // its readers take α for the rank, so that the scale is put into a matrix
  diffusers({ component, name, down, up, alpha }, { dtype }) {
    const scale = alpha / down.shape[0];
    const scaled = scale === 1 ? up.data : up.data.map((value) => value * scale);
    const layer = `${component}.${name}`;
    return [
      floatTensor(`${layer}.lora_A.weight`, down.shape, down.data, dtype),
      floatTensor(`${layer}.lora_B.weight`, up.shape, scaled, dtype),
    ];
  },
};

/** Writes a LoRA whole. Throws `FileError`. */
export async function writeLora(
  path: string,
  layers: readonly LoraLayerData[],
  options: {
    readonly naming: LoraNaming;
    readonly twoEncoders: boolean;
    readonly dtype: FloatType;
    readonly metadata: Readonly<Record<string, string>>;
  },
): Promise<void> {
  const { naming, metadata } = options;
  const tensors = layers.flatMap((layer) => WRITERS[naming](layer, options));
  await writeSafetensors(path, tensors, { format: "pt", ...metadata });
}
