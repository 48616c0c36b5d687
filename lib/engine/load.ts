/** From a path to a model on a device: open, recognise, check, stream weights, and bind the stages to them. */

import { FormatError } from "../base/errors.ts";
import { sizeOf } from "../base/shape.ts";
import {
  type Checkpoint,
  type ComponentName,
  openCheckpoint,
  type TokenizerFiles,
  type Weights,
} from "../formats/checkpoint.ts";
import { FILE_BYTES } from "../formats/safetensors.ts";
import type { StoredParameter } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import type { ClipConfig } from "../models/clip.ts";
import { clipOutput, defaultsOf, FAMILIES, type Family } from "../models/config.ts";
import type { UnetConfig } from "../models/unet.ts";
import { type Architecture, architectureOf, manifestsOf, requirePipeline } from "./architecture.ts";
import { type FirstStage, klFirstStage, tinyFirstStage } from "./first_stage.ts";
import type { LoadOptions, Model, TextEmbedding, TokenIds } from "./model.ts";
import { type ClipResult, runClip, UnetRunner } from "./stages.ts";
import { loadWeights, releaseWeights } from "./weights.ts";

/** Weights of several components on a device, and what loading them noticed. */
class Loader implements Disposable {
  readonly parameters = new Map<string, StoredParameter>();
  readonly warnings: string[] = [];
  readonly #queue: { checkpoint: Checkpoint; architecture: Architecture; name: ComponentName }[] =
    [];

  constructor(readonly device: Device, readonly options: LoadOptions) {}

  /** Marks components of a checkpoint for loading; those it lacks are ignored. */
  add(checkpoint: Checkpoint, architecture: Architecture, names: readonly ComponentName[]): void {
    for (const name of names) {
      if (checkpoint.components.has(name)) this.#queue.push({ checkpoint, architecture, name });
    }
  }

  /** Streams everything that was added. */
  async load(): Promise<void> {
    const parts = this.#queue.map(({ checkpoint, architecture, name }) => {
      const weights = checkpoint.components.get(name);
      const manifest = manifestsOf(architecture).get(name);
      if (!weights || !manifest) throw new TypeError(`There is no ${name}`);
      return { weights, manifest, name, path: checkpoint.path };
    });
    const total = parts.reduce((sum, { weights }) => sum + bytesOf(weights), 0);
    let done = 0;
    const progress = (bytes: number) => this.options.progress?.(done += bytes, total);
    const weights = this.options.weights ?? "f16";
    for (const part of parts) {
      const { parameters, warning } = await loadWeights(
        this.device,
        part.weights,
        part.manifest,
        part.name,
        part.path,
        { weights, progress },
      );
      for (const [name, stored] of parameters) this.parameters.set(name, stored);
      if (warning !== undefined) this.warnings.push(warning);
    }
  }

  [Symbol.dispose](): void {
    releaseWeights(this.device, this.parameters);
    this.parameters.clear();
  }
}

function bytesOf({ infos }: Weights): number {
  let bytes = 0;
  for (const { shape, dtype } of infos.values()) bytes += sizeOf(shape) * FILE_BYTES[dtype];
  return bytes;
}

/** The first stage of one checkpoint, `undefined` where it has none. A TAESD is preferred: it is asked for by name. */
function firstStageOf(loader: Loader, { vae, taesd }: Architecture): FirstStage | undefined {
  if (taesd) return tinyFirstStage(loader.device, taesd, loader.parameters);
  return vae && klFirstStage(loader.device, vae, loader.parameters);
}

const FIRST_STAGE = ["vae", "taesd_encoder", "taesd_decoder"] as const;

