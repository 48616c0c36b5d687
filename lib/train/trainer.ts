/**
 * Training of any model whose loss is a graph: one program computes the loss and the gradient of every trainable
 * parameter, the optimiser's programs change the parameters in place. What is trained is decided by names; all else is
 * frozen and read from where it lies.
 */

import { MemoryError } from "../base/errors.ts";
import { gradients } from "../graph/grad.ts";
import type { Tensor } from "../graph/tensor.ts";
import { parameterOf, type Parameters } from "../gpu/buffers.ts";
import { assemble, peakOf } from "../gpu/compile.ts";
import { type Device, mib } from "../gpu/device.ts";
import type { Assembly } from "../gpu/emit.ts";
import { type DeviceRange, type HostArray, type Program, realise } from "../gpu/program.ts";
import { manifestOf, unstacked } from "../nn/params.ts";
import type { AdamW } from "./optimizer.ts";
import { Optimizer, type StepResult } from "./update.ts";
import { placesOf, vectorBytes, Vectors } from "./vectors.ts";

/** What is minimised, and what is told beside; each a single number, or a result for the caller by name. */
export interface Objective {
  readonly loss: Tensor;
  readonly reports?: Readonly<Record<string, Tensor>>;
}

/** Values of a graph's inputs. */
export type Inputs = Readonly<Record<string, HostArray | DeviceRange>>;

export interface TrainerOptions {
  /** Whether a parameter is trained. */
  readonly isTrained: (name: string) => boolean;
  /** Parameters that are not, by the names under which the graph reads them or those of a checkpoint's tensors. */
  readonly frozen?: Parameters;
  readonly optimizer: AdamW;
  /** The most micro-batches of a step; 1 where absent. */
  readonly accumulate?: number;
  /** Bytes that others take for a while when a step's memory is there; 0 where absent. */
  readonly spare?: number;
  /** Named in errors. */
  readonly label: string;
}

const GRADIENT = "gradient of ";

/** Where gradients are written, by the names of outputs. */
type Gradients = ReadonlyMap<string, DeviceRange>;

/** Of what is read back after each run. */
const bytesOf = (told: readonly Tensor[]) => told.reduce((sum, { size }) => sum + size * 4, 0);

/** Bytes of a device that are taken for a while by some work. */
export async function takenBy(device: Device, work: () => Promise<unknown>): Promise<number> {
  device.resetPeak();
  await work();
  const { peak, live } = device.memory;
  return peak - live;
}

/** Throws `MemoryError` where the device has no room for something of a training. */
function requireRoom(
  { budget, memory: { live } }: Device,
  needed: number,
  label: string,
  what: string,
): void {
  if (live + needed <= budget) return;
  throw new MemoryError(
    `Cannot do ${label} within ${mib(budget)} MiB: ${mib(live)} MiB are in use, and ${what} takes ${
      mib(needed)
    } MiB; raise optimizer.memory_mib and --memory-budget, or lower optimizer.batch or data.size`,
  );
}

/** Bytes that a run takes on the device from step to step. */
export interface TrainingMemory {
  /** What stays as it is: weights of other models, whatever encodes pictures and texts. */
  readonly frozen: number;
  /** What is trained, with gradients, moments and their average, and what changes it. */
  readonly trained: number;
  /** What a step computes, as it is planned. */
  readonly step: number;
}

/** The memory of a run whose trainers stand beside so many bytes of what stays as it is. */
export function memoryWith(frozen: number, trainers: Iterable<Trainer>): TrainingMemory {
  const each = [...trainers].map(({ memory }) => memory);
  const sum = (of: "trained" | "step") => each.reduce((total, memory) => total + memory[of], 0);
  return { frozen, trained: sum("trained"), step: sum("step") };
}

/** What a trainer is made of. */
interface Parts {
  readonly device: Device;
  readonly vectors: Vectors;
  readonly optimizer: Optimizer;
  /** A step, as it is planned. */
  readonly assembly: Assembly;
  readonly parameters: Parameters;
  /** Sets of places of gradients. */
  readonly bound: readonly Gradients[];
  readonly label: string;
  readonly memory: Omit<TrainingMemory, "frozen">;
}

