/**
 * Trainable parameters on the device: one f32 buffer for all of them, and one of the same form for each of their moments,
 * average and gradients, so that the optimiser is a few dispatches whatever their number. Parameters lie in rows, each
 * from a multiple of 256 bytes on, as bindings need it. Where all do not fit one binding there are several groups.
 */

import { sizeOf } from "../base/shape.ts";
import { readBack, release, storageBuffer, type StoredParameter } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import type { ManifestEntry } from "../nn/params.ts";
import { type AdamW, type VectorName, vectorsOf, WIDTH } from "./optimizer.ts";

/** The most bytes of a vector that are read at a time. */
const READ_BYTES = 16 * 2 ** 20;

/** Where a parameter lies in the vectors of its group, in numbers. */
export interface Place {
  readonly entry: ManifestEntry;
  readonly group: number;
  readonly begin: number;
  readonly size: number;
}

/** Vectors of `rows` times `WIDTH` numbers, whole chunks of them. */
export interface Group {
  readonly rows: number;
  /** The buffer of a vector. Throws `TypeError` where the run does not have it. */
  readonly bufferOf: (name: VectorName) => GPUBuffer;
}

/** Values of a parameter as the graph has them. */
export type WeightReader = (
  entry: ManifestEntry,
) => Float32Array<ArrayBuffer> | Promise<Float32Array<ArrayBuffer>>;

/** Numbers from one parameter to the next: bindings begin at multiples of 256 bytes. */
const ALIGNMENT = 64;

/** The most rows that the optimiser changes at a time, 4 MiB of each vector: what it computes takes as much beside them. */
const MOST_ROWS = 4096;

/** Where parameters will lie. */
export interface Places {
  readonly places: ReadonlyMap<string, Place>;
  /** Numbers of each group. */
  readonly sizes: readonly number[];
  /** Rows that the optimiser changes at a time; groups are made of whole chunks. */
  readonly chunk: number;
}

/** Where the parameters of a manifest will lie, in its order. Throws `RangeError` where one cannot be bound. */
export function placesOf(manifest: Iterable<ManifestEntry>, maxBinding: number): Places {
  const bindable = Math.floor(maxBinding / 4 / WIDTH);
  const largest = Math.min(MOST_ROWS, bindable);
  const most = Math.floor(bindable / largest) * largest * WIDTH;
  const places = new Map<string, Place>();
  const sizes: number[] = [];
  for (const entry of manifest) {
    const size = sizeOf(entry.shape);
    const padded = Math.ceil(size / ALIGNMENT) * ALIGNMENT;
    if (padded > most) {
      throw new RangeError(
        `Cannot train "${entry.name}": it has ${size} numbers, this device binds at most ${most}`,
      );
    }
    if (sizes.length === 0 || sizes[sizes.length - 1] + padded > most) sizes.push(0);
    const group = sizes.length - 1;
    places.set(entry.name, { entry, group, begin: sizes[group], size });
    sizes[group] += padded;
  }
  const rows = Math.ceil(Math.max(1, ...sizes) / WIDTH);
  const chunk = sizes.length > 1 ? largest : Math.ceil(rows / Math.ceil(rows / largest));
  return { places, sizes, chunk };
}

/** Rows of each group. */
function rowsOf({ sizes, chunk }: Places): number[] {
  return sizes.map((size) => Math.ceil(size / WIDTH / chunk) * chunk);
}

/** Bytes of all vectors together. */
export function vectorBytes(places: Places, settings: Pick<AdamW, "ema">): number {
  const { length } = vectorsOf(settings);
  return rowsOf(places).reduce((sum, rows) => sum + rows * WIDTH * 4 * length, 0);
}

/** The vectors of all trainable parameters. Dispose of them to free them. */
export class Vectors implements Disposable {
  readonly places: ReadonlyMap<string, Place>;
  readonly groups: readonly Group[];
  /** Which there are. */
  readonly names: readonly VectorName[];
  /** Rows that the optimiser changes at a time; it divides those of every group. */
  readonly chunk: number;
  readonly #device: Device;
  readonly #owned: DisposableStack;

