/** From a path to a model on a device: open, recognise, check, and bind the stages to parts that are read when they are needed. */

import { FormatError, LimitError, MemoryError } from "../base/errors.ts";
import {
  type Checkpoint,
  type ComponentName,
  openCheckpoint,
  type TokenizerFiles,
} from "../formats/checkpoint.ts";
import { LORA_COMPONENTS } from "../formats/lora.ts";
import type { Device } from "../gpu/device.ts";
import { type ClipConfig, type ClipOutput } from "../models/clip.ts";
import { type Beside, besideOf } from "../models/beside.ts";
import type { ConditionerConfig } from "../models/conditioner.ts";
import { clipOutput, defaultsOf, FAMILIES, type Family } from "../models/config.ts";
import type { UnetConfig } from "../models/unet.ts";
import type { Manifest } from "../nn/params.ts";
import { conditionerBytes, runConditioner, toldTokens } from "./conditioner.ts";
import { type Architecture, architectureOf, manifestsOf, requirePipeline } from "./architecture.ts";
import {
  type FirstStage,
  type Half,
  klFirstStage,
  taesdManifest,
  tinyFirstStage,
  vaeManifest,
} from "./first_stage.ts";
import type {
  Denoiser,
  DenoiserRequest,
  LoadOptions,
  MemoryPlan,
  Model,
  Run,
  StageOptions,
  TextEmbedding,
  TokenIds,
  Told,
} from "./model.ts";
import { type LoraChoice, Loras } from "./lora.ts";
import { Part, type PartName } from "./part.ts";
import type { Room } from "./programs.ts";
import { Residency, type Stage } from "./residency.ts";
import {
  clipBytes,
  type ClipResult,
  denoiserBytes,
  runClip,
  type TextEncoder,
  UnetRunner,
} from "./stages.ts";
import { compare, requireMatch } from "./weights.ts";

/** Type of the weights on the device where nothing else is asked for. */
export const USUAL_WEIGHTS = "f16";

/** Gathers a model's parts; closes the files it opened unless it comes to `finish`. */
class Builder implements Disposable {
  readonly warnings: string[] = [];
  readonly #parts: Part[] = [];
  readonly #checked = new Set<string>();
  readonly #files = new DisposableStack();
  readonly loras: Loras;

  constructor(readonly device: Device, path: string, readonly options: LoadOptions) {
    this.loras = this.#files.use(new Loras(path));
  }

  async open(path: string): Promise<Checkpoint> {
    const checkpoint = await openCheckpoint(path);
    // closing is synchronous behind its asynchronous face
    this.#files.defer(() => void checkpoint[Symbol.asyncDispose]());
    return checkpoint;
  }

  /**
   * Adds the part of a component that `manifest` names. Throws `FormatError` where the component is not what `whole`, its
   * manifest, says.
   */
  add(
    name: PartName,
    checkpoint: Checkpoint,
    component: ComponentName,
    whole: Manifest,
    manifest: Manifest = whole,
  ): Part {
    const { path } = checkpoint;
    const own = checkpoint.components.get(component);
    if (!own) throw new TypeError(`There is no ${component}`);
    const changeable = LORA_COMPONENTS.find((each) => each === component);
    const weights = changeable ? this.loras.over(changeable, own) : own;
    if (!this.#checked.has(component)) {
      const warning = requireMatch(compare(weights.infos, whole, component), component, path);
      if (warning !== undefined) this.warnings.push(warning);
      this.#checked.add(component);
    }
    const dtype = this.options.weights ?? USUAL_WEIGHTS;
    const part = new Part(this.device, { name, component, weights, manifest, path, dtype });
    this.#parts.push(part);
    return part;
  }

