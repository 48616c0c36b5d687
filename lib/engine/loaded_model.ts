/** A checkpoint's parts as a `Model`: plans what a run takes and runs each stage on the parts that it needs. */

import { LimitError, MemoryError } from "../base/errors.ts";
import type { TokenizerFiles } from "../formats/checkpoint.ts";
import type { Device } from "../gpu/device.ts";
import type { Beside } from "../models/beside.ts";
import type { ClipConfig, ClipOutput } from "../models/clip.ts";
import type { ConditionerConfig } from "../models/conditioner.ts";
import { clipOutput, defaultsOf, FAMILIES, type Family } from "../models/family.ts";
import type { UnetConfig } from "../models/unet.ts";
import type { Architecture } from "./architecture.ts";
import type { LoadedParts } from "./builder.ts";
import { conditionerBytes, runConditioner, toldTokens } from "./conditioner.ts";
import type { FirstStage } from "./first_stage.ts";
import type { LoraChoice, Loras } from "./lora.ts";
import type {
  Denoiser,
  DenoiserRequest,
  MemoryPlan,
  Model,
  Run,
  TextEmbedding,
  TokenIds,
  Told,
} from "./model.ts";
import type { PartName } from "./part.ts";
import type { Room } from "./programs.ts";
import type { Residency, Stage } from "./residency.ts";
import {
  clipBytes,
  type ClipResult,
  denoiserBytes,
  runClip,
  type TextEncoder,
  UnetRunner,
} from "./stages.ts";

/** See `Model`. */
export class LoadedModel implements Model {
  readonly path;
  readonly family: Family;
  readonly variant;
  readonly defaults;
  readonly scheduler;
  readonly tokenizers;
  readonly padTokens;
  readonly factor;
  readonly latentChannels;
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
    this.defaults = {
      ...defaultsOf(family, architecture.variant),
      ...architecture.defaults,
      ...{ width: size, height: size },
    };
    this.scheduler = architecture.scheduler;
    this.tokenizers = tokenizers;
    this.padTokens = FAMILIES[family].padTokens;
    this.factor = firstStage.factor;
    this.latentChannels = firstStage.latentChannels;
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
      ...{ changes: false, keeps: false, encodes: false, clipSkip: 1, tiling: "auto" },
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
    const unit = this.factor * 2 ** (this.#unet.down.length - 1); // else the denoiser's skips are cut
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
      ...this.#encoderStages(run),
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

  #encoderStages({ width, height, tiling, encodes }: Run): Stage[] {
    if (!encodes) return [];
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
