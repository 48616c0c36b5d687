/**
 * The adapter and the device: what it can do, what is allocated on it, and what went wrong with it.
 * WebGPU reports errors late and elsewhere; here the first one fails the run, in one sentence.
 */

import { DeviceError, MemoryError } from "../base/errors.ts";
import type { Profile, TexelFormat } from "../kernels/kernel.ts";
import { type Choice, choiceOf, type Table } from "../kernels/table.ts";

/** How a device is opened. */
export interface DeviceOptions {
  /** Ceiling for allocations in bytes; the adapter's own where absent. */
  readonly memoryBudget?: number;
  /** Take only WebGPU's guaranteed limits and features, as the least device would offer. */
  readonly minimum?: boolean;
  /** Kernels for this kind of device; what the adapter is where absent. */
  readonly kind?: Profile["kind"];
  /**
   * Asked once for a tuned table of this adapter, which then decides between kernels; the built-in choices where it is
   * absent or gives none.
   */
  readonly table?: (adapter: Adapter) => Promise<Table | undefined>;
}

/** What tells one adapter and its driver from another, as far as WebGPU says. */
export interface Adapter {
  /** E.g. "llvmpipe (LLVM 15.0.6, 256 bits)". */
  readonly name: string;
  /** Vendor, device and architecture, and the runtime that compiles the kernels; drivers do not tell their version. */
  readonly driver: string;
}

const NO_ADAPTER =
  "Cannot find a WebGPU adapter: no Vulkan driver answered; install your GPU's driver, or " +
  "a software one with `apt-get install -y mesa-vulkan-drivers`";

/** Limits that are asked for where the adapter offers more than the minimum. */
const RAISED = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxTextureDimension2D",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxStorageBuffersPerShaderStage",
  "maxStorageTexturesPerShaderStage",
] as const;

/** Threads of the software driver for each core: where one core is slower or busy, others take over its pieces. */
const THREADS_PER_CORE = 4;

/** What the drivers of Linux read when they are loaded, where the user has not set it. */
function prepareEnvironment(): void {
  if (Deno.build.os !== "linux") return;
  // OpenGL would be taken silently where Vulkan is missing; an honest `null` is wanted instead.
  if (Deno.env.get("DENO_WEBGPU_BACKEND") === undefined) {
    Deno.env.set("DENO_WEBGPU_BACKEND", "vulkan");
  }
  // The driver prints a message where this is unset.
  if (Deno.env.get("XDG_RUNTIME_DIR") === undefined) Deno.env.set("XDG_RUNTIME_DIR", "/tmp");
  // llvmpipe cuts a dispatch into one piece for each thread and waits for the last. On two cores of a shared Zen 3 eight
  // threads take 0.91 of the time of two for a UNet forward, 0.9 for a step of training.
  if (Deno.env.get("LP_NUM_THREADS") === undefined) {
    Deno.env.set("LP_NUM_THREADS", String(THREADS_PER_CORE * navigator.hardwareConcurrency));
  }
}

/** The adapter that `openDevice` would use. Throws `DeviceError` that says what to install where there is none. */
export async function requestAdapter(): Promise<GPUAdapter> {
  prepareEnvironment();
  const adapter = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new DeviceError(NO_ADAPTER);
  return adapter;
}

/** Which adapter this is. */
function identityOf({ info }: GPUAdapter): Adapter {
  const { vendor, device, architecture, description } = info;
  const ids = [vendor, device, architecture].filter((id) => id !== "").join(":");
  return { name: description || vendor, driver: `${ids}, Deno ${Deno.version.deno}` };
}

/** True for drivers that run on the CPU. */
export function isSoftware({ info }: GPUAdapter): boolean {
  return /llvmpipe|lavapipe|swiftshader|software/i.test(`${info.description} ${info.device}`);
}

/** Kernels for software devices, whose subgroups are the CPU's vectors, are written for eight lanes; some CPUs have four. */
function hasVectorsOfEight({ info }: GPUAdapter): boolean {
  return info.subgroupMinSize === 8 && info.subgroupMaxSize === 8;
}

