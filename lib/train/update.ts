/** The optimiser on the device: gradients of micro-steps are added up, then one step of AdamW changes the weights. */

import { compileAdamW, compileSquares, scalarInputs, squareParts } from "../gpu/adamw.ts";
import { readBack, release, storageBuffer } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import { compile, type DeviceRange, type Program } from "../gpu/program.ts";
import { Graph, type Tensor } from "../graph/tensor.ts";
import { type AdamW, scalarsAt, WIDTH } from "./optimizer.ts";
import type { Vectors } from "./vectors.ts";

/** What a step did. */
export interface StepResult {
  /** Of the mean gradient, before clipping. */
  readonly norm: number;
  /** A gradient was not finite: nothing was changed. */
  readonly skipped: boolean;
}

/** Programs that are run for each chunk of rows, one after another. */
interface Programs {
  readonly step: Program;
  /** Parts of Σ g². */
  readonly squares: Program;
  /** Adds the gradients of a micro-step to those before; where steps have several. */
  readonly sum: Program | undefined;
}

export interface OptimizerOptions extends AdamW {
  /** Gradients of several micro-steps are added up for a step. */
  readonly accumulates: boolean;
}

/** What an optimiser is made of. */
interface Parts {
  readonly device: Device;
  readonly settings: AdamW;
  /** Sets of places of gradients. */
  readonly places: readonly (readonly GPUBuffer[])[];
  /** Where the gradients of each chunk lie. */
  readonly chunks: readonly DeviceRange[];
  readonly programs: Programs;
  /** Parts of Σ g² of all chunks. */
  readonly squares: GPUBuffer;
}

export class Optimizer implements Disposable {
  readonly #parts: Parts;
  readonly #owned: DisposableStack;
  /** Micro-steps whose gradients were taken since the last step. */
  #count = 0;

  private constructor(parts: Parts, owned: DisposableStack) {
    this.#parts = parts;
    this.#owned = owned;
  }

  static async make(
    device: Device,
    { groups, chunk, names }: Vectors,
    settings: OptimizerOptions,
  ): Promise<Optimizer> {
    using owned = new DisposableStack();
    const bufferOf = (bytes: number, label: string) =>
      owned.adopt(
        storageBuffer(device, bytes, label),
        (buffer) => release(device, { kind: "buffer", buffer }),
      );
    const numbers = chunk * WIDTH;
    const chunks = groups.flatMap((group, i) =>
      Array.from(
        { length: group.rows / chunk },
        (_, at) => ({ group, i, offset: at * numbers * 4 }),
      )
    );
    const first = groups.map(({ bufferOf }) => bufferOf("gradient"));
    const fresh = settings.accumulates
      ? groups.map(({ rows }) => bufferOf(rows * WIDTH * 4, "gradients of a micro-step"))
      : undefined;
    const gradients = chunks.map(({ i, offset }) => ({ buffer: first[i], offset }));
    const partBytes = squareParts(numbers) * 4;
    const squares = bufferOf(chunks.length * partBytes, "squares of gradients");
    const set = (entries: Readonly<Record<string, DeviceRange>>) =>
      new Map(Object.entries(entries));
    const programs = {
      squares: owned.use(
        await compileSquares(
          device,
          numbers,
          gradients.map((x, at) => set({ x, parts: { buffer: squares, offset: at * partBytes } })),
        ),
      ),
      step: owned.use(
        await compileAdamW(
          device,
          numbers,
          { ...settings, averages: settings.ema > 0 },
          chunks.map(({ group: { bufferOf }, offset }) =>
            new Map(names.map((name) => [name, { buffer: bufferOf(name), offset }]))
          ),
        ),
      ),
      sum: fresh && owned.use(
        await compile(device, new Map([["total", accumulated(chunk)]]), new Map(), {
          bound: chunks.map(({ i, offset }, at) =>
            set({ total: gradients[at], gradient: { buffer: fresh[i], offset } })
          ),
          label: "the sum of gradients",
        }),
      ),
    };
    const places = fresh ? [first, fresh] : [first];
    const parts = { device, settings, places, chunks: gradients, programs, squares };
    return new Optimizer(parts, owned.move());
  }

  /** Where gradients go, one buffer a group: those of a step's first micro-step, and those of the others. */
  get places(): readonly (readonly GPUBuffer[])[] {
    return this.#parts.places;
  }

  /** Which of the places the gradients of the next micro-step are to be written to. */
  get place(): number {
    return this.#count === 0 ? 0 : 1;
  }

  /** Takes the gradients that were written to `place`. */
  async take(): Promise<void> {
    this.#count += 1;
    if (this.#count === 1) return;
    const { programs: { sum }, chunks } = this.#parts;
    if (!sum) throw new TypeError("Steps were not to have several micro-steps");
    for (const [set, total] of chunks.entries()) await sum.run({}, { total }, set);
  }

  /** Step t, counted from 1, on the mean of the gradients that were taken; without any, nothing changes. */
  async step(t: number, rate: number): Promise<StepResult> {
    if (this.#count === 0) return { norm: 0, skipped: false };
    const { settings, programs, chunks } = this.#parts;
    const count = this.#count;
    this.#count = 0;
    const squares = await this.#squares();
    const { norm, scalars } = scalarsAt(t, settings, { rate, squares, count });
    if (!Number.isFinite(norm)) return { norm, skipped: true };
    for (const set of chunks.keys()) await programs.step.run(scalarInputs(scalars), {}, set);
    return { norm, skipped: false };
  }

  /** Σ g² of all gradients, in double precision. */
  async #squares(): Promise<number> {
    const { device, programs, chunks, squares } = this.#parts;
    for (const set of chunks.keys()) await programs.squares.run({}, {}, set);
    const [bytes] = await readBack(device, [{ buffer: squares, bytes: squares.size }]);
    return new Float32Array(bytes).reduce((sum, part) => sum + part, 0);
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}

/** The gradient of several micro-steps together. */
function accumulated(rows: number): Tensor {
  const graph = new Graph();
  return graph.input("total", [rows, WIDTH]).add(graph.input("gradient", [rows, WIDTH]));
}
