/**
 * What a batch has done, in a file beside its pictures: a line of JSON for each request that ended, well or not, appended and
 * on the disk before the next begins. Whatever stops the work, at most the last line is torn, and a torn line counts as none.
 */

import { dirname, isAbsolute, join, relative } from "node:path";
import { FileError } from "../base/errors.ts";
import { fileError } from "./files.ts";

/** One request that ended. */
export interface JournalEntry {
  /** What tells requests apart that differ in any setting. */
  readonly key: string;
  /** Which request of its file, from 0, and its line, from 1. */
  readonly item: number;
  readonly line: number;
  readonly status: "done" | "failed";
  /** Its pictures that are saved, and the seed of the first. */
  readonly paths: readonly string[];
  readonly seed?: number;
  /** Why it failed. */
  readonly message?: string;
}

/** What the first line of a journal says. */
interface Heading {
  readonly journal: 1;
  readonly source: string;
  /** Seeds that nobody chose are made from this, so that doing something again draws the same. */
  readonly draw: number;
}

/** An open journal. Only one process has it. */
export class Journal implements Disposable {
  readonly #file: Deno.FsFile;
  readonly #entries: Map<string, JournalEntry>;

  private constructor(
    readonly path: string,
    file: Deno.FsFile,
    /** What drawn seeds are made from. */
    readonly draw: number,
    /** It was there before: whoever wrote it may have been stopped in the middle of a request. */
    readonly isResumed: boolean,
    entries: Iterable<JournalEntry>,
  ) {
    this.#file = file;
    this.#entries = new Map(keyed(entries));
  }

  /**
   * Opens a journal, or begins one for requests that come from `source`. What journals of `others` say counts as well.
   * Throws `FileError` where another process has it or it is something else.
   */
  static async open(
    path: string,
    source: string,
    others: readonly string[] = [],
  ): Promise<Journal> {
    const file = await openLocked(path);
    try {
      const text = await wholeLines(file, path);
      const { heading, entries } = readJournal(text, path);
      const theirs = await Promise.all(others.map((other) => entriesOf(other)));
      const { draw } = heading ?? await begin(file, path, source);
      return new Journal(path, file, draw, text !== "", [...theirs.flat(), ...entries]);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** How a request ended last, `undefined` where it did not. Paths are as the process can use them. */
  last(key: string): JournalEntry | undefined {
    return this.#entries.get(key);
  }

  /** Appends an entry and waits until the disk has it. Throws `FileError`. */
  async append(entry: JournalEntry): Promise<void> {
    const folder = dirname(this.path);
    const paths = entry.paths.map((path) => relative(folder, path));
    await appendLine(this.#file, this.path, { ...entry, paths });
    this.#entries.set(entry.key, entry);
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

const keyed = (entries: Iterable<JournalEntry>) =>
  [...entries].map((entry): [string, JournalEntry] => [entry.key, entry]);

async function openLocked(path: string): Promise<Deno.FsFile> {
  let file: Deno.FsFile | undefined;
  try {
    file = await Deno.open(path, { read: true, append: true, create: true });
    if (!(await file.stat()).isFile) throw somethingElse(path);
    if (await file.tryLock(true)) return file;
  } catch (error) {
    file?.close();
    throw fileError("open the journal", path, error);
  }
  file.close();
  throw new FileError(
    `Cannot open the journal "${path}": another process works on the same batch; wait for it, or give each a --shard`,
  );
}

function somethingElse(path: string): FileError {
  return new FileError(
    `Cannot use "${path}" as a journal: it is something else; move it, or choose another folder with --output`,
  );
}

/** The text of a journal down to its last whole line; what is left of a torn one is cut off. */
async function wholeLines(file: Deno.FsFile, path: string): Promise<string> {
  try {
    const bytes = await Deno.readFile(path);
    const end = bytes.lastIndexOf(10) + 1;
    if (end < bytes.length) await file.truncate(end);
    return new TextDecoder().decode(bytes.subarray(0, end));
  } catch (error) {
    throw fileError("read the journal", path, error);
  }
}

async function begin(file: Deno.FsFile, path: string, source: string): Promise<Heading> {
  const [draw] = crypto.getRandomValues(new Uint32Array(1));
  const heading: Heading = { journal: 1, source, draw };
  await appendLine(file, path, heading);
  return heading;
}

async function appendLine(file: Deno.FsFile, path: string, value: unknown): Promise<void> {
  const bytes = new TextEncoder().encode(JSON.stringify(value) + "\n");
  try {
    for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
    await file.sync();
  } catch (error) {
    throw fileError("write the journal", path, error);
  }
}

/** What a journal that another process may be writing says; nothing where it cannot be read. */
async function entriesOf(path: string): Promise<readonly JournalEntry[]> {
  const text = await Deno.readTextFile(path).catch(() => "");
  return readJournal(text.slice(0, text.lastIndexOf("\n") + 1), path).entries;
}

/** The heading and the entries of a journal's whole lines. Lines that a disk has spoilt are passed over. */
function readJournal(
  text: string,
  path: string,
): { heading: Heading | undefined; entries: JournalEntry[] } {
  const values = text.split("\n").flatMap((line): unknown[] => {
    try {
      return line === "" ? [] : [JSON.parse(line)];
    } catch {
      return [];
    }
  });
  const heading = values.find(isHeading);
  const found = values.filter(isEntry);
  if (text !== "" && heading === undefined && found.length === 0) {
    throw somethingElse(path);
  }
  const folder = dirname(path);
  const entries = found.map((entry) => ({
    ...entry,
    paths: entry.paths.map((each) => isAbsolute(each) ? each : join(folder, each)),
  }));
  return { heading, entries };
}

function isHeading(value: unknown): value is Heading {
  return typeof value === "object" && value !== null && "journal" in value && value.journal === 1 &&
    "draw" in value && typeof value.draw === "number";
}

function isEntry(value: unknown): value is JournalEntry {
  return typeof value === "object" && value !== null && "key" in value &&
    typeof value.key === "string" && "status" in value && "paths" in value &&
    Array.isArray(value.paths) && value.paths.every((path) => typeof path === "string");
}
