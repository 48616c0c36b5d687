/** Runs one variant of one kernel on a test device, with guard zones around the result. */

import assert from "node:assert/strict";
import type { Tensor } from "../../lib/graph/tensor.ts";
import {
  type Binding,
  type Dispatch,
  type LayoutOf,
  MAX_GROUPS,
  MAX_ITERATIONS,
  paramBytes,
  shaderText,
  type TexelFormat,
  texelFormatOf,
  TEXTURE_WIDTH,
  type Variant,
} from "../../lib/kernels/kernel.ts";
import { encodeStage } from "../../lib/gpu/buffers.ts";
import { pack } from "../../lib/kernels/weights.ts";
import type { TestDevice } from "../gpu.ts";

/** Values of a leaf in the graph's order. */
export type Values = Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>;
/** Values of every input of a node. */
export type ValuesOf = ReadonlyMap<Tensor, Values>;

/** Bytes around a result that must stay as they were; a multiple of 256, as binding offsets must be. */
const GUARD = 256;
/** A quiet NaN with a recognisable payload. */
const PATTERN = 0x7fc0dead;

const GPU_BUFFER = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
const align = (bytes: number) => Math.ceil(bytes / 16) * 16;

/** Conv weights [co, kh, kw, ci] as checkpoints have them: [co, ci, kh, kw]. */
function checkpointOrder(values: Values, shape: readonly number[]): Values {
  const [co, kh, kw, ci] = shape;
  const taps = kh * kw;
  const out = values.slice();
  for (let o = 0, at = 0; o < co; o++) {
    for (let i = 0; i < ci; i++) {
      for (let tap = 0; tap < taps; tap++) out[at++] = values[(o * taps + tap) * ci + i];
    }
  }
  return out;
}

/** The bytes of an input as a kernel finds them. */
function bytesOf(input: Tensor, values: Values, layoutOf: LayoutOf): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(values.buffer);
  if (input.op !== "parameter") return bytes;
  const { shape, role } = input.attrs;
  const ordered = role === "conv" ? checkpointOrder(values, shape) : values;
  const data = new Uint8Array(ordered.buffer);
  return pack({ dtype: "f32", data }, role, shape, layoutOf(input));
}

const pipelines = new WeakMap<GPUDevice, Map<string, GPUComputePipeline>>();

function layoutEntry(binding: Binding, index: number) {
  const { access, residence } = binding;
  const entry = { binding: index + 1, visibility: GPUShaderStage.COMPUTE };
  const format = texelFormatOf(binding);
  if (residence === "texture") {
    return { ...entry, storageTexture: { access: "read-only" as const, format } };
  }
  const type = access === "read" ? "read-only-storage" as const : "storage" as const;
  return { ...entry, buffer: { type } };
}

/** The pipeline of a dispatch; equal texts share one. */
function pipelineOf(gpu: GPUDevice, dispatch: Dispatch): GPUComputePipeline {
  const code = shaderText(dispatch);
  const known = pipelines.get(gpu) ?? new Map<string, GPUComputePipeline>();
  pipelines.set(gpu, known);
  const found = known.get(code);
  if (found) return found;
  const entries: GPUBindGroupLayoutEntry[] = dispatch.shader.bindings.map(layoutEntry);
  if (hasParams(dispatch)) {
    const visibility = GPUShaderStage.COMPUTE;
    entries.push({ binding: 0, visibility, buffer: { type: "uniform" } });
  }
  const layout = gpu.createPipelineLayout({
    bindGroupLayouts: [gpu.createBindGroupLayout({ entries })],
  });
  const module = gpu.createShaderModule({ code });
  const pipeline = gpu.createComputePipeline({ layout, compute: { module, entryPoint: "main" } });
  known.set(code, pipeline);
  return pipeline;
}

function hasParams({ params: { u32, f32 = {} } }: Dispatch): boolean {
  return Object.keys(u32).length + Object.keys(f32).length > 0;
}

/** A variant ready to run. */
export interface Prepared extends Disposable {
  /** Fills result, guards and scratch with the pattern. */
  reset(): void;
  /** Encodes and submits every dispatch `times` times. */
  submit(times: number): void;
  /** The result. Fails where a guard was overwritten. */
  read(): Promise<Float32Array>;
}

