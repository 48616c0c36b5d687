/**
 * A compiled graph on a device: a flat array of steps, a set of slots, one uniform buffer with every dispatch's
 * parameters. Running writes inputs, encodes the array, submits and reads outputs; nothing is decided at run time.
 */

import { BYTES } from "../base/dtype.ts";
import { MemoryError } from "../base/errors.ts";
import { show, sizeOf } from "../base/shape.ts";
import type { Tensor } from "../graph/tensor.ts";
import { type Dispatch, paramBytes } from "../kernels/kernel.ts";
import type { Choice } from "../kernels/table.ts";
import {
  encodeStage,
  layoutEntry,
  parameterOf,
  type Parameters,
  readBack,
  release,
  type Resource,
  storageBuffer,
  storageTexture,
} from "./buffers.ts";
import { assemble, UNIFORM_ALIGNMENT } from "./compile.ts";
import { type Device, mib } from "./device.ts";
import type { Assembly, Source, Step } from "./emit.ts";

/** What the GPU does, in order. Nothing else happens. */
type Command =
  | {
    readonly kind: "dispatch";
    readonly label: string;
    readonly pipeline: GPUComputePipeline;
    readonly group: GPUBindGroup;
    readonly grid: readonly [number, number, number];
  }
  | {
    readonly kind: "stage";
    readonly label: string;
    readonly from: GPUBuffer;
    /** In bytes. */
    readonly begin: number;
    readonly to: GPUTexture;
    readonly bytes: number;
  }
  | {
    readonly kind: "copy";
    readonly label: string;
    readonly from: GPUBuffer;
    readonly to: GPUBuffer;
    readonly bytes: number;
  };

/** Host values of an input: f32 or i32 as the graph declares it. */
export type HostArray = Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>;

/** Part of a buffer on the device, in bytes, from a multiple of 4. */
export interface DeviceRange {
  readonly buffer: GPUBuffer;
  readonly offset: number;
}

/** Where inputs and outputs lie that are the caller's, by name. */
export type BoundSet = ReadonlyMap<string, GPUBuffer | DeviceRange>;

export interface CompileOptions {
  /** For tests: memory is filled with NaN as soon as its value is dead. */
  readonly poison?: boolean;
  /**
   * Inputs and placed outputs that lie in the caller's buffers for as long as the program is used; a range begins at a
   * multiple of 256 bytes. Where there are several sets of buffers, `run` says which of them is used.
   */
  readonly bound?: readonly BoundSet[];
  /** Decides between variants of kernels; the device's where absent. */
  readonly choice?: Choice;
  /** Named in errors, e.g. "UNet at 64×64". */
  readonly label?: string;
}

/** Steps below so many milliseconds are repeated so often when a program is profiled. */
const SHORT_STEP = 10;
const SHORT_REPEATS = 8;
/** Commands of one submit: long submits look like a hang to some drivers' watchdogs. */
const COMMANDS_PER_SUBMIT = 128;

/** Compiles the graph behind named outputs. Throws `MemoryError` when it does not fit, `DeviceError` when the device refuses. */
export async function compile(
  device: Device,
  outputs: ReadonlyMap<string, Tensor>,
  parameters: Parameters,
  options: CompileOptions = {},
): Promise<Program> {
  const bound = new Set(options.bound?.[0].keys());
  const choice = options.choice ?? device.choice;
  const layoutOfName = (name: string) => parameterOf(parameters, name).layout;
  const assembly = assemble(outputs, device.profile, layoutOfName, { bound, choice });
  return await realise(device, assembly, parameters, options);
}