  /** All zeros. Throws `MemoryError` where they do not fit. */
  constructor(
    device: Device,
    manifest: Iterable<ManifestEntry>,
    settings: Pick<AdamW, "ema">,
  ) {
    this.#device = device;
    const form = placesOf(manifest, device.profile.maxBinding);
    const { places, chunk } = form;
    const names = vectorsOf(settings);
    this.places = places;
    using owned = new DisposableStack();
    this.names = names;
    this.chunk = chunk;
    this.groups = rowsOf(form).map((rows) => {
      const make = (name: VectorName) =>
        owned.adopt(
          storageBuffer(device, rows * WIDTH * 4, `${name}s of training`),
          (buffer) => release(device, { kind: "buffer", buffer }),
        );
      const buffers = new Map(names.map((name) => [name, make(name)]));
      const bufferOf = (name: VectorName) => {
        const buffer = buffers.get(name);
        if (buffer) return buffer;
        throw new TypeError(`This training has no ${name}s`);
      };
      return { rows, bufferOf };
    });
    this.#owned = owned.move();
  }

  /** What a run leaves: the weights' average where there is one, else the weights. */
  get best(): "average" | "weight" {
    return this.names.includes("average") ? "average" : "weight";
  }

  /** The parameters as programs read them: windows of the weights, or of their average. */
  parameters(from: "weight" | "average" = "weight"): ReadonlyMap<string, StoredParameter> {
    return new Map([...this.places].map(([name, { group, begin, size }]) => {
      const bytes = Math.ceil(size * 4 / 16) * 16;
      const range = { offset: begin * 4, size: bytes };
      return [name, {
        layout: { format: "rows32", residence: "buffer" },
        bytes,
        resource: { kind: "buffer", buffer: this.groups[group].bufferOf(from), range },
      }];
    }));
  }

  /** Writes one vector of parameters; those that `values` does not name stay. Values lie as the graph has them. */
  write(name: VectorName, values: ReadonlyMap<string, Float32Array<ArrayBuffer>>): void {
    for (const [parameter, data] of values) {
      const { group, begin, size } = this.#placeOf(parameter);
      if (data.length !== size) {
        throw new RangeError(
          `Cannot set "${parameter}": ${data.length} numbers were given, it has ${size}`,
        );
      }
      this.#device.gpu.queue.writeBuffer(this.groups[group].bufferOf(name), begin * 4, data);
    }
  }

  /**
   * Weights as a run begins, and their average where there is one, which is the same then; one after another, so that few are in memory.
   * Values lie as the graph has them.
   */
  async begin(valuesOf: WeightReader): Promise<void> {
    for (const [name, { entry }] of this.places) {
      const values = new Map([[name, await valuesOf(entry)]]);
      this.write("weight", values);
      if (this.best === "average") this.write("average", values);
      this.#device.gpu.queue.submit([]); // staging memory lives until then
    }
  }

  /** One vector of all parameters, by name. */
  async read(name: VectorName): Promise<Map<string, Float32Array<ArrayBuffer>>> {
    const data: ArrayBuffer[] = [];
    for (const { rows, bufferOf } of this.groups) {
      data.push(await this.#readWhole(bufferOf(name), rows * WIDTH * 4));
    }
    return new Map(
      [...this.places].map(([parameter, { group, begin, size }]) => [
        parameter,
        new Float32Array(data[group], begin * 4, size),
      ]),
    );
  }

  /** In pieces, as each lies on the device a second time while it is read. */
  async #readWhole(buffer: GPUBuffer, bytes: number): Promise<ArrayBuffer> {
    const whole = new Uint8Array(bytes);
    for (let offset = 0; offset < bytes; offset += READ_BYTES) {
      const piece = { buffer, offset, bytes: Math.min(READ_BYTES, bytes - offset) };
      const [read] = await readBack(this.#device, [piece]);
      whole.set(new Uint8Array(read), offset);
    }
    return whole.buffer;
  }

  #placeOf(parameter: string): Place {
    const place = this.places.get(parameter);
    if (!place) throw new TypeError(`"${parameter}" is not trained`);
    return place;
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}
