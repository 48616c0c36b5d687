/**
 * LoRA files (.safetensors): two matrices for each layer that is changed, "down" [rank, in, …] and "up" [out, rank, …], and
 * a number α; the change of the layer's weight is α / rank · up · down.
 *
 * Layers go by many names. kohya's tools write "lora_unet_down_blocks_0_…_to_q.lora_down.weight", with underscores for
 * dots (for SDXL the original names, "lora_unet_input_blocks_4_1_…"), PEFT "unet.down_blocks.0.….to_q.lora_A.weight", older
 * diffusers "unet.….attn1.processor.to_q_lora.down.weight". Underscores cannot be turned into dots without the model, so a
 * file is asked for the layers that a model has.
 */

import { FormatError } from "../base/errors.ts";
import { type Shape, show, sizeOf } from "../base/shape.ts";
import { toOriginal } from "./keys.ts";
import {
  floatTensor,
  type FloatType,
  SafetensorsFile,
  type TensorData,
  type TensorEntry,
  toFloat32,
  writeSafetensors,
} from "./safetensors.ts";

/** The parts of a model that LoRAs change. */
export const LORA_COMPONENTS = ["unet", "text_encoder", "text_encoder_2"] as const;
export type LoraComponent = (typeof LORA_COMPONENTS)[number];

/** One layer's matrices, row-major. */
export interface LoraFactors {
  /** [rank, in, …] */
  readonly down: Float32Array<ArrayBuffer>;
  /** [out, rank] */
  readonly up: Float32Array<ArrayBuffer>;
  readonly rank: number;
  /** α / rank. */
  readonly scale: number;
}

/** What a file has of one layer. */
interface Entry {
  /** The layer's name in the file. */
  readonly source: string;
  readonly down: TensorEntry;
  readonly up: TensorEntry;
  readonly alpha: TensorEntry | undefined;
}

/** A part of the model, and a layer's name in it with underscores. */
type Spelling = `${LoraComponent} ${string}`;

/** An open LoRA. Dispose of it to close its file. */
export class LoraFile implements Disposable {
  readonly path: string;
  /** Its `__metadata__`. */
  readonly metadata: ReadonlyMap<string, string>;
  readonly #file: SafetensorsFile;
  readonly #entries: ReadonlyMap<Spelling, Entry>;
  readonly #adapters: Adapters;

  private constructor(file: SafetensorsFile) {
    this.path = file.path;
    this.metadata = file.metadata;
    this.#file = file;
    this.#entries = entriesOf(file);
    this.#adapters = adaptersOf(file);
  }

  /** Opens and checks a file; reads no tensor. Throws `FileError`, and `FormatError` for what is no LoRA of this kind. */
  static async open(path: string): Promise<LoraFile> {
    const file = await SafetensorsFile.open(path);
    try {
      return new LoraFile(file);
    } catch (error) {
      file[Symbol.dispose]();
      throw error;
    }
  }

  /** How many layers it changes. */
  get size(): number {
    return this.#entries.size;
  }