/** Opens what `--vae` or `--taesd` names, else `checkpoint` itself, and queues its first stage. */
async function addFirstStage(
  loader: Loader,
  checkpoint: Checkpoint,
  architecture: Architecture,
  others: AsyncDisposableStack,
): Promise<Architecture> {
  const { vae, taesd } = loader.options;
  const path = taesd ?? vae;
  if (path === undefined) {
    loader.add(checkpoint, architecture, FIRST_STAGE);
    return architecture;
  }
  const other = others.use(await openCheckpoint(path));
  const own = await architectureOf(other);
  const chosen = taesd === undefined ? { ...own, taesd: undefined } : { ...own, vae: undefined };
  if (!chosen.vae && !chosen.taesd) {
    const wanted = taesd === undefined ? "a KL autoencoder" : "a TAESD";
    throw new FormatError(`Cannot use "${path}" as the first stage: it does not hold ${wanted}`);
  }
  // A bare autoencoder does not tell its scale; it serves the family it is loaded for.
  if (chosen.vae && !other.configs.has("vae") && architecture.family) {
    const scalingFactor = FAMILIES[architecture.family].latentScale;
    Object.assign(chosen, { vae: { ...chosen.vae, scalingFactor } });
  }
  loader.add(other, chosen, FIRST_STAGE);
  return chosen;
}

/** Loads a checkpoint for making pictures. Throws `FormatError` for what is wrong with it, `MemoryError` where it does not fit. */
export async function loadModel(
  device: Device,
  path: string,
  options: LoadOptions = {},
): Promise<Model> {
  await using others = new AsyncDisposableStack();
  const checkpoint = others.use(await openCheckpoint(path));
  const architecture = await architectureOf(checkpoint);
  const { family, unet } = requirePipeline(architecture, path);
  using unwind = new DisposableStack();
  const loader = unwind.use(new Loader(device, options));
  const stageArchitecture = await addFirstStage(loader, checkpoint, architecture, others);
  const firstStage = firstStageOf(loader, stageArchitecture);
  if (!firstStage) {
    throw new FormatError(
      `Cannot make pictures with "${path}": it lacks a VAE; give one with --vae or --taesd`,
    );
  }
  if (firstStage.latentChannels !== unet.outChannels) {
    throw new FormatError(
      `Cannot use this first stage with "${path}": it has ${firstStage.latentChannels} latent channels, ` +
        `the UNet predicts ${unet.outChannels}`,
    );
  }
  if (unet.inChannels !== unet.outChannels) {
    throw new FormatError(
      `Cannot make pictures from text with "${path}": its UNet takes ${unet.inChannels} channels and returns ` +
        `${unet.outChannels}, so it is an inpainting or editing model; a text-to-image checkpoint is needed`,
    );
  }
  loader.add(checkpoint, architecture, ["text_encoder", "text_encoder_2", "unet"]);
  const tokenizers = [
    await checkpoint.tokenizerFiles("tokenizer"),
    ...(family === "sdxl" ? [await checkpoint.tokenizerFiles("tokenizer_2")] : []),
  ];
  await loader.load();
  unwind.move();
  const noticed = checkpoint.unexpected.length > 0
    ? [`${checkpoint.unexpected.length} tensors of "${path}" belong to no known component`]
    : [];
  return new LoadedModel(loader, {
    path,
    family,
    unet,
    architecture,
    firstStage,
    tokenizers,
    noticed,
  });
}

/** A first stage alone, for `encode` and `decode`. */
export interface LoadedFirstStage extends FirstStage, Disposable {
  readonly warnings: readonly string[];
}

/** Loads only the first stage of a checkpoint, of a VAE, or of a TAESD. */
export async function loadFirstStage(
  device: Device,
  path: string,
  options: LoadOptions = {},
): Promise<LoadedFirstStage> {
  await using others = new AsyncDisposableStack();
  const checkpoint = others.use(await openCheckpoint(path));
  const architecture = await architectureOf(checkpoint);
  using unwind = new DisposableStack();
  const loader = unwind.use(new Loader(device, options));
  const stage = firstStageOf(loader, await addFirstStage(loader, checkpoint, architecture, others));
  if (!stage) {
    const has = [...checkpoint.components.keys()].join(", ");
    throw new FormatError(`Cannot use "${path}" as a first stage: it holds only ${has}`);
  }
  await loader.load();
  unwind.move();
  const dispose = () => loader[Symbol.dispose]();
  return { ...stage, warnings: loader.warnings, [Symbol.dispose]: dispose };
}

