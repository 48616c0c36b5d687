/**
 * A component's weights from checkpoint to device: checked against the manifest, then streamed tensor by tensor,
 * so that host memory holds the two largest tensors, a packed one, and what the queue has not yet taken.
 */

import { counted } from "../base/counted.ts";
import { FormatError } from "../base/errors.ts";
import { sameShape, show, sizeOf } from "../base/shape.ts";
import type { WeightInfo, Weights } from "../formats/checkpoint.ts";
import { FILE_BYTES, type FileDType } from "../formats/safetensors.ts";
import {
  type PlannedParameter,
  planWeight,
  Scratch,
  type StoredParameter,
  storeWeight,
  WeightError,
  type WeightSource,
} from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import type { Parameter } from "../graph/ops.ts";
import { checkpointShape, type Manifest } from "../nn/params.ts";
import { batchesOf, joinedType, originOf, sourceOf } from "./pieces.ts";

/** How a checkpoint's tensors differ from what the model needs. Names are diffusers', without the component's. */
export interface Differences {
  readonly missing: readonly string[];
  readonly unexpected: readonly WeightInfo[];
  readonly misshapen: readonly {
    readonly info: WeightInfo;
    readonly expected: readonly number[];
  }[];
}

/** Compares tensors with a manifest whose names start with `component.`. */
export function compare(
  infos: ReadonlyMap<string, WeightInfo>,
  manifest: Manifest,
  component: string,
): Differences {
  const wanted = new Map(
    [...manifest.values()].map((entry) => [entry.name.slice(component.length + 1), entry]),
  );
  const misshapen: { info: WeightInfo; expected: readonly number[] }[] = [];
  for (const [name, entry] of wanted) {
    const info = infos.get(name);
    const expected = checkpointShape(entry);
    if (info && !sameShape(info.shape, expected)) misshapen.push({ info, expected });
  }
  return {
    missing: [...wanted.keys()].filter((name) => !infos.has(name)),
    unexpected: [...infos.values()].filter(({ name }) => !wanted.has(name)),
    misshapen,
  };
}

/** A few names and how many more there are. */
export function listed(names: readonly string[], most = 3): string {
  const shown = names.slice(0, most).map((name) => `"${name}"`).join(", ");
  return names.length > most ? `${shown} and ${names.length - most} more` : shown;
}

/** Throws `FormatError` naming what is missing or misshapen; returns a warning about unexpected tensors, if any. */
export function requireMatch(
  differences: Differences,
  component: string,
  path: string,
): string | undefined {
  const { missing, unexpected, misshapen } = differences;
  if (misshapen.length > 0) {
    const { info, expected } = misshapen[0];
    const more = misshapen.length > 1 ? ` (and ${misshapen.length - 1} more differ)` : "";
    throw new FormatError(
      `Cannot load "${info.source}" of "${path}": its shape is ${
        show(info.shape)
      }, but the ${component} needs ` +
        `${show(expected)}${more}; is this checkpoint of another architecture?`,
    );
  }
  if (missing.length > 0) {
    throw new FormatError(
      `Cannot load the ${component} of "${path}": it lacks ${counted(missing.length, "tensor")}, ${
        listed(missing)
      }; ` +
        `is the file complete and of a supported architecture?`,
    );
  }
  if (unexpected.length === 0) return undefined;
  const names = unexpected.map(({ source }) => source);
  return `The ${component} of "${path}" has ${counted(names.length, "unused tensor")}: ${
    listed(names)
  }`;
}

/** Weights to be brought to a device. */
export interface WeightsToLoad {
  readonly weights: Weights;
  /** Those that are wanted, under `component.name`. */
  readonly manifest: Manifest;
  readonly component: string;
  /** The checkpoint, for messages. */
  readonly path: string;
  /** f16 where a checkpoint has more; f32 keeps what it has. */
  readonly dtype: "f16" | "f32";
}

const bytesOf = ({ shape, dtype }: WeightInfo) => sizeOf(shape) * FILE_BYTES[dtype];
const totalBytes = (infos: readonly WeightInfo[]) =>
  infos.reduce((sum, info) => sum + bytesOf(info), 0);

function batches({ weights, manifest, component }: WeightsToLoad) {
  return batchesOf(weights.infos, manifest, component);
}

/** Bytes that will be read. */
export function fileBytes(source: WeightsToLoad): number {
  return totalBytes(batches(source).flatMap(({ tensors }) => tensors));
}

/** Element types that weights may have in a file. */
const LOADABLE: Readonly<Partial<Record<FileDType, WeightSource["dtype"]>>> = {
  F32: "f32",
  F16: "f16",
  BF16: "bf16",
};

/** Throws `FormatError` for what no weight is made of. */
function sourceType({ dtype, source }: WeightInfo, path: string): WeightSource["dtype"] {
  const kind = LOADABLE[dtype];
  if (kind !== undefined) return kind;
  throw new FormatError(
    `Cannot load "${source}" of "${path}": its element type is ${dtype}, but weights are F32, F16 or BF16`,
  );
}

function storedType(source: WeightSource["dtype"], dtype: "f16" | "f32"): "f16" | "f32" {
  return dtype === "f16" || source === "f16" ? "f16" : "f32";
}

/**
 * Where weights will lie and what they will take, from the checkpoint's headers alone. Only tensors with values beyond f16
 * turn out to take more. Throws `FormatError` on an element type that no weight has.
 */
