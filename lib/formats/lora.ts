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
import {
  endOf,
  layerOf,
  LORA_COMPONENTS,
  type LoraComponent,
  type LoraDialect,
  otherChange,
  type Spelling,
  spellingsOf,
} from "./lora_names.ts";
import { type FileDType, SafetensorsFile, type TensorEntry, toFloat32 } from "./safetensors.ts";

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
  readonly component: LoraComponent;
  readonly down: TensorEntry;
  readonly up: TensorEntry;
  readonly alpha: TensorEntry | undefined;
}

/** What can be told of a layer of a file without any model. */
export interface LoraPart {
  /** The layer's name in the file. */
  readonly source: string;
  readonly component: LoraComponent;
  readonly rank: number;
  /** The rank, where the file does not say. */
  readonly alpha: number;
  /** Of its two matrices. */
  readonly dtypes: readonly FileDType[];
  /** How many numbers they hold. */
  readonly parameters: number;
  readonly bytes: number;
}

/** A layer of a file that has other extents than the model's. */
export interface LoraMisfit {
  /** The layer's name in the file. */
  readonly source: string;
  readonly down: Shape;
  readonly up: Shape;
  /** Of the model's weight. */
  readonly expected: Shape;
}

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

  /** Whose names its layers have: one tool's, as a rule. */
  get dialects(): readonly LoraDialect[] {
    const found = this.#file.tensors.keys().map((name) => endOf(name)?.dialect);
    return [...new Set(found)].filter((dialect) => dialect !== undefined);
  }

  /** Tensors that are no part of any layer. */
  get strays(): readonly string[] {
    return [...this.#file.tensors.keys()].filter((name) => endOf(name) === undefined);
  }

  /** What it has of each layer. Reads every α. */
  async parts(): Promise<LoraPart[]> {
    const parts: LoraPart[] = [];
    for (const { source, component, down, up, alpha } of this.#entries.values()) {
      const rank = down.shape[0];
      const tensors = [down, up];
      parts.push({
        source,
        component,
        rank,
        alpha: alpha
          ? (await this.#floats(alpha))[0]
          : alphaOf(this.#adapters.get(component), source, rank),
        dtypes: tensors.map(({ dtype }) => dtype),
        parameters: tensors.reduce((sum, { shape }) => sum + sizeOf(shape), 0),
        bytes: tensors.reduce((sum, { start, end }) => sum + end - start, 0),
      });
    }
    return parts;
  }

  /**
   * Which of a component's layers it changes, of those that a model has: those that fit, and those that have other extents.
   * Names are diffusers', without the component's; `shapes` are those of weights in a checkpoint.
   */
  compare(
    component: LoraComponent,
    shapes: ReadonlyMap<string, Shape>,
  ): {
    readonly layers: ReadonlyMap<string, LoraLayer>;
    readonly misfits: readonly LoraMisfit[];
  } {
    const layers = new Map<string, LoraLayer>();
    const misfits: LoraMisfit[] = [];
    const spelt = spellingsOf(component, [...shapes.keys()]);
    for (const [name, shape] of shapes) {
      const entry = spelt(name).map((each) => this.#entries.get(each))
        .find((each) => each !== undefined);
      if (!entry) continue;
      const { down: { shape: down }, up: { shape: up }, source } = entry;
      const rank = down[0];
      const width = sizeOf(shape) / shape[0];
      if (sizeOf(down) === rank * width && sizeOf(up) === shape[0] * rank) {
        layers.set(name, { source, read: () => this.#read(component, name, entry) });
      } else misfits.push({ source, down, up, expected: shape });
    }
    return { layers, misfits };
  }

  /** The layers that fit, of `compare`. Throws `FormatError` where a layer has other extents. */
  layersOf(
    component: LoraComponent,
    shapes: ReadonlyMap<string, Shape>,
  ): ReadonlyMap<string, LoraLayer> {
    const { layers, misfits: [misfit] } = this.compare(component, shapes);
    if (misfit === undefined) return layers;
    const { source, down, up, expected } = misfit;
    throw new FormatError(
      `Cannot use the LoRA "${this.path}": its "${source}" is ${show(up)} by ${show(down)}, ` +
        `and that layer's weight is ${
          show(expected)
        }; was it trained for another family of models?`,
    );
  }

  /** The names in the file of layers other than these. */
  sourcesBut(used: ReadonlySet<string>): string[] {
    return [...this.#entries.values()].map(({ source }) => source).filter((name) =>
      !used.has(name)
    );
  }

  async #read(component: LoraComponent, name: string, entry: Entry): Promise<LoraFactors> {
    const { down, up, alpha } = entry;
    const rank = down.shape[0];
    const scale = alpha
      ? (await this.#floats(alpha))[0] / rank
      : scaleOf(this.#adapters.get(component), name, rank);
    return { down: await this.#floats(down), up: await this.#floats(up), rank, scale };
  }

  async #floats({ name, dtype }: TensorEntry): Promise<Float32Array<ArrayBuffer>> {
    return toFloat32(dtype, await this.#file.read(name), name);
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

// ---- tensors

function entriesOf({ path, tensors }: SafetensorsFile): Map<Spelling, Entry> {
  const refuse = (what: string) => new FormatError(`Cannot use "${path}" as a LoRA: ${what}`);
  const parts = new Map<string, Partial<Record<"down" | "up" | "alpha", TensorEntry>>>();
  const strange: string[] = [];
  for (const tensor of tensors.values()) {
    const other = otherChange(tensor.name);
    if (other) {
      throw refuse(`it is ${other} ("${tensor.name}"); only products of two matrices can be added`);
    }
    const end = endOf(tensor.name);
    if (!end) {
      strange.push(tensor.name);
      continue;
    }
    parts.set(end.source, { ...parts.get(end.source), [end.part]: tensor });
  }
  const entries = new Map<Spelling, Entry>();
  for (const [source, { down, up, alpha }] of parts) {
    const place = layerOf(source);
    if (!place) {
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
    const { component, layer } = place;
    entries.set(`${component} ${layer}`, { source, component, down, up, alpha });
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

/** What is said of a layer, by its whole name or one in which only the component's is left out. */
function saidOf({ patterns, alpha }: Adapter, name: string): number | undefined {
  return [...patterns].find(([end]) => name === end || name.endsWith(`.${end}`))?.[1] ?? alpha;
}

function alphaOf(adapter: Adapter | undefined, name: string, rank: number): number {
  return adapter && saidOf(adapter, name) || rank;
}

function scaleOf(adapter: Adapter | undefined, name: string, rank: number): number {
  const alpha = adapter && saidOf(adapter, name);
  if (alpha === undefined) return 1;
  return alpha / (adapter?.stabilised ? Math.sqrt(rank) : rank);
}