/** A device with subgroups where the driver has them: Deno does not list them, but grants them. */
async function withSubgroups(
  adapter: GPUAdapter,
  wanted: { requiredLimits: Record<string, number>; requiredFeatures: GPUFeatureName[] },
): Promise<GPUDevice> {
  const requiredFeatures: GPUFeatureName[] = [...wanted.requiredFeatures, "subgroups"];
  try {
    return await adapter.requestDevice({ ...wanted, requiredFeatures });
  } catch {
    return await (await requestAdapter()).requestDevice(wanted);
  }
}

/** Opens the default adapter. Throws `DeviceError` where there is none or it refuses. */
export async function openDevice(options: DeviceOptions = {}): Promise<Device> {
  const adapter = await requestAdapter();
  const { minimum = false } = options;
  const requiredLimits: Record<string, number> = {};
  if (!minimum) { for (const name of RAISED) requiredLimits[name] = adapter.limits[name]; }
  const wanted: GPUFeatureName[] = minimum ? [] : ["shader-f16"];
  const requiredFeatures = wanted.filter((name) => adapter.features.has(name));
  let device;
  try {
    device = !minimum
      ? await withSubgroups(adapter, { requiredLimits, requiredFeatures })
      : await adapter.requestDevice({ requiredLimits, requiredFeatures });
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new DeviceError(`Cannot open the device "${adapter.info.description}": ${reason}`, {
      cause,
    });
  }
  try {
    return new Device(device, adapter, options, await options.table?.(identityOf(adapter)));
  } catch (error) {
    device.destroy();
    throw error;
  }
}

/** Bytes live on the device and the most there ever were. */
export interface MemoryUse {
  /** Bytes of what is allocated now. */
  readonly live: number;
  /** Most bytes that were allocated at a time. */
  readonly peak: number;
}

/** An open device. Dispose of it to free everything on it. */
export class Device implements AsyncDisposable {
  /** WebGPU's own device. */
  readonly gpu: GPUDevice;
  /** Which adapter it is. */
  readonly adapter: Adapter;
  /** What kernels may count on. */
  readonly profile: Profile;
  /** Ceiling of allocations in bytes; Infinity where none was set. */
  readonly budget: number;
  /** @internal Decides between the variants of kernels. */
  readonly choice: Choice;
  readonly #pipelines = new Map<string, GPUComputePipeline>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  #failure: Error | undefined;
  #closed = false;
  #live = 0;
  #peak = 0;

