/** The programs of a model's stages: graph inputs and outputs around the model functions, and the host's side of them. */

import { MemoryError } from "../base/errors.ts";
import { sizeOf } from "../base/shape.ts";
import { hoist } from "../graph/hoist.ts";
import { Graph, type Tensor } from "../graph/tensor.ts";
import { storageBuffer } from "../gpu/buffers.ts";
import { bufferBytes, peakOf } from "../gpu/compile.ts";
import { mib } from "../gpu/device.ts";
import type { Program } from "../gpu/program.ts";
import {
  type ClipConfig,
  clipInputs,
  type ClipOutput,
  clipText,
  pooledRow,
} from "../models/clip.ts";
import { unet, type UnetConfig, unetInputs } from "../models/unet.ts";
import { type Manifest, manifestOf, paramsOf } from "../nn/params.ts";
import type { Condition } from "./model.ts";
import { type Programs, type Room, roomOf } from "./programs.ts";

/** Parameters of a text encoder whose scope is `name`. */
export function clipManifest(name: string, config: ClipConfig): Manifest {
  const graph = new Graph();
  const { tokens, pooledRows } = clipInputs(graph, 1, 1);
  const output = { skip: 0, finalNorm: true };
  clipText(paramsOf(graph, name), config, tokens, output, pooledRows);
  return manifestOf(graph);
}

/** Parameters of a UNet; the smallest picture that reaches its lowest level is enough to see them. */
export function unetManifest(config: UnetConfig): Manifest {
  const graph = new Graph();
  const side = 2 ** (config.down.length - 1);
  const size = { batch: 1, height: side, width: side, tokens: 1 };
  unet(paramsOf(graph, "unet"), config, unetInputs(graph, config, size));
  return manifestOf(graph);
}

/** States of one text encoder for a batch of prompts. */
export interface ClipResult {
  /** For each prompt [tokens, width]. */
  readonly hidden: Float32Array[];
  /** For each prompt [width], where the encoder pools. */
  readonly pooled: Float32Array[] | undefined;
}

/** A text encoder, whose parameters' scope is its name, and which of its states are wanted. */
export interface TextEncoder {
  readonly name: string;
  readonly config: ClipConfig;
  readonly output: ClipOutput;
}

/** The text encoder's graph on `batch` prompts of `length` tokens, and the name of its program. */
export function clipProgram({ name, config, output }: TextEncoder, batch: number, length: number) {
  const key = `${name}: ${batch}×${length}, ${JSON.stringify(output)}`;
  const outputs = () => {
    const { tokens, pooledRows } = clipInputs(new Graph(), batch, length);
    const rows = config.projection === undefined ? undefined : pooledRows;
    const states = clipText(paramsOf(tokens.graph, name), config, tokens, output, rows);
    const named = new Map([["hidden", states.hidden]]);
    if (states.pooled) named.set("pooled", states.pooled);
    return named;
  };
  return { key, outputs };
}

/** The most bytes that running a text encoder takes beside its weights. */
export function clipBytes(
  programs: Programs,
  encoder: TextEncoder,
  batch: number,
  length: number,
): number {
  const { key, outputs } = clipProgram(encoder, batch, length);
  return peakOf(programs.assembly(key, outputs)).peak;
}

/** Runs a text encoder on prompts of equal length. */
export async function runClip(
  programs: Programs,
  encoder: TextEncoder,
  prompts: readonly Int32Array[],
): Promise<ClipResult> {
  const [batch, length] = [prompts.length, prompts[0].length];
  const { key, outputs } = clipProgram(encoder, batch, length);
  using program = await programs.compile(key, outputs, { label: `the ${encoder.name}` });
  const ids = new Int32Array(batch * length);
  prompts.forEach((prompt, i) => ids.set(prompt, i * length));
  const rows = prompts.map((prompt, i) => pooledRow(prompt, i, encoder.config.eosTokenId));
  const results = await program.run({ tokens: ids, pooledRows: Int32Array.from(rows) });
  return {
    hidden: split(results.get("hidden"), batch),
    pooled: splitMaybe(results.get("pooled"), batch),
  };
}