/** Makes a program of an assembly: allocates its slots, and makes its pipelines and bind groups. Throws as `compile` does. */
export async function realise(
  device: Device,
  assembly: Assembly,
  parameters: Parameters,
  { poison = false, label = "a program", bound: sets = [new Map()] }: CompileOptions,
): Promise<Program> {
  device.check();
  const owned: Resource[] = [];
  const own = (resource: Resource) => {
    owned.push(resource);
    return resource;
  };
  try {
    const slots = await allocate(device, assembly, label, own);
    const resourceOf = (source: Source, bound: BoundSet): Resource => {
      if (source.kind === "value") return slots[assembly.plan.slotOf[source.value]];
      if (source.kind === "bound") {
        const place = bound.get(source.name);
        if (!place) throw new RangeError(`"${source.name}" is not bound to a buffer`);
        if (!("offset" in place)) return { kind: "buffer", buffer: place };
        const { buffer, offset } = place;
        return { kind: "buffer", buffer, range: { offset, size: buffer.size - offset } };
      }
      return parameterOf(parameters, source.name).resource;
    };
    const { uniforms, offsets } = uploadUniforms(device, assembly.steps, label);
    own({ kind: "buffer", buffer: uniforms });
    const commands = sets.map((): Command[] => []);
    const poisoner = poison ? poisonBuffer(device, assembly, own) : undefined;
    for (const [i, step] of assembly.steps.entries()) {
      const place = { uniforms, offset: offsets[i] };
      const commandOf = (bound: BoundSet) =>
        command(device, step, (source) => resourceOf(source, bound), place);
      const first = await commandOf(sets[0]);
      for (const [j, bound] of sets.entries()) {
        commands[j].push(j > 0 && isBound(step) ? await commandOf(bound) : first);
        if (poisoner) commands[j].push(...poisonDead(assembly, i, slots, poisoner));
      }
    }
    for (const { value, data } of assembly.constants) {
      const resource = slots[assembly.plan.slotOf[value]];
      if (resource.kind === "buffer") device.gpu.queue.writeBuffer(resource.buffer, 0, data);
    }
    return new Program(device, assembly, commands, slots, owned);
  } catch (error) {
    owned.forEach((resource) => release(device, resource));
    throw error;
  }
}

/** Whether a step reads or writes what lies in the caller's buffers. */
function isBound(step: Step): boolean {
  const sources = step.kind === "stage" ? [step.from] : step.operands.map(({ source }) => source);
  return sources.some(({ kind }) => kind === "bound");
}

async function allocate(
  device: Device,
  { plan }: Assembly,
  label: string,
  own: (resource: Resource) => Resource,
): Promise<Resource[]> {
  const { live } = device.memory;
  if (live + plan.bytes > device.budget) {
    throw new MemoryError(
      `Cannot run ${label}: it needs ${mib(plan.bytes)} MiB for activations beside ${
        mib(live)
      } MiB in use, ` +
        `and the memory budget is ${
          mib(device.budget)
        } MiB; raise --memory-budget or ask for a smaller picture or batch`,
    );
  }
  device.gpu.pushErrorScope("out-of-memory");
  const slots = plan.slots.map(({ kind, bytes }) =>
    own(
      kind === "buffer"
        ? { kind, buffer: storageBuffer(device, bytes, label) }
        : storageTexture(device, bytes, "rgba32float", label),
    )
  );
  const error = await device.gpu.popErrorScope();
  if (error) {
    throw new MemoryError(
      `Cannot run ${label}: the device is out of memory; it needs ${mib(plan.bytes)} MiB beside ` +
        `${mib(live)} MiB in use (${error.message})`,
    );
  }
  return slots;
}

/** All dispatches' parameters in one buffer. */
function uploadUniforms(device: Device, steps: readonly Step[], label: string) {
  const offsets: number[] = [];
  const blocks: Uint8Array[] = [];
  let size = 0;
  for (const step of steps) {
    const block = step.kind === "dispatch" ? paramBytes(step.dispatch.params) : new Uint8Array(0);
    offsets.push(size);
    blocks.push(block);
    size += Math.ceil(block.length / UNIFORM_ALIGNMENT) * UNIFORM_ALIGNMENT;
  }
  const bytes = new Uint8Array(Math.max(size, UNIFORM_ALIGNMENT));
  blocks.forEach((block, i) => bytes.set(block, offsets[i]));
  const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
  const uniforms = device.createBuffer(bytes.length, usage, `parameters of ${label}`);
  device.gpu.queue.writeBuffer(uniforms, 0, bytes);
  return { uniforms, offsets };
}

