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
import { Vectors } from "./vectors.ts";

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
  /**
   * The most bytes on the device when the trainer is there, with all that is on it already; the device's own ceiling holds
   * as well. What does not fit is computed again where it is needed.
   */
  readonly memory?: number | undefined;
  /** Named in errors. */
  readonly label: string;
}

const GRADIENT = "gradient of ";

/** Where gradients are written, by the names of outputs. */
type Gradients = ReadonlyMap<string, DeviceRange>;

/** Of what is read back after each run. */
const bytesOf = (told: readonly Tensor[]) => told.reduce((sum, { size }) => sum + size * 4, 0);

/** Throws `MemoryError` where a step needs more than there is, whatever is computed again. */
function requireRoom(
  { memory: { live } }: Device,
  assembly: Assembly,
  told: readonly Tensor[],
  ceiling: number,
  label: string,
): void {
  const needed = peakOf(assembly, []).kept + bytesOf(told);
  if (live + needed <= ceiling) return;
  throw new MemoryError(
    `Cannot do ${label} within ${mib(ceiling)} MiB: weights, moments and what else is there take ${
      mib(live)
    } MiB, and a step needs ${
      mib(needed)
    } MiB beside them, however much of it is computed again; raise optimizer.memory_mib and --memory-budget, or lower ` +
      `optimizer.batch or data.size`,
  );
}

export class Trainer implements Disposable {
  readonly vectors: Vectors;
  /** Loss, reports and gradients. */
  readonly program: Program;
  readonly #optimizer: Optimizer;
  readonly #bound: readonly Gradients[];
  readonly #owned: DisposableStack;

  private constructor(
    vectors: Vectors,
    program: Program,
    optimizer: Optimizer,
    bound: readonly Gradients[],
    owned: DisposableStack,
  ) {
    this.vectors = vectors;
    this.program = program;
    this.#optimizer = optimizer;
    this.#bound = bound;
    this.#owned = owned;
  }

  /** Compiles the objective. Trained parameters are zeros until they are written to `vectors`. Throws as `compile` does. */
  static async make(
    device: Device,
    { loss, reports = {} }: Objective,
    { isTrained, frozen = new Map(), optimizer: settings, accumulate = 1, memory, label }:
      TrainerOptions,
  ): Promise<Trainer> {
    using owned = new DisposableStack();
    const [whole, ...told] = unstacked([loss, ...Object.values(reports)], frozen);
    const manifest = [...manifestOf(whole.graph).values()].filter(({ name }) => isTrained(name));
    const vectors = owned.use(new Vectors(device, manifest));
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
    const ceiling = Math.min(memory ?? Infinity, device.budget);
    const assembly = assemble(outputs, device.profile, (name) => parameterOf(all, name).layout, {
      choice: device.choice,
      placed: new Set(bound[0].keys()),
      budget: ceiling - device.memory.live - bytesOf([whole, ...told]),
    });
    requireRoom(device, assembly, [whole, ...told], ceiling, label);
    const program = owned.use(await realise(device, assembly, all, { bound, label }));
    return new Trainer(vectors, program, optimizer, bound, owned.move());
  }

  /** Bytes of activations and gradients. */
  get bytes(): number {
    return this.program.bytes;
  }

  /** Loss and gradients of one micro-batch; returns the loss and the reports. */
  async backward(inputs: Inputs): Promise<Map<string, Float32Array<ArrayBuffer>>> {
    const set = this.#optimizer.place;
    const results = await this.program.run(inputs, Object.fromEntries(this.#bound[set]), set);
    await this.#optimizer.take();
    return results;
  }

  /** Step t, counted from 1, on the mean of the gradients since the last one. */
  async step(
    t: number,
    options: { readonly rate: number; readonly emaDecay: number },
  ): Promise<StepResult> {
    return await this.#optimizer.step(t, options);
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}
