/** The programs of a model's stages: graph inputs and outputs around the model functions, and the host's side of them. */

import { Graph, type Tensor } from "../graph/tensor.ts";
import type { Parameters } from "../gpu/buffers.ts";
import { assemble } from "../gpu/compile.ts";
import type { Device } from "../gpu/device.ts";
import { compile, type Program } from "../gpu/program.ts";
import {
  type ClipConfig,
  clipInputs,
  type ClipOutput,
  clipText,
  pooledRow,
} from "../models/clip.ts";
import { unet, type UnetConfig, unetInputs } from "../models/unet.ts";
import { MemoryError } from "../base/errors.ts";
import { type Manifest, manifestOf, paramsOf } from "../nn/params.ts";
import type { Condition } from "./model.ts";

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

/** Runs a text encoder on prompts of equal length. */
export async function runClip(
  device: Device,
  name: string,
  config: ClipConfig,
  output: ClipOutput,
  parameters: Parameters,
  prompts: readonly Int32Array[],
): Promise<ClipResult> {
  const graph = new Graph();
  const [batch, length] = [prompts.length, prompts[0].length];
  const { tokens, pooledRows } = clipInputs(graph, batch, length);
  const pools = config.projection !== undefined;
  const states = clipText(
    paramsOf(graph, name),
    config,
    tokens,
    output,
    pools ? pooledRows : undefined,
  );
  const outputs = new Map([["hidden", states.hidden]]);
  if (states.pooled) outputs.set("pooled", states.pooled);
  using program = await compile(device, outputs, parameters, { label: `the ${name}` });
  const ids = new Int32Array(batch * length);
  prompts.forEach((prompt, i) => ids.set(prompt, i * length));
  const rows = prompts.map((prompt, i) => pooledRow(prompt, i, config.eosTokenId));
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

/** The denoiser's graph: latents [1, c, h, w] in torch's order, shared by the batch, to predictions [batch, c, h, w]. */
function denoiserGraph(
  config: UnetConfig,
  size: {
    readonly batch: number;
    readonly height: number;
    readonly width: number;
    readonly tokens: number;
  },
): Map<string, Tensor> {
  const graph = new Graph();
  const { batch, height, width } = size;
  const c = config.inChannels;
  const latents = graph.input("latents", [1, c, height, width]);
  const sample = latents.transpose([0, 2, 3, 1]).broadcast([batch, height, width, c]);
  const inputs = { ...unetInputs(graph, config, size), sample };
  const prediction = unet(paramsOf(graph, "unet"), config, inputs);
  return new Map([["prediction", prediction.transpose([0, 3, 1, 2])]]);
}

/** The denoiser at one size; compiled for each number of conditions when it is first asked for. */
export class UnetRunner implements Disposable {
  readonly #programs = new Map<string, Program>();

  constructor(
    readonly device: Device,
    readonly config: UnetConfig,
    readonly parameters: Parameters,
    readonly size: { readonly height: number; readonly width: number },
  ) {}

  async #program(batch: number, tokens: number): Promise<Program> {
    const key = `${batch}×${tokens}`;
    let program = this.#programs.get(key);
    if (!program) {
      const { height, width } = this.size;
      const graph = denoiserGraph(this.config, { batch, tokens, height, width });
      const label = `the UNet on ${batch} latents of ${height}×${width}`;
      program = await compile(this.device, graph, this.parameters, { label });
      this.#programs.set(key, program);
    }
    return program;
  }

  /** Activations of the largest program so far, in bytes. */
  get bytes(): number {
    return [...this.#programs.values()].reduce((most, { bytes }) => Math.max(most, bytes), 0);
  }

  /** See `Denoiser.predict`. */
  async predict(
    x: Float32Array,
    timestep: number,
    conditions: readonly Condition[],
  ): Promise<Float32Array<ArrayBuffer>[]> {
    const batch = conditions.length;
    const program = await this.#program(batch, conditions[0].text.tokens);
    const { addition, guidanceWidth } = this.config;
    const results = await program.run({
      latents: Float32Array.from(x),
      timestep: new Float32Array(batch).fill(timestep),
      encoderHiddenStates: joined(conditions.map(({ text }) => text.hidden)),
      ...(addition && {
        textEmbeds: joined(conditions.map(({ text }) => text.pooled ?? [])),
        timeIds: joined(conditions.map(({ timeIds }) => timeIds ?? [])),
      }),
      ...(guidanceWidth !== undefined && {
        timestepCond: joined(conditions.map(({ guidance }) => guidance ?? [])),
      }),
    });
    return split(results.get("prediction"), batch);
  }

  [Symbol.dispose](): void {
    for (const program of this.#programs.values()) program[Symbol.dispose]();
    this.#programs.clear();
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

/** True where a whole graph can be planned within the device's binding limit and memory budget. */
export function fits(
  device: Device,
  outputs: ReadonlyMap<string, Tensor>,
  parameters: Parameters,
): boolean {
  try {
    const layoutOf = (name: string) => {
      const stored = parameters.get(name);
      if (!stored) throw new RangeError(`There is no weight "${name}" on the device`);
      return stored.layout;
    };
    const { plan } = assemble(outputs, device.profile, layoutOf, undefined, device.choice);
    return plan.bytes <= device.budget - device.memory.live;
  } catch (error) {
    if (error instanceof MemoryError) return false;
    throw error;
  }
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
