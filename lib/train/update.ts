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

/** Rows of a group that are changed at a time. */
interface Chunk {
  readonly buffers: Group["buffers"];
  /** In bytes. */
  readonly offset: number;
  /** Gradients of a micro-step that are added to those before. */
  readonly fresh: GPUBuffer | undefined;
}

/** Programs that change all chunks, one after another. */
interface Programs {
  readonly step: Program;
  /** Adds the gradients of a micro-step to those before; where steps have several. */
  readonly sum: Program | undefined;
  /** Σ g² of each group. */
  readonly squares: readonly Program[];
}

const UPDATED = ["weight", "moment1", "moment2", "average"] as const;

export interface OptimizerOptions extends AdamW {
  /** Gradients of several micro-steps are added up for a step. */
  readonly accumulates: boolean;
}

export class Optimizer implements Disposable {
  readonly #groups: readonly Group[];
  readonly #chunks: readonly Chunk[];
  readonly #programs: Programs;
  readonly #settings: AdamW;
  readonly #owned: DisposableStack;
  /** Micro-steps whose gradients were taken since the last step. */
  #count = 0;

  private constructor(
    settings: AdamW,
    groups: readonly Group[],
    chunks: readonly Chunk[],
    programs: Programs,
    owned: DisposableStack,
  ) {
    this.#settings = settings;
    this.#groups = groups;
    this.#chunks = chunks;
    this.#programs = programs;
    this.#owned = owned;
  }

  static async make(
    device: Device,
    { groups, chunk }: Vectors,
    settings: OptimizerOptions,
  ): Promise<Optimizer> {
    using owned = new DisposableStack();
    const chunks = groups.flatMap(({ rows, buffers }): Chunk[] => {
      const fresh = settings.accumulates
        ? owned.adopt(
          storageBuffer(device, rows * WIDTH * 4, "gradients of a micro-step"),
          (buffer) => release(device, { kind: "buffer", buffer }),
        )
        : undefined;
      const each = (i: number) => ({ buffers, fresh, offset: i * chunk * WIDTH * 4 });
      return Array.from({ length: rows / chunk }, (_, i) => each(i));
    });
    const made = async (
      outputs: Readonly<Record<string, Tensor>>,
      bound: readonly Readonly<Record<string, GPUBuffer | DeviceRange>>[],
    ) =>
      owned.use(
        await compile(device, new Map(Object.entries(outputs)), new Map(), {
          bound: bound.map((set) => new Map(Object.entries(set))),
          label: "the optimiser",
        }),
      );
    const vectors = chunks.map(({ buffers, offset }) =>
      Object.fromEntries(VECTORS.map((name) => [name, { buffer: buffers[name], offset }]))
    );
    const sums = chunks.flatMap(({ buffers, fresh, offset }) =>
      fresh
        ? [{ total: { buffer: buffers.gradient, offset }, gradient: { buffer: fresh, offset } }]
        : []
    );
    const squares: Program[] = [];
    for (const { rows, buffers: { gradient } } of groups) {
      squares.push(await made({ squares: squaresOf(rows) }, [{ gradient }]));
    }
    const programs = {
      squares,
      step: await made({ ...adamW(chunk, settings) }, vectors),
      sum: sums.length > 0 ? await made({ total: accumulated(chunk) }, sums) : undefined,
    };
    return new Optimizer(settings, groups, chunks, programs, owned.move());
  }

  /** Where gradients go, one buffer a group: those of a step's first micro-step, and those of the others. */
  get places(): readonly (readonly GPUBuffer[])[] {
    const first = this.#groups.map(({ buffers }) => buffers.gradient);
    const others = this.#groups.flatMap(({ buffers }) => {
      const { fresh } = this.#chunks.find((chunk) => chunk.buffers === buffers) ?? {};
      return fresh ? [fresh] : [];
    });
    return others.length > 0 ? [first, others] : [first];
  }

  /** Which of the places the gradients of the next micro-step are to be written to. */
  get place(): number {
    return this.#count === 0 ? 0 : 1;
  }

  /** Takes the gradients that were written to `place`. */
  async take(): Promise<void> {
    this.#count += 1;
    if (this.#count === 1) return;
    const { sum } = this.#programs;
    if (!sum) throw new TypeError("Steps were not to have several micro-steps");
    for (const [set, { buffers, offset }] of this.#chunks.entries()) {
      await sum.run({}, { total: { buffer: buffers.gradient, offset } }, set);
    }
  }

  /** Step t, counted from 1, on the mean of the gradients that were taken; without any, nothing changes. */
  async step(
    t: number,
    { rate, emaDecay }: { readonly rate: number; readonly emaDecay: number },
  ): Promise<StepResult> {
    if (this.#count === 0) return { norm: 0, skipped: false };
    let squares = 0;
    for (const program of this.#programs.squares) {
      const result = await program.run({});
      squares += result.get("squares")?.[0] ?? NaN;
    }
    const count = this.#count;
    this.#count = 0;
    const { norm, ...scalars } = scalarsAt(t, this.#settings, { rate, squares, count, emaDecay });
    if (!Number.isFinite(norm)) return { norm, skipped: true };
    for (const [set, { buffers, offset }] of this.#chunks.entries()) {
      const targets = UPDATED.map((name) => [name, { buffer: buffers[name], offset }] as const);
      await this.#programs.step.run(inputsOf(scalars), Object.fromEntries(targets), set);
    }
    return { norm, skipped: false };
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}

function inputsOf(scalars: Scalars): Record<string, Float32Array<ArrayBuffer>> {
  return Object.fromEntries(
    Object.entries(scalars).map(([name, value]) => [name, Float32Array.of(value)]),
  );
}
