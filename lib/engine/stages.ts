/** The programs of a model's stages: graph inputs and outputs around the model functions, and the host's side of them. */

import { MemoryError } from "../base/errors.ts";
import { sizeOf } from "../base/shape.ts";
import { hoist } from "../graph/hoist.ts";
import { Graph, type Tensor } from "../graph/tensor.ts";
import { storageBuffer } from "../gpu/buffers.ts";
import { peakOf } from "../gpu/compile.ts";
import { bufferBytes } from "../gpu/work.ts";
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
import type { Condition, DenoiserRequest } from "./model.ts";
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

/**
 * Runs a text encoder on prompts of equal length, each in a run of its own: how a kernel adds up may depend on how much there
 * is to do, and a prompt must mean the same picture alone and in company.
 */
export async function runClip(
  programs: Programs,
  encoder: TextEncoder,
  prompts: readonly Int32Array[],
): Promise<ClipResult> {
  const { key, outputs } = clipProgram(encoder, 1, prompts[0].length);
  using program = await programs.compile(key, outputs, { label: `the ${encoder.name}` });
  const hidden: Float32Array[] = [];
  const pooled: Float32Array[] = [];
  for (const prompt of prompts) {
    const row = pooledRow(prompt, 0, encoder.config.eosTokenId);
    const results = await program.run({
      tokens: Int32Array.from(prompt),
      pooledRows: Int32Array.of(row),
    });
    hidden.push(...split(results.get("hidden"), 1));
    const state = results.get("pooled");
    if (state) pooled.push(state);
  }
  return { hidden, pooled: pooled.length > 0 ? pooled : undefined };
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
  /** Which of the program's sets of bound buffers. */
  readonly index: number;
  /** By the name of the input that stands for it. */
  readonly buffers: ReadonlyMap<string, GPUBuffer>;
  /** `undefined` before the first use. */
  kept: { conditions: readonly Condition[]; readonly lasting: Lasting } | undefined;
}

/** The denoiser assembled for a size: what to keep of the prompts, and what it takes. */
interface DenoiserPlan {
  readonly size: DenoiserSize;
  /** Bytes of each buffer that one run keeps of its conditions. */
  readonly buffers: ReadonlyMap<string, number>;
  /** Names and graphs of the two programs. */
  readonly once: ProgramName;
  readonly step: ProgramName;
  /**
   * The most bytes that so many runs take beside the weights. Where conditions change, what is kept of them is computed
   * while the program is there; else it comes first and leaves.
   */
  bytes(runs: number, changes: boolean): number;
  /** What of that stays between steps. */
  kept(runs: number): number;
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
  const before = peakOf(first, []).peak;
  const { peak: during, kept: stays } = peakOf(second);
  const bytes = (runs: number, changes: boolean) =>
    runs * one + (changes ? before + during : Math.max(before, during));
  return { size, buffers: kept, once, step, bytes, kept: (runs: number) => runs * one + stays };
}

function lazily<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}

/** What a denoiser is asked for at each step, and how many lists of conditions the steps switch among. */
export interface DenoiserWork {
  readonly conditions: number;
  readonly sets: number;
  /** See `Run`. */
  readonly changes: boolean;
}

/** Tokens that one reading of CLIP gives: prompts of more are long. */
const LONG_PROMPT = 77;

/** Lists of conditions that are kept ready at most; others are computed again, which takes half a percent of a step. */
const MOST_SETS = 8;

/**
 * All conditions in one run where that fits, else one after another. One run launches half as much and, where kernels
 * transform weights, does so once; on llvmpipe both take the same time (19 s of CPU for SD 1.5 at 32², six turns), and
 * one after another takes half the activations. As many lists of conditions are kept as there is room for. Throws
 * `MemoryError` where not even one after another fits, with both numbers.
 */
function planConditions(
  programs: Programs,
  config: UnetConfig,
  size: Omit<DenoiserSize, "batch">,
  { conditions, sets, changes }: DenoiserWork,
  { budget, live }: Room,
): { readonly plan: DenoiserPlan; readonly sets: number } {
  const batches = conditions > 1 ? [conditions, 1] : [1];
  let refused: MemoryError | undefined;
  for (const batch of batches) {
    try {
      const plan = planDenoiser(programs, config, { ...size, batch });
      const runs = conditions / batch;
      for (let kept = Math.min(sets, MOST_SETS); kept >= 1; kept--) {
        if (live + plan.bytes(runs * kept, changes) <= budget) return { plan, sets: kept };
      }
      const shorter = size.tokens > LONG_PROMPT ? " or a shorter prompt" : "";
      refused = new MemoryError(
        `Cannot run the UNet on latents of ${size.height}×${size.width}: it needs ${
          mib(plan.bytes(runs, changes))
        } MiB beside ${mib(live)} MiB in use, and the memory budget is ${
          mib(budget)
        } MiB; raise --memory-budget or ask for a smaller picture${shorter}`,
      );
    } catch (error) {
      if (!(error instanceof MemoryError)) throw error;
      refused = error;
    }
  }
  throw refused;
}