function hasParams({ params }: Dispatch): boolean {
  return Object.keys({ ...params.u32, ...params.f32 }).length > 0;
}

/** What a dispatch binds. */
function layoutOf(dispatch: Dispatch): GPUBindGroupLayoutEntry[] {
  const layout: GPUBindGroupLayoutEntry[] = dispatch.shader.bindings.map(layoutEntry);
  const visibility = GPUShaderStage.COMPUTE;
  if (hasParams(dispatch)) layout.unshift({ binding: 0, visibility, buffer: { type: "uniform" } });
  return layout;
}

/**
 * Compiles the pipelines of an assembly one by one, so that a caller can do other things in between. Compiling blocks the
 * thread, whichever way WebGPU is asked; reads of files go on meanwhile.
 */
export async function* warmPipelines(
  device: Device,
  { steps }: Assembly,
): AsyncGenerator<void, void, undefined> {
  const seen = new Set<string>();
  for (const step of steps) {
    if (step.kind !== "dispatch" || seen.has(step.code)) continue;
    seen.add(step.code);
    if (device.hasPipeline(step.code)) continue;
    await device.pipeline(step.code, layoutOf(step.dispatch), step.label);
    yield;
  }
}

async function command(
  device: Device,
  step: Step,
  resourceOf: (source: Source) => Resource,
  params: { readonly uniforms: GPUBuffer; readonly offset: number },
): Promise<Command> {
  if (step.kind === "stage") {
    const from = resourceOf(step.from);
    const to = resourceOf({ kind: "value", value: step.to });
    if (from.kind !== "buffer" || to.kind !== "texture") {
      throw new TypeError(`${step.label} does not copy a buffer into a texture`);
    }
    const { label, bytes } = step;
    const begin = from.range?.offset ?? 0;
    return { kind: "stage", label, from: from.buffer, begin, to: to.texture, bytes };
  }
  const { dispatch, code, label } = step;
  const { bindings } = dispatch.shader;
  const size = paramBytes(dispatch.params).length;
  const layout = layoutOf(dispatch);
  const pipeline = await device.pipeline(code, layout, label);
  const entries: GPUBindGroupEntry[] = bindings.map(({ window }, i) => {
    const { source, bytes } = step.operands[i];
    const resource = resourceOf(source);
    if (resource.kind !== bindings[i].residence) {
      throw new TypeError(
        `${label} reads "${bindings[i].name}" from a ${
          bindings[i].residence
        }, but it lies in a ${resource.kind}`,
      );
    }
    if (resource.kind === "texture") return { binding: i + 1, resource: resource.view };
    const { buffer, range } = resource;
    const own = bytes > 0 ? { offset: 0, size: bytes } : range ? { ...range, offset: 0 } : {};
    const { offset = 0, size } = window ?? own;
    const begin = offset + (range?.offset ?? 0);
    const part = size === undefined ? {} : { offset: begin, size };
    return { binding: i + 1, resource: { buffer, ...part } };
  });
  if (hasParams(dispatch)) {
    const resource = { buffer: params.uniforms, offset: params.offset, size };
    entries.unshift({ binding: 0, resource });
  }
  const group = device.gpu.createBindGroup({ layout: device.bindGroupLayout(layout), entries });
  return { kind: "dispatch", label, pipeline, group, grid: dispatch.grid };
}

/** A buffer of NaN as large as the largest slot. */
function poisonBuffer(
  device: Device,
  { plan }: Assembly,
  own: (resource: Resource) => Resource,
): GPUBuffer {
  const bytes = plan.slots.reduce((most, slot) => Math.max(most, slot.bytes), 16);
  const buffer = storageBuffer(device, bytes, "poison");
  own({ kind: "buffer", buffer });
  device.gpu.queue.writeBuffer(buffer, 0, new Float32Array(buffer.size / 4).fill(NaN));
  return buffer;
}

