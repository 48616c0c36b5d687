/**
 * The first stage on a device: pictures to latents and back, whole or in bands of rows, with the same result.
 * A KL autoencoder runs segment by segment in bands (tiles.ts); TAESD has no statistics of the whole picture, so bands
 * that overlap by its receptive field are exact.
 */

import { MemoryError } from "../base/errors.ts";
import { Graph, type Tensor } from "../graph/tensor.ts";
import { mib } from "../gpu/device.ts";
import {
  decoderHalo,
  encoderHalo,
  type TaesdConfig,
  taesdDecode,
  taesdEncode,
  taesdFactor,
} from "../models/taesd.ts";
import {
  decodeLatent,
  decoderSegments,
  encode,
  encoderSegments,
  factorOf,
  type VaeConfig,
} from "../models/vae.ts";
import { type Manifest, manifestOf, paramsOf } from "../nn/params.ts";
import type { Encoded, FloatPicture, Latents, StageOptions } from "./model.ts";
import { type Programs, type Room, roomOf } from "./programs.ts";
import { toChannelsFirst, toChannelsLast } from "./stages.ts";
import { type Extent, type HostPlane, planBands, runBands } from "./tiles.ts";
import { planWhole, type StagePlan, wholeIfAny } from "./whole.ts";

/** Which way a first stage is run. */
export type Half = "decode" | "encode";

/** The programs of each half; they read different weights. */
export type Halves = Readonly<Record<Half, Programs>>;

/** Pictures to latents in the denoiser's scale, and back. */
export interface FirstStage {
  /** Pixels to one latent along one side. */
  readonly factor: number;
  /** Numbers of one latent. */
  readonly latentChannels: number;
  /** The picture of some latents. */
  decode(latents: Latents, options?: StageOptions): Promise<FloatPicture>;
  /** The distribution of the latents. */
  encode(picture: FloatPicture, options?: StageOptions): Promise<Encoded>;
  /** The same of several pictures of one size, one after another, in less time than one by one. */
  encodeAll(pictures: readonly FloatPicture[], options?: StageOptions): Promise<Encoded[]>;
  /**
   * @internal The most bytes that one half takes beside its weights for latents (decode) or a picture (encode) of a size. Throws
   * `MemoryError` where it does not fit, however small its bands.
   */
  bytes(
    half: Half,
    size: { readonly height: number; readonly width: number },
    options: StageOptions,
    room: Room,
  ): number;
}

/** Band pixels where tiling is asked for on a device that would not need it. */
const TILE_PIXELS = 2 ** 18;

/** Parameters of a KL or VQ autoencoder: both halves, or one. */
export function vaeManifest(config: VaeConfig, halves: readonly Half[] = HALVES): Manifest {
  const graph = new Graph();
  const p = paramsOf(graph, "vae");
  const f = factorOf(config);
  if (halves.includes("decode")) {
    decodeLatent(p, config, graph.input("z", [1, 1, 1, config.latentChannels]));
  }
  if (halves.includes("encode")) encode(p, config, graph.input("x", [1, f, f, config.inChannels]));
  return manifestOf(graph);
}
const HALVES: readonly Half[] = ["decode", "encode"];

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

