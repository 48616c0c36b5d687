/** `ldm batch FILE`: many pictures, one model. What is done stays done; what fails does not stop the rest. */

import { basename, extname, isAbsolute, join } from "node:path";
import { DeviceError, FileError, FormatError, UsageError } from "../base/errors.ts";
import { fileError } from "../formats/files.ts";
import { Journal, type JournalEntry } from "../formats/journal.ts";
import type { Recipe } from "../formats/recipe.ts";
import { decodePromptFile, parsePromptFile } from "../formats/prompt_file.ts";
import {
  addDrawingOptions,
  type Draw,
  type DrawingOptions,
  drawingOptions,
  type Encode,
  outputOf,
  withDrawing,
} from "./drawing.ts";
import { drawnSeed, groupsOf, type Job, jobsOf } from "./jobs.ts";
import { modelPath, seconds } from "./loading.ts";
import { newCommand, parse, progressOptions } from "./options.ts";
import type { Output } from "./output.ts";
import { type Progress, progressTo } from "./progress.ts";
import { isInShard, parseShard, type Shard, thisCluster } from "./shard.ts";
import { checkDrawBoxes } from "./telling.ts";
import { printJson, writeStderr } from "./terminal.ts";

export async function batch(argv: readonly string[]): Promise<number> {
  const command = newCommand(
    "batch",
    "Makes a picture of each line of a file. The same command again does what is not done yet.",
  )
    .argument("<file>", "prompts, settings, JSON lines or a table; - is stdin")
    .option("--shard <i/n>", "every n-th line from the i-th; auto under Slurm and Kubernetes");
  addDrawingOptions(command);
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
  const { jobs, bad } = await jobsOf(parsePromptFile(await readSource(source, progress)), options);
  if (jobs.length + bad.length === 0) {
    throw new FormatError(`Cannot make pictures of "${name}": it has no prompts`);
  }
  const mine = jobs.filter(({ item }) => isInShard(item, shard));
  checkOutput(options, mine, shard);
  if (jobs.length > 0) checkDrawBoxes(options, jobs.map(({ recipe }) => recipe));
  const tell = faultTeller(options, name, progress);
  const badOnes = bad.filter(({ item }) => isInShard(item, shard));
  for (const each of badOnes) await tell(each, each.message);

  const stem = stemOf(name, shard);
  // a temporary file of a known name, which the next run takes over, is safe only behind the journal's lock
  const output = await outputOf(options, isKept ? { temporary: `.ldm-${stem}.tmp` } : {});
  using journal = isKept && output.folder !== undefined
    ? await openJournal(output.folder, stem, name)
    : undefined;
  const done = await doneOnes(mine, journal);
  for (const { paths } of done.values()) for (const path of paths) output.keep(path);
  await tellSkipped(done, mine, options, progress);

  const counts = { done: 0, failed: badOnes.length, images: 0 };
  const outputs = new Map<string | undefined, Output>([[undefined, output]]);
  const placed: Job[] = [];
  for (const job of mine.filter((job) => !done.has(job))) {
    const fault = await openPlace(outputs, job, output.folder, options);
    if (fault === undefined) placed.push(job);
    else await tell(job, fault);
    if (fault !== undefined) counts.failed += 1;
  }
  const pictures = placed.reduce((sum, { recipe }) => sum + (recipe.batchCount ?? 1), 0);
  const work = async (draw: Draw, encode: Encode) => {
    for await (const { job, entry } of attempts(placed, { draw, encode, outputs, journal })) {
      counts.images += entry.paths.length;
      counts[entry.status] += 1;
      if (entry.status === "failed") await tell(job, entry.message ?? "");
    }
  };
  if (placed.length > 0) {
    await withDrawing(options, work, { pictures, output, several: true, progress });
  }
  await tellEnd({ ...counts, skipped: done.size }, performance.now() - start, options, progress);
  return counts.failed > 0 ? 1 : 0;
}

/** The text of a prompt file. Throws `FileError`. */
async function readSource(source: string, progress: Progress): Promise<string> {
  if (source !== "-") {
    const bytes = await Deno.readFile(source).catch((error) => {
      throw fileError("read", source, error);
    });
    return decodePromptFile(bytes);
  }
  if (Deno.stdin.isTerminal()) progress.say("reading prompts, one a line; Ctrl-D ends them");
  return decodePromptFile(await new Response(Deno.stdin.readable).bytes());
}

/** Throws `UsageError` where pictures would meet one another. */
function checkOutput({ output, overwrite }: DrawingOptions, jobs: readonly Job[], shard: Shard) {
  const pictures = jobs.reduce((sum, { recipe }) => sum + (recipe.batchCount ?? 1), 0);
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

/** "prompts", and for a shard "prompts.2-of-8". */
function stemOf(name: string, { index, of }: Shard): string {
  const stem = basename(name, extname(name));
  return of === 1 ? stem : `${stem}.${index}-of-${of}`;
}

const JOURNAL = ".journal.jsonl";

/** The journal of a batch or of its shard. What other shards have done, of however many, counts as well. */
async function openJournal(folder: string, stem: string, name: string): Promise<Journal> {
  const whole = basename(name, extname(name));
  const own = stem + JOURNAL;
  const others: string[] = [];
  for await (const { name } of Deno.readDir(folder)) {
    const isOurs = name.startsWith(whole) && name.endsWith(JOURNAL) && name !== own;
    const between = name.slice(whole.length, -JOURNAL.length);
    if (isOurs && /^(\.\d+-of-\d+)?$/.test(between)) others.push(join(folder, name));
  }
  return await Journal.open(join(folder, own), name, others.sort());
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

/** Where pictures go, by what the jobs say; `undefined` is what the options say. */
type Outputs = ReadonlyMap<string | undefined, Output>;

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

/** What jobs are done with. */
interface Workshop {
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
 * Does jobs and writes down how each ended, those of one shape after one another, so that what was compiled for one serves the
 * next. Throws what stops all of them.
 */
async function* attempts(
  jobs: readonly Job[],
  workshop: Workshop,
): AsyncGenerator<{ job: Job; entry: JournalEntry }> {
  const { journal, encode } = workshop;
  // the first request that is not written down may have been going on when the process before was stopped
  let mayExist = journal?.isResumed === true;
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
  counts: { done: number; failed: number; images: number; skipped: number },
  elapsed: number,
  { json }: DrawingOptions,
  progress: Progress,
): Promise<void> {
  const { done, failed, skipped } = counts;
  const before = skipped > 0 ? `, ${skipped} before` : "";
  const rest = failed > 0 ? `, ${failed} failed: the same command again does these alone` : "";
  progress.say(`${done} done${before}${rest}`);
  if (json) await printJson({ event: "done", ...counts, seconds: seconds(elapsed) });
}
