/** A whole checkpoint that stays as it is while something beside it is trained: its configs, its weights, what it makes of texts. */

import { parseSchedulerConfig, type SchedulerConfig } from "../diffusion/plan.ts";
import { type Architecture, architectureOf, requirePipeline } from "../engine/architecture.ts";
import { type LoadedFirstStage, loadFirstStage, loadModel } from "../engine/load.ts";
import type { Model } from "../engine/model.ts";
import { compare, releaseWeights, requireMatch, streamWeights } from "../engine/weights.ts";
import {
  type Checkpoint,
  type ComponentName,
  openCheckpoint,
  requireComponent,
} from "../formats/checkpoint.ts";
import type { Parameters } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import type { HostArray } from "../gpu/program.ts";
import type { Graph, Tensor } from "../graph/tensor.ts";
import { clipText, pooledRow } from "../models/clip.ts";
import { clipOutput, type Family } from "../models/family.ts";
import type { UnetConfig } from "../models/unet.ts";
import { type Manifest, paramsOf } from "../nn/params.ts";
import { type ClipTokenizer, clipTokenizer, folderTokenizer } from "../text/tokenizer.ts";
import type { UnetConditions } from "./denoising.ts";

/** What is told of a picture; `undefined` in its place: nothing. */
export interface Caption {
  readonly text: string;
  /** SDXL: original height, width, crop top, left, target height, width, in pixels. */
  readonly sizes: readonly number[];
}

/** Texts as a denoiser's conditions in a training graph. */
export interface TextConditions {
  /** Conditions of n pictures; adds inputs to the graph. */
  build(graph: Graph, n: number): UnetConditions;
  /** Values of those inputs. */
  inputs(captions: readonly (Caption | undefined)[]): Promise<Readonly<Record<string, HostArray>>>;
}

/** Numbers of SDXL's sizes. */
const SIZES = 6;
/** Texts whose states are kept: 250 MiB of SD 1. */
const MOST_KEPT = 1024;

/** Weights on the device. Dispose of them to free them. */
export interface BaseWeights extends Disposable {
  readonly parameters: Parameters;
}

/** Dispose of it to free what was loaded and close its files. */
export class BaseModel implements Disposable {
  readonly family: Family;
  readonly unet: UnetConfig;
  readonly textEncoders: Architecture["textEncoders"];
  readonly scheduler: SchedulerConfig;
  readonly stage: LoadedFirstStage;
  readonly #device: Device;
  readonly #checkpoint: Checkpoint;
  readonly #model: Model;
  readonly #tokenizers: readonly ClipTokenizer[];
  readonly #owned: DisposableStack;