export class Trainer implements Disposable {
  readonly vectors: Vectors;
  readonly memory: Omit<TrainingMemory, "frozen">;
  readonly #parts: Parts;
  readonly #owned: DisposableStack;
  #program: Program | undefined;

  private constructor(parts: Parts, program: Program, owned: DisposableStack) {
    this.vectors = parts.vectors;
    this.memory = parts.memory;
    this.#parts = parts;
    this.#program = program;
    this.#owned = owned;
  }

  /** Compiles the objective. Trained parameters are zeros until they are written to `vectors`. Throws as `compile` does. */
  static async make(
    device: Device,
    { loss, reports = {} }: Objective,
    { isTrained, frozen = new Map(), optimizer: settings, accumulate = 1, spare = 0, label }:
      TrainerOptions,
  ): Promise<Trainer> {
    using owned = new DisposableStack();
    const [whole, ...told] = unstacked([loss, ...Object.values(reports)], frozen);
    const manifest = [...manifestOf(whole.graph).values()].filter(({ name }) => isTrained(name));
    const before = device.memory.live;
    const places = placesOf(manifest, device.profile.maxBinding);
    requireRoom(
      device,
      vectorBytes(places, settings),
      label,
      "what is trained, with gradients and moments,",
    );
    const vectors = owned.use(new Vectors(device, manifest, settings));
    const parameters = manifest.map(({ name, shape, role }) =>
      whole.graph.parameter(name, shape, role)
    );
    const outputs = new Map<string, Tensor>([["loss", whole]]);
    Object.keys(reports).forEach((name, i) => outputs.set(name, told[i]));
    gradients(whole, parameters).forEach((gradient, i) =>
      outputs.set(`${GRADIENT}${manifest[i].name}`, gradient)
    );
    const optimizer = owned.use(
      await Optimizer.make(device, vectors, { ...settings, accumulates: accumulate > 1 }),
    );
    const bound = optimizer.places.map((buffers) =>
      new Map(
        [...vectors.places].map(([name, { group, begin }]) => [
          `${GRADIENT}${name}`,
          { buffer: buffers[group], offset: begin * 4 },
        ]),
      )
    );
    const all = new Map([...frozen, ...vectors.parameters()]);
    const beside = Math.max(spare, bytesOf([whole, ...told]));
    const assembly = assemble(outputs, device.profile, (name) => parameterOf(all, name).layout, {
      choice: device.choice,
      placed: new Set(bound[0].keys()),
      budget: device.budget - device.memory.live - beside,
    });
    const needed = peakOf(assembly, []).kept + beside;
    requireRoom(device, needed, label, "a step, however much of it is computed again,");
    const memory = {
      trained: device.memory.live - before,
      step: peakOf(assembly, []).kept,
    };
    const program = await realise(device, assembly, all, { bound, label });
    const parts = { device, vectors, optimizer, assembly, parameters: all, bound, label, memory };
    return new Trainer(parts, program, owned.move());
  }

  /** Loss, reports and gradients. Throws `TypeError` after `rest`. */
  get program(): Program {
    if (!this.#program) throw new TypeError("The program of a trainer at rest is not there");
    return this.#program;
  }

  /**
   * Where the device's memory has a ceiling, frees what a step computes, so that others have it until the next step. What is
   * trained stays.
   */
  rest(): void {
    if (this.#parts.device.budget === Infinity) return;
    this.#program?.[Symbol.dispose]();
    this.#program = undefined;
  }

  /** Loss and gradients of one micro-batch; returns the loss and the reports. */
  async backward(inputs: Inputs): Promise<Map<string, Float32Array<ArrayBuffer>>> {
    const { device, assembly, parameters, optimizer, bound, label } = this.#parts;
    this.#program ??= await realise(device, assembly, parameters, { bound, label });
    const set = optimizer.place;
    const results = await this.#program.run(inputs, Object.fromEntries(bound[set]), set);
    await optimizer.take();
    return results;
  }

  /** Step t, counted from 1, on the mean of the gradients since the last one. */
  async step(t: number, rate: number): Promise<StepResult> {
    return await this.#parts.optimizer.step(t, rate);
  }

  [Symbol.dispose](): void {
    this.#program?.[Symbol.dispose]();
    this.#owned[Symbol.dispose]();
  }
}