function splitMaybe(
  all: Float32Array<ArrayBuffer> | undefined,
  parts: number,
): Float32Array[] | undefined {
  return all && split(all, parts);
}

/** Equal parts of an array. */
function split(
  all: Float32Array<ArrayBuffer> | undefined,
  parts: number,
): Float32Array<ArrayBuffer>[] {
  if (!all) throw new TypeError("A program did not return its output");
  const size = all.length / parts;
  return Array.from({ length: parts }, (_, i) => all.subarray(i * size, (i + 1) * size));
}

/** How the denoiser is compiled: so many conditions in one run, for latents of a size. */
export interface DenoiserSize {
  readonly batch: number;
  readonly height: number;
  readonly width: number;
  readonly tokens: number;
}

/** Inputs of the UNet that stay the same while a picture is made. */
const LASTING: ReadonlySet<string> = new Set([
  "encoderHiddenStates",
  "textEmbeds",
  "timeIds",
  "timestepCond",
]);

/**
 * The denoiser's graph: latents [1, c, h, w] in torch's order, shared by the batch, to predictions [batch, c, h, w]. What
 * depends on the prompts alone, first of all the keys and values of the text, is `once`.
 */
export function denoiserGraph(config: UnetConfig, size: DenoiserSize) {
  const graph = new Graph();
  const { batch, height, width } = size;
  const c = config.inChannels;
  const latents = graph.input("latents", [1, c, height, width]);
  const sample = latents.transpose([0, 2, 3, 1]).broadcast([batch, height, width, c]);
  const inputs = { ...unetInputs(graph, config, size), sample };
  const prediction = unet(paramsOf(graph, "unet"), config, inputs).transpose([0, 3, 1, 2]);
  const { once, outputs } = hoist([prediction], LASTING);
  return { once, step: new Map([["prediction", outputs[0]]]) };
}

/** The lasting inputs of one run. */
type Lasting = Readonly<Record<string, Float32Array<ArrayBuffer>>>;

function lastingInputs(
  { addition, guidanceWidth }: UnetConfig,
  conditions: readonly Condition[],
): Lasting {
  return {
    encoderHiddenStates: joined(conditions.map(({ text }) => text.hidden)),
    ...(addition && {
      textEmbeds: joined(conditions.map(({ text }) => text.pooled ?? [])),
      timeIds: joined(conditions.map(({ timeIds }) => timeIds ?? [])),
    }),
    ...(guidanceWidth !== undefined && {
      timestepCond: joined(conditions.map(({ guidance }) => guidance ?? [])),
    }),
  };
}

function isSame(a: Lasting, b: Lasting): boolean {
  return Object.entries(a).every(([name, values]) =>
    values.length === b[name].length && values.every((value, i) => value === b[name][i])
  );
}

/** What one run of the denoiser's program reads of its conditions, kept on the device. */
interface Prepared {
  /** By the name of the input that stands for it. */
  readonly buffers: ReadonlyMap<string, GPUBuffer>;
  conditions: readonly Condition[];
  lasting: Lasting;
}

/** The denoiser assembled for a size: what to keep of the prompts, and what it takes. */
interface DenoiserPlan {
  readonly size: DenoiserSize;
  /** Bytes of each buffer that one run keeps of its conditions. */
  readonly kept: ReadonlyMap<string, number>;
  /** Names and graphs of the two programs. */
  readonly once: ProgramName;
  readonly step: ProgramName;
  /** The most bytes that so many runs take beside the weights. */
  bytes(runs: number): number;
}
type ProgramName = readonly [key: string, outputs: () => ReadonlyMap<string, Tensor>];

function planDenoiser(
  programs: Programs,
  config: UnetConfig,
  size: DenoiserSize,
): DenoiserPlan {
  const { batch, height, width, tokens } = size;
  const key = `the UNet on ${batch} latents of ${height}×${width}, ${tokens} tokens`;
  const graphs = lazily(() => denoiserGraph(config, size));
  const step: ProgramName = [key, () => graphs().step];
  const once: ProgramName = [`${key}: what reads the prompts alone`, () => graphs().once];
  const first = programs.assembly(...once);
  const kept = new Map(
    [...first.outputs].map(([name, { shape }]) => [name, bufferBytes(sizeOf(shape) * 4)]),
  );
  const second = programs.assembly(...step, new Set(kept.keys()));
  const one = [...kept.values()].reduce((sum, bytes) => sum + bytes, 0);
  const bytes = (runs: number) =>
    runs * one + Math.max(peakOf(first, []).peak, peakOf(second).peak);
  return { size, kept, once, step, bytes };
}

