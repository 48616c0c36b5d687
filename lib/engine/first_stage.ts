/**
 * The first stage on a device: pictures to latents and back, whole or in bands of rows, with the same result.
 * A KL autoencoder runs segment by segment in bands (tiles.ts); TAESD has no statistics of the whole picture, so bands
 * that overlap by its receptive field are exact.
 */

import { Graph, type Tensor } from "../graph/tensor.ts";
import type { Parameters } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import { compile, type Program } from "../gpu/program.ts";
import {
  decoderHalo,
  encoderHalo,
  type TaesdConfig,
  taesdDecode,
  taesdEncode,
} from "../models/taesd.ts";
import {
  decode,
  decoderSegments,
  encode,
  encoderSegments,
  factorOf,
  type VaeConfig,
} from "../models/vae.ts";
import { type Manifest, manifestOf, paramsOf } from "../nn/params.ts";
import type { FloatPicture, Latents, StageOptions } from "./model.ts";
import { fits, toChannelsFirst, toChannelsLast } from "./stages.ts";
import { type BandOptions, type HostPlane, runInBands } from "./tiles.ts";

/** Pictures to latents in the denoiser's scale, and back. */
export interface FirstStage {
  /** Pixels to one latent along one side. */
  readonly factor: number;
  readonly latentChannels: number;
  decode(latents: Latents, options?: StageOptions): Promise<FloatPicture>;
  /** The mean of the latent's distribution. */
  encode(picture: FloatPicture, options?: StageOptions): Promise<Latents>;
}

/** Band pixels where tiling is asked for on a device that would not need it. */
const TILE_PIXELS = 2 ** 18;

/** Parameters of a KL autoencoder: both halves. */
export function vaeManifest(config: VaeConfig): Manifest {
  const graph = new Graph();
  const p = paramsOf(graph, "vae");
  const f = factorOf(config);
  decode(p, config, graph.input("z", [1, 1, 1, config.latentChannels]));
  encode(p, config, graph.input("x", [1, f, f, config.inChannels]));
  return manifestOf(graph);
}

/** Parameters of one half of TAESD, under "taesd_encoder" or "taesd_decoder". */
export function taesdManifest(half: "encoder" | "decoder", config: TaesdConfig): Manifest {
  const graph = new Graph();
  const p = paramsOf(graph, `taesd_${half}`);
  const f = taesdFactor(config);
  if (half === "decoder") {
    taesdDecode(p, config, graph.input("z", [1, 1, 1, config.latentChannels]));
  } else taesdEncode(p, config, graph.input("x", [1, f, f, config.inChannels]));
  return manifestOf(graph);
}

/** A KL autoencoder whose parameters are on the device under "vae". */
export function klFirstStage(
  device: Device,
  config: VaeConfig,
  parameters: Parameters,
): FirstStage {
  const { scalingFactor: scale, shiftFactor: shift, latentChannels } = config;
  const factor = factorOf(config);
  const run = (input: HostPlane, half: "decode" | "encode", options: StageOptions) => {
    const build = half === "decode" ? decode : encode;
    const segments = half === "decode" ? decoderSegments(config) : encoderSegments(config);
    const graph = (x: Tensor) => build(paramsOf(x.graph, "vae"), config, x);
    const inBands = (bands: BandOptions) =>
      runInBands(device, segments, "vae", parameters, input, bands);
    return runWholeOrInBands(device, parameters, input, graph, inBands, options);
  };
  return {
    factor,
    latentChannels,
    async decode(latents, options = {}) {
      const z = hostPlane(latents);
      z.data.forEach((v, i) => z.data[i] = v / scale + shift);
      return toPicture(await run(z, "decode", options));
    },
    async encode(picture, options = {}) {
      const moments = await run(fromPicture(picture), "encode", options);
      const pixels = moments.height * moments.width;
      const mean = toChannelsFirst(moments.data, moments.channels, pixels)
        .subarray(0, latentChannels * pixels);
      const { height, width } = moments;
      return {
        data: mean.map((v) => (v - shift) * scale),
        channels: latentChannels,
        height,
        width,
      };
    },
  };
}

function taesdFactor(config: TaesdConfig): number {
  return 2 ** (config.decoderBlocks.length - 1);
}

/** TAESD with its halves' parameters under "taesd_decoder" and "taesd_encoder". */
export function tinyFirstStage(
  device: Device,
  config: TaesdConfig,
  parameters: Parameters,
): FirstStage {
  const { latentChannels } = config;
  const factor = taesdFactor(config);
  const run = (input: HostPlane, half: "decode" | "encode", options: StageOptions) => {
    const graph = (x: Tensor) =>
      half === "decode"
        ? taesdDecode(paramsOf(x.graph, "taesd_decoder"), config, x)
        : taesdEncode(paramsOf(x.graph, "taesd_encoder"), config, x);
    const overlap = half === "decode"
      ? { halo: decoderHalo(config), zoom: factor, unit: 1 }
      : { halo: ceilTo(encoderHalo(config), factor), zoom: 1 / factor, unit: factor };
    const inBands = (bands: BandOptions) =>
      runOverlapping(device, parameters, input, graph, overlap, bands);
    return runWholeOrInBands(device, parameters, input, graph, inBands, options);
  };
  return {
    factor,
    latentChannels,
    async decode(latents, options = {}) {
      return toPicture(await run(hostPlane(latents), "decode", options));
    },
    async encode(picture, options = {}) {
      const { data, height, width } = await run(fromPicture(picture), "encode", options);
      const first = toChannelsFirst(data, latentChannels, height * width);
      return { data: first, channels: latentChannels, height, width };
    },
  };
}