  finish(): LoadedParts {
    const { device, options: { lifetime = "model", progress = () => {} } } = this;
    const files = this.#files.move();
    const residency = new Residency(device, this.#parts, lifetime, progress);
    files.use(residency);
    return { device, residency, files, lifetime, loras: this.loras };
  }

  [Symbol.dispose](): void {
    this.#files.dispose();
  }
}

/** Parts, and the files that they are read from. */
interface LoadedParts {
  readonly device: Device;
  readonly residency: Residency;
  /** Frees the parts, then closes the files. */
  readonly files: DisposableStack;
  readonly lifetime: "model" | "run";
  readonly loras: Loras;
}

/** A first stage and which of its parts each half needs. */
type StageAndParts = { readonly stage: FirstStage; readonly parts: Readonly<Record<Half, Part>> };

/** The first stage of one checkpoint, `undefined` where it has none. A TAESD is preferred: it is asked for by name. */
function firstStageOf(
  builder: Builder,
  checkpoint: Checkpoint,
  { vae, taesd }: Architecture,
): StageAndParts | undefined {
  const programs = (parts: Record<Half, Part>) => ({
    decode: parts.decode.programs,
    encode: parts.encode.programs,
  });
  if (taesd) {
    const half = (name: "decoder" | "encoder") =>
      builder.add(name, checkpoint, `taesd_${name}`, taesdManifest(name, taesd));
    const parts = { decode: half("decoder"), encode: half("encoder") };
    return { stage: tinyFirstStage(taesd, programs(parts)), parts };
  }
  if (!vae) return undefined;
  const whole = vaeManifest(vae);
  const half = (name: "decoder" | "encoder", which: Half) =>
    builder.add(name, checkpoint, "vae", whole, vaeManifest(vae, [which]));
  const parts = { decode: half("decoder", "decode"), encode: half("encoder", "encode") };
  return { stage: klFirstStage(vae, programs(parts)), parts };
}

/** The first stage of what `--vae` or `--taesd` names, else of `checkpoint` itself. */
async function addFirstStage(
  builder: Builder,
  checkpoint: Checkpoint,
  architecture: Architecture,
): Promise<StageAndParts | undefined> {
  const { vae, taesd } = builder.options;
  const path = taesd ?? vae;
  if (path === undefined) return firstStageOf(builder, checkpoint, architecture);
  const other = await builder.open(path);
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
  return firstStageOf(builder, other, chosen);
}

/** Loads a checkpoint for making pictures. Throws `FormatError` for what is wrong with it, `MemoryError` where it does not fit. */
export async function loadModel(
  device: Device,
  path: string,
  options: LoadOptions = {},
): Promise<Model> {
  using builder = new Builder(device, path, options);
  const checkpoint = await builder.open(path);
  const architecture = await architectureOf(checkpoint);
  const { family, unet } = requirePipeline(architecture, path);
  const manifests = manifestsOf(architecture);
  for (const name of ["text_encoder", "text_encoder_2", "conditioner", "unet"] as const) {
    const manifest = manifests.get(name);
    if (manifest) builder.add(name, checkpoint, name, manifest);
  }
  const firstStage = await addFirstStage(builder, checkpoint, architecture);
  if (!firstStage) {
    throw new FormatError(
      `Cannot make pictures with "${path}": it lacks a VAE; give one with --vae or --taesd`,
    );
  }
  if (firstStage.stage.latentChannels !== unet.outChannels) {
    throw new FormatError(
      `Cannot use this first stage with "${path}": it has ${firstStage.stage.latentChannels} latent channels, ` +
        `the UNet predicts ${unet.outChannels}`,
    );
  }
  const beside = besideOf(checkpoint.configs.get("model_index"), unet, path);
  const tokenizers = [
    await checkpoint.tokenizerFiles("tokenizer"),
    ...(family === "sdxl" ? [await checkpoint.tokenizerFiles("tokenizer_2")] : []),
  ];
  if (checkpoint.unexpected.length > 0) {
    builder.warnings.unshift(
      `${checkpoint.unexpected.length} tensors of "${path}" belong to no known component`,
    );
  }
  const { warnings } = builder;
  warnings.push(...(await builder.loras.use(options.loras ?? [])).warnings);
  const parts = builder.finish();
  using unwind = new DisposableStack();
  unwind.use(parts.files);
  const { stage } = firstStage;
  const model = new LoadedModel(parts, {
    path,
    family,
    unet,
    architecture,
    beside,
    firstStage: stage,
    tokenizers,
    warnings,
  });
  if (parts.lifetime === "model" && model.mayStay()) await parts.residency.loadAll();
  unwind.move();
  return model;
}

/** A first stage alone, for `encode` and `decode`. */
export interface LoadedFirstStage extends Omit<FirstStage, "bytes">, Disposable {
  /** What loading noticed. */
  readonly warnings: readonly string[];
  /** Bytes of the checkpoint that it is made of. */
  readonly fileBytes: number;
  /** See `Model.prepare`: for one picture of this size in pixels. */
  prepare(
    half: Half,
    size: { readonly height: number; readonly width: number },
    options?: StageOptions,
  ): MemoryPlan;
  /** Frees the weights of one half, which nobody uses now; they are read again when they are needed. */
  unload(half: Half): void;
}

/** Loads only the first stage of a checkpoint, of a VAE, or of a TAESD. */
export async function loadFirstStage(
  device: Device,
  path: string,
  options: LoadOptions = {},
): Promise<LoadedFirstStage> {
  using builder = new Builder(device, path, options);
  const checkpoint = await builder.open(path);
  const architecture = await architectureOf(checkpoint);
  const found = await addFirstStage(builder, checkpoint, architecture);
  if (!found) {
    const has = [...checkpoint.components.keys()].join(", ");
    throw new FormatError(`Cannot use "${path}" as a first stage: it holds only ${has}`);
  }
  const { warnings } = builder;
  const { residency, files, lifetime } = builder.finish();
  using unwind = new DisposableStack();
  unwind.use(files);
  if (lifetime === "model") await residency.loadAll();
  unwind.move();
  const { stage, parts } = found;
  const { factor } = stage;
  return {
    factor,
    latentChannels: stage.latentChannels,
    decode: (latents, options) =>
      residency.during(parts.decode.name, () => stage.decode(latents, options)),
    encode: (picture, options) =>
      residency.during(parts.encode.name, () => stage.encode(picture, options)),
    prepare(half, { height, width }, options = {}) {
      const size = half === "decode"
        ? { height: height / factor, width: width / factor }
        : { height, width };
      const what = `${half} ${width}×${height} pixels with "${path}"`;
      const bytes: Stage["bytes"] = (room) => stage.bytes(half, size, options, room);
      return residency.plan(JSON.stringify([half, size, options]), what, [
        { part: parts[half].name, uses: 1, bytes },
      ]);
    },
    unload: (half) => parts[half].unload(),
    warnings,
    fileBytes: parts.decode.fileBytes + parts.encode.fileBytes,
    [Symbol.dispose]: () => files.dispose(),
  };
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
  readonly textWidths;
  readonly guidanceWidth;
  readonly wantsSizes;
  readonly warnings;
  readonly fileBytes;
  readonly #device: Device;
  readonly #residency: Residency;
  readonly #files: DisposableStack;
  readonly #firstStage: FirstStage;
  readonly #unet: UnetConfig;
  readonly beside: Beside | undefined;
  readonly conditioner: ConditionerConfig | undefined;
  readonly toldTokens: number;
  readonly readsText: boolean;
  readonly #textEncoders: ReadonlyMap<"text_encoder" | "text_encoder_2", ClipConfig>;
  readonly #loras: Loras;

  constructor({ device, residency, files, loras }: LoadedParts, parts: {
    readonly path: string;
    readonly family: Family;
    readonly unet: UnetConfig;
    readonly architecture: Architecture;
    readonly beside: Beside | undefined;
    readonly firstStage: FirstStage;
    readonly tokenizers: readonly (TokenizerFiles | undefined)[];
    readonly warnings: readonly string[];
  }) {
    const { path, family, unet, architecture, beside, firstStage, tokenizers, warnings } = parts;
    this.#device = device;
    this.#residency = residency;
    this.#files = files;
    this.#loras = loras;
    this.#firstStage = firstStage;
    this.#unet = unet;
    this.beside = beside;
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
    const widths = [...architecture.textEncoders.values()].map(({ width: each }) => each);
    this.readsText = widths.length > 0;
    this.textWidths = this.readsText ? widths : [0];
    this.conditioner = architecture.conditioner;
    this.toldTokens = this.conditioner ? toldTokens(this.conditioner) : 0;
    this.guidanceWidth = unet.guidanceWidth;
    this.wantsSizes = unet.addition !== undefined;
    this.warnings = warnings;
    const read: PartName[] = [
      ...architecture.textEncoders.keys(),
      ...(this.conditioner ? ["conditioner" as const] : []),
      ...(beside?.source === "mask" ? ["encoder" as const] : []),
      "unet",
      "decoder",
    ];
    this.fileBytes = read.reduce((sum, name) => sum + residency.part(name).fileBytes, 0);
  }

  /** Whether all parts fit the budget together when a picture of the usual size is made. */
  mayStay(): boolean {
    if (this.#device.budget === Infinity) return true;
    const { width, height } = this.defaults;
    const usual: Run = {
      ...{ width, height, pictures: 1, prompts: 2, tokens: TOKENS, chunk: TOKENS, sets: 1 },
      ...{ changes: false, keeps: false, clipSkip: 1, tiling: "auto" },
    };
    try {
      return !this.prepare(usual).turns;
    } catch (error) {
      if (error instanceof MemoryError) return false; // a smaller picture may fit
      throw error;
    }
  }

  prepare: Model["prepare"] = (run) => {
    try {
      return this.#planned(run);
    } catch (error) {
      if (!(error instanceof LimitError)) throw error;
      const fits = this.#smaller(run);
      throw new LimitError(
        `Cannot ${this.#work(run)}: a step of it is more than one command of this device can do; ` +
          (fits ? `${fits.width}×${fits.height} is possible` : "ask for a smaller picture"),
        { cause: error },
      );
    }
  };

  /** A run's half, quarter, … that is possible. */
  #smaller(run: Run): Run | undefined {
    const unit = this.factor * this.latentMultiple;
    const half = (side: number) => Math.floor(side / 2 / unit) * unit;
    const smaller = { ...run, width: half(run.width), height: half(run.height) };
    if (smaller.width === 0 || smaller.height === 0) return undefined;
    try {
      this.#planned(smaller);
      return smaller;
    } catch (error) {
      if (!(error instanceof MemoryError)) throw error;
      return this.#smaller(smaller);
    }
  }

  /** What is wanted, as errors name it. */
  #work({ pictures, width, height }: Run): string {
    return `make ${
      pictures > 1 ? "pictures" : "a picture"
    } of ${width}×${height} pixels with "${this.path}"`;
  }

