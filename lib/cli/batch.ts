/** `ldm batch FILE`: many pictures, one model. What is done stays done; what fails does not stop the rest. */

import { dirname, extname, isAbsolute, join } from "node:path";
import { FileError, FormatError, UsageError } from "../base/errors.ts";
import type { Journal, JournalEntry } from "../formats/journal.ts";
import { attempts } from "./attempts.ts";
import {
  addDrawingOptions,
  type Draw,
  type DrawingOptions,
  drawingOptions,
  type Encode,
  outputOf,
  withDrawing,
} from "./drawing.ts";
import { type Job, jobReader } from "./jobs.ts";
import { modelPath, seconds } from "./loading.ts";
import { newCommand, parse, progressOptions } from "./options.ts";
import type { Output } from "./output.ts";
import { type Progress, progressTo } from "./progress.ts";
import { promptsOf } from "./prompt_source.ts";
import { addSecondOptions } from "./second.ts";
import { isInShard, parseShard, type Shard, thisCluster } from "./shard.ts";
import { openJournal, stemOf } from "./shard_journal.ts";
import { checkDrawBoxes } from "./telling.ts";
import { printJson, writeStderr } from "./terminal.ts";

export async function batch(argv: readonly string[]): Promise<number> {
  const command = newCommand(
    "batch",
    "Makes a picture of each line of a file. The same command again does what is not done yet.",
  )
    .argument("<file>", "prompts, settings, JSON lines or a table; - is stdin")
    .option("--shard <i/n>", "every n-th line from the i-th; auto under Slurm and Kubernetes");
  addDrawingOptions(addSecondOptions(command));
  parse(command, argv);
  const options = await drawingOptions(command);
  const { shard: which } = command.opts<{ readonly shard?: string }>();
  const [source] = command.args;
  const shard = which === undefined ? WHOLE : parseShard(which, thisCluster());
  return await drawAll(source, options, { shard, isKept: true });
}

const WHOLE: Shard = { index: 1, of: 1 };

export interface BatchOptions {
  readonly shard?: Shard;
  /** A journal beside the pictures keeps what is done. */
  readonly isKept?: boolean;
}

/**
 * Makes every picture that a prompt file, or stdin for "-", asks for; returns the exit code. Throws what stops all of them:
 * a place that cannot be written, a device that fails.
 */
export async function drawAll(
  source: string,
  options: DrawingOptions,
  { shard = WHOLE, isKept = false }: BatchOptions = {},
): Promise<number> {
  modelPath(options);
  const start = performance.now();
  const progress = progressTo(progressOptions(options));
  const name = source === "-" ? "stdin" : source;
  const tell = faultTeller(options, name, progress);
  const tally = { done: 0, failed: 0, images: 0, skipped: 0, pictures: 0 };
  const desk: Desk = { source, options, shard, progress, tell, tally };
  const orders = ordered(desk);
  const first = await orders.next();
  if (first.done) throw new FormatError(`Cannot make pictures of "${name}": it has no prompts`);

  const stem = stemOf(name, shard);
  // a temporary file of a known name, which the next run takes over, is safe only behind the journal's lock
  const output = await outputOf(options, isKept ? { temporary: `.ldm-${stem}.tmp` } : {});
  using journal = isKept && output.folder !== undefined
    ? await openJournal(output.folder, stem, name)
    : undefined;
  const outputs = new Map<string | undefined, Output>([[undefined, output]]);
  const places = placed(after(first.value, orders), { ...desk, journal, output, outputs });
  const next = await places.next();
  const work = async (draw: Draw, encode: Encode) => {
    const jobs = after(next.value ?? [], places);
    for await (const { job, entry } of attempts(jobs, { draw, encode, outputs, journal })) {
      tally.images += entry.paths.length;
      tally[entry.status] += 1;
      if (entry.status === "failed") await tell(job, entry.message ?? "");
    }
  };
  if (!next.done) {
    await withDrawing(options, work, {
      ...(isWaitedFor(desk) && { pictures: tally.pictures }),
      expected: () => tally.pictures,
      ...{ output, several: true, progress },
    });
  }
  await tellEnd(tally, performance.now() - start, isKept, desk);
  return tally.failed > 0 ? 1 : 0;
}

/** What is known of a batch before its first request. */
interface Desk {
  readonly source: string;
  readonly options: DrawingOptions;
  readonly shard: Shard;
  readonly progress: Progress;
  readonly tell: ReturnType<typeof faultTeller>;
  readonly tally: Tally;
}

/** What has become of requests so far, and how many pictures are asked for. */
interface Tally {
  done: number;
  failed: number;
  images: number;
  skipped: number;
  pictures: number;
}

/** Whether the first request waits for the last: what concerns all of them has to be checked. */
function isWaitedFor({ source, options: { output, drawBoxes } }: Desk): boolean {
  return source !== "-" || output === "-" || drawBoxes === true;
}