/**
 * Makes buffers, textures, pipelines and bind groups for one variant of `node`.
 * Inputs are followed by NaN, so that a kernel that uses what lies behind them is found out.
 */
export async function prepare(
  { gpu }: TestDevice,
  node: Tensor,
  variant: Variant,
  values: ValuesOf,
  layoutOf: LayoutOf,
): Promise<Prepared> {
  gpu.pushErrorScope("validation");
  const inputs: readonly Tensor[] = node.inputs;
  const owned: (GPUBuffer | GPUTexture)[] = [];
  const own = <T extends GPUBuffer | GPUTexture>(resource: T): T => {
    owned.push(resource);
    return resource;
  };
  const upload = (bytes: Uint8Array<ArrayBuffer>, usage: number, size: number) => {
    const buffer = own(gpu.createBuffer({ size, usage }));
    const words = new Uint32Array(size / 4).fill(PATTERN);
    new Uint8Array(words.buffer).set(bytes);
    gpu.queue.writeBuffer(buffer, 0, words);
    return buffer;
  };
  const resultBytes = align(node.size * 4);
  const result = own(gpu.createBuffer({ size: resultBytes + 2 * GUARD, usage: GPU_BUFFER }));
  const scratch = variant.scratch.map((bytes) =>
    own(gpu.createBuffer({ size: align(bytes) + 16, usage: GPU_BUFFER }))
  );

  const valuesOf = (input: Tensor) => {
    const found = values.get(input);
    assert.ok(found, `input ${input.id} has no values`);
    return found;
  };
  const buffers = new Map<Tensor, GPUBuffer>();
  const bufferOf = (input: Tensor) => {
    const known = buffers.get(input);
    if (known) return known;
    const bytes = bytesOf(input, valuesOf(input), layoutOf);
    const buffer = upload(bytes, GPU_BUFFER, align(bytes.byteLength) + GUARD);
    buffers.set(input, buffer);
    return buffer;
  };
  const textures = new Map<Tensor, GPUTextureView>();
  const newTexture = (bytes: number, format: TexelFormat) => {
    const height = Math.ceil(bytes / (16 * TEXTURE_WIDTH));
    const usage = GPUTextureUsage.STORAGE_BINDING | GPUTextureUsage.COPY_DST;
    return own(gpu.createTexture({ size: [TEXTURE_WIDTH, height], format, usage }));
  };
  const textureOf = (input: Tensor, binding: Binding) => {
    const known = textures.get(input);
    if (known) return known;
    const bytes = bytesOf(input, valuesOf(input), layoutOf);
    const texture = newTexture(bytes.byteLength, texelFormatOf(binding));
    const { height } = texture;
    const words = new Uint32Array(TEXTURE_WIDTH * height * 4).fill(PATTERN);
    new Uint8Array(words.buffer).set(bytes);
    const bytesPerRow = TEXTURE_WIDTH * 16;
    gpu.queue.writeTexture({ texture }, words, { bytesPerRow }, [TEXTURE_WIDTH, height]);
    const view = texture.createView();
    textures.set(input, view);
    return view;
  };

  const copies = new Map<number, { readonly texture: GPUTexture; readonly view: GPUTextureView }>();
  const copyOf = (piece: number) => {
    const texture = copies.get(piece)?.texture ?? newTexture(variant.scratch[piece], "rgba32float");
    const copy = copies.get(piece) ?? { texture, view: texture.createView() };
    copies.set(piece, copy);
    return copy;
  };
  const resource = (binding: Binding): GPUBindingResource => {
    const { source, residence, window } = binding;
    if (source === "result") {
      if (window) return { buffer: result, offset: GUARD + window.offset, size: window.size };
      // The guard behind the result is bound where it may be, so that a store past the end reaches it.
      const size = Math.min(resultBytes + GUARD, gpu.limits.maxStorageBufferBindingSize);
      return { buffer: result, offset: GUARD, size };
    }
    if (typeof source === "object") {
      if (residence === "texture") return copyOf(source.scratch).view;
      return { buffer: scratch[source.scratch], ...window };
    }
    if (residence === "texture") return textureOf(inputs[source], binding);
    return { buffer: bufferOf(inputs[source]), ...window };
  };
  const steps = variant.dispatches.map((dispatch) => {
    const pipeline = pipelineOf(gpu, dispatch);
    const entries = dispatch.shader.bindings.map((binding, index) => ({
      binding: index + 1,
      resource: resource(binding),
    }));
    if (hasParams(dispatch)) {
      const bytes = paramBytes(dispatch.params);
      const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
      const buffer = upload(bytes, usage, align(bytes.byteLength));
      entries.push({ binding: 0, resource: { buffer } });
    }
    const group = gpu.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
    const staged = dispatch.shader.bindings.flatMap(({ source, residence }) =>
      typeof source === "object" && residence === "texture" ? [source.scratch] : []
    );
    return { pipeline, group, grid: dispatch.grid, staged };
  });
  const error = await gpu.popErrorScope();
  if (error) throw new Error(`${variant.name}: ${error.message}`);

  return {
    reset() {
      for (const buffer of [result, ...scratch]) {
        gpu.queue.writeBuffer(buffer, 0, new Uint32Array(buffer.size / 4).fill(PATTERN));
      }
    },
    submit(times) {
      const encoder = gpu.createCommandEncoder();
      let pass = encoder.beginComputePass();
      for (let i = 0; i < times; i++) {
        for (const { pipeline, group, grid, staged } of steps) {
          if (staged.length > 0) pass.end();
          for (const piece of staged) {
            const bytes = variant.scratch[piece];
            encodeStage(encoder, scratch[piece], copyOf(piece).texture, bytes);
          }
          if (staged.length > 0) pass = encoder.beginComputePass();
          pass.setPipeline(pipeline);
          pass.setBindGroup(0, group);
          pass.dispatchWorkgroups(...grid);
        }
      }
      pass.end();
      gpu.queue.submit([encoder.finish()]);
    },
    async read() {
      const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
      const copy = gpu.createBuffer({ size: result.size, usage });
      const encoder = gpu.createCommandEncoder();
      encoder.copyBufferToBuffer(result, 0, copy, 0, result.size);
      gpu.queue.submit([encoder.finish()]);
      await copy.mapAsync(GPUMapMode.READ);
      const words = new Uint32Array(copy.getMappedRange().slice(0));
      copy.unmap();
      copy.destroy();
      const [begin, end] = [GUARD / 4, GUARD / 4 + node.size];
      const guards = [...words.subarray(0, begin), ...words.subarray(begin + resultBytes / 4)];
      assert.ok(
        guards.every((word) => word === PATTERN),
        `${variant.name} wrote outside its result`,
      );
      return new Float32Array(words.slice(begin, end).buffer);
    },
    [Symbol.dispose]() {
      for (const resource of owned) resource.destroy();
    },
  };
}

