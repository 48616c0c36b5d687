/**
 * Which parts of a model are on the device. Decided once for a run, from sizes that are known before anything is read: parts
 * stay as long as they are needed where that fits the budget; else they take turns, each alone with its activations, and
 * are read again from the checkpoint.
 */

import { MemoryError } from "../base/errors.ts";
import { type Device, mib } from "../gpu/device.ts";
import type { Part, PartName, ReadProgress } from "./part.ts";
import type { Room } from "./programs.ts";

/** One stage of a run. */
export interface Stage {
  /** The part that it reads. */
  readonly part: PartName;
  /** How often the run comes to it. Stages that are come to more than once alternate. */
  readonly uses: number;
  /** Bytes of it that are to stay for all uses, beside the other stages, where there is room. */
  readonly kept?: (room: Room) => number;
  /** The most bytes that it takes beside weights, in so much room. Throws `MemoryError` where it does not fit. */
  readonly bytes: (room: Room) => number;
}

/** What one stage takes on the device, in bytes. */
export interface StageMemory {
  /** Whose stage it is. */
  readonly part: PartName;
  /** Its own weights. */
  readonly weights: number;
  /** Weights of other parts that stay meanwhile. */
  readonly beside: number;
  /** Bytes of what it computes. */
  readonly activations: number;
  /** What stays of another stage meanwhile. */
  readonly kept: number;
}

/** What a run takes on the device. */
export interface MemoryPlan {
  /** In the order of the work. */
  readonly stages: readonly StageMemory[];
  /** The most bytes at any time. */
  readonly peak: number;
  /** Parts take turns, because together they exceed the budget. */
  readonly turns: boolean;
  /** One denoiser serves all pictures, and stays while the other stages run. */
  readonly keeps: boolean;
}

/** How long parts stay that fit together: as long as the model, or until the planned run needs them no more. */
export type Lifetime = "model" | "run";

const total = ({ weights, beside, activations, kept }: StageMemory) =>
  weights + beside + activations + kept;

export class Residency implements Disposable {
  readonly #parts: ReadonlyMap<PartName, Part>;
  readonly #users = new Map<PartName, number>();
  /** How often the planned run comes to a part from now on. */
  readonly #uses = new Map<PartName, number>();
  #turns = false;
  #plan: { readonly key: string; readonly plan: MemoryPlan } | undefined;
  /** Loading and freeing happen one after another. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(
    readonly device: Device,
    parts: Iterable<Part>,
    readonly lifetime: Lifetime,
    readonly progress: ReadProgress,
  ) {
    this.#parts = new Map([...parts].map((part) => [part.name, part]));
  }

  part(name: PartName): Part {
    const part = this.#parts.get(name);
    if (!part) throw new TypeError(`There is no ${name}`);
    return part;
  }

  /**
   * Decides how a run uses the device; equal keys must mean equal runs. `what` names it in errors. Throws `MemoryError` with
   * both numbers where a stage does not fit even alone; nothing is read before.
   */
  plan(key: string, what: string, stages: readonly Stage[]): MemoryPlan {
    if (this.#plan?.key !== key) {
      if (this.#plan) { for (const { programs } of this.#parts.values()) programs.trim(); }
      const plan = this.#together(stages) ?? this.#inTurns(what, stages);
      this.#turns = plan.turns;
      this.#plan = { key, plan };
    }
    const { plan } = this.#plan;
    // a stage that stays comes to its part once
    for (const { part, uses, kept } of stages) {
      this.#uses.set(part, plan.keeps && kept ? 1 : uses);
    }
    return plan;
  }

  /** Every part where it is, if no stage has to give way to another's weights. */
  #together(stages: readonly Stage[]): MemoryPlan | undefined {
    const { budget } = this.device;
    const planned: StageMemory[] = [];
    for (const { part, uses, bytes } of stages) {
      const weights = this.part(part).bytes;
      const others = this.lifetime === "model"
        ? [...this.#parts.keys()]
        : stages.filter((other) => uses > 1 && other.uses > 1).map((other) => other.part);
      const beside = others.filter((name) => name !== part)
        .reduce((sum, name) => sum + this.part(name).bytes, 0);
      const activations = fitting(bytes, { budget, live: weights + beside });
      if (activations === undefined) return undefined;
      if (beside > 0 && activations !== fitting(bytes, { budget, live: weights })) return undefined;
      planned.push({ part, weights, beside, activations, kept: 0 });
      if (weights + beside + activations > budget) return undefined;
    }
    const kept = this.#keeping(stages, planned);
    const all = kept ?? planned;
    return {
      stages: all,
      peak: Math.max(...all.map(total)),
      turns: false,
      keeps: kept !== undefined,
    };
  }

  /** The same with the activations of one stage beside the others, if none has to give way to them. */
  #keeping(
    stages: readonly Stage[],
    planned: readonly StageMemory[],
  ): readonly StageMemory[] | undefined {
    const { budget } = this.device;
    const stays = stages.findIndex((stage) => stage.kept !== undefined);
    const { weights: own = 0, beside: others = 0 } = planned[stays] ?? {};
    const bytes = stages[stays]?.kept?.({ budget, live: own + others });
    if (bytes === undefined) return undefined;
    // what is read once before pictures are made is over then, unless the model is used again
    const meets = (i: number) => i !== stays && (this.lifetime === "model" || stages[i].uses > 1);
    const all = planned.map((stage, i) => ({
      ...stage,
      kept: meets(i) ? bytes : 0,
    }));
    const fits = all.every(({ weights, beside, activations, kept }, i) =>
      kept === 0 ||
      (weights + beside + kept + activations <= budget &&
        activations === fitting(stages[i].bytes, { budget, live: weights + beside + kept }))
    );
    return fits ? all : undefined;
  }