/** A KL or VQ autoencoder whose parameters are named under "vae". */
export function klFirstStage(config: VaeConfig, programs: Halves): FirstStage {
  const { scalingFactor: scale, shiftFactor: shift, latentChannels } = config;
  const factor = factorOf(config);
  const plan = (half: Half, input: Extent, options: StageOptions, room: Room) => {
    const build = half === "decode" ? decodeLatent : encode;
    const segments = half === "decode"
      ? decoderSegments(config, { quantizes: true })
      : encoderSegments(config);
    const graph = (x: Tensor) => build(paramsOf(x.graph, "vae"), config, x);
    const inBands = (bandPixels?: number): StagePlan => {
      const bands = planBands(programs[half], segments, "vae", input, room, bandPixels);
      return {
        bytes: bands.bytes,
        run: (inputs, progress) =>
          inTurn(inputs, (x) => runBands(programs[half], bands, x, progress)),
      };
    };
    return planStage(programs[half], half, input, graph, inBands, options, room);
  };
  const run = (inputs: readonly HostPlane[], half: Half, options: StageOptions) =>
    plan(half, inputs[0], options, roomOf(programs[half].device)).run(inputs, options.progress);
  return {
    factor,
    latentChannels,
    bytes(half, size, options, room) {
      const channels = half === "decode" ? latentChannels : config.inChannels;
      return plan(half, { ...size, channels }, options, room).bytes;
    },
    async decode(latents, options = {}) {
      const z = hostPlane(latents);
      z.data.forEach((v, i) => z.data[i] = v / scale + shift);
      const [picture] = await run([z], "decode", options);
      return toPicture(picture);
    },
    ...encoding(async (pictures, options = {}) => {
      const moments = await run(pictures.map(fromPicture), "encode", options);
      return moments.map(({ data, channels, height, width }) => {
        const all = toChannelsFirst(data, channels, height * width);
        const count = latentChannels * height * width;
        return {
          data: all.subarray(0, count).map((v) => (v - shift) * scale),
          channels: latentChannels,
          height,
          width,
          ...(channels > latentChannels && {
            deviation: all.subarray(count).map((log) => deviationOf(log) * scale),
          }),
        };
      });
    }),
  };
}

/** Of a log variance, held in the bounds of CompVis' and diffusers' distribution. */
function deviationOf(logVariance: number): number {
  return Math.exp(Math.min(20, Math.max(-30, logVariance)) / 2);
}

/** How pictures are encoded, one or several. */
function encoding(
  encodeAll: FirstStage["encodeAll"],
): Pick<FirstStage, "encode" | "encodeAll"> {
  return {
    encodeAll,
    encode: async (picture, options) => (await encodeAll([picture], options))[0],
  };
}

async function inTurn(
  inputs: readonly HostPlane[],
  run: (input: HostPlane) => Promise<HostPlane>,
): Promise<HostPlane[]> {
  const results: HostPlane[] = [];
  for (const input of inputs) results.push(await run(input));
  return results;
}

/** TAESD with its halves' parameters named under "taesd_decoder" and "taesd_encoder". */
export function tinyFirstStage(config: TaesdConfig, programs: Halves): FirstStage {
  const { latentChannels } = config;
  const factor = taesdFactor(config);
  const plan = (half: Half, input: Extent, options: StageOptions, room: Room) => {
    const graph = (x: Tensor) =>
      half === "decode"
        ? taesdDecode(paramsOf(x.graph, "taesd_decoder"), config, x)
        : taesdEncode(paramsOf(x.graph, "taesd_encoder"), config, x);
    const overlap = half === "decode"
      ? { halo: decoderHalo(config), zoom: factor, unit: 1 }
      : { halo: ceilTo(encoderHalo(config), factor), zoom: 1 / factor, unit: factor };
    const inBands = (bandPixels?: number) =>
      planOverlapping(programs[half], half, input, graph, overlap, room, bandPixels);
    return planStage(programs[half], half, input, graph, inBands, options, room);
  };
  const run = (inputs: readonly HostPlane[], half: Half, options: StageOptions) =>
    plan(half, inputs[0], options, roomOf(programs[half].device)).run(inputs, options.progress);
  return {
    factor,
    latentChannels,
    bytes(half, size, options, room) {
      const channels = half === "decode" ? latentChannels : config.inChannels;
      return plan(half, { ...size, channels }, options, room).bytes;
    },
    async decode(latents, options = {}) {
      const [picture] = await run([hostPlane(latents)], "decode", options);
      return toPicture(picture);
    },
    ...encoding(async (pictures, options = {}) => {
      const planes = await run(pictures.map(fromPicture), "encode", options);
      return planes.map(({ data, height, width }) => {
        const first = toChannelsFirst(data, latentChannels, height * width);
        return { data: first, channels: latentChannels, height, width };
      });
    }),
  };
}

