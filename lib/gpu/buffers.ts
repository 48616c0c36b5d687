/** Values on the device: where a tensor lies, how it is bound, written and read back. */

import { DeviceError } from "../base/errors.ts";
import type { Shape } from "../base/shape.ts";
import type { Role } from "../graph/ops.ts";
import {
  type Binding,
  type Layout,
  type TexelFormat,
  texelFormatOf,
  TEXTURE_WIDTH,
} from "../kernels/kernel.ts";
import {
  layoutFor,
  pack,
  packedBytes,
  type Scratch,
  type WeightSource,
} from "../kernels/weights.ts";
import type { Device } from "./device.ts";
import { bufferBytes } from "./work.ts";

/** Memory that holds one tensor at a time. */
export type Resource =
  | {
    readonly kind: "buffer";
    readonly buffer: GPUBuffer;
    /** The part of the buffer that is the tensor's, in bytes from a multiple of 256; the whole where absent. */
    readonly range?: { readonly offset: number; readonly size: number };
  }
  | { readonly kind: "texture"; readonly texture: GPUTexture; readonly view: GPUTextureView };

/** Where a weight lies, and the bytes that are allocated for it. */
export interface PlannedParameter {
  readonly layout: Layout;
  readonly bytes: number;
}

/** A weight on the device. */
export interface StoredParameter extends PlannedParameter {
  readonly resource: Resource;
}

/** The weights a program reads. */
export type Parameters = ReadonlyMap<string, StoredParameter>;

/** A weight that a program reads. Throws `TypeError` where it is not on the device. */
export function parameterOf(parameters: Parameters, name: string): StoredParameter {
  const parameter = parameters.get(name);
  if (!parameter) throw new TypeError(`There is no weight "${name}" on the device`);
  return parameter;
}

const TEXEL = 16;
const ROW = TEXTURE_WIDTH * TEXEL;

/** Rows of a texture that holds this many bytes. */
function textureRows(bytes: number): number {
  return Math.ceil(bytes / ROW);
}

/** A buffer that kernels may read and write. Its size is a multiple of 16. */
export function storageBuffer(device: Device, bytes: number, label: string): GPUBuffer {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  return device.createBuffer(bufferBytes(bytes), usage, label);
}

/** A texture of at least this many bytes. */
export function storageTexture(
  device: Device,
  bytes: number,
  format: TexelFormat,
  label: string,
): Resource {
  const texture = device.createTexture([TEXTURE_WIDTH, textureRows(bytes)], format, label);
  return { kind: "texture", texture, view: texture.createView() };
}

export function release(device: Device, resource: Resource): void {
  device.release(resource.kind === "buffer" ? resource.buffer : resource.texture);
}

/** What `storeWeight` will allocate for a weight, known from its shape alone. */
export function planWeight(
  { profile }: Pick<Device, "profile">,
  { role, shape }: { readonly role: Role; readonly shape: Shape },
  dtype: "f16" | "f32",
): PlannedParameter {
  const layout = layoutFor(role, shape, dtype, profile);
  const packed = packedBytes(shape, layout);
  const bytes = layout.residence === "buffer" ? bufferBytes(packed) : textureRows(packed) * ROW;
  return { layout, bytes };
}

export { Scratch, WeightError, type WeightSource } from "../kernels/weights.ts";

/** Packs a weight into the layout that this device's kernels read, and uploads it. Throws `WeightError` on values that do not fit. */
export function storeWeight(
  device: Device,
  source: WeightSource,
  { name, role, shape }: { readonly name: string; readonly role: Role; readonly shape: Shape },
  dtype: "f16" | "f32",
  scratch?: Scratch,
): StoredParameter {
  const layout = layoutFor(role, shape, dtype, device.profile);
  return uploadParameter(device, pack(source, role, shape, layout, scratch), layout, name);
}