/** See `Model`. */
class LoadedModel implements Model {
  readonly path;
  readonly family: Family;
  readonly variant;
  readonly defaults;
  readonly scheduler;
  readonly tokenizers;
  readonly padTokens;
  readonly factor;
  readonly latentChannels;
  readonly latentMultiple;
  readonly zeroEmptyPrompt;
  readonly guidanceWidth;
  readonly wantsSizes;
  readonly warnings;
  readonly #loader: Loader;
  readonly #firstStage: FirstStage;
  readonly #unet: UnetConfig;
  readonly #textEncoders: ReadonlyMap<string, ClipConfig>;

  constructor(loader: Loader, parts: {
    readonly path: string;
    readonly family: Family;
    readonly unet: UnetConfig;
    readonly architecture: Architecture;
    readonly firstStage: FirstStage;
    readonly tokenizers: readonly (TokenizerFiles | undefined)[];
    readonly noticed: readonly string[];
  }) {
    const { path, family, unet, architecture, firstStage, tokenizers, noticed } = parts;
    this.#loader = loader;
    this.#firstStage = firstStage;
    this.#unet = unet;
    this.#textEncoders = architecture.textEncoders;
    this.path = path;
    this.family = family;
    this.variant = architecture.variant;
    const size = unet.sampleSize === undefined
      ? FAMILIES[family].size
      : unet.sampleSize * firstStage.factor;
    this.defaults = { ...defaultsOf(family, architecture.variant), width: size, height: size };
    this.scheduler = architecture.scheduler;
    this.tokenizers = tokenizers;
    this.padTokens = FAMILIES[family].padTokens;
    this.factor = firstStage.factor;
    this.latentChannels = firstStage.latentChannels;
    this.latentMultiple = 2 ** (unet.down.length - 1);
    this.zeroEmptyPrompt = architecture.zeroEmptyPrompt;
    this.guidanceWidth = unet.guidanceWidth;
    this.wantsSizes = unet.addition !== undefined;
    this.warnings = [...noticed, ...loader.warnings];
  }

  async encodeText(prompts: readonly TokenIds[], clipSkip = 1): Promise<TextEmbedding[]> {
    const { device, parameters } = this.#loader;
    const results: ClipResult[] = [];
    for (const [i, [name, config]] of [...this.#textEncoders].entries()) {
      const output = clipOutput(this.family, config, clipSkip);
      const ids = prompts.map((prompt) => prompt[i]);
      results.push(await runClip(device, name, config, output, parameters, ids));
    }
    const pooled = results[results.length - 1].pooled;
    return prompts.map((ids, i) => {
      const tokens = ids[0].length;
      const hidden = besides(results.map((result) => result.hidden[i]), tokens);
      return this.wantsSizes && pooled ? { hidden, tokens, pooled: pooled[i] } : { hidden, tokens };
    });
  }

  denoiser(size: { readonly height: number; readonly width: number }): UnetRunner {
    return new UnetRunner(this.#loader.device, this.#unet, this.#loader.parameters, size);
  }

  decodeImage: Model["decodeImage"] = (latents, options) =>
    this.#firstStage.decode(latents, options);

  encodeImage: Model["encodeImage"] = (picture, options) =>
    this.#firstStage.encode(picture, options);

  [Symbol.asyncDispose](): Promise<void> {
    this.#loader[Symbol.dispose]();
    return Promise.resolve();
  }
}

/** States [tokens, a], [tokens, b] → [tokens, a + b]. */
function besides(parts: readonly Float32Array[], tokens: number): Float32Array {
  if (parts.length === 1) return parts[0];
  const widths = parts.map((part) => part.length / tokens);
  const width = widths.reduce((a, b) => a + b, 0);
  const joined = new Float32Array(tokens * width);
  for (let t = 0; t < tokens; t++) {
    let at = t * width;
    for (const [i, part] of parts.entries()) {
      joined.set(part.subarray(t * widths[i], (t + 1) * widths[i]), at);
      at += widths[i];
    }
  }
  return joined;
}
