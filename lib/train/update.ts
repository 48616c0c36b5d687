/** The optimiser on the device: gradients of micro-steps are added up, then one step of AdamW changes the weights. */

import { release, storageBuffer } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import { compile, type DeviceRange, type Program } from "../gpu/program.ts";
import type { Tensor } from "../graph/tensor.ts";
import {
  accumulated,
  type AdamW,
  adamW,
  type Scalars,
  scalarsAt,
  squaresOf,
  VECTORS,
  WIDTH,
} from "./optimizer.ts";
import type { Group, Vectors } from "./vectors.ts";

/** What a step did. */
export interface StepResult {
  /** Of the mean gradient, before clipping. */
  readonly norm: number;
  /** A gradient was not finite: nothing was changed. */
  readonly skipped: boolean;
}

/** The programs of one group. */
interface Programs {
  readonly group: Group;
  readonly squares: Program;
  readonly step: Program;
  readonly sum: Program;
  /** Gradients of a micro-step that are added to those before. */
  readonly fresh: GPUBuffer;
}

const UPDATED = ["weight", "moment1", "moment2", "average"] as const;

export class Optimizer implements Disposable {
  readonly #programs: readonly Programs[];
  readonly #settings: AdamW;
  readonly #owned: DisposableStack;
  /** Micro-steps whose gradients were taken since the last step. */
  #count = 0;

  private constructor(settings: AdamW, programs: readonly Programs[], owned: DisposableStack) {
    this.#settings = settings;
    this.#programs = programs;
    this.#owned = owned;
  }

  static async make(device: Device, vectors: Vectors, settings: AdamW): Promise<Optimizer> {
    using owned = new DisposableStack();
    const programs: Programs[] = [];
    for (const group of vectors.groups) {
      const { rows, buffers } = group;
      const fresh = owned.adopt(
        storageBuffer(device, rows * WIDTH * 4, "gradients of a micro-step"),
        (buffer) => release(device, { kind: "buffer", buffer }),
      );
      const made = async (
        outputs: Readonly<Record<string, Tensor>>,
        bound: Readonly<Record<string, GPUBuffer>>,
      ) =>
        owned.use(
          await compile(device, new Map(Object.entries(outputs)), new Map(), {
            bound: [new Map(Object.entries(bound))],
            label: "the optimiser",
          }),
        );
      const { gradient } = buffers;
      const vector = Object.fromEntries(VECTORS.map((name) => [name, buffers[name]]));
      programs.push({
        group,
        fresh,
        squares: await made({ squares: squaresOf(rows) }, { gradient }),
        step: await made({ ...adamW(rows, settings) }, vector),
        sum: await made({ total: accumulated(rows) }, { total: gradient, gradient: fresh }),
      });
    }
    return new Optimizer(settings, programs, owned.move());
  }

  /** Where the gradients of the next micro-step go, one buffer a group. */
  get targets(): readonly GPUBuffer[] {
    return this.#programs.map(({ fresh, group }) =>
      this.#count === 0 ? group.buffers.gradient : fresh
    );
  }

  /** Takes the gradients that were written to `targets`. */
  async take(): Promise<void> {
    this.#count += 1;
    if (this.#count === 1) return;
    for (const { sum, group } of this.#programs) {
      await sum.run({}, { total: whole(group.buffers.gradient) });
    }
  }

  /** Step t, counted from 1, on the mean of the gradients that were taken; without any, nothing changes. */
  async step(
    t: number,
    { rate, emaDecay }: { readonly rate: number; readonly emaDecay: number },
  ): Promise<StepResult> {
    if (this.#count === 0) return { norm: 0, skipped: false };
    let squares = 0;
    for (const { squares: program } of this.#programs) {
      const result = await program.run({});
      squares += result.get("squares")?.[0] ?? NaN;
    }
    const count = this.#count;
    this.#count = 0;
    const { norm, ...scalars } = scalarsAt(t, this.#settings, { rate, squares, count, emaDecay });
    if (!Number.isFinite(norm)) return { norm, skipped: true };
    for (const { step, group: { buffers } } of this.#programs) {
      const targets = UPDATED.map((name) => [name, whole(buffers[name])] as const);
      await step.run(inputsOf(scalars), Object.fromEntries(targets));
    }
    return { norm, skipped: false };
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}

function whole(buffer: GPUBuffer): DeviceRange {
  return { buffer, offset: 0 };
}

function inputsOf(scalars: Scalars): Record<string, Float32Array<ArrayBuffer>> {
  return Object.fromEntries(
    Object.entries(scalars).map(([name, value]) => [name, Float32Array.of(value)]),
  );
}