/** Uploads packed weights. `bytes.length` is a multiple of 4 (buffers) or 16 (textures). */
function uploadParameter(
  device: Device,
  bytes: Uint8Array<ArrayBuffer>,
  layout: Layout,
  label: string,
): StoredParameter {
  const { queue } = device.gpu;
  if (layout.residence === "buffer") {
    const buffer = storageBuffer(device, bytes.length, label);
    if (bytes.length > 0) queue.writeBuffer(buffer, 0, bytes);
    return { layout, bytes: buffer.size, resource: { kind: "buffer", buffer } };
  }
  const format = layout.format === "panels16" ? "rgba32uint" : "rgba32float";
  const resource = storageTexture(device, bytes.length, format, label);
  if (resource.kind !== "texture") throw new TypeError("A texture was expected");
  const whole = Math.floor(bytes.length / ROW);
  const rest = bytes.length - whole * ROW;
  const target = { texture: resource.texture };
  if (whole > 0) {
    queue.writeTexture(target, bytes.subarray(0, whole * ROW), { bytesPerRow: ROW }, [
      TEXTURE_WIDTH,
      whole,
    ]);
  }
  if (rest > 0) {
    queue.writeTexture(
      { ...target, origin: [0, whole] },
      bytes.subarray(whole * ROW),
      { bytesPerRow: ROW },
      [rest / TEXEL, 1],
    );
  }
  return { layout, bytes: textureRows(bytes.length) * ROW, resource };
}

/** Copies `bytes` of a buffer, from `begin` on, into a texture, linearly. `bytes` is rounded up to whole texels. */
export function encodeStage(
  encoder: GPUCommandEncoder,
  buffer: GPUBuffer,
  texture: GPUTexture,
  bytes: number,
  begin = 0,
): void {
  const whole = Math.floor(bytes / ROW);
  const rest = Math.ceil((bytes - whole * ROW) / TEXEL);
  if (whole > 0) {
    const from = { buffer, offset: begin, bytesPerRow: ROW };
    encoder.copyBufferToTexture(from, { texture }, [TEXTURE_WIDTH, whole]);
  }
  if (rest > 0) {
    encoder.copyBufferToTexture(
      { buffer, offset: begin + whole * ROW, bytesPerRow: ROW },
      { texture, origin: [0, whole] },
      [rest, 1],
    );
  }
}

/** The layout entry that a binding declares; uniforms are binding 0, so operands start at 1. */
export function layoutEntry(binding: Binding, index: number): GPUBindGroupLayoutEntry {
  const visibility = GPUShaderStage.COMPUTE;
  if (binding.residence === "texture") {
    const format = texelFormatOf(binding);
    return { binding: index + 1, visibility, storageTexture: { access: "read-only", format } };
  }
  const type = binding.access === "read" ? "read-only-storage" : "storage";
  return { binding: index + 1, visibility, buffer: { type } };
}

/** Reads buffers back in one synchronisation. Throws `DeviceError` where the device was lost meanwhile. */
export async function readBack(
  device: Device,
  sources: readonly {
    readonly buffer: GPUBuffer;
    readonly bytes: number;
    /** 0 where absent. */
    readonly offset?: number;
  }[],
): Promise<ArrayBuffer[]> {
  const padded = sources.map(({ bytes }) => Math.ceil(bytes / 4) * 4);
  const staging = padded.map((size) =>
    device.createBuffer(size, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST, "read-back")
  );
  try {
    const encoder = device.gpu.createCommandEncoder();
    sources.forEach(({ buffer, offset = 0 }, i) =>
      encoder.copyBufferToBuffer(buffer, offset, staging[i], 0, padded[i])
    );
    device.gpu.queue.submit([encoder.finish()]);
    const results: ArrayBuffer[] = [];
    for (const [i, buffer] of staging.entries()) {
      await buffer.mapAsync(GPUMapMode.READ);
      results.push(buffer.getMappedRange().slice(0, sources[i].bytes));
      buffer.unmap();
    }
    device.check();
    return results;
  } catch (cause) {
    await device.hear();
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new DeviceError(`Cannot read results back from "${device.name}": ${reason}`, { cause });
  } finally {
    staging.forEach((buffer) => device.release(buffer));
  }
}
