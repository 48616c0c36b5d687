/**
 * Fair timing on a machine that others use as well: whoever is compared takes turns, round after round, and medians are
 * reported beside the best. CPU time is that of the process that worked, divided by the cores it may use: what the work
 * would have taken had all of them been its own. That is the figure to compare on a shared machine.
 */

import { availableParallelism } from "node:os";
import { cpuUsage } from "node:process";
import { median } from "../../gpu/tune.ts";

/** Seconds of one piece of work. */
export interface Taken {
  readonly wall: number;
  /** CPU seconds of all threads together; `undefined` where it is not known. */
  readonly cpu?: number | undefined;
}

/** Seconds of several turns; `cpu` is divided by the number of cores. */
export interface Seconds {
  readonly median: number;
  readonly best: number;
  readonly cpu?: number;
  readonly turns: number;
}

/** Cores that a software device and the peers may use: all, unless it was told to start fewer threads. */
function cores(): number {
  const all = availableParallelism();
  return Math.min(Number(Deno.env.get("LP_NUM_THREADS")) || all, all);
}

/** Seconds that `work` takes, and this process meanwhile. */
export async function timed(work: () => Promise<unknown>): Promise<Taken> {
  const [start, cpu] = [performance.now(), cpuUsage()];
  await work();
  const { user, system } = cpuUsage(cpu);
  return { wall: (performance.now() - start) / 1e3, cpu: (user + system) / 1e6 };
}

/** One who takes turns; what a turn yields has names, as one turn may do several pieces of work. */
export interface Contender {
  readonly name: string;
  /** Rounds that it takes part in; all where absent. */
  readonly most?: number;
  readonly turn: () => Promise<Readonly<Record<string, Taken>>>;
}

/** All turns, in seconds by contender and piece of work. */
export async function takeTurns(
  contenders: readonly Contender[],
  rounds: number,
): Promise<Map<string, Map<string, Seconds>>> {
  const taken = new Map(contenders.map(({ name }) => [name, new Map<string, Taken[]>()]));
  for (let round = 0; round < rounds; round++) {
    for (const { name, turn, most = rounds } of contenders) {
      if (round >= most) continue;
      for (const [piece, seconds] of Object.entries(await turn())) {
        const pieces = taken.get(name);
        pieces?.set(piece, [...pieces.get(piece) ?? [], seconds]);
      }
    }
  }
  return new Map([...taken].map(([name, pieces]) => [
    name,
    new Map([...pieces].map(([piece, list]) => [piece, summed(list)])),
  ]));
}

function summed(list: readonly Taken[]): Seconds {
  const walls = list.map(({ wall }) => wall);
  const cpus = list.flatMap(({ cpu }) => cpu === undefined ? [] : [cpu]);
  return {
    median: median(walls),
    best: Math.min(...walls),
    ...(cpus.length > 0 && { cpu: median(cpus) / cores() }),
    turns: list.length,
  };
}