/** As one program where that is wanted and fits, else in bands. */
function planStage(
  programs: Programs,
  half: Half,
  input: Extent,
  build: (x: Tensor) => Tensor,
  inBands: (bandPixels?: number) => StagePlan,
  { tiling = "auto", bandPixels }: StageOptions,
  { budget, live }: Room,
): StagePlan {
  if (tiling === "on") return inBands(bandPixels ?? TILE_PIXELS);
  const whole = tiling === "off"
    ? planWhole(programs, half, input, build)
    : wholeIfAny(programs, half, input, build);
  if (whole && live + whole.bytes <= budget) return whole;
  if (tiling === "auto" || whole === undefined) return inBands();
  throw new MemoryError(
    `Cannot ${half} at once: it needs ${mib(whole.bytes)} MiB beside ${mib(live)} MiB in use, ` +
      `and the memory budget is ${
        mib(budget)
      } MiB; leave out --vae-tiling off, or raise --memory-budget`,
  );
}

/** Rows around a band, size of the result to the input, and what bands must begin at a multiple of; in input rows. */
interface Overlap {
  readonly halo: number;
  readonly zoom: number;
  readonly unit: number;
}

/** Bands that read `halo` rows more on each side and drop what these give; halved until they fit. */
function planOverlapping(
  programs: Programs,
  half: Half,
  input: Extent,
  build: (x: Tensor) => Tensor,
  { halo, zoom, unit }: Overlap,
  { budget, live }: Room,
  bandPixels = Infinity,
): StagePlan {
  const { height, width, channels } = input;
  const wanted = Math.floor(bandPixels / (width * zoom) / zoom);
  const parts = (rows: number) =>
    Array.from({ length: Math.ceil(height / rows) }, (_, i) => {
      const [begin, end] = [i * rows, Math.min(height, (i + 1) * rows)];
      const [from, to] = [Math.max(0, begin - halo), Math.min(height, end + halo)];
      return { begin, end, from, to };
    });
  const planPart = ({ from, to }: { readonly from: number; readonly to: number }) =>
    planWhole(programs, half, { ...input, height: to - from }, build);
  const bytesOf = (rows: number) => Math.max(...parts(rows).map((part) => planPart(part).bytes));
  const fits = (rows: number) => {
    try {
      return live + bytesOf(rows) <= budget;
    } catch (error) {
      if (error instanceof MemoryError) return false;
      throw error;
    }
  };
  let rows = Math.max(unit, floorTo(Math.min(height, wanted), unit));
  while (rows > unit && !fits(rows)) rows = Math.max(unit, floorTo(rows / 2, unit));
  const bytes = bytesOf(rows);
  if (live + bytes > budget) {
    throw new MemoryError(
      `Cannot ${half} in tiles: a band of ${rows} rows needs ${mib(bytes)} MiB and ${
        mib(budget - live)
      } MiB of the memory budget are left; raise --memory-budget`,
    );
  }
  return {
    bytes,
    run: (inputs, progress) =>
      inTurn(inputs, async ({ data }) => {
        const results: HostPlane[] = [];
        for (const { begin, end, from, to } of parts(rows)) {
          const stride = width * channels;
          const rowsRead = {
            ...input,
            height: to - from,
            data: data.subarray(from * stride, to * stride),
          };
          const [whole] = await planPart({ from, to }).run([rowsRead], undefined);
          const line = whole.width * whole.channels;
          results.push({
            ...whole,
            height: (end - begin) * zoom,
            data: whole.data.slice((begin - from) * zoom * line, (end - from) * zoom * line),
          });
          progress?.(end, height);
        }
        return stacked(results);
      }),
  };
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
