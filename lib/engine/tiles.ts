/**
 * A first stage run band by band, equal to running it whole: every segment (see lib/models/vae.ts) is computed for
 * bands of rows with a halo, and the moments that the next segment's group norm needs are merged over all bands.
 * Bands are as wide as the picture, so rows [a, b) of a whole value are one contiguous range of memory.
 */

import { MemoryError } from "../base/errors.ts";
import { Graph, type Tensor } from "../graph/tensor.ts";
import { readBack, storageBuffer } from "../gpu/buffers.ts";
import { peakOf } from "../gpu/compile.ts";
import type { Assembly } from "../gpu/emit.ts";
import { bufferBytes } from "../gpu/work.ts";
import { type Device, mib } from "../gpu/device.ts";
import type { DeviceRange, HostArray, Program } from "../gpu/program.ts";
import type { Segment, Value } from "../models/vae.ts";
import { paramsOf } from "../nn/params.ts";
import type { Programs, Room } from "./programs.ts";

/** Size of a value, [height, width, channels]. */
export interface Extent {
  readonly height: number;
  readonly width: number;
  readonly channels: number;
}

/** A picture or latent on the host. */
export interface HostPlane extends Extent {
  readonly data: Float32Array<ArrayBuffer>;
}

/** A whole value between segments, on the device where it fits, else on the host. */
interface Plane extends Extent {
  readonly memory: GPUBuffer | Float32Array<ArrayBuffer>;
}

/** Where a plane will be. */
interface PlannedPlane extends Extent {
  readonly place: "device" | "host";
}

/** Rows that a band writes, and what it reads for them. */
interface Band {
  readonly begin: number;
  readonly end: number;
  readonly readBegin: number;
  readonly readEnd: number;
  readonly top: 0 | 1;
  readonly bottom: 0 | 1;
}

/** A segment on a whole picture: what it reads and writes. */
interface Work {
  readonly segment: Segment;
  /** The values that it reads. */
  readonly planes: ReadonlyMap<Value, PlannedPlane>;
  readonly target: PlannedPlane;
  /** It writes over its own value, pixel by pixel. */
  readonly inPlace: boolean;
  /** Groups of the moments that the next norm wants of its result. */
  readonly groups: number | undefined;
  /** Values that nothing reads after it. */
  readonly dead: readonly Value[];
}

interface PlannedWork extends Work {
  readonly bands: readonly Band[];
}

/** Everything that is decided before the first band is computed. */
export interface BandPlan {
  readonly prefix: string;
  readonly work: readonly PlannedWork[];
  /** The most bytes on the device beside the weights. */
  readonly bytes: number;
}

/**
 * Cuts segments, in order, into bands for a whole input. `prefix` is the scope of their parameters, e.g. "vae"; a band
 * writes at most `bandPixels`, or what the memory allows. Throws `MemoryError` where not even one row fits.
 */
export function planBands(
  programs: Programs,
  segments: readonly Segment[],
  prefix: string,
  input: Extent,
  { budget, live: before }: Room,
  bandPixels = Infinity,
): BandPlan {
  const planes = new Map<Value, PlannedPlane>([["x", { ...input, place: "host" }]]);
  const work: PlannedWork[] = [];
  let [live, peak] = [before, before];
  for (const [i, segment] of segments.entries()) {
    const later = segments.slice(i + 1);
    const source = planes.get(segment.reads[0]);
    if (!source) throw new TypeError(`${segment.name} reads a value that nothing has written`);
    const old = planes.get(segment.writes);
    const inPlace = old !== undefined && isPointwise(segment, old);
    const isLast = later.length === 0;
    const target = inPlace
      ? old
      : placed(programs.device, segment, source, isLast ? 0 : budget * 0.75 - live);
    if (!inPlace) live += bytesOf(target);
    const reads = [...segment.reads, ...segment.readsWhole];
    const found = reads.flatMap((value): [Value, PlannedPlane][] => {
      const plane = planes.get(value);
      return plane ? [[value, plane]] : [];
    });
    const all = new Map(planes).set(segment.writes, target);
    const one: Work = {
      segment,
      planes: new Map(found),
      target,
      inPlace,
      groups: groupsOf(later, segment.writes),
      dead: [...all.keys()].filter((value) => isLast ? value !== "x" : !isRead(later, value)),
    };
    requireWholes(one);
    const bands = cut(programs, prefix, one, { budget, live }, bandPixels);
    peak = Math.max(peak, live + bytesOfBands(programs, prefix, one, bands));
    work.push({ ...one, bands });
    if (old && !inPlace) live -= bytesOf(old);
    planes.set(segment.writes, target);
    for (const value of one.dead) {
      const plane = planes.get(value);
      if (plane) live -= bytesOf(plane);
      planes.delete(value);
    }
  }
  return { prefix, work, bytes: peak - before };
}

