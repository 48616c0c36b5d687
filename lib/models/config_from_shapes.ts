/**
 * What a model is made of, told from its tensors' shapes alone, where a single file carries no configs. Every number that
 * shapes do not tell stands here with its source. An architecture that is not built here is refused by name.
 *
 * Convention: names and shapes are diffusers' ("conv_in.weight" → [320, 4, 3, 3]), without the component's prefix.
 */

import { FormatError } from "../base/errors.ts";
import { type Shape, show } from "../base/shape.ts";
import type { Activation } from "../nn/layers.ts";
import type { ClipConfig } from "./clip.ts";
import { refuse } from "./config_fields.ts";
import { checkAddition, UNET_CODE, VAE_EPS } from "./config_from_json.ts";
import { TAESD, type TaesdConfig } from "./taesd.ts";
import type { UnetConfig, UnetLevel } from "./unet.ts";
import type { VaeConfig } from "./vae.ts";

/** diffusers' names and shapes of one component, e.g. of the tensors of a single file. */
export type Shapes = ReadonlyMap<string, Shape>;

/** Names that only other architectures have. */
const OTHER_NAMES: readonly (readonly [RegExp, string])[] = [
  [/(^|\.)lora_(up|down|A|B)\b|\.lora_|(^|\.)lora_te/, "a LoRA"],
  [/(^|\.)joint_blocks\./, "Stable Diffusion 3"],
  [/(^|\.)(double_blocks|single_transformer_blocks|single_blocks)\./, "Flux"],
  [/motion_modules\./, "AnimateDiff"],
  [
    /(^|\.)(time_mixer|temporal_transformer_blocks|time_stack|spatial_res_block)\b/,
    "Stable Video Diffusion",
  ],
  [/controlnet_cond_embedding|input_hint_block|(^|\.)control_model\./, "a ControlNet"],
  [/(^|\.)(class_embedding|label_emb)\./, "a UNet with class conditioning"],
  [/(^|\.)position_net\./, "GLIGEN"],
  [
    /(^|\.)(encoder_hid_proj|add_k_proj)\b/,
    "a UNet with projected text states (Kandinsky, IP-Adapter)",
  ],
];

/** Refuses by name what names of tensors give away. Throws `FormatError`. */
export function checkNames(names: Iterable<string>, where: string): void {
  for (const name of names) {
    const other = OTHER_NAMES.find(([pattern]) => pattern.test(name));
    if (other) refuse(where, `${other[1]} ("${name}")`, "Stable Diffusion 1, 2 or XL");
  }
}

/**
 * What shapes do not tell; what is missing is the released models' (given with each `…FromShapes`).
 */
export interface Hints {
  /**
   * Heads at each level of the UNet, from the largest picture to the smallest; or of the text
   * encoder.
   */
  readonly heads?: readonly number[];
  readonly groups?: number;
  /** SDXL: width of the embedding of each size. */
  readonly timeWidth?: number;
  readonly activation?: Activation;
  readonly scalingFactor?: number;
}

/** Reads dimensions by name and counts numbered scopes. */
class Survey {
  readonly #scopes = new Set<string>();
  constructor(readonly shapes: Shapes, readonly where: string) {
    for (const name of shapes.keys()) {
      for (let at = name.indexOf("."); at >= 0; at = name.indexOf(".", at + 1)) {
        this.#scopes.add(name.slice(0, at));
      }
    }
  }
  /** Whether there is a parameter inside this scope. */
  has(scope: string): boolean {
    return this.#scopes.has(scope);
  }
  /** Numbered scopes `prefix.0`, `prefix.1`, … */
  count(prefix: string): number {
    let n = 0;
    while (this.has(`${prefix}.${n}`)) n++;
    return n;
  }
  shape(name: string): Shape {
    const shape = this.shapes.get(name);
    if (shape) return shape;
    throw new FormatError(
      `Cannot tell the architecture of ${this.where} from its tensors: "${name}" is missing`,
    );
  }
  size(name: string, axis: number): number {
    const shape = this.shape(name);
    if (axis < shape.length) return shape[axis];
    throw new FormatError(
      `Cannot tell the architecture of ${this.where} from its tensors: "${name}" is ${show(shape)}`,
    );
  }
}

/**
 * A UNet by its tensors. Not in the shapes, and the same in all released models of the families: 32
 * groups, epsilon 1e-5, cosines first, and the width 256 of each of SDXL's sizes (their
 * config.json); 8 heads at each level where transformers open with a convolution (SD 1), heads of
 * 64 channels where they open with a linear layer (SD 2, SDXL). Throws `FormatError` for what is
 * missing or not supported.
 */