  /** @internal `openDevice` makes devices. */
  constructor(
    gpu: GPUDevice,
    adapter: GPUAdapter,
    { memoryBudget, kind }: DeviceOptions,
    table?: Table,
  ) {
    this.gpu = gpu;
    this.adapter = identityOf(adapter);
    this.budget = memoryBudget ?? Infinity;
    this.profile = {
      kind: kind ?? (isSoftware(adapter) ? "software" : "gpu"),
      maxBinding: gpu.limits.maxStorageBufferBindingSize,
      maxTextureSide: gpu.limits.maxTextureDimension2D,
      maxWorkgroupMemory: gpu.limits.maxComputeWorkgroupStorageSize,
      maxInvocations: gpu.limits.maxComputeInvocationsPerWorkgroup,
      f16: gpu.features.has("shader-f16"),
      subgroups: gpu.features.has("subgroups") &&
        (!isSoftware(adapter) || hasVectorsOfEight(adapter)),
    };
    this.choice = choiceOf(this.profile, table);
    gpu.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      if (event instanceof GPUUncapturedErrorEvent) this.#fail(this.#errorOf(event.error));
    });
    gpu.lost.then(({ reason, message }) => {
      if (this.#closed) return;
      const why = message || reason || "no reason given";
      this.#fail(new DeviceError(`The device "${this.name}" was lost while working: ${why}`));
    });
  }

  #errorOf(error: GPUError): Error {
    if (error instanceof GPUOutOfMemoryError) {
      const live = mib(this.#live);
      return new MemoryError(
        `The device "${this.name}" ran out of memory with ${live} MiB in use: ${error.message}`,
      );
    }
    return new DeviceError(`The device "${this.name}" refused a command: ${error.message}`);
  }

  #fail(error: Error): void {
    this.#failure ??= error;
  }

  /** Throws the first error the device reported, if any. */
  check(): void {
    if (this.#closed) throw new DeviceError(`The device "${this.name}" is closed`);
    if (this.#failure) throw this.#failure;
  }

  /** Lets news of a lost device arrive, then throws it, if any. */
  async hear(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve));
    this.check();
  }

  /** The adapter's own name, e.g. "llvmpipe (LLVM 15.0.6, 256 bits)". */
  get name(): string {
    return this.adapter.name;
  }

  /** What is allocated on it by this program. */
  get memory(): MemoryUse {
    return { live: this.#live, peak: this.#peak };
  }

  /** Starts the peak anew from what is live. */
  resetPeak(): void {
    this.#peak = this.#live;
  }

  /** Number of distinct pipelines compiled so far. */
  get pipelineCount(): number {
    return this.#pipelines.size;
  }

  #account(bytes: number, label: string): void {
    if (this.#live + bytes > this.budget) {
      throw new MemoryError(
        `Cannot allocate ${mib(bytes)} MiB for ${label}: ${
          mib(this.#live)
        } MiB are in use and the ` +
          `memory budget is ${
            mib(this.budget)
          } MiB; raise --memory-budget or ask for a smaller picture or batch`,
      );
    }
    this.#live += bytes;
    this.#peak = Math.max(this.#peak, this.#live);
  }

  /** @internal A buffer whose size is counted; free it with `release`. Throws `MemoryError` over the budget. */
  createBuffer(size: number, usage: number, label: string): GPUBuffer {
    this.check();
    const limit = this.gpu.limits.maxBufferSize;
    if (size > limit) {
      throw new MemoryError(
        `Cannot allocate ${mib(size)} MiB for ${label}: the device's buffers hold at most ${
          mib(limit)
        } MiB`,
      );
    }
    this.#account(size, label);
    return this.gpu.createBuffer({ size, usage, label });
  }

  /** @internal A texture for `texture_storage_2d<format, read>`, counted; free it with `release`. */
  createTexture(size: [number, number], format: TexelFormat, label: string): GPUTexture {
    this.check();
    this.#account(size[0] * size[1] * 16, label);
    const usage = GPUTextureUsage.STORAGE_BINDING | GPUTextureUsage.COPY_DST;
    return this.gpu.createTexture({ size, format, usage, label });
  }

  /** @internal Frees a buffer or a texture. */
  release(resource: GPUBuffer | GPUTexture): void {
    this.#live -= resource instanceof GPUBuffer
      ? resource.size
      : resource.width * resource.height * 16;
    resource.destroy();
  }

  /** @internal Whether this WGSL text is compiled already. */
  hasPipeline(code: string): boolean {
    return this.#pipelines.has(code);
  }

  /** @internal The pipeline of this WGSL text; compiled once. Throws `DeviceError` naming the step where it does not compile. */
  async pipeline(
    code: string,
    layout: readonly GPUBindGroupLayoutEntry[],
    label: string,
  ): Promise<GPUComputePipeline> {
    const known = this.#pipelines.get(code);
    if (known) return known;
    this.gpu.pushErrorScope("validation");
    const module = this.gpu.createShaderModule({ code, label });
    const pipeline = this.gpu.createComputePipeline({
      label,
      layout: this.gpu.createPipelineLayout({ bindGroupLayouts: [this.bindGroupLayout(layout)] }),
      compute: { module, entryPoint: "main" },
    });
    const error = await this.gpu.popErrorScope();
    if (error) throw new DeviceError(`Cannot compile the kernel of ${label}: ${error.message}`);
    this.#pipelines.set(code, pipeline);
    return pipeline;
  }

  /** @internal One layout object for each distinct list of entries. */
  bindGroupLayout(entries: readonly GPUBindGroupLayoutEntry[]): GPUBindGroupLayout {
    const key = JSON.stringify(entries);
    let layout = this.#layouts.get(key);
    if (!layout) {
      layout = this.gpu.createBindGroupLayout({ entries: [...entries] });
      this.#layouts.set(key, layout);
    }
    return layout;
  }

  /** Waits until all submitted work is done; throws what went wrong. */
  async finish(): Promise<void> {
    await this.gpu.queue.onSubmittedWorkDone();
    this.check();
  }

  /** Frees everything on it. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.gpu.destroy();
    return Promise.resolve();
  }
}

/** Bytes as whole MiB, rounded up. */
export function mib(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20);
}