  #inTurns(what: string, stages: readonly Stage[]): MemoryPlan {
    const { budget } = this.device;
    const planned = stages.map(({ part, bytes }): StageMemory => {
      const weights = this.part(part).bytes;
      if (weights > budget) {
        throw new MemoryError(
          `Cannot ${what}: the weights of the ${part} take ${
            mib(weights)
          } MiB, and the memory budget is ${mib(budget)} MiB; raise --memory-budget`,
        );
      }
      const activations = bytes({ budget, live: weights });
      if (weights + activations <= budget) {
        return { part, weights, beside: 0, activations, kept: 0 };
      }
      throw new MemoryError(
        `Cannot ${what}: the ${part} takes ${mib(weights)} MiB for weights and ${
          mib(activations)
        } MiB for activations, together ${
          mib(weights + activations)
        } MiB, and the memory budget is ${
          mib(budget)
        } MiB; raise --memory-budget or ask for a smaller picture`,
      );
    });
    const peak = Math.max(...planned.map(total));
    return { stages: planned, peak, turns: true, keeps: false };
  }

  /** Throws `TypeError` while someone works with a part. */
  requireIdle(): void {
    for (const [name, users] of this.#users) {
      if (users > 0) throw new TypeError(`The ${name} cannot be changed while it is in use`);
    }
  }

  /** Reads everything that is not on the device yet. */
  async loadAll(): Promise<void> {
    for (const name of this.#parts.keys()) await this.#ready(name);
  }

  /** Brings a part to the device and keeps it there until it is let go; others leave where parts take turns. */
  async hold(name: PartName): Promise<void> {
    this.#users.set(name, (this.#users.get(name) ?? 0) + 1);
    try {
      await this.#ready(name);
    } catch (error) {
      this.letGo(name);
      throw error;
    }
  }

  /** Ends what `hold` began. Frees the part where the run needs it no more, or where parts take turns. */
  letGo(name: PartName): void {
    const users = (this.#users.get(name) ?? 0) - 1;
    this.#users.set(name, users);
    if (users > 0) return;
    const left = (this.#uses.get(name) ?? Infinity) - 1;
    this.#uses.set(name, left);
    const isOver = this.lifetime === "run" && left <= 0;
    if (this.#turns || isOver) this.part(name).unload();
  }

  /** Runs work that needs a part. */
  async during<T>(name: PartName, work: () => Promise<T>): Promise<T> {
    await this.hold(name);
    try {
      return await work();
    } finally {
      this.letGo(name);
    }
  }

  async #ready(name: PartName): Promise<void> {
    const turn = this.#last.then(async () => {
      const part = this.part(name);
      for (const other of this.#turns ? this.#parts.values() : []) {
        if (other !== part && (this.#users.get(other.name) ?? 0) === 0) other.unload();
      }
      if (!part.isLoaded) await part.load(this.progress);
    });
    this.#last = turn.catch(() => {});
    await turn;
  }

  [Symbol.dispose](): void {
    for (const part of this.#parts.values()) part.unload();
  }
}

/** Bytes of a stage in some room, `undefined` where it does not fit. */
function fitting(bytes: Stage["bytes"], room: Room): number | undefined {
  try {
    return bytes(room);
  } catch (error) {
    if (error instanceof MemoryError) return undefined;
    throw error;
  }
}
