/** Writes LoRA files in the names of each kind of tool (lora_names.ts reads them). */

import type { Shape } from "../base/shape.ts";
import { kohyaNames, type LoraComponent } from "./lora_names.ts";
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

/** What decides the names and the type of tensors. */
interface Spelling {
  /** Of an SDXL: all layers of its UNet, by diffusers' names. */
  readonly sdxl: { readonly unet: readonly string[] } | undefined;
  readonly dtype: FloatType;
}

/** The tensors of layers under the names of each kind of tool. */
const WRITERS: Readonly<
  Record<LoraNaming, (options: Spelling) => (layer: LoraLayerData) => TensorData[]>
> = {
  kohya({ sdxl, dtype }) {
    const nameOf = kohyaNames(sdxl);
    return ({ component, name, down, up, alpha }) => {
      const layer = nameOf(component, name);
      return [
        floatTensor(`${layer}.lora_down.weight`, down.shape, down.data, dtype),
        floatTensor(`${layer}.lora_up.weight`, up.shape, up.data, dtype),
        floatTensor(`${layer}.alpha`, [], Float32Array.of(alpha), dtype),
      ];
    };
  },
  // its readers take α for the rank, so that the scale is put into a matrix
  diffusers: ({ dtype }) => ({ component, name, down, up, alpha }) => {
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
  options: Spelling & {
    readonly naming: LoraNaming;
    readonly metadata: Readonly<Record<string, string>>;
  },
): Promise<void> {
  const { naming, metadata } = options;
  const tensors = layers.flatMap(WRITERS[naming](options));
  await writeSafetensors(path, tensors, { format: "pt", ...metadata });
}
