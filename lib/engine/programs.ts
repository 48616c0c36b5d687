/**
 * What a part of a model runs: its weights, and what was assembled for them. An assembly is made once, to know what a program
 * takes before anything is read, and used again to run it, so that what is planned is what is allocated.
 */

import type { Tensor } from "../graph/tensor.ts";
import { parameterOf, type Parameters } from "../gpu/buffers.ts";
import { assemble } from "../gpu/compile.ts";
import type { Device } from "../gpu/device.ts";
import type { Assembly } from "../gpu/emit.ts";
import { type CompileOptions, type Program, realise, warmPipelines } from "../gpu/program.ts";
import type { LayoutOfName } from "../gpu/work.ts";

/** Bytes that may be allocated: what is live already counts against the budget. */
export interface Room {
  readonly budget: number;
  readonly live: number;
}

/** What a device has left now. */
export function roomOf({ budget, memory }: Device): Room {
  return { budget, live: memory.live };
}

/** Outputs by name; made only where they are not assembled yet. */
type Outputs = () => ReadonlyMap<string, Tensor>;

/** Assemblies that stay when sizes change: enough for requests of a few shapes that come in turns. */
const KEPT = 8;

export class Programs {
  /** The latest used last. */
  readonly #assemblies = new Map<string, Assembly>();
  readonly #layoutOf: LayoutOfName;

  /** `layoutOf` tells where weights will lie that are not on the device yet. */
  constructor(
    readonly device: Device,
    readonly parameters: Parameters,
    layoutOf: LayoutOfName = (name) => parameterOf(parameters, name).layout,
  ) {
    this.#layoutOf = layoutOf;
  }

  /**
   * What is dispatched for a graph. Equal keys must mean equal graphs. Throws `MemoryError` where an operand exceeds what
   * the device can bind.
   */
  assembly(key: string, outputs: Outputs, bound: ReadonlySet<string> = new Set()): Assembly {
    const { profile, choice } = this.device;
    const assembly = this.#assemblies.get(key) ??
      assemble(outputs(), profile, this.#layoutOf, { bound, choice });
    this.#assemblies.delete(key);
    this.#assemblies.set(key, assembly);
    return assembly;
  }

  /** A graph as a program; its weights must be on the device. */
  compile(key: string, outputs: Outputs, options: CompileOptions): Promise<Program> {
    const assembly = this.assembly(key, outputs, new Set(options.bound?.[0].keys()));
    return realise(this.device, assembly, this.parameters, options);
  }

  /** Compiles the pipelines of everything that is assembled, one at a time. */
  async *warm(): AsyncGenerator<void, void, undefined> {
    for (const assembly of this.#assemblies.values()) yield* warmPipelines(this.device, assembly);
  }

  /** Forgets what was assembled, because layouts changed. */
  clear(): void {
    this.#assemblies.clear();
  }

  /** Forgets what was not used of late: sizes changed. */
  trim(): void {
    const keys = [...this.#assemblies.keys()];
    for (const key of keys.slice(0, -KEPT)) this.#assemblies.delete(key);
  }
}