function lazily<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}

/**
 * All conditions in one run where that fits, else one after another. One run launches half as much and, where kernels
 * transform weights, does so once; on llvmpipe both take the same time (19 s of CPU for SD 1.5 at 32², six turns), and
 * one after another takes half the activations. Throws `MemoryError` where that does not fit either, with both numbers.
 */
function planConditions(
  programs: Programs,
  config: UnetConfig,
  size: Omit<DenoiserSize, "batch">,
  conditions: number,
  { budget, live }: Room,
): DenoiserPlan {
  const batches = conditions > 1 ? [conditions, 1] : [1];
  let refused: MemoryError | undefined;
  for (const batch of batches) {
    try {
      const plan = planDenoiser(programs, config, { ...size, batch });
      const bytes = plan.bytes(conditions / batch);
      if (live + bytes <= budget) return plan;
      refused = new MemoryError(
        `Cannot run the UNet on latents of ${size.height}×${size.width}: it needs ${
          mib(bytes)
        } MiB beside ${mib(live)} MiB in use, and the memory budget is ${
          mib(budget)
        } MiB; raise --memory-budget or ask for a smaller picture`,
      );
    } catch (error) {
      if (!(error instanceof MemoryError)) throw error;
      refused = error;
    }
  }
  throw refused;
}

/** The most bytes that the denoiser takes beside its weights. Throws `MemoryError` where it does not fit. */
export function denoiserBytes(
  programs: Programs,
  config: UnetConfig,
  size: Omit<DenoiserSize, "batch">,
  conditions: number,
  room: Room,
): number {
  const plan = planConditions(programs, config, size, conditions, room);
  return plan.bytes(conditions / plan.size.batch);
}

/**
 * The denoiser for a number of conditions, in one run or in several; each run has buffers of its own for what depends on its
 * conditions alone, which is computed again only when these change.
 */
class CompiledUnet implements Disposable {
  readonly #owned: DisposableStack;

  private constructor(
    readonly programs: Programs,
    readonly config: UnetConfig,
    readonly plan: DenoiserPlan,
    readonly program: Program,
    readonly runs: readonly Prepared[],
    owned: DisposableStack,
  ) {
    this.#owned = owned;
  }

  /** Throws `MemoryError` where it does not fit, and leaves nothing behind. */
  static async make(
    programs: Programs,
    config: UnetConfig,
    plan: DenoiserPlan,
    conditions: readonly Condition[],
  ): Promise<CompiledUnet> {
    const { device } = programs;
    const { batch, height, width } = plan.size;
    using owned = new DisposableStack();
    const runs: Prepared[] = [];
    for (let first = 0; first < conditions.length; first += batch) {
      const some = conditions.slice(first, first + batch);
      const run = {
        buffers: new Map([...plan.kept].map(([name, bytes]) => {
          const label = `what the UNet keeps of the prompts`;
          const buffer = storageBuffer(device, bytes, label);
          return [name, owned.adopt(buffer, (kept) => device.release(kept))];
        })),
        conditions: some,
        lasting: lastingInputs(config, some),
      };
      await keep(programs, plan, run);
      runs.push(run);
    }
    const program = owned.use(
      await programs.compile(...plan.step, {
        label: `the UNet on ${batch} latents of ${height}×${width}`,
        bound: runs.map(({ buffers }) => buffers),
      }),
    );
    return new CompiledUnet(programs, config, plan, program, runs, owned.move());
  }

  /** Bytes on the device: activations, and what is kept of the conditions. */
  get bytes(): number {
    const kept = this.runs.flatMap(({ buffers }) => [...buffers.values()]);
    return kept.reduce((sum, { size }) => sum + size, this.program.bytes);
  }