/** Bytes that the denoiser takes beside its weights. Throws `MemoryError` where it does not fit. */
export function denoiserBytes(
  programs: Programs,
  config: UnetConfig,
  size: Omit<DenoiserSize, "batch">,
  work: DenoiserWork,
  room: Room,
): { readonly peak: number; readonly kept: number } {
  const { plan, sets } = planConditions(programs, config, size, work, room);
  const runs = work.conditions / plan.size.batch * sets;
  return { peak: plan.bytes(runs, work.changes), kept: plan.kept(runs) };
}

/**
 * The denoiser for a number of conditions, in one run or in several. Each run has buffers of its own for what depends on its
 * conditions alone, several where steps switch among conditions; what was used longest ago is computed again for others.
 */
class CompiledUnet implements Disposable {
  readonly #owned: DisposableStack;

  private constructor(
    readonly programs: Programs,
    readonly config: UnetConfig,
    readonly plan: DenoiserPlan,
    readonly program: Program,
    /** For each run of a step, what is kept for it, the latest used first. */
    readonly runs: readonly Prepared[][],
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
    sets: number,
  ): Promise<CompiledUnet> {
    const { device } = programs;
    const { batch, height, width } = plan.size;
    using owned = new DisposableStack();
    const prepared = (index: number): Prepared => ({
      index,
      buffers: new Map([...plan.buffers].map(([name, bytes]) => {
        const buffer = storageBuffer(device, bytes, "what the UNet keeps of the prompts");
        return [name, owned.adopt(buffer, (kept) => device.release(kept))];
      })),
      kept: undefined,
    });
    const runs: Prepared[][] = [];
    for (let first = 0; first < conditions.length; first += batch) {
      const run = Array.from({ length: sets }, (_, set) => prepared(runs.length * sets + set));
      const some = conditions.slice(first, first + batch);
      const lasting = lastingInputs(config, some);
      await keep(programs, plan, run[0].buffers, lasting);
      run[0].kept = { conditions: some, lasting };
      runs.push(run);
    }
    const program = owned.use(
      await programs.compile(...plan.step, {
        label: `the UNet on ${batch} latents of ${height}×${width}`,
        bound: runs.flat().map(({ buffers }) => buffers),
      }),
    );
    return new CompiledUnet(programs, config, plan, program, runs, owned.move());
  }

  /** Bytes on the device: activations, and what is kept of the conditions. */
  get bytes(): number {
    const kept = this.runs.flat().flatMap(({ buffers }) => [...buffers.values()]);
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
      const { index, lasting } = await this.#prepare(
        run,
        conditions.slice(i * batch, (i + 1) * batch),
      );
      const inputs = {
        ...lasting,
        latents: Float32Array.from(x),
        timestep: new Float32Array(batch).fill(timestep),
      };
      const results = await this.program.run(inputs, {}, index);
      predictions.push(...split(results.get("prediction"), batch));
    }
    return predictions;
  }

  /** What is kept of these conditions; where nothing is yet, it takes the place of what was used longest ago. */
  async #prepare(
    run: Prepared[],
    conditions: readonly Condition[],
  ): Promise<{ index: number; lasting: Lasting }> {
    let lasting: Lasting | undefined;
    let found = run.findIndex(({ kept }) =>
      kept && conditions.every((condition, i) => condition === kept.conditions[i])
    );
    if (found < 0) {
      const values = lasting = lastingInputs(this.config, conditions);
      found = run.findIndex(({ kept }) => kept && isSame(values, kept.lasting));
    }
    const [prepared] = run.splice(found < 0 ? run.length - 1 : found, 1);
    run.unshift(prepared);
    if (found < 0 && lasting) {
      prepared.kept = undefined;
      await keep(this.programs, this.plan, prepared.buffers, lasting);
      prepared.kept = { conditions, lasting };
    } else if (lasting && prepared.kept) prepared.kept.conditions = conditions;
    if (!prepared.kept) throw new TypeError("Nothing is kept of the conditions");
    return { index: prepared.index, lasting: prepared.kept.lasting };
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}

/** Computes what depends on the conditions of a run alone into buffers. */
async function keep(
  programs: Programs,
  { once }: DenoiserPlan,
  buffers: Prepared["buffers"],
  lasting: Lasting,
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
    readonly size: DenoiserRequest,
  ) {}

  /** All conditions in one run, or one after another where that does not fit the device. */
  async #compile(conditions: readonly Condition[]): Promise<CompiledUnet> {
    const { programs, config } = this;
    const { tokens } = conditions[0].text;
    const key = `${conditions.length}×${tokens}`;
    const known = this.#compiled.get(key);
    if (known) return known;
    const { height, width, sets: wanted = 1, changes = false } = this.size;
    const size = { height, width, tokens };
    const work = { conditions: conditions.length, sets: wanted, changes };
    const { plan, sets } = planConditions(programs, config, size, work, roomOf(programs.device));
    const make = (fitting: DenoiserPlan, kept: number) =>
      CompiledUnet.make(programs, config, fitting, conditions, kept);
    const compiled = await make(plan, sets).catch((error: unknown) => {
      // the device may have less than the budget says
      if (!(error instanceof MemoryError) || (plan.size.batch === 1 && sets === 1)) throw error;
      return make(planDenoiser(programs, config, { ...size, batch: 1 }), 1);
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