/** Bytes that a plane takes on the device. */
function bytesOf({ height, width, channels, place }: PlannedPlane): number {
  return place === "device" ? bufferBytes(height * width * channels * 4) : 0;
}

/** Whether a value is read again before it is written anew. */
function isRead(later: readonly Segment[], value: Value): boolean {
  for (const { reads, readsWhole, writes } of later) {
    if (reads.includes(value) || readsWhole.includes(value)) return true;
    if (writes === value) return false;
  }
  return false;
}

/** Groups of the next norm over a value, before it is written anew; `undefined` where none comes. */
function groupsOf(later: readonly Segment[], value: Value): number | undefined {
  for (const { reads, writes, groups } of later) {
    if (reads[0] === value && groups !== undefined) return groups;
    if (writes === value) return undefined;
  }
  return undefined;
}

/** True where a segment reads the value that it writes only at the pixels that it writes. */
function isPointwise({ reads, writes, zoom, halo, channels }: Segment, old: Extent): boolean {
  const at = reads.indexOf(writes);
  return zoom === 1 && (at > 0 || (at === 0 && halo.top === 0)) && old.channels === channels;
}

/** A new plane for a segment's result: on the device where it takes no more than `room` bytes. */
function placed(
  { gpu }: Device,
  { zoom, channels }: Segment,
  source: Extent,
  room: number,
): PlannedPlane {
  const extent = { height: source.height * zoom, width: source.width * zoom, channels };
  const bytes = extent.height * extent.width * channels * 4;
  // Bands need room beside the planes: a quarter of the budget is left to them.
  const fits = bytes <= room && bytes <= gpu.limits.maxBufferSize;
  return { ...extent, place: fits ? "device" : "host" };
}

/** Values that every band reads as a whole must be on the device. */
function requireWholes({ segment, planes }: Work): void {
  for (const value of segment.readsWhole) {
    const plane = planes.get(value);
    if (!plane) throw new TypeError(`${segment.name} reads "${value}" before it is written`);
    if (plane.place === "device") continue;
    throw new MemoryError(
      `Cannot run the first stage's attention: its ${value} need ${
        mib(plane.height * plane.width * plane.channels * 4)
      } MiB on the device, more than the memory budget leaves; raise --memory-budget or ask for a smaller picture`,
    );
  }
}

/** The tallest bands that fit the device: halved until they do. */
function cut(
  programs: Programs,
  prefix: string,
  work: Work,
  { budget, live }: Room,
  bandPixels: number,
): readonly Band[] {
  const { segment, target } = work;
  const step = Math.max(1, segment.zoom);
  const even = (rows: number) => Math.max(step, Math.floor(rows / step) * step);
  let rows = even(Math.min(target.height, bandPixels / target.width));
  for (;; rows = even(rows / 2)) {
    const bands = bandsOf(work, rows);
    const needed = orMemoryError(() => bytesOfBands(programs, prefix, work, bands));
    if (typeof needed === "number" && live + needed <= budget) return bands;
    if (rows > step) continue;
    if (needed instanceof MemoryError) throw needed;
    throw new MemoryError(
      `Cannot run ${segment.name} in tiles: a band of ${rows} rows needs ${mib(needed)} MiB and ${
        mib(budget - live)
      } MiB of the memory budget are left; raise --memory-budget`,
    );
  }
}

function orMemoryError(count: () => number): number | MemoryError {
  try {
    return count();
  } catch (error) {
    if (error instanceof MemoryError) return error;
    throw error;
  }
}

function bandsOf({ segment: { halo, zoom }, target }: Work, rows: number): Band[] {
  const rowsRead = target.height / zoom;
  return Array.from({ length: Math.ceil(target.height / rows) }, (_, i) => {
    const [begin, end] = [i * rows, Math.min((i + 1) * rows, target.height)];
    // The rows [begin, end) of the target need these of the source.
    return {
      begin,
      end,
      readBegin: Math.max(0, begin / zoom - halo.top),
      readEnd: Math.min(rowsRead, end / zoom + halo.bottom),
      top: begin === 0 ? 1 : 0,
      bottom: end === target.height ? 1 : 0,
    };
  });
}

