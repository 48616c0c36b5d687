/**
 * LoRAs for inference: what they add is folded into weights while these are read, so that nothing else knows of them and a
 * picture takes no longer.
 */

import { counted } from "../base/counted.ts";
import { toF16 } from "../base/dtype.ts";
import { FormatError } from "../base/errors.ts";
import type { WeightInfo, Weights } from "../formats/checkpoint.ts";
import { LoraFile, type LoraLayer } from "../formats/lora.ts";
import { LORA_COMPONENTS, type LoraComponent } from "../formats/lora_names.ts";
import { toFloat32 } from "../formats/safetensors.ts";
import { fold } from "../nn/lora.ts";

/** A LoRA and how much of it. */
export interface LoraChoice {
  /** A .safetensors file, in kohya's names or diffusers'. */
  readonly path: string;
  /** 1 is as it was trained, 0 nothing of it. */
  readonly multiplier: number;
  /** Of its part for text encoders; as `multiplier` where absent. */
  readonly textMultiplier?: number;
}

/** What is added to a layer, of one file. */
interface Addition {
  readonly layer: LoraLayer;
  readonly multiplier: number;
}

/** Layer, without ".weight" → what is added to it. */
type Additions = ReadonlyMap<string, readonly Addition[]>;

const WEIGHT = ".weight";

/** The LoRAs of one model. Dispose of it to close their files. */
export class Loras implements Disposable {
  readonly #model: string;
  readonly #components = new Map<LoraComponent, FoldedWeights>();
  #choices: readonly LoraChoice[] = [];
  #files = new DisposableStack();

  /** `model` names it in errors. */
  constructor(model: string) {
    this.#model = model;
  }

  /** A component's weights as they are with what is in use. */
  over(component: LoraComponent, weights: Weights): Weights {
    const folded = new FoldedWeights(weights);
    this.#components.set(component, folded);
    return folded;
  }

  /** In use. */
  get choices(): readonly LoraChoice[] {
    return this.#choices;
  }

  /**
   * Uses these and no others from the next reading of weights on. Returns the components that changed, and what is to be
   * told. Throws `FileError`, and `FormatError` for what is no LoRA or is for other models; then the old ones stay.
   */
  async use(
    choices: readonly LoraChoice[],
  ): Promise<{ readonly changed: readonly LoraComponent[]; readonly warnings: readonly string[] }> {
    using files = new DisposableStack();
    const warnings: string[] = [];
    const all = new Map<LoraComponent, Map<string, Addition[]>>();
    for (const choice of choices) {
      const { path, multiplier, textMultiplier = multiplier } = choice;
      const file = files.use(await LoraFile.open(path));
      const used = new Set<string>();
      for (const [component, { shapes }] of this.#components) {
        const additions = all.get(component) ?? new Map<string, Addition[]>();
        all.set(component, additions);
        const part = component === "unet" ? multiplier : textMultiplier;
        for (const [name, layer] of file.layersOf(component, shapes)) {
          used.add(layer.source);
          if (part === 0) continue;
          additions.set(name, [...additions.get(name) ?? [], { layer, multiplier: part }]);
        }
      }
      const others = file.sourcesBut(used);
      if (used.size === 0) {
        throw new FormatError(
          `Cannot use the LoRA "${path}" with "${this.#model}": it has none of what that changes, ${
            counted(file.size, "layer")
          } ` +
            `("${others[0]}" …); was it trained for another family of models?`,
        );
      }
      if (others.length > 0) {
        warnings.push(
          `The LoRA "${path}" changes ${others.length} of ${file.size} layers that "${this.#model}" does not have, ` +
            `"${others[0]}" first; they are left out`,
        );
      }
    }
    const changed = LORA_COMPONENTS.filter((component) => {
      const [before, after] = [this.#components.get(component)?.additions, all.get(component)];
      return (before?.size ?? 0) + (after?.size ?? 0) > 0;
    });
    for (const [component, weights] of this.#components) {
      weights.additions = all.get(component) ?? new Map();
    }
    this.#files.dispose();
    this.#files = files.move();
    this.#choices = choices;
    return { changed, warnings };
  }

  [Symbol.dispose](): void {
    this.#files.dispose();
  }
}

/** Weights to which something is added. */
class FoldedWeights implements Weights {
  additions: Additions = new Map();
  readonly #weights: Weights;

  constructor(weights: Weights) {
    this.#weights = weights;
  }

  /** Of layers as checkpoints have them, by names without ".weight". */
  get shapes(): ReadonlyMap<string, readonly number[]> {
    return new Map(
      [...this.#weights.infos.values()].flatMap(({ name, shape }) =>
        name.endsWith(WEIGHT) ? [[name.slice(0, -WEIGHT.length), shape] as const] : []
      ),
    );
  }

  /** What is folded into bf16 is f32 then: bf16 is too coarse for what LoRAs add. */
  get infos(): ReadonlyMap<string, WeightInfo> {
    if (this.additions.size === 0) return this.#weights.infos;
    return new Map([...this.#weights.infos].map(([key, info]) => [
      key,
      info.dtype === "BF16" && this.#additionsTo(info.name) ? { ...info, dtype: "F32" } : info,
    ]));
  }

  #additionsTo(name: string): readonly Addition[] | undefined {
    return name.endsWith(WEIGHT) ? this.additions.get(name.slice(0, -WEIGHT.length)) : undefined;
  }

  read: Weights["read"] = async (name, into) => {
    const additions = this.#additionsTo(name);
    const info = this.#weights.infos.get(name);
    if (!additions || !info) return await this.#weights.read(name, into);
    const { dtype, data } = await this.#weights.read(name);
    const values = toFloat32(dtype, data, name);
    for (const { layer, multiplier } of additions) {
      const factors = await layer.read();
      fold(values, info.shape, { ...factors, scale: factors.scale * multiplier });
    }
    const half = dtype === "F16";
    const folded = half ? toF16(values) : values;
    const bytes = new Uint8Array(folded.buffer, folded.byteOffset, folded.byteLength);
    const out = into && into.length >= bytes.length ? into.subarray(0, bytes.length) : bytes;
    if (out !== bytes) out.set(bytes);
    return { dtype: half ? "F16" : "F32", data: out };
  };

  [Symbol.asyncDispose](): PromiseLike<void> {
    return this.#weights[Symbol.asyncDispose]();
  }
}
