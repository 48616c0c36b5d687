/**
 * A first stage run band by band, equal to running it whole: every segment (see lib/models/vae.ts) is computed for
 * bands of rows with a halo, and the moments that the next segment's group norm needs are merged over all bands.
 * Bands are as wide as the picture, so rows [a, b) of a whole value are one contiguous range of memory.
 */

import { MemoryError } from "../base/errors.ts";
import { Graph, type Tensor } from "../graph/tensor.ts";
import { type Parameters, readBack, storageBuffer } from "../gpu/buffers.ts";
import { assemble } from "../gpu/compile.ts";
import { type Device, mib } from "../gpu/device.ts";
import { compile, type DeviceRange, type HostArray, type Program } from "../gpu/program.ts";
import type { Segment, Value } from "../models/vae.ts";
import { paramsOf } from "../nn/params.ts";

/** A whole value between segments, [height, width, channels], on the device where it fits, else on the host. */
interface Plane {
  readonly height: number;
  readonly width: number;
  readonly channels: number;
  readonly memory: GPUBuffer | Float32Array<ArrayBuffer>;
}

export interface BandOptions {
  /** The most pixels that a band writes; what the memory allows where absent. */
  readonly bandPixels?: number;
  /** Called after each band with segments done, counting parts of them, and segments in all. */
  readonly progress?: (done: number, total: number) => void;
}