/** The most bytes that the bands take beside planes: their moments, and the largest program with what it returns. */
function bytesOfBands(
  programs: Programs,
  prefix: string,
  work: Work,
  bands: readonly Band[],
): number {
  const returned = work.target.place === "host" ? ["result"] : [];
  const peaks = [...groupBy(bands, (band) => keyOf(work, band)).values()].map(([band]) =>
    peakOf(assemblyOf(programs, prefix, work, band), returned).peak
  );
  const moments = bands.length * (work.groups ?? 0) * 8;
  const kept = moments > 0 ? bufferBytes(moments) : 0;
  return kept + Math.max(moments, ...peaks); // moments are copied out when no program is left
}

/** Bands with equal keys share a program. */
function keyOf({ segment }: Work, { begin, end, readBegin, readEnd, top, bottom }: Band): string {
  return [end - begin, readEnd - readBegin, begin / segment.zoom - readBegin, top, bottom].join();
}

/** Name and graph of a band's program. */
function programOf(prefix: string, work: Work, band: Band) {
  const { segment, planes, target, groups } = work;
  const { height, width } = target;
  const key = `${segment.name} of ${height}×${width}: ${keyOf(work, band)}, ${groups} groups`;
  const outputs = () => {
    const graph = new Graph();
    const inputs = [...segment.reads, ...segment.readsWhole].map((value, i) => {
      const plane = planes.get(value);
      if (!plane) throw new TypeError(`${segment.name} reads "${value}" before it is written`);
      const rows = i < segment.reads.length ? band.readEnd - band.readBegin : plane.height;
      return graph.input(value, [1, rows, plane.width, plane.channels]);
    });
    const moments = segment.groups === undefined
      ? undefined
      : graph.input("moments", [1, segment.groups, 2]);
    const border = { top: band.top, bottom: band.bottom, left: 1, right: 1 };
    const result = segment.build(paramsOf(graph, prefix), inputs, border, moments);
    const named = new Map<string, Tensor>([["result", result]]);
    if (groups !== undefined) named.set("partial", result.groupMoments(groups));
    return named;
  };
  return { key, outputs };
}

function assemblyOf(programs: Programs, prefix: string, work: Work, band: Band): Assembly {
  const { key, outputs } = programOf(prefix, work, band);
  return programs.assembly(key, outputs, new Set(work.segment.readsWhole));
}

/** Runs what was planned. `progress` is called after each band with segments done, counting parts of them, and in all. */
export async function runBands(
  programs: Programs,
  { prefix, work }: BandPlan,
  input: HostPlane,
  progress?: (done: number, total: number) => void,
): Promise<HostPlane> {
  const { device } = programs;
  const planes = new Map<Value, Plane>([["x", { ...input, memory: input.data }]]);
  const discard = (plane: Plane | undefined) => {
    if (plane?.memory instanceof GPUBuffer) device.release(plane.memory);
  };
  try {
    const moments = new Map<Value, Float32Array<ArrayBuffer>>();
    for (const [i, one] of work.entries()) {
      const { segment, inPlace, dead } = one;
      const old = planes.get(segment.writes);
      const target = inPlace && old ? old : allocated(device, one);
      const run = new SegmentRun(programs, prefix, one, planes, target, moments);
      try {
        const merged = await run.run((part) => progress?.(i + part, work.length));
        if (merged) moments.set(segment.writes, merged);
      } catch (error) {
        if (target !== old) discard(target);
        throw error;
      }
      if (target !== old) discard(old);
      planes.set(segment.writes, target);
      for (const value of dead) {
        discard(planes.get(value));
        planes.delete(value);
      }
    }
    const result = planes.get("x");
    if (!result || result.memory instanceof GPUBuffer) {
      throw new TypeError("No segment was the last");
    }
    const { height, width, channels, memory } = result;
    return { height, width, channels, data: memory };
  } finally {
    for (const plane of planes.values()) discard(plane);
  }
}

function allocated(device: Device, { segment, target }: Work): Plane {
  const { height, width, channels, place } = target;
  const values = height * width * channels;
  const memory = place === "device"
    ? storageBuffer(device, values * 4, `${segment.name}, whole`)
    : new Float32Array(values);
  return { height, width, channels, memory };
}

/** One segment over the whole picture. */
class SegmentRun {
  readonly #wholes: ReadonlyMap<string, GPUBuffer>;
  /** Of the value that it reads first, where it normalises that. */
  readonly #moments: Float32Array<ArrayBuffer> | undefined;

