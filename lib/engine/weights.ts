/**
 * A component's weights from checkpoint to device: checked against the manifest, then streamed tensor by tensor,
 * so that host memory holds the largest tensor, its packed form, and what the queue has not yet taken.
 */

import { FormatError } from "../base/errors.ts";
import { sameShape, show, sizeOf } from "../base/shape.ts";
import type { WeightInfo, Weights } from "../formats/checkpoint.ts";
import { FILE_BYTES, type FileDType } from "../formats/safetensors.ts";
import {
  type StoredParameter,
  storeWeight,
  WeightError,
  type WeightSource,
} from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import type { Parameter } from "../graph/ops.ts";
import { checkpointShape, type Manifest } from "../nn/params.ts";
import { batchesOf, originOf, sourceOf } from "./pieces.ts";

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
      `Cannot load the ${component} of "${path}": ${missing.length} tensors are missing, ${
        listed(missing)
      }; ` +
        `is the file complete and of a supported architecture?`,
    );
  }
  if (unexpected.length === 0) return undefined;
  const names = unexpected.map(({ source }) => source);
  return `The ${component} of "${path}" has ${names.length} tensors that are not used: ${
    listed(names)
  }`;
}

export interface WeightOptions {
  /** f16 where a checkpoint has more; f32 keeps what it has. */
  readonly weights: "f16" | "f32";
  /** Called with the bytes of each tensor read. */
  readonly progress: (bytes: number) => void;
}

/** Uploaded bytes after which the queue is told to take them: their staging memory lives until a submit. */
const FLUSH_BYTES = 96 * 2 ** 20;

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

/**
 * Streams the parameters of a manifest to the device. Throws `FormatError` on tensors that are missing, misshapen, not
 * numbers, or of an element type that no weight has; on failure nothing stays allocated.
 */
export async function loadWeights(
  device: Device,
  weights: Weights,
  manifest: Manifest,
  component: string,
  path: string,
  options: WeightOptions,
): Promise<{ parameters: Map<string, StoredParameter>; warning?: string }> {
  const warning = requireMatch(compare(weights.infos, manifest, component), component, path);
  const parameters = new Map<string, StoredParameter>();
  const batches = batchesOf(weights.infos, manifest, component);
  const bytesOf = ({ shape, dtype }: WeightInfo) => sizeOf(shape) * FILE_BYTES[dtype];
  const sizes = batches.map(({ tensors }) => tensors.reduce((sum, info) => sum + bytesOf(info), 0));
  // One buffer for all reads: fresh ones pile up until the collector runs.
  const scratch = new Uint8Array(sizes.reduce((most, size) => Math.max(most, size), 0));
  let pending = 0;
  try {
    for (const { tensors, readers } of batches) {
      const values = new Map<string, WeightSource>();
      let at = 0;
      for (const info of tensors) {
        const { data } = await weights.read(info.name, scratch.subarray(at));
        values.set(`${component}.${info.name}`, { dtype: sourceType(info, path), data });
        at += data.length;
        options.progress(data.length);
      }
      const tensorOf = (name: string) => {
        const value = values.get(name);
        if (!value) throw new TypeError(`"${name}" was not read`);
        return value;
      };
      for (const reader of readers) {
        const source = sourceOf(reader, tensorOf);
        const stored = store(
          device,
          source,
          reader,
          path,
          options,
          (name) => tensors.find((info) => `${component}.${info.name}` === name) ?? tensors[0],
        );
        parameters.set(reader.name, stored);
        pending += stored.bytes;
      }
      if (pending > FLUSH_BYTES) {
        pending = 0;
        device.gpu.queue.submit([]);
        await device.finish();
      }
    }
    await device.finish();
  } catch (error) {
    releaseWeights(device, parameters);
    throw error;
  }
  return warning === undefined ? { parameters } : { parameters, warning };
}

/** Packs and uploads one parameter. Values beyond f16 keep it in f32. `infoOf` tells a tensor by the graph's name. */
function store(
  device: Device,
  source: WeightSource,
  parameter: Parameter,
  path: string,
  { weights }: WeightOptions,
  infoOf: (name: string) => WeightInfo,
): StoredParameter {
  const kind = weights === "f16" || source.dtype === "f16" ? "f16" : "f32";
  try {
    return storeWeight(device, source, parameter, kind);
  } catch (error) {
    if (!(error instanceof WeightError)) throw error;
    if (error.reason === "beyond f16") return storeWeight(device, source, parameter, "f32");
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