  async predict(
    x: Float32Array,
    timestep: number,
    conditions: readonly Condition[],
  ): Promise<Float32Array<ArrayBuffer>[]> {
    const { batch } = this.plan.size;
    const predictions: Float32Array<ArrayBuffer>[] = [];
    for (const [i, run] of this.runs.entries()) {
      await this.#prepare(run, conditions.slice(i * batch, (i + 1) * batch));
      const inputs = {
        ...run.lasting,
        latents: Float32Array.from(x),
        timestep: new Float32Array(batch).fill(timestep),
      };
      const results = await this.program.run(inputs, {}, i);
      predictions.push(...split(results.get("prediction"), batch));
    }
    return predictions;
  }

  /** Computes again what depends on the conditions alone, where they are others than before. */
  async #prepare(run: Prepared, conditions: readonly Condition[]): Promise<void> {
    if (conditions.every((condition, i) => condition === run.conditions[i])) return;
    const lasting = lastingInputs(this.config, conditions);
    run.conditions = conditions;
    if (isSame(lasting, run.lasting)) return;
    run.lasting = lasting;
    await keep(this.programs, this.plan, run);
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}

/** Computes what depends on the conditions of a run alone into its buffers. */
async function keep(
  programs: Programs,
  { once }: DenoiserPlan,
  { buffers, lasting }: Prepared,
): Promise<void> {
  const label = "the UNet's part that reads the prompts alone";
  using program = await programs.compile(...once, { label });
  const targets = [...buffers].map(([name, buffer]) => [name, { buffer, offset: 0 }]);
  await program.run(lasting, Object.fromEntries(targets));
}

/** The denoiser at one size; compiled for each number of conditions when it is first asked for. */
export class UnetRunner implements Disposable {
  readonly #compiled = new Map<string, CompiledUnet>();

  constructor(
    readonly programs: Programs,
    readonly config: UnetConfig,
    readonly size: { readonly height: number; readonly width: number },
  ) {}

  /** All conditions in one run, or one after another where that does not fit the device. */
  async #compile(conditions: readonly Condition[]): Promise<CompiledUnet> {
    const { programs, config } = this;
    const { tokens } = conditions[0].text;
    const key = `${conditions.length}×${tokens}`;
    const known = this.#compiled.get(key);
    if (known) return known;
    const size = { ...this.size, tokens };
    const plan = planConditions(programs, config, size, conditions.length, roomOf(programs.device));
    const make = (fitting: DenoiserPlan) =>
      CompiledUnet.make(programs, config, fitting, conditions);
    const compiled = await make(plan).catch((error: unknown) => {
      // the device may have less than the budget says
      if (!(error instanceof MemoryError) || plan.size.batch === 1) throw error;
      return make(planDenoiser(programs, config, { ...size, batch: 1 }));
    });
    this.#compiled.set(key, compiled);
    return compiled;
  }

  /** Bytes of everything that was compiled so far: activations, and what is kept of the prompts. */
  get bytes(): number {
    return [...this.#compiled.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** See `Denoiser.predict`. */
  async predict(
    x: Float32Array,
    timestep: number,
    conditions: readonly Condition[],
  ): Promise<Float32Array<ArrayBuffer>[]> {
    const compiled = await this.#compile(conditions);
    return await compiled.predict(x, timestep, conditions);
  }

  [Symbol.dispose](): void {
    for (const compiled of this.#compiled.values()) compiled[Symbol.dispose]();
    this.#compiled.clear();
  }
}

function joined(parts: readonly ArrayLike<number>[]): Float32Array<ArrayBuffer> {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** [channels, height, width] → [height, width, channels]. */
export function toChannelsLast(
  data: Float32Array,
  channels: number,
  pixels: number,
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(data.length);
  for (let c = 0; c < channels; c++) {
    for (let i = 0; i < pixels; i++) out[i * channels + c] = data[c * pixels + i];
  }
  return out;
}

/** [height, width, channels] → [channels, height, width]. */
export function toChannelsFirst(
  data: Float32Array,
  channels: number,
  pixels: number,
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(data.length);
  for (let i = 0; i < pixels; i++) {
    for (let c = 0; c < channels; c++) out[c * pixels + i] = data[i * channels + c];
  }
  return out;
}