/** What must hold of every variant before it runs. */
export function verifyVariant(node: Tensor, variant: Variant, layoutOf: LayoutOf): void {
  const inputs: readonly Tensor[] = node.inputs;
  for (const { grid, iterations, shader } of variant.dispatches) {
    assert.ok(iterations <= MAX_ITERATIONS, `${variant.name}: ${iterations} iterations`);
    assert.ok(
      grid.every((n) => Number.isInteger(n) && n >= 1 && n <= MAX_GROUPS),
      `${variant.name}: grid ${grid}`,
    );
    for (const { name, source, residence, access, window } of shader.bindings) {
      if (window) assert.equal(window.offset % 256, 0, `${variant.name}: window of ${name}`);
      if (typeof source !== "number") continue;
      const input = inputs[source];
      assert.equal(access, "read", `${variant.name} writes its input ${name}`);
      if (input.op !== "parameter") continue;
      const layout = layoutOf(input);
      const isStaged = layout.format === "rows32" && residence === "texture"; // copied, as activations are
      assert.ok(isStaged || residence === layout.residence, `${variant.name}: where ${name} lies`);
    }
  }
}

/** Fails where a variant reads its first operand from a texture. */
export function assertInBuffers({ dispatches }: Variant): void {
  const bindings = dispatches.flatMap(({ shader }) => shader.bindings);
  const inTextures = bindings.filter(({ source, residence }) =>
    source === 0 && residence === "texture"
  );
  assert.deepEqual(inTextures.map(({ name }) => name), []);
}