/** A picture or latent [height, width, channels] on the host. */
export interface HostPlane {
  readonly height: number;
  readonly width: number;
  readonly channels: number;
  readonly data: Float32Array<ArrayBuffer>;
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

/** Runs segments in order on a whole input. `prefix` is the scope of their parameters, e.g. "vae". Throws `MemoryError` where not even one row fits. */
export async function runInBands(
  device: Device,
  segments: readonly Segment[],
  prefix: string,
  parameters: Parameters,
  input: HostPlane,
  options: BandOptions = {},
): Promise<HostPlane> {
  const planes = new Map<Value, Plane>();
  try {
    planes.set("x", { ...input, memory: input.data });
    const moments = new Map<Value, Float32Array<ArrayBuffer>>();
    for (const [i, segment] of segments.entries()) {
      const source = planes.get(segment.reads[0]);
      if (!source) throw new TypeError(`${segment.name} reads a value that nothing has written`);
      const isLast = i === segments.length - 1;
      const target = targetOf(device, segment, source, planes, isLast);
      const known = moments.get(segment.reads[0]);
      const run = new SegmentRun(device, segment, prefix, parameters, planes, target, known);
      const groups = groupsOf(segments.slice(i + 1), segment.writes);
      const progress = (part: number) => options.progress?.(i + part, segments.length);
      const merged = await run.run(groups, options.bandPixels ?? Infinity, progress);
      if (merged) moments.set(segment.writes, merged);
      if (planes.get(segment.writes) !== target) discard(device, planes.get(segment.writes));
      planes.set(segment.writes, target);
      for (const value of [...planes.keys()]) {
        if (isLast ? value === "x" : isRead(segments.slice(i + 1), value)) continue;
        discard(device, planes.get(value));
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
    for (const plane of planes.values()) discard(device, plane);
  }
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

/**
 * Where a segment writes: the last one on the host; in place where it reads its own value only at the pixels that it
 * writes.
 */
function targetOf(
  device: Device,
  segment: Segment,
  source: Plane,
  planes: ReadonlyMap<Value, Plane>,
  isLast: boolean,
): Plane {
  const height = source.height * segment.zoom;
  const width = source.width * segment.zoom;
  const old = planes.get(segment.writes);
  const at = segment.reads.indexOf(segment.writes);
  const pointwise = segment.zoom === 1 && (at > 0 || (at === 0 && segment.halo.top === 0));
  if (old && pointwise && old.channels === segment.channels) return old;
  const bytes = height * width * segment.channels * 4;
  const shape = { height, width, channels: segment.channels };
  // Bands need room beside the planes: a quarter of the budget is left to them.
  const room = device.budget * 0.75 - device.memory.live;
  if (!isLast && bytes <= room && bytes <= device.gpu.limits.maxBufferSize) {
    return { ...shape, memory: storageBuffer(device, bytes, `${segment.name}, whole`) };
  }
  return { ...shape, memory: new Float32Array(bytes / 4) };
}

function discard(device: Device, plane: Plane | undefined): void {
  if (plane?.memory instanceof GPUBuffer) device.release(plane.memory);
}

/** Bytes of one step's parameters. */
const UNIFORM_BYTES = 256;

/** One segment over the whole picture. */
class SegmentRun {
  readonly #rowsRead: number;
  readonly #width: number;
  readonly #wholes: ReadonlyMap<string, GPUBuffer>;

  constructor(
    readonly device: Device,
    readonly segment: Segment,
    readonly prefix: string,
    readonly parameters: Parameters,
    readonly planes: ReadonlyMap<Value, Plane>,
    readonly target: Plane,
    readonly moments: Float32Array<ArrayBuffer> | undefined,
  ) {
    this.#rowsRead = target.height / segment.zoom;
    this.#width = target.width / segment.zoom;
    this.#wholes = new Map(segment.readsWhole.map((value) => [value, wholeBuffer(planes, value)]));
  }

  /** Writes the target; returns its moments in `groups` groups for the next segment, where it wants them. */
  async run(
    groups: number | undefined,
    bandPixels: number,
    progress: (part: number) => void,
  ): Promise<Float32Array<ArrayBuffer> | undefined> {
    const { device, target } = this;
    const bands = this.#bands(this.#rowsPerBand(groups, bandPixels));
    const partial = groups === undefined
      ? undefined
      : storageBuffer(device, bands.length * groups * 8, "moments of bands");
    try {
      let done = 0;
      for (const members of groupBy(bands, (band) => this.#keyOf(band)).values()) {
        using program = await compile(device, this.#graph(members[0], groups), this.parameters, {
          label: `${this.segment.name} on ${members[0].end - members[0].begin} rows`,
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

  /** Bands with equal keys share a program. */
  #keyOf({ begin, end, readBegin, readEnd, top, bottom }: Band): string {
    return [end - begin, readEnd - readBegin, begin / this.segment.zoom - readBegin, top, bottom]
      .join();
  }

  /** The rows [begin, end) of the target need these of the source. */
  #band(begin: number, end: number): Band {
    const { halo, zoom } = this.segment;
    const readBegin = Math.max(0, begin / zoom - halo.top);
    const readEnd = Math.min(this.#rowsRead, end / zoom + halo.bottom);
    return {
      begin,
      end,
      readBegin,
      readEnd,
      top: begin === 0 ? 1 : 0,
      bottom: end === this.target.height ? 1 : 0,
    };
  }

  #bands(rows: number): Band[] {
    const bands: Band[] = [];
    for (let begin = 0; begin < this.target.height; begin += rows) {
      bands.push(this.#band(begin, Math.min(begin + rows, this.target.height)));
    }
    return bands;
  }

  /** The tallest bands that fit the device: halved until the plan of an inner band does. */
  #rowsPerBand(groups: number | undefined, bandPixels: number): number {
    const { device, segment, target } = this;
    const step = Math.max(1, segment.zoom);
    const even = (rows: number) => Math.max(step, Math.floor(rows / step) * step);
    let rows = even(Math.min(target.height, bandPixels / target.width));
    const room = device.budget - device.memory.live;
    for (;; rows = even(rows / 2)) {
      const needed = this.#bytesNeeded(rows, groups);
      if (typeof needed === "number" && needed <= room) return rows;
      if (rows > step) continue;
      if (needed instanceof MemoryError) throw needed;
      throw new MemoryError(
        `Cannot run ${segment.name} in tiles: a band of ${rows} rows needs ${mib(needed)} MiB and ${
          mib(room)
        } MiB of the memory budget are left; raise --memory-budget`,
      );
    }
  }

  /** Bytes that a band in the middle takes, read-back included, or why it cannot be planned. */
  #bytesNeeded(rows: number, groups: number | undefined): number | MemoryError {
    const middle = Math.max(0, Math.floor((this.target.height - rows) / 4) * 2);
    const end = Math.min(middle + rows, this.target.height);
    try {
      const { plan, steps } = assemble(
        this.#graph(this.#band(middle, end), groups),
        this.device.profile,
        (name) => this.parameters.get(name)?.layout ?? { format: "rows32", residence: "buffer" },
        new Set(this.#wholes.keys()),
        this.device.choice,
      );
      const { width, channels, memory } = this.target;
      const returned = memory instanceof GPUBuffer ? 0 : rows * width * channels * 4;
      return plan.bytes + returned + steps.length * UNIFORM_BYTES;
    } catch (error) {
      if (error instanceof MemoryError) return error;
      throw error;
    }
  }

  #graph(band: Band, groups: number | undefined): Map<string, Tensor> {
    const { segment } = this;
    const graph = new Graph();
    const rows = band.readEnd - band.readBegin;
    const inputs = segment.reads.map((value) => {
      const plane = this.planes.get(value);
      if (!plane) throw new TypeError(`${segment.name} reads "${value}" before it is written`);
      return graph.input(value, [1, rows, this.#width, plane.channels]);
    });
    for (const value of segment.readsWhole) {
      const plane = this.planes.get(value);
      if (!plane) throw new TypeError(`${segment.name} reads "${value}" before it is written`);
      inputs.push(graph.input(value, [1, plane.height, plane.width, plane.channels]));
    }
    const moments = segment.groups !== undefined && this.moments
      ? graph.input("moments", [1, segment.groups, 2])
      : undefined;
    const border = { top: band.top, bottom: band.bottom, left: 1, right: 1 };
    const result = segment.build(paramsOf(graph, this.prefix), inputs, border, moments);
    const outputs = new Map([["result", result]]);
    if (groups !== undefined) outputs.set("partial", result.groupMoments(groups));
    return outputs;
  }

  async #runBand(
    program: Program,
    band: Band,
    { partial, offset }: { partial: GPUBuffer | undefined; offset: number },
  ): Promise<void> {
    const { segment, planes, target } = this;
    const inputs: Record<string, HostArray | DeviceRange> = {};
    for (const value of segment.reads) {
      const plane = planes.get(value);
      if (plane) inputs[value] = rowsOf(plane, band.readBegin, band.readEnd);
    }
    if (segment.groups !== undefined && this.moments) inputs.moments = this.moments;
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

/** The buffer of a value that every band reads as a whole. Throws `MemoryError` where the budget left no room for it. */
function wholeBuffer(planes: ReadonlyMap<Value, Plane>, value: Value): GPUBuffer {
  const memory = planes.get(value)?.memory;
  if (memory instanceof GPUBuffer) return memory;
  throw new MemoryError(
    `Cannot run the first stage's attention: its ${value} need ${
      mib((memory?.length ?? 0) * 4)
    } MiB on the device, more than the memory budget leaves; raise --memory-budget or ask for a smaller picture`,
  );
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