export function unetConfigFromShapes(
  shapes: Shapes,
  hints: Hints = {},
  where = "the UNet",
): UnetConfig {
  checkNames(shapes.keys(), where);
  const survey = new Survey(shapes, where);
  const attentions = [...shapes.keys()].filter((name) => name.endsWith(".attn2.to_k.weight"));
  if (attentions.length === 0) {
    refuse(where, "a UNet without cross-attention", "a text-conditioned UNet");
  }
  const contextWidth = survey.size(attentions[0], 1);
  const projections = [...shapes].filter(([name]) => name.endsWith(".proj_in.weight"));
  const linearProjection = projections.some(([, shape]) => shape.length === 2);
  for (const [name, shape] of shapes) {
    if (name.endsWith(".attn1.to_k.weight") && shape[0] !== shape[1]) {
      refuse(
        where,
        `a UNet with levels without self-attention ("${name}")`,
        "Stable Diffusion 1, 2 or XL",
      );
    }
  }
  const levels = survey.count("down_blocks");
  const headsOf = (channels: number, i: number) =>
    hints.heads?.[i] ?? (linearProjection ? Math.max(1, Math.round(channels / 64)) : 8);
  const level = (block: string, i: number): UnetLevel => {
    const channels = survey.size(`${block}.resnets.0.conv2.weight`, 0);
    return {
      channels,
      heads: headsOf(channels, i),
      transformers: Array.from({ length: survey.count(`${block}.resnets`) }, (_, j) => {
        const transformer = `${block}.attentions.${j}`;
        return survey.has(transformer)
          ? survey.count(`${transformer}.transformer_blocks`)
          : undefined;
      }),
    };
  };
  const down = Array.from({ length: levels }, (_, i) => level(`down_blocks.${i}`, i));
  const up = Array.from({ length: levels }, (_, i) => level(`up_blocks.${i}`, levels - 1 - i));
  return {
    ...UNET_CODE,
    inChannels: survey.size("conv_in.weight", 1),
    outChannels: survey.size("conv_out.weight", 0),
    down,
    mid: survey.has("mid_block")
      ? {
        heads: down[levels - 1].heads,
        transformer: survey.has("mid_block.attentions.0")
          ? survey.count("mid_block.attentions.0.transformer_blocks")
          : undefined,
      }
      : undefined,
    up,
    contextWidth,
    groups: hints.groups ?? 32,
    eps: 1e-5,
    linearProjection,
    flipSinToCos: true,
    freqShift: 0,
    convInKernel: survey.size("conv_in.weight", 2),
    convOutKernel: survey.size("conv_out.weight", 2),
    downsamplePadding: 1,
    guidanceWidth: survey.has("time_embedding.cond_proj")
      ? survey.size("time_embedding.cond_proj.weight", 1)
      : undefined,
    addition: survey.has("add_embedding")
      ? checkAddition(
        {
          timeWidth: hints.timeWidth ?? 256,
          inputWidth: survey.size("add_embedding.linear_1.weight", 1),
        },
        contextWidth,
        where,
      )
      : undefined,
    sampleSize: undefined,
  };
}

/**
 * An autoencoder by its tensors; a file may hold one half. Not in the shapes: 32 groups, and the
 * scale of the latents, which is the denoiser's affair (`FAMILIES[family].latentScale`). Throws
 * `FormatError` for what is missing.
 */
export function vaeConfigFromShapes(
  shapes: Shapes,
  hints: Hints & { readonly scalingFactor: number },
  where = "the autoencoder",
): VaeConfig {
  checkNames(shapes.keys(), where);
  const survey = new Survey(shapes, where);
  const decodes = survey.has("decoder");
  const half = decodes ? "decoder.up_blocks" : "encoder.down_blocks";
  const widths = Array.from(
    { length: survey.count(half) },
    (_, i) => survey.size(`${half}.${i}.resnets.0.conv2.weight`, 0),
  );
  const latentChannels = decodes
    ? survey.size("decoder.conv_in.weight", 1)
    : survey.size("encoder.conv_out.weight", 0) / 2;
  return {
    inChannels: survey.has("encoder") ? survey.size("encoder.conv_in.weight", 1) : 3,
    outChannels: decodes ? survey.size("decoder.conv_out.weight", 0) : 3,
    latentChannels,
    codes: undefined,
    channels: decodes ? widths.toReversed() : widths,
    layers: survey.count(`${half}.0.resnets`) - (decodes ? 1 : 0),
    groups: hints.groups ?? 32,
    eps: VAE_EPS,
    midAttention: survey.has(`${decodes ? "decoder" : "encoder"}.mid_block.attentions`),
    quantConv: survey.has("quant_conv"),
    postQuantConv: survey.has("post_quant_conv"),
    scalingFactor: hints.scalingFactor,
    shiftFactor: 0,
  };
}

/**
 * A CLIP text model by its tensors. Not in the shapes: heads of 64 channels, epsilon 1e-5, and
 * OpenAI's quick GELU at width 768 (ViT-L/14) but OpenCLIP's GELU at other widths (their
 * config.json). Throws `FormatError` for what is missing.
 */
export function clipConfigFromShapes(
  shapes: Shapes,
  hints: Hints = {},
  where = "the text encoder",
): ClipConfig {
  checkNames(shapes.keys(), where);
  const survey = new Survey(shapes, where);
  const table = "text_model.embeddings.token_embedding.weight";
  const [vocabulary, width] = [survey.size(table, 0), survey.size(table, 1)];
  return {
    vocabulary,
    positions: survey.size("text_model.embeddings.position_embedding.weight", 0),
    width,
    layers: survey.count("text_model.encoder.layers"),
    heads: hints.heads?.[0] ?? Math.max(1, Math.round(width / 64)),
    intermediate: survey.size("text_model.encoder.layers.0.mlp.fc1.weight", 0),
    activation: hints.activation ?? (width === 768 ? "quick_gelu" : "gelu"),
    eps: 1e-5,
    projection: survey.has("text_projection")
      ? survey.size("text_projection.weight", 0)
      : undefined,
    eosTokenId: vocabulary - 1,
  };
}

/** A TAESD by its tensors ("decoder.layers.1.conv.0.weight" …), of either half or both. */
export function taesdConfigFromShapes(shapes: Shapes, where = "the tiny autoencoder"): TaesdConfig {
  checkNames(shapes.keys(), where);
  const survey = new Survey(shapes, where);
  const decodes = survey.has("decoder");
  const first = decodes ? "decoder.layers.0.weight" : "encoder.layers.0.weight";
  return {
    ...TAESD,
    channels: survey.size(first, 0),
    latentChannels: decodes
      ? survey.size(first, 1)
      : survey.size(`encoder.layers.${survey.count("encoder.layers") - 1}.weight`, 0),
  };
}