export function planWeights(device: Device, source: WeightsToLoad): Map<string, PlannedParameter> {
  const { component, path, dtype } = source;
  const planned = new Map<string, PlannedParameter>();
  for (const { tensors, readers } of batches(source)) {
    const types = new Map(
      tensors.map((info) => [`${component}.${info.name}`, sourceType(info, path)]),
    );
    for (const reader of readers) {
      const names = (reader.pieces ?? [reader]).map(({ name }) => name);
      const type = joinedType([...types].flatMap(([name, t]) => names.includes(name) ? [t] : []));
      planned.set(reader.name, planWeight(device, reader, storedType(type, dtype)));
    }
  }
  return planned;
}

export interface StreamOptions {
  /** Called with the bytes of each tensor read. */
  readonly progress?: (bytes: number) => void;
  /** Work in small pieces for the time in which files are read. */
  readonly meanwhile?: AsyncGenerator<void, void, undefined>;
}

export interface WeightOptions {
  /** See `WeightsToLoad.dtype`. */
  readonly weights: "f16" | "f32";
  /** Called with the bytes of each tensor read. */
  readonly progress: (bytes: number) => void;
}

/** Uploaded bytes after which the queue is told to take them: their staging memory lives until a submit. */
const FLUSH_BYTES = 96 * 2 ** 20;

/**
 * Checks a component against its whole manifest, then streams it. Throws `FormatError` on tensors that are missing or
 * misshapen, and as `streamWeights` does.
 */
export async function loadWeights(
  device: Device,
  weights: Weights,
  manifest: Manifest,
  component: string,
  path: string,
  { weights: dtype, progress }: WeightOptions,
): Promise<{ parameters: Map<string, StoredParameter>; warning?: string }> {
  const warning = requireMatch(compare(weights.infos, manifest, component), component, path);
  const source = { weights, manifest, component, path, dtype };
  const parameters = await streamWeights(device, source, { progress });
  return warning === undefined ? { parameters } : { parameters, warning };
}

/**
 * Streams weights to the device; the next tensors are read while these are packed. Throws `FormatError` on tensors that are
 * not numbers, or of an element type that no weight has; on failure nothing stays allocated.
 */
export async function streamWeights(
  device: Device,
  source: WeightsToLoad,
  { progress, meanwhile }: StreamOptions = {},
): Promise<Map<string, StoredParameter>> {
  const { component, path, dtype } = source;
  const parameters = new Map<string, StoredParameter>();
  const all = batches(source);
  // Two buffers for all reads: fresh ones pile up until the collector runs.
  const largest = Math.max(0, ...all.map(({ tensors }) => totalBytes(tensors)));
  const files = [new Uint8Array(largest), new Uint8Array(largest)];
  const scratch = new Scratch();
  const read = (i: number) => {
    if (i >= all.length) return undefined;
    const reading = readTensors(source, all[i].tensors, files[i % 2]);
    reading.catch(() => {}); // is thrown where it is awaited, which may be later
    return reading;
  };
  let next = read(0);
  let pending = 0;
  try {
    for (const [i, { tensors, readers }] of all.entries()) {
      await meanwhile?.next();
      const values = await next;
      next = read(i + 1);
      const tensorOf = (name: string) => {
        const value = values?.get(name);
        if (!value) throw new TypeError(`"${name}" was not read`);
        return value;
      };
      const infoOf = (name: string) =>
        tensors.find((info) => `${component}.${info.name}` === name) ?? tensors[0];
      for (const reader of readers) {
        const values = sourceOf(reader, tensorOf);
        const kind = storedType(values.dtype, dtype);
        const stored = store(device, values, reader, path, kind, scratch, infoOf);
        parameters.set(reader.name, stored);
        pending += stored.bytes;
      }
      if (pending > FLUSH_BYTES) {
        pending = 0;
        device.gpu.queue.submit([]);
        await device.finish();
      }
      progress?.(totalBytes(tensors));
    }
    await device.finish();
  } catch (error) {
    await next?.catch(() => {}); // it may still write into its buffer
    releaseWeights(device, parameters);
    throw error;
  }
  return parameters;
}

/** Reads tensors into `scratch`, one after another; by the graph's names. */
async function readTensors(
  { weights, component, path }: WeightsToLoad,
  tensors: readonly WeightInfo[],
  scratch: Uint8Array<ArrayBuffer>,
): Promise<ReadonlyMap<string, WeightSource>> {
  const values = new Map<string, WeightSource>();
  let at = 0;
  for (const info of tensors) {
    const { data } = await weights.read(info.name, scratch.subarray(at));
    values.set(`${component}.${info.name}`, { dtype: sourceType(info, path), data });
    at += data.length;
  }
  return values;
}

/** Packs and uploads one parameter. Values beyond f16 keep it in f32. `infoOf` tells a tensor by the graph's name. */
function store(
  device: Device,
  source: WeightSource,
  parameter: Parameter,
  path: string,
  dtype: "f16" | "f32",
  scratch: Scratch,
  infoOf: (name: string) => WeightInfo,
): StoredParameter {
  try {
    return storeWeight(device, source, parameter, dtype, scratch);
  } catch (error) {
    if (!(error instanceof WeightError)) throw error;
    if (error.reason === "beyond f16") {
      return storeWeight(device, source, parameter, "f32", scratch);
    }
    const { name, index } = originOf(parameter, error.index);
    const { source: tensor, shape } = infoOf(name);
    throw new FormatError(
      `Cannot load "${tensor}" of "${path}": value ${index} of ${
        sizeOf(shape)
      } is ${error.value}, and weights must be finite; the file is damaged or was saved from a failed training`,
      { cause: error },
    );
  }
}

/** Frees weights on the device. */
export function releaseWeights(
  device: Device,
  parameters: ReadonlyMap<string, StoredParameter>,
): void {
  for (const { resource } of parameters.values()) {
    device.release(resource.kind === "buffer" ? resource.buffer : resource.texture);
  }
}