  /**
   * Which of a component's layers it changes, of those that the model has. Names are diffusers', without the component's.
   * Throws `FormatError` where a layer has other extents; `shapeOf` gives those of its weight in a checkpoint.
   */
  layersOf(
    component: LoraComponent,
    shapes: ReadonlyMap<string, Shape>,
  ): ReadonlyMap<string, LoraLayer> {
    const found = new Map<string, LoraLayer>();
    const spelt = spellingsOf(component, [...shapes.keys()]);
    for (const [name, shape] of shapes) {
      const entry = spelt(name).map((each) => this.#entries.get(`${component} ${each}`))
        .find((each) => each !== undefined);
      if (!entry) continue;
      const { down, up, source } = entry;
      const rank = down.shape[0];
      const width = sizeOf(shape) / shape[0];
      if (sizeOf(down.shape) !== rank * width || sizeOf(up.shape) !== shape[0] * rank) {
        throw new FormatError(
          `Cannot use the LoRA "${this.path}": its "${source}" is ${show(up.shape)} by ${
            show(down.shape)
          }, and that layer's weight is ${
            show(shape)
          }; was it trained for another family of models?`,
        );
      }
      found.set(name, { source, read: () => this.#read(component, name, entry) });
    }
    return found;
  }

  /** The names in the file of layers other than these. */
  sourcesBut(used: ReadonlySet<string>): string[] {
    return [...this.#entries.values()].map(({ source }) => source).filter((name) =>
      !used.has(name)
    );
  }

  async #read(component: LoraComponent, name: string, entry: Entry): Promise<LoraFactors> {
    const floats = async ({ name, dtype }: TensorEntry) =>
      toFloat32(dtype, await this.#file.read(name), name);
    const { down, up, alpha } = entry;
    const rank = down.shape[0];
    const scale = alpha
      ? (await floats(alpha))[0] / rank
      : scaleOf(this.#adapters.get(component), name, rank);
    return { down: await floats(down), up: await floats(up), rank, scale };
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}

/** A layer that a file changes. */
export interface LoraLayer {
  /** Its name in the file. */
  readonly source: string;
  read(): Promise<LoraFactors>;
}

// ---- names

/** What a tensor is of its layer, by the end of its name. */
const ENDS: readonly (readonly [RegExp, "down" | "up" | "alpha"])[] = [
  [/\.lora_down\.weight$|\.lora_A(\.default)?\.weight$/, "down"],
  [/\.lora_up\.weight$|\.lora_B(\.default)?\.weight$/, "up"],
  [/(\.lora|\.lora_linear_layer|_lora)\.down\.weight$/, "down"],
  [/(\.lora|\.lora_linear_layer|_lora)\.up\.weight$/, "up"],
  [/\.alpha$/, "alpha"],
];

/** Changes of other kinds, by what their names hold. */
const OTHERS: readonly (readonly [RegExp, string])[] = [
  [/dora_scale|lora_magnitude_vector/, "a DoRA, which also scales weights"],
  [/\.hada_/, "a LoHa, a product of products"],
  [/\.lokr_/, "a LoKr, a Kronecker product"],
  [/\.lora_mid\.|\.oft_|\.boft_|\.ia3|\.on_input$/, "a LyCORIS of another kind"],
  [/\.diff(_b)?$/, "a whole difference of weights"],
  [/\.lora_(B|up)(\.default)?\.bias$/, "a LoRA with biases"],
];

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

/** `undefined` for a name that is no layer's. */
function spell(name: string): Spelling | undefined {
  const found = PREFIXES.find(([prefix]) => prefix.test(name));
  if (!found) return undefined;
  const [prefix, component] = found;
  let rest = name.replace(prefix, "").replaceAll(".processor.", ".").replaceAll(".", "_");
  for (const [old, now] of TEXT) rest = rest.replace(old, now);
  return `${component} ${rest.replace(/_to_out$/, "_to_out_0")}`;
}

/** The ways to spell the layers of a component, diffusers' first. */
function spellingsOf(
  component: LoraComponent,
  names: readonly string[],
): (name: string) => readonly string[] {
  const underscored = (name: string) => name.replaceAll(".", "_");
  if (component !== "unet") return (name) => [underscored(name)];
  const { relations } = toOriginal("unet", names.map((name) => `${name}.weight`));
  const originals = new Map(relations.map(({ diffusers, original }) => [diffusers, original]));
  return (name) => {
    const original = originals.get(`${name}.weight`);
    return [name, ...(original ? [original.replace(/\.weight$/, "")] : [])].map(underscored);
  };
}

function entriesOf({ path, tensors }: SafetensorsFile): Map<Spelling, Entry> {
  const refuse = (what: string) => new FormatError(`Cannot use "${path}" as a LoRA: ${what}`);
  const parts = new Map<string, Partial<Record<"down" | "up" | "alpha", TensorEntry>>>();
  const strange: string[] = [];
  for (const tensor of tensors.values()) {
    const other = OTHERS.find(([pattern]) => pattern.test(tensor.name));
    if (other) {
      throw refuse(
        `it is ${other[1]} ("${tensor.name}"); only products of two matrices can be added`,
      );
    }
    const end = ENDS.find(([pattern]) => pattern.test(tensor.name));
    if (!end) {
      strange.push(tensor.name);
      continue;
    }
    const source = tensor.name.replace(end[0], "");
    parts.set(source, { ...parts.get(source), [end[1]]: tensor });
  }
  const entries = new Map<Spelling, Entry>();
  for (const [source, { down, up, alpha }] of parts) {
    const spelling = spell(source);
    if (!spelling) {
      throw refuse(`its "${source}" is no layer of a UNet or text encoder of Stable Diffusion`);
    }
    if (!down || !up) {
      throw refuse(`its "${source}" lacks the ${down ? "second" : "first"} of two matrices`);
    }
    if (down.shape[0] !== up.shape[1]) {
      throw refuse(
        `the matrices of its "${source}", ${show(up.shape)} and ${
          show(down.shape)
        }, do not fit each other`,
      );
    }
    entries.set(spelling, { source, down, up, alpha });
  }
  if (entries.size === 0) {
    const has = strange.length > 0 ? `only others ("${strange[0]}" …)` : "none";
    throw refuse(`it was to hold pairs of tensors such as "….lora_down.weight", and holds ${has}`);
  }
  return entries;
}

// ---- α in PEFT's metadata

interface Adapter {
  readonly alpha: number | undefined;
  readonly patterns: ReadonlyMap<string, number>;
  /** α / √rank in place of α / rank. */
  readonly stabilised: boolean;
}
type Adapters = ReadonlyMap<LoraComponent, Adapter>;

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null;

/** What "lora_adapter_metadata" says: JSON, "unet.lora_alpha" and the like. */
function adaptersOf({ path, metadata }: SafetensorsFile): Adapters {
  const text = metadata.get("lora_adapter_metadata");
  if (text === undefined) return new Map();
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(`Cannot use "${path}" as a LoRA: its lora_adapter_metadata is not JSON`, {
      cause,
    });
  }
  const all = isObject(json) ? json : {};
  return new Map(LORA_COMPONENTS.map((component) => {
    const { [`${component}.lora_alpha`]: alpha, [`${component}.alpha_pattern`]: patterns } = all;
    const pairs = isObject(patterns) ? Object.entries(patterns) : [];
    return [component, {
      alpha: typeof alpha === "number" ? alpha : undefined,
      patterns: new Map(
        pairs.flatMap(([end, value]) => typeof value === "number" ? [[end, value] as const] : []),
      ),
      stabilised: all[`${component}.use_rslora`] === true,
    }];
  }));
}

function scaleOf(adapter: Adapter | undefined, name: string, rank: number): number {
  if (!adapter) return 1;
  const own = [...adapter.patterns].find(([end]) => name === end || name.endsWith(`.${end}`));
  const alpha = own?.[1] ?? adapter.alpha;
  if (alpha === undefined) return 1;
  return alpha / (adapter.stabilised ? Math.sqrt(rank) : rank);
}

// ---- writing

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