/** Commands that overwrite what died with step i. */
function poisonDead(
  { lives, plan }: Assembly,
  i: number,
  slots: readonly Resource[],
  from: GPUBuffer,
): Command[] {
  return lives.flatMap((life, value): Command[] => {
    const slot = slots[plan.slotOf[value]];
    if (life.last !== i || slot.kind !== "buffer") return [];
    const to = slot.buffer;
    return [{ kind: "copy", label: "poison", from, to, bytes: Math.ceil(life.bytes / 4) * 4 }];
  });
}

/** A graph that can be run again and again. Dispose of it to free its slots; weights are not its own. */
export class Program implements Disposable {
  readonly #device: Device;
  readonly #assembly: Assembly;
  /** For each set of bound buffers. */
  readonly #commands: readonly (readonly Command[])[];
  readonly #slots: readonly Resource[];
  readonly #owned: readonly Resource[];
  #disposed = false;

  constructor(
    device: Device,
    assembly: Assembly,
    commands: readonly (readonly Command[])[],
    slots: readonly Resource[],
    owned: readonly Resource[],
  ) {
    this.#device = device;
    this.#assembly = assembly;
    this.#commands = commands;
    this.#slots = slots;
    this.#owned = owned;
  }

  /** Bytes of all slots: the most its activations take. */
  get bytes(): number {
    return this.#assembly.plan.bytes;
  }

  /** Number of dispatches and copies. */
  get stepCount(): number {
    return this.#commands[0].length;
  }

  /** Number of distinct shaders. */
  get pipelineCount(): number {
    return this.#assembly.pipelines;
  }