  constructor(
    readonly programs: Programs,
    readonly prefix: string,
    readonly work: PlannedWork,
    readonly planes: ReadonlyMap<Value, Plane>,
    readonly target: Plane,
    moments: ReadonlyMap<Value, Float32Array<ArrayBuffer>>,
  ) {
    const { reads, readsWhole, groups } = work.segment;
    this.#moments = groups === undefined ? undefined : moments.get(reads[0]);
    this.#wholes = new Map(readsWhole.flatMap((value) => {
      const memory = planes.get(value)?.memory;
      return memory instanceof GPUBuffer ? [[value, memory]] : [];
    }));
  }

  /** Writes the target; returns its moments for the next segment, where it wants them. */
  async run(progress: (part: number) => void): Promise<Float32Array<ArrayBuffer> | undefined> {
    const { programs, work, target } = this;
    const { device } = programs;
    const { bands, groups } = work;
    const partial = groups === undefined
      ? undefined
      : storageBuffer(device, bands.length * groups * 8, "moments of bands");
    try {
      let done = 0;
      for (const members of groupBy(bands, (band) => keyOf(work, band)).values()) {
        const { key, outputs } = programOf(this.prefix, work, members[0]);
        using program = await programs.compile(key, outputs, {
          label: `${work.segment.name} on ${members[0].end - members[0].begin} rows`,
          bound: [this.#wholes],
        });
        for (const band of members) {
          await this.#runBand(program, band, {
            partial,
            offset: bands.indexOf(band) * (groups ?? 0) * 8,
          });
          progress(++done / bands.length);
        }
        await device.finish();
      }
      if (partial === undefined || groups === undefined) return undefined;
      const [data] = await readBack(device, [{
        buffer: partial,
        bytes: bands.length * groups * 8,
      }]);
      const weights = bands.map(({ begin, end }) => (end - begin) * target.width);
      return mergeMoments(new Float32Array(data), weights, groups);
    } finally {
      if (partial) device.release(partial);
    }
  }

  async #runBand(
    program: Program,
    band: Band,
    { partial, offset }: { partial: GPUBuffer | undefined; offset: number },
  ): Promise<void> {
    const { planes, target } = this;
    const inputs: Record<string, HostArray | DeviceRange> = {};
    for (const value of this.work.segment.reads) {
      const plane = planes.get(value);
      if (plane) inputs[value] = rowsOf(plane, band.readBegin, band.readEnd);
    }
    if (this.#moments) inputs.moments = this.#moments;
    const targets: Record<string, DeviceRange> = {};
    if (partial) targets.partial = { buffer: partial, offset };
    const stride = target.width * target.channels;
    if (target.memory instanceof GPUBuffer) {
      targets.result = { buffer: target.memory, offset: band.begin * stride * 4 };
    }
    const results = await program.run(inputs, targets);
    const result = results.get("result");
    if (result && !(target.memory instanceof GPUBuffer)) {
      target.memory.set(result, band.begin * stride);
    }
  }
}

/** Rows [begin, end) of a plane. */
function rowsOf(plane: Plane, begin: number, end: number): HostArray | DeviceRange {
  const stride = plane.width * plane.channels;
  return plane.memory instanceof GPUBuffer
    ? { buffer: plane.memory, offset: begin * stride * 4 }
    : plane.memory.subarray(begin * stride, end * stride);
}

function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    groups.set(key, [...groups.get(key) ?? [], item]);
  }
  return groups;
}

/**
 * Mean and variance of a whole from those of its parts, [parts, groups, 2], each counting `weights[part]` pixels
 * (Chan, Golub & LeVeque 1979), in f64.
 */
export function mergeMoments(
  parts: Float32Array,
  weights: readonly number[],
  groups: number,
): Float32Array<ArrayBuffer> {
  const merged = new Float32Array(groups * 2);
  for (let g = 0; g < groups; g++) {
    let [count, mean, squares] = [0, 0, 0];
    for (const [part, weight] of weights.entries()) {
      const at = (part * groups + g) * 2;
      const [partMean, partVariance] = [parts[at], parts[at + 1]];
      const delta = partMean - mean;
      const total = count + weight;
      squares += partVariance * weight + delta * delta * count * weight / total;
      mean += delta * weight / total;
      count = total;
    }
    merged[g * 2] = mean;
    merged[g * 2 + 1] = squares / count;
  }
  return merged;
}