/** As one program where that is wanted and fits, else in bands. */
async function runWholeOrInBands(
  device: Device,
  parameters: Parameters,
  input: HostPlane,
  build: (x: Tensor) => Tensor,
  inBands: (options: BandOptions) => Promise<HostPlane>,
  { tiling = "auto", bandPixels, progress }: StageOptions,
): Promise<HostPlane> {
  const bands = (pixels?: number) =>
    inBands({
      ...(pixels !== undefined && { bandPixels: pixels }),
      ...(progress && { progress }),
    });
  if (tiling === "on") return await bands(bandPixels ?? TILE_PIXELS);
  const outputs = wholeGraph(input, build);
  if (tiling === "auto" && !fits(device, outputs, parameters)) return await bands();
  using program = await compile(device, outputs, parameters, { label: "the first stage" });
  const result = await runOn(program, input.data, outputs);
  progress?.(1, 1);
  return result;
}

function wholeGraph({ height, width, channels }: HostPlane, build: (x: Tensor) => Tensor) {
  const graph = new Graph();
  return new Map([["result", build(graph.input("x", [1, height, width, channels]))]]);
}

async function runOn(
  program: Program,
  x: Float32Array<ArrayBuffer>,
  outputs: ReadonlyMap<string, Tensor>,
): Promise<HostPlane> {
  const data = (await program.run({ x })).get("result");
  const shape = outputs.get("result")?.shape;
  if (!data || !shape) throw new TypeError("The first stage returned nothing");
  return { data, height: shape[1], width: shape[2], channels: shape[3] };
}

/** Rows around a band, size of the result to the input, and what bands must begin at a multiple of; in input rows. */
interface Overlap {
  readonly halo: number;
  readonly zoom: number;
  readonly unit: number;
}

/** Bands that read `halo` rows more on each side and drop what these give. */
async function runOverlapping(
  device: Device,
  parameters: Parameters,
  input: HostPlane,
  build: (x: Tensor) => Tensor,
  { halo, zoom, unit }: Overlap,
  { bandPixels = Infinity, progress }: BandOptions,
): Promise<HostPlane> {
  const { height, width, channels } = input;
  const wanted = Math.floor(bandPixels / (width * zoom) / zoom);
  let rows = Math.max(unit, floorTo(Math.min(height, wanted), unit));
  const part = (begin: number, end: number) => {
    const [from, to] = [Math.max(0, begin - halo), Math.min(height, end + halo)];
    const stride = width * channels;
    return {
      from,
      plane: { ...input, height: to - from, data: input.data.subarray(from * stride, to * stride) },
    };
  };
  const fitting = (count: number) => {
    const middle = floorTo(Math.max(0, (height - count) / 2), unit);
    return fits(device, wholeGraph(part(middle, middle + count).plane, build), parameters);
  };
  while (rows > unit && !fitting(rows)) rows = Math.max(unit, floorTo(rows / 2, unit));

  const parts: HostPlane[] = [];
  for (let begin = 0; begin < height; begin += rows) {
    const end = Math.min(height, begin + rows);
    const { from, plane } = part(begin, end);
    const outputs = wholeGraph(plane, build);
    using program = await compile(device, outputs, parameters, {
      label: "a band of the first stage",
    });
    const whole = await runOn(program, plane.data, outputs);
    const stride = whole.width * whole.channels;
    const data = whole.data.slice((begin - from) * zoom * stride, (end - from) * zoom * stride);
    parts.push({ ...whole, height: (end - begin) * zoom, data });
    progress?.(end, height);
  }
  return stacked(parts);
}

function stacked(parts: readonly HostPlane[]): HostPlane {
  const { width, channels } = parts[0];
  const height = parts.reduce((sum, part) => sum + part.height, 0);
  const data = new Float32Array(height * width * channels);
  let at = 0;
  for (const part of parts) {
    data.set(part.data, at);
    at += part.data.length;
  }
  return { data, height, width, channels };
}

const floorTo = (n: number, unit: number) => Math.floor(n / unit) * unit;
const ceilTo = (n: number, unit: number) => Math.ceil(n / unit) * unit;

/** A copy of latents, channels last. */
function hostPlane({ data, channels, height, width }: Latents): HostPlane {
  return { data: toChannelsLast(data, channels, height * width), channels, height, width };
}

/** 0 … 1 → −1 … 1. */
function fromPicture({ data, height, width }: FloatPicture): HostPlane {
  return { data: Float32Array.from(data, (v) => v * 2 - 1), height, width, channels: 3 };
}

/** −1 … 1 → 0 … 1. */
function toPicture({ data, height, width }: HostPlane): FloatPicture {
  return { data: data.map((v) => (v + 1) / 2), height, width };
}