  #planned(run: Run): MemoryPlan {
    const { width, height, pictures, prompts, tokens, chunk, clipSkip, tiling } = run;
    const latents = { height: height / this.factor, width: width / this.factor };
    const programs = (part: PartName) => this.#residency.part(part).programs;
    const text = this.#encoders(clipSkip).map((encoder): Stage => ({
      part: encoder.name,
      uses: 1,
      bytes: () => clipBytes(programs(encoder.name), encoder, 1, chunk),
    }));
    const size = { ...latents, tokens };
    const work = { conditions: prompts, sets: run.sets, changes: run.changes };
    const denoiser = (room: Room) => denoiserBytes(programs("unet"), this.#unet, size, work, room);
    return this.#residency.plan(JSON.stringify(run), this.#work(run), [
      ...text,
      ...this.#toldStages(),
      ...this.#besideStages(run),
      {
        part: "unet",
        uses: pictures,
        bytes: (room) => denoiser(room).peak,
        ...(run.keeps && { kept: (room: Room) => denoiser(room).kept }),
      },
      {
        part: "decoder",
        uses: pictures,
        bytes: (room) => this.#firstStage.bytes("decode", latents, { tiling }, room),
      },
    ]);
  }

  #toldStages(): Stage[] {
    const { conditioner } = this;
    if (!conditioner) return [];
    const { programs } = this.#residency.part("conditioner");
    return [{
      part: "conditioner",
      uses: 1,
      bytes: () => conditionerBytes(programs, conditioner),
    }];
  }

  /** Of what is missing, the rest is encoded. */
  #besideStages({ width, height, tiling }: Run): Stage[] {
    if (this.beside?.source !== "mask") return [];
    const bytes: Stage["bytes"] = (room) =>
      this.#firstStage.bytes("encode", { width, height }, { tiling }, room);
    return [{ part: "encoder", uses: 1, bytes }];
  }

  async encodeTold(told: readonly Told[]): Promise<TextEmbedding[]> {
    const { conditioner } = this;
    if (!conditioner) throw new TypeError("The model has no conditioner");
    const { programs } = this.#residency.part("conditioner");
    return await this.#residency.during(
      "conditioner",
      () => runConditioner(programs, conditioner, told),
    );
  }

  #encoders(clipSkip: number): (TextEncoder & { readonly name: PartName })[] {
    return [...this.#textEncoders].map(([name, config]) => {
      const output: ClipOutput = clipOutput(this.family, config, clipSkip);
      return { name, config, output };
    });
  }

  async encodeText(prompts: readonly TokenIds[], clipSkip = 1): Promise<TextEmbedding[]> {
    if (!this.readsText) {
      return prompts.map(([{ length: tokens }]) => ({ hidden: new Float32Array(0), tokens }));
    }
    const results: ClipResult[] = [];
    for (const [i, encoder] of this.#encoders(clipSkip).entries()) {
      const ids = prompts.map((prompt) => prompt[i]);
      const { programs } = this.#residency.part(encoder.name);
      results.push(
        await this.#residency.during(encoder.name, () => runClip(programs, encoder, ids)),
      );
    }
    const pooled = results[results.length - 1].pooled;
    return prompts.map((ids, i) => {
      const tokens = ids[0].length;
      const hidden = besides(results.map((result) => result.hidden[i]), tokens);
      return this.wantsSizes && pooled ? { hidden, tokens, pooled: pooled[i] } : { hidden, tokens };
    });
  }

  denoiser(size: DenoiserRequest): Denoiser {
    const residency = this.#residency;
    const runner = new UnetRunner(residency.part("unet").programs, this.#unet, size);
    let holding: Promise<void> | undefined;
    let holds = false;
    return {
      async predict(x, timestep, conditions) {
        await (holding ??= residency.hold("unet"));
        holds = true;
        return await runner.predict(x, timestep, conditions);
      },
      [Symbol.dispose]() {
        runner[Symbol.dispose]();
        if (holds) residency.letGo("unet");
        else holding?.then(() => residency.letGo("unet"), () => {});
        holding = undefined;
        holds = false;
      },
    };
  }

  decodeImage: Model["decodeImage"] = (latents, options) =>
    this.#residency.during("decoder", () => this.#firstStage.decode(latents, options));

  encodeImage: Model["encodeImage"] = (picture, options) =>
    this.#residency.during("encoder", () => this.#firstStage.encode(picture, options));

  async useLoras(choices: readonly LoraChoice[]): Promise<readonly string[]> {
    if (JSON.stringify(choices) === JSON.stringify(this.#loras.choices)) return [];
    this.#residency.requireIdle();
    const { changed, warnings } = await this.#loras.use(choices);
    for (const name of changed) this.#residency.part(name).unload();
    return warnings;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#files.dispose();
    return Promise.resolve();
  }
}

/** Tokens that CLIP's text encoders read. */
const TOKENS = 77;

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
