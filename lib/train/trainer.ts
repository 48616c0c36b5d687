/**
 * Training of any model whose loss is a graph: one program computes the loss and the gradient of every trainable
 * parameter, the optimiser's programs change the parameters in place. What is trained is decided by names; all else is
 * frozen and read from where it lies.
 */

import { gradients } from "../graph/grad.ts";
import type { Tensor } from "../graph/tensor.ts";
import type { Parameters } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import { compile, type DeviceRange, type HostArray, type Program } from "../gpu/program.ts";
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
  /** Parameters that are not. */
  readonly frozen?: Parameters;
  readonly optimizer: AdamW;
  /** Named in errors. */
  readonly label: string;
}

const GRADIENT = "gradient of ";

export class Trainer implements Disposable {
  readonly vectors: Vectors;
  /** Loss, reports and gradients. */
  readonly program: Program;
  readonly #optimizer: Optimizer;
  readonly #owned: DisposableStack;

  private constructor(
    vectors: Vectors,
    program: Program,
    optimizer: Optimizer,
    owned: DisposableStack,
  ) {
    this.vectors = vectors;
    this.program = program;
    this.#optimizer = optimizer;
    this.#owned = owned;
  }

  /** Compiles the objective. Trained parameters are zeros until they are written to `vectors`. Throws as `compile` does. */
  static async make(
    device: Device,
    { loss, reports = {} }: Objective,
    { isTrained, frozen = new Map(), optimizer: settings, label }: TrainerOptions,
  ): Promise<Trainer> {
    using owned = new DisposableStack();
    const [whole, ...told] = unstacked([loss, ...Object.values(reports)]);
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
    const optimizer = owned.use(await Optimizer.make(device, vectors, settings));
    const all = new Map([...frozen, ...vectors.parameters()]);
    const program = owned.use(await compile(device, outputs, all, { label }));
    return new Trainer(vectors, program, optimizer, owned.move());
  }

  /** Bytes of activations and gradients. */
  get bytes(): number {
    return this.program.bytes;
  }

  /** Loss and gradients of one micro-batch; returns the loss and the reports. */
  async backward(inputs: Inputs): Promise<Map<string, Float32Array<ArrayBuffer>>> {
    const buffers = this.#optimizer.targets;
    const targets = [...this.vectors.places].map(([name, { group, begin }]) =>
      [`${GRADIENT}${name}`, { buffer: buffers[group], offset: begin * 4 }] as const
    );
    const results = await this.program.run(inputs, Object.fromEntries(targets));
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