  /**
   * Takes inputs from host or device, runs all steps, and returns the outputs that have no `targets`; those that have one
   * are copied there instead. Waits for the device only where something is returned. `set` says which of the bound
   * buffers are read.
   * Throws `RangeError` on a missing or misshapen input, `DeviceError` on a device that failed.
   */
  async run(
    inputs: Readonly<Record<string, HostArray | DeviceRange>>,
    targets: Readonly<Record<string, DeviceRange>> = {},
    set = 0,
  ): Promise<Map<string, Float32Array<ArrayBuffer>>> {
    const device = this.#device;
    device.check();
    if (this.#disposed) throw new TypeError("A disposed program cannot run");
    this.feed(inputs);
    this.#submit(this.#commands[set]);
    const outputs = [...this.#assembly.outputs].map(([name, { value, shape, dtype }]) => ({
      name,
      buffer: this.#bufferOf(value),
      bytes: sizeOf(shape) * BYTES[dtype],
    }));
    this.#deliver(outputs.filter(({ name }) => name in targets), targets);
    const returned = outputs.filter(({ name }) => !(name in targets));
    if (returned.length === 0) return new Map();
    const results = await readBack(device, returned);
    return new Map(returned.map(({ name }, i) => [name, new Float32Array(results[i])]));
  }

  /** Milliseconds that waiting for nothing takes: the least of several. For tuning and benchmarks. */
  async idle(): Promise<number> {
    let least = Infinity;
    for (let i = 0; i < 5; i++) least = Math.min(least, await this.#timed([]));
    return least;
  }

  /**
   * Wall-clock milliseconds of each step, run one by one with the inputs of the last run; short steps are repeated and the
   * wait is taken off. For `-v` and benchmarks; results are spoilt, as steps that overwrite their operand run twice.
   */
  async profile(): Promise<{ readonly label: string; readonly milliseconds: number }[]> {
    const idle = await this.idle();
    const times: { label: string; milliseconds: number }[] = [];
    for (const command of this.#commands[0]) {
      let milliseconds = await this.#timed([command]) - idle;
      if (milliseconds < SHORT_STEP) {
        const repeated = new Array<Command>(SHORT_REPEATS).fill(command);
        milliseconds = (await this.#timed(repeated) - idle) / SHORT_REPEATS;
      }
      times.push({ label: command.label, milliseconds: Math.max(0, milliseconds) });
    }
    return times;
  }

  async #timed(commands: readonly Command[]): Promise<number> {
    const start = performance.now();
    this.#submit(commands);
    await this.#device.finish();
    return performance.now() - start;
  }

  #bufferOf(value: number): GPUBuffer {
    const slot = this.#slots[this.#assembly.plan.slotOf[value]];
    if (slot.kind !== "buffer") throw new TypeError("A texture cannot be read or written");
    return slot.buffer;
  }

  /**
   * Wall-clock milliseconds of running all steps `times` times over, with the inputs that were fed last; without the
   * copies into textures that come before the first dispatch where `copies` is false, as other readers share them. Results
   * are not read. For tuning and benchmarks.
   */
  async time(
    times: number,
    { copies = true }: { readonly copies?: boolean } = {},
  ): Promise<number> {
    const [all] = this.#commands;
    const first = copies ? 0 : all.findIndex(({ kind }) => kind === "dispatch");
    const commands = all.slice(Math.max(0, first));
    return await this.#timed(new Array<readonly Command[]>(times).fill(commands).flat());
  }

  /**
   * Takes inputs without running: those from the host are written, those on the device copied.
   * Throws `RangeError` on a missing or misshapen input.
   */
  feed(inputs: Readonly<Record<string, HostArray | DeviceRange>>): void {
    const { gpu } = this.#device;
    const encoder = gpu.createCommandEncoder();
    for (const [name, { value, shape, dtype }] of this.#assembly.inputs) {
      const given = inputs[name];
      const size = sizeOf(shape);
      const target = this.#bufferOf(value);
      if (given !== undefined && "offset" in given) {
        const bytes = size * BYTES[dtype];
        encoder.copyBufferToBuffer(given.buffer, given.offset, target, 0, bytes);
      } else if (given !== undefined && "length" in given && given.length === size) {
        gpu.queue.writeBuffer(target, 0, given);
      } else {
        const what = given && "length" in given ? `${given.length} values` : "nothing";
        throw new RangeError(`Input "${name}" of shape ${show(shape)} was given ${what}`);
      }
    }
    gpu.queue.submit([encoder.finish()]);
  }

  #deliver(
    outputs: readonly { name: string; buffer: GPUBuffer; bytes: number }[],
    targets: Readonly<Record<string, DeviceRange>>,
  ): void {
    if (outputs.length === 0) return;
    const encoder = this.#device.gpu.createCommandEncoder();
    for (const { name, buffer, bytes } of outputs) {
      const { buffer: target, offset } = targets[name];
      encoder.copyBufferToBuffer(buffer, 0, target, offset, bytes);
    }
    this.#device.gpu.queue.submit([encoder.finish()]);
  }

  #submit(commands: readonly Command[]): void {
    const { gpu } = this.#device;
    for (let start = 0; start < commands.length; start += COMMANDS_PER_SUBMIT) {
      const encoder = gpu.createCommandEncoder();
      let pass: GPUComputePassEncoder | undefined;
      for (const command of commands.slice(start, start + COMMANDS_PER_SUBMIT)) {
        if (command.kind === "dispatch") {
          pass ??= encoder.beginComputePass();
          pass.setPipeline(command.pipeline);
          pass.setBindGroup(0, command.group);
          pass.dispatchWorkgroups(...command.grid);
          continue;
        }
        pass?.end();
        pass = undefined;
        if (command.kind === "stage") {
          encodeStage(encoder, command.from, command.to, command.bytes, command.begin);
        } else {
          encoder.copyBufferToBuffer(command.from, 0, command.to, 0, command.bytes);
        }
      }
      pass?.end();
      gpu.queue.submit([encoder.finish()]);
    }
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#owned.forEach((resource) => release(this.#device, resource));
  }
}