/** The requests of this shard, as they come. */
async function* ordered(desk: Desk): AsyncGenerator<readonly Job[], void, undefined> {
  const { source, options, shard, progress, tell, tally } = desk;
  if (source === "-" && Deno.stdin.isTerminal()) {
    progress.say("reading prompts, one a line; Ctrl-D ends them");
  }
  const read = jobReader(options, source === "-" ? "" : dirname(source));
  for await (const piece of promptsOf(source, isWaitedFor(desk))) {
    const { jobs, bad } = await read(piece);
    if (jobs.length + bad.length === 0) continue;
    const mine = jobs.filter(({ item }) => isInShard(item, shard));
    checkOutput(options, mine, shard);
    if (jobs.length > 0) checkDrawBoxes(options, jobs.map(({ recipe }) => recipe));
    for (const each of bad.filter(({ item }) => isInShard(item, shard))) {
      tally.failed += 1;
      await tell(each, each.message);
    }
    yield mine;
  }
}

/** Where pictures go, and what is done already. */
interface Place {
  readonly output: Output;
  readonly outputs: Map<string | undefined, Output>;
  readonly journal: Journal | undefined;
}

/** Requests that are not done yet and have a place for their pictures. */
async function* placed(
  orders: AsyncIterable<readonly Job[]>,
  { options, progress, tell, tally, journal, output, outputs }: Desk & Place,
): AsyncGenerator<readonly Job[], void, undefined> {
  for await (const jobs of orders) {
    const done = await doneOnes(jobs, journal);
    for (const { paths } of done.values()) for (const path of paths) output.keep(path);
    tally.skipped += done.size;
    await tellSkipped(done, jobs, options, progress);
    const some: Job[] = [];
    for (const job of jobs.filter((job) => !done.has(job))) {
      const fault = await openPlace(outputs, job, output.folder, options);
      if (fault === undefined) some.push(job);
      else await tell(job, fault);
      if (fault !== undefined) tally.failed += 1;
    }
    tally.pictures += picturesOf(some);
    if (some.length > 0) yield some;
  }
}

function picturesOf(jobs: readonly Job[]): number {
  return jobs.reduce((sum, { recipe }) => sum + (recipe.batchCount ?? 1), 0);
}

/** One thing and then others. */
async function* after<T>(first: T, rest: AsyncIterable<T>): AsyncGenerator<T, void, undefined> {
  yield first;
  yield* rest;
}

/** Throws `UsageError` where pictures would meet one another. */
function checkOutput({ output, overwrite }: DrawingOptions, jobs: readonly Job[], shard: Shard) {
  const pictures = picturesOf(jobs);
  if (output === "-" && pictures > 1) {
    throw new UsageError(
      `Cannot write several pictures to stdout: -o - takes one, and ${pictures} are asked for`,
    );
  }
  if (shard.of > 1 && overwrite && output !== undefined && /[^\\/]$/.test(output)) {
    if (output.includes("{index}") || extname(output) === "") return;
    throw new UsageError(
      "Cannot use --overwrite with --shard: shards could overwrite one another's pictures; put {index} into -o",
    );
  }
}

/** Tells a line that nothing comes of. */
function faultTeller({ json }: DrawingOptions, name: string, progress: Progress) {
  return async ({ item, line }: { item: number; line: number }, message: string) => {
    progress.clear();
    const sentence = message.replaceAll(/\s*\n\s*/g, " ");
    writeStderr(`ldm: line ${line} of ${name}: ${sentence}\n`);
    if (json) await printJson({ event: "error", item, line, message: sentence });
  };
}

/** Jobs that are done and whose pictures are still there. */
async function doneOnes(
  jobs: readonly Job[],
  journal: Journal | undefined,
): Promise<ReadonlyMap<Job, JournalEntry>> {
  const done = new Map<Job, JournalEntry>();
  for (const job of jobs) {
    const entry = journal?.last(job.key);
    if (entry?.status !== "done") continue;
    const files = await Promise.all(
      entry.paths.map((path) => Deno.stat(path).catch(() => undefined)),
    );
    if (files.every((file) => file?.isFile)) done.set(job, entry);
  }
  return done;
}

/** Opens the place that a job has for itself; returns why it cannot be used. */
async function openPlace(
  outputs: Map<string | undefined, Output>,
  { output: pattern }: Job,
  folder: string | undefined,
  options: DrawingOptions,
): Promise<string | undefined> {
  if (pattern === undefined || outputs.has(pattern)) return undefined;
  const path = isAbsolute(pattern) ? pattern : join(folder ?? ".", pattern);
  try {
    outputs.set(pattern, await outputOf({ ...options, output: path }));
    return undefined;
  } catch (error) {
    if (error instanceof FileError || error instanceof UsageError) return error.message;
    throw error;
  }
}

async function tellSkipped(
  done: ReadonlyMap<Job, JournalEntry>,
  jobs: readonly Job[],
  { json }: DrawingOptions,
  progress: Progress,
): Promise<void> {
  if (done.size === 0) return;
  progress.say(`${done.size} of ${jobs.length} are done already`);
  for (const [{ item, line }, { paths }] of json ? done : []) {
    await printJson({ event: "skipped", item, line, paths });
  }
}

async function tellEnd(
  { pictures: _, ...counts }: Tally,
  elapsed: number,
  isKept: boolean,
  { options: { json }, progress }: Desk,
): Promise<void> {
  const { done, failed, skipped } = counts;
  const before = skipped > 0 ? `, ${skipped} before` : "";
  const again = isKept ? ": the same command again does these alone" : "";
  const rest = failed > 0 ? `, ${failed} failed${again}` : "";
  progress.say(`${done} done${before}${rest}`);
  if (json) await printJson({ event: "done", ...counts, seconds: seconds(elapsed) });
}