  private constructor(
    device: Device,
    checkpoint: Checkpoint,
    architecture: Architecture,
    model: Model,
    stage: LoadedFirstStage,
    owned: DisposableStack,
  ) {
    const { family, unet } = requirePipeline(architecture, checkpoint.path);
    this.family = family;
    this.unet = unet;
    this.textEncoders = architecture.textEncoders;
    this.scheduler = parseSchedulerConfig(architecture.scheduler);
    this.stage = stage;
    this.#device = device;
    this.#checkpoint = checkpoint;
    this.#model = model;
    this.#tokenizers = model.tokenizers.map((own, i) =>
      own ? folderTokenizer(own) : clipTokenizer(model.padTokens[i] === 0 ? "!" : "<|endoftext|>")
    );
    this.#owned = owned;
  }

  /** Reads no weights yet. Throws `FileError` and `FormatError` for what does not make pictures from text. */
  static async open(device: Device, path: string, weights: "f16" | "f32"): Promise<BaseModel> {
    using owned = new DisposableStack();
    const options = { weights, lifetime: "run" } as const;
    const model = await loadModel(device, path, options);
    owned.defer(() => void model[Symbol.asyncDispose]());
    const stage = owned.use(await loadFirstStage(device, path, options));
    const checkpoint = await openCheckpoint(path);
    owned.defer(() => void checkpoint[Symbol.asyncDispose]());
    const architecture = await architectureOf(checkpoint);
    return new BaseModel(device, checkpoint, architecture, model, stage, owned.move());
  }

  get path(): string {
    return this.#checkpoint.path;
  }

  /**
   * A component's weights as its graph reads them, stacked where it reads several as one. `f16`: those that have more are
   * rounded; `f32`: each as the file has it. Throws `FormatError` where the file does not hold what the manifest says,
   * `MemoryError` where it does not fit.
   */
  async weights(
    component: ComponentName,
    manifest: Manifest,
    dtype: "f16" | "f32",
  ): Promise<BaseWeights> {
    const { path } = this;
    const device = this.#device;
    const weights = requireComponent(this.#checkpoint, component);
    requireMatch(compare(weights.infos, manifest, component), component, path);
    const parameters = await streamWeights(device, { weights, manifest, component, path, dtype });
    return { parameters, [Symbol.dispose]: () => releaseWeights(device, parameters) };
  }

  /** The text encoders as they are, outside of the training graph. The states of the latest texts are kept. */
  encodedText(): TextConditions {
    const model = this.#model;
    const { contextWidth, addition } = this.unet;
    const tokens = this.#tokenizers[0].length;
    const kept = new Map<string, Awaited<ReturnType<Model["encodeText"]>>[number]>();
    const statesOf = async (text: string) => {
      const states = kept.get(text) ?? (await model.encodeText([this.#idsOf(text)]))[0];
      kept.delete(text); // the latest is the last
      kept.set(text, states);
      const [oldest] = kept.keys();
      if (kept.size > MOST_KEPT) kept.delete(oldest);
      return states;
    };
    const pooledWidth = addition && addition.inputWidth - SIZES * addition.timeWidth;
    return {
      build: (graph, n) => ({
        encoderHiddenStates: graph.input("states", [n, tokens, contextWidth]),
        ...(pooledWidth !== undefined && {
          textEmbeds: graph.input("pooled", [n, pooledWidth]),
          timeIds: graph.input("sizes", [n, SIZES]),
        }),
      }),
      inputs: async (captions) => {
        const states = new Float32Array(captions.length * tokens * contextWidth);
        const pooled = new Float32Array(captions.length * (pooledWidth ?? 0));
        for (const [i, caption] of captions.entries()) {
          if (caption === undefined && model.zeroEmptyPrompt) continue;
          const { hidden, pooled: row } = await statesOf(caption?.text ?? "");
          states.set(hidden, i * hidden.length);
          if (row) pooled.set(row, i * row.length);
        }
        return { states, ...(pooledWidth !== undefined && { pooled, sizes: sizesOf(captions) }) };
      },
    };
  }

  /** The text encoders in the training graph, so that what stands beside their weights is trained too. */
  builtText(): TextConditions {
    const tokenizers = this.#tokenizers;
    const encoders = [...this.textEncoders].map(([name, config], i) => ({
      name,
      config,
      length: tokenizers[i].length,
      output: clipOutput(this.family, config, 1),
    }));
    const { addition } = this.unet;
    const { zeroEmptyPrompt } = this.#model;
    return {
      build(graph, n) {
        const told = zeroEmptyPrompt ? graph.input("told", [n]) : undefined;
        const hidden: Tensor[] = [];
        let textEmbeds: Tensor | undefined;
        for (const { name, config, length, output } of encoders) {
          const tokens = graph.input(`tokens of ${name}`, [n, length], "i32");
          const rows = addition && config.projection !== undefined
            ? graph.input(`ends of ${name}`, [n], "i32")
            : undefined;
          const states = clipText(paramsOf(graph, name), config, tokens, output, rows);
          hidden.push(states.hidden);
          textEmbeds = states.pooled ?? textEmbeds;
        }
        const states = graph.concat(hidden, -1);
        return {
          encoderHiddenStates: told ? states.mul(told.reshape([n, 1, 1])) : states,
          ...(addition && textEmbeds && {
            textEmbeds: told ? textEmbeds.mul(told.reshape([n, 1])) : textEmbeds,
            timeIds: graph.input("sizes", [n, SIZES]),
          }),
        };
      },
      inputs(captions) {
        const inputs: Record<string, HostArray> = {};
        if (zeroEmptyPrompt) {
          inputs.told = Float32Array.from(captions, (each) => each === undefined ? 0 : 1);
        }
        for (const [i, { name, config, length }] of encoders.entries()) {
          const ids = captions.map((each) => tokenizers[i].tokenize(each?.text ?? "").ids);
          const tokens = new Int32Array(captions.length * length);
          ids.forEach((each, j) => tokens.set(each, j * length));
          inputs[`tokens of ${name}`] = tokens;
          if (!addition || config.projection === undefined) continue;
          const ends = ids.map((each, j) => pooledRow(each, j, config.eosTokenId));
          inputs[`ends of ${name}`] = Int32Array.from(ends);
        }
        return Promise.resolve({ ...inputs, ...(addition && { sizes: sizesOf(captions) }) });
      },
    };
  }

  #idsOf(text: string): Int32Array[] {
    return this.#tokenizers.map((tokenizer) => tokenizer.tokenize(text).ids);
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}

/** What is told nothing has the sizes of what stands beside it. */
function sizesOf(captions: readonly (Caption | undefined)[]): Float32Array<ArrayBuffer> {
  const usual = captions.find((each) => each !== undefined)?.sizes ?? Array(SIZES).fill(0);
  return Float32Array.from(captions.flatMap((each) => each?.sizes ?? usual));
}
