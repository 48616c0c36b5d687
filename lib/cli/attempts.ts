/** Doing the requests of a batch, one after another, each to an end that is written down. */

import { DeviceError, FileError } from "../base/errors.ts";
import type { Journal, JournalEntry } from "../formats/journal.ts";
import type { Recipe } from "../formats/recipe.ts";
import type { Draw, Encode } from "./drawing.ts";
import { drawnSeed, groupsOf, type Job } from "./jobs.ts";
import type { Output } from "./output.ts";

/** Where pictures go, by what the jobs say; `undefined` is what the options say. */
type Outputs = ReadonlyMap<string | undefined, Output>;

/** What jobs are done with. */
export interface Workshop {
  readonly draw: Draw;
  readonly encode: Encode;
  readonly outputs: Outputs;
  readonly journal: Journal | undefined;
}

/** A job with what is known of it. */
interface Attempt {
  readonly job: Job;
  /** With its seed. */
  readonly recipe: Recipe;
  readonly before: JournalEntry | undefined;
}

/** Prompts that are encoded together. */
const ENCODED = 64;

/**
 * Does jobs and writes down how each ended; of those that are there at once, those of one shape after one another, so that
 * what was compiled for one serves the next. Throws what stops all of them.
 */
export async function* attempts(
  orders: AsyncIterable<readonly Job[]>,
  workshop: Workshop,
): AsyncGenerator<{ job: Job; entry: JournalEntry }> {
  const { journal, encode } = workshop;
  // the first request that is not written down may have been going on when the process before was stopped
  let mayExist = journal?.isResumed === true;
  for await (const jobs of orders) {
    for (const group of groupsOf(jobs)) {
      for (let i = 0; i < group.length; i += ENCODED) {
        const next = await Promise.all(
          group.slice(i, i + ENCODED).map((job) => attemptOf(job, journal)),
        );
        // what is wrong with a request is told when it is its turn
        await encode(next.map(({ recipe }) => recipe)).catch(throwFatal);
        for (const each of next) {
          const isInterrupted = mayExist && each.before === undefined;
          if (isInterrupted) mayExist = false;
          const entry = await attempt(each, isInterrupted, workshop);
          await journal?.append(entry);
          yield { job: each.job, entry };
        }
      }
    }
  }
}

async function attemptOf(job: Job, journal: Journal | undefined): Promise<Attempt> {
  const before = journal?.last(job.key);
  const said = job.recipe.seed ?? -1;
  const [chance] = crypto.getRandomValues(new Uint32Array(1));
  const seed = said >= 0 ? said : before?.seed ?? await drawnSeed(journal?.draw ?? chance, job);
  return { job, before, recipe: { ...job.recipe, seed } };
}

/** Makes the pictures of a job; returns how that ended. Throws what stops all jobs. */
async function attempt(
  { job, recipe, before }: Attempt,
  isInterrupted: boolean,
  { draw, outputs }: Workshop,
): Promise<JournalEntry> {
  const { item, line, key, firstIndex } = job;
  const { seed = 0 } = recipe;
  const paths: string[] = [];
  const output = outputs.get(job.output);
  try {
    await draw(recipe, {
      ...(output && { output }),
      firstIndex,
      about: { item, line },
      earlier: (index) => ({ path: before?.paths[index], mayExist: isInterrupted }),
      listeners: [(event) => {
        if (event.kind === "saved") paths.push(event.path);
      }],
    });
    return { key, item, line, status: "done", paths, seed };
  } catch (error) {
    throwFatal(error);
    const message = error instanceof Error ? error.message : String(error);
    return { key, item, line, status: "failed", paths, seed, message };
  }
}

/** Throws again what stops all jobs: nothing more can be computed, or saved. */
function throwFatal(error: unknown): void {
  if (error instanceof DeviceError || error instanceof FileError) throw error;
}
