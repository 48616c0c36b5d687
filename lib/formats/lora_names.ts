/**
 * The names of tensors in LoRA files, in every tool's spelling: which of a layer's tensors one is, and which layer's. Names
 * are compared with underscores for dots, since kohya's cannot be turned back.
 */

import { toOriginal } from "./keys.ts";

/** The parts of a model that LoRAs change. */
export const LORA_COMPONENTS = ["unet", "text_encoder", "text_encoder_2"] as const;
export type LoraComponent = (typeof LORA_COMPONENTS)[number];

/** Whose names a file has. "diffusers" is what it was before PEFT. */
export type LoraDialect = "kohya" | "PEFT" | "diffusers";

/** A part of the model, and a layer's name in it with underscores. */
export type Spelling = `${LoraComponent} ${string}`;

/** What a tensor is of its layer. */
interface End {
  readonly pattern: RegExp;
  readonly part: "down" | "up" | "alpha";
  /** `undefined` where several tools write it. */
  readonly dialect?: LoraDialect;
}

const ENDS: readonly End[] = [
  { pattern: /\.lora_down\.weight$/, part: "down", dialect: "kohya" },
  { pattern: /\.lora_up\.weight$/, part: "up", dialect: "kohya" },
  { pattern: /\.lora_A(\.default)?\.weight$/, part: "down", dialect: "PEFT" },
  { pattern: /\.lora_B(\.default)?\.weight$/, part: "up", dialect: "PEFT" },
  {
    pattern: /(\.lora|\.lora_linear_layer|_lora)\.down\.weight$/,
    part: "down",
    dialect: "diffusers",
  },
  {
    pattern: /(\.lora|\.lora_linear_layer|_lora)\.up\.weight$/,
    part: "up",
    dialect: "diffusers",
  },
  { pattern: /\.alpha$/, part: "alpha" },
];

/** What a tensor is, by the end of its name; `undefined` for one that is no part of a LoRA's layer. */
export function endOf(name: string): (Omit<End, "pattern"> & { source: string }) | undefined {
  const found = ENDS.find(({ pattern }) => pattern.test(name));
  return found && { ...found, source: name.replace(found.pattern, "") };
}

/** Changes of other kinds, by what their names hold. */
const OTHERS: readonly (readonly [RegExp, string])[] = [
  [/dora_scale|lora_magnitude_vector/, "a DoRA, which also scales weights"],
  [/\.hada_/, "a LoHa, a product of products"],
  [/\.lokr_/, "a LoKr, a Kronecker product"],
  [/\.lora_mid\.|\.oft_|\.boft_|\.ia3|\.on_input$/, "a LyCORIS of another kind"],
  [/\.diff(_b)?$/, "a whole difference of weights"],
  [/\.lora_(B|up)(\.default)?\.bias$/, "a LoRA with biases"],
];

/** What a tensor makes its file, where that cannot be added as a product of two matrices. */
export function otherChange(name: string): string | undefined {
  return OTHERS.find(([pattern]) => pattern.test(name))?.[1];
}

/** What stands before a layer's name, and the part of the model it is in; the first that fits counts. */
const PREFIXES: readonly (readonly [RegExp, LoraComponent])[] = [
  [/^lora_unet_|^(base_model\.model\.)?(unet|diffusion_model)\./, "unet"],
  [/^lora_te2_|^text_encoder_2\./, "text_encoder_2"],
  [/^lora_te1?_|^text_encoder\./, "text_encoder"],
  [/^base_model\.model\.(?=text_model)|^(?=text_model\.)/, "text_encoder"],
  [/^base_model\.model\.|^(?=(down_blocks|mid_block|up_blocks|conv_in|conv_out)\.)/, "unet"],
];

/** Other names of a text encoder's layers: old diffusers', and those of transformers 5. */
const TEXT: readonly (readonly [RegExp, string])[] = [
  [/self_attn_to_(q|k|v)$/, "self_attn_$1_proj"],
  [/self_attn_to_out$/, "self_attn_out_proj"],
  [/^(?=encoder_layers_)/, "text_model_"],
];

/** The part of the model that a name is in, and the layer's name in it; `undefined` for a name that is no layer's. */
export function layerOf(name: string): { component: LoraComponent; layer: string } | undefined {
  const found = PREFIXES.find(([prefix]) => prefix.test(name));
  if (!found) return undefined;
  const [prefix, component] = found;
  let rest = name.replace(prefix, "").replaceAll(".processor.", ".").replaceAll(".", "_");
  for (const [old, now] of TEXT) rest = rest.replace(old, now);
  return { component, layer: rest.replace(/_to_out$/, "_to_out_0") };
}

/** The ways to spell the layers of a component, diffusers' first. */
export function spellingsOf(
  component: LoraComponent,
  names: readonly string[],
): (name: string) => readonly Spelling[] {
  const spelt = (name: string): Spelling => `${component} ${name.replaceAll(".", "_")}`;
  if (component !== "unet") return (name) => [spelt(name)];
  const originals = originalLayers(names);
  return (name) => {
    const original = originals.get(name);
    return [name, ...(original === undefined ? [] : [original])].map(spelt);
  };
}

const WEIGHT = ".weight";

/** Layers of a UNet, all that it has, by diffusers' names → the original names. */
function originalLayers(names: readonly string[]): ReadonlyMap<string, string> {
  const { relations } = toOriginal("unet", names.map((name) => `${name}${WEIGHT}`));
  return new Map(
    relations.map(({ diffusers, original }) => [
      diffusers.slice(0, -WEIGHT.length),
      original.slice(0, -WEIGHT.length),
    ]),
  );
}

/**
 * What kohya's tools call a layer that diffusers calls `name`. Of an SDXL, whose UNet has these layers, they call the two
 * text encoders te1 and te2, and the UNet's layers by their original names.
 */
export function kohyaNames(
  sdxl: { readonly unet: readonly string[] } | undefined,
): (component: LoraComponent, name: string) => string {
  const originals = sdxl && originalLayers(sdxl.unet);
  const prefixes = {
    unet: "lora_unet",
    text_encoder: sdxl ? "lora_te1" : "lora_te",
    text_encoder_2: "lora_te2",
  };
  return (component, name) => {
    const own = component === "unet" ? originals?.get(name) ?? name : name;
    return `${prefixes[component]}_${own.replaceAll(".", "_")}`;
  };
}
