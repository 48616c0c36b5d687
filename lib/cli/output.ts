/**
 * Where results go: a pattern of file names that never meets an existing file (unless asked to), a device or
 * pipe, or the bytes on stdout.
 */

import { basename, dirname, extname, join, resolve } from "node:path";
import { FileError, UsageError } from "../base/errors.ts";
import { fileError, writeNew, writeWhole } from "../formats/files.ts";
import { writeStdout } from "./terminal.ts";

/** What a pattern may mention in braces. */
export interface Fields {
  /** Which result of this run, from 0. */
  readonly index: number;
  readonly seed?: number;
  readonly prompt?: string;
}

/** An opened place for results. */
export interface Output {
  /** The folder that everything goes into, as far as the pattern says; `undefined` for stdout and devices. */
  readonly folder: string | undefined;
  /** What results are, with its dot. */
  readonly extension: string;
  /** Leaves a name to the result of an earlier run: it is not even overwritten. */
  keep(path: string): void;
  /** The path of the next result, or "-" for stdout; no other call returns it. Throws `FileError`. */
  next(fields: Fields): Promise<string>;
  /**
   * Writes a result whole under the first name that nothing has, also when other processes save there, and returns its
   * path, "-" for stdout. Throws `FileError`.
   */
  save(fields: Fields, content: Uint8Array, earlier?: Earlier): Promise<string>;
}

/** What an earlier attempt at the same result may have left. */
export interface Earlier {
  /** Where it saved the result: that is replaced. */
  readonly path?: string | undefined;
  /** A file with the same bytes is the result: whoever saved it had no time to say so. */
  readonly mayExist?: boolean;
}

/** Writes a file whole, or to stdout where the path is "-". Throws `FileError`. */
export async function saveBytes(path: string, content: Uint8Array): Promise<void> {
  if (path === "-") await writeStdout(content);
  else await writeWhole(path, content);
}

export interface OutputOptions {
  /** What is written, with its dot: the extension that a pattern may have. */
  readonly extension: string;
  /** Further ones. */
  readonly otherExtensions?: readonly string[];
  /** What patterns may mention in braces, all of `Fields` where it is left out. */
  readonly fields?: readonly (keyof Fields)[];
  /** The file name in a folder that is given without one. */
  readonly name: string;
  readonly overwrite: boolean;
  /** The name of the temporary file, for a process that alone writes there. */
  readonly temporary?: string;
}

/** Characters of a prompt that go into a file name. */
const PROMPT_LENGTH = 60;

const PLACEHOLDER = /%%|%(0\d+)?d|\{(\w*)\}/g;

/**
 * Checks a pattern, makes its folder and makes sure that files can be written there, so that nobody waits for a picture
 * that cannot be saved. Throws `UsageError` for a pattern that makes no sense, `FileError` for a folder that cannot be used.
 */
export async function openOutput(pattern: string, options: OutputOptions): Promise<Output> {
  if (pattern === "-") return single("-", options.extension);
  const full = await completed(pattern, options);
  if (await exists(full) === "special") return single(full, options.extension);
  checkPlaceholders(full, options.fields ?? FIELDS);
  await tryFolder(full, folderOf(full));
  const used = new Set<string>();
  /** The first name of a result that this run does not have yet and `take` takes. */
  const first = async (fields: Fields, take: Take): Promise<string> => {
    for (let n = 0;; n++) {
      const path = nameOf(full, fields, n);
      if (used.has(resolve(path))) continue;
      const kind = await exists(path);
      if (kind === "folder") throw new FileError(`Cannot write "${path}": it is a folder`);
      if (!await take(path, kind === undefined || options.overwrite)) continue;
      used.add(resolve(path));
      return path;
    }
  };
  return {
    folder: folderOf(full),
    extension: extensionOf(full),
    keep: (path) => void used.add(resolve(path)),
    next: (fields) =>
      first(fields, async (path, isFree) => {
        if (isFree) await makeFolder(path);
        return isFree;
      }),
    async save(fields, content, { path: own, mayExist = false } = {}) {
      if (own === undefined || used.has(resolve(own))) {
        return await first(fields, async (path, isFree) => {
          if (!isFree) return mayExist && await holds(path, content);
          await makeFolder(path);
          if (!options.overwrite) return await writeNew(path, content, options);
          await writeWhole(path, content, options);
          return true;
        });
      }
      await makeFolder(own);
      await writeWhole(own, content, options);
      used.add(resolve(own));
      return own;
    },
  };
}

/** Decides on a name; true takes it. */
type Take = (path: string, isFree: boolean) => Promise<boolean>;

/** One place for every result: stdout, or what is no regular file. */
function single(path: string, extension: string): Output {
  return {
    folder: undefined,
    extension,
    keep: () => {},
    next: () => Promise.resolve(path),
    save: async (_, content) => {
      await saveBytes(path, content);
      return path;
    },
  };
}

/** The pattern with a file name where it is a folder. Throws `UsageError` for another extension. */
async function completed(
  pattern: string,
  { extension, otherExtensions = [], name }: OutputOptions,
): Promise<string> {
  if (pattern === "") throw new UsageError("Cannot write to an empty path: -o needs a file name");
  const kind = await exists(pattern);
  if (kind === "special") return pattern;
  const actual = extensionOf(pattern);
  if (/[\\/]$/.test(pattern) || kind === "folder" || actual === "") return join(pattern, name);
  const all = [extension, ...otherExtensions];
  if (!all.includes(actual)) {
    const names = all.join(", ").replace(/, ([^,]*)$/, " or $1");
    throw new UsageError(
      `Cannot write "${pattern}": the result is a ${names} file, so its name must end in ${names}`,
    );
  }
  return pattern;
}

function extensionOf(pattern: string): string {
  return extname(pattern.replaceAll(/\{\w*\}/g, "x")).toLowerCase();
}

const FIELDS = ["index", "seed", "prompt"] as const satisfies readonly (keyof Fields)[];

function checkPlaceholders(pattern: string, fields: readonly string[]): void {
  for (const [text, , field] of pattern.matchAll(PLACEHOLDER)) {
    if (field === undefined || fields.includes(field)) continue;
    const known = ["%d", ...fields.map((name) => `{${name}}`)];
    const last = known.pop();
    const others = known.length > 0 ? `${known.join(", ")} and ${last} do` : `${last} does`;
    throw new UsageError(`Cannot write to "${pattern}": ${text} means nothing, only ${others}`);
  }
}

/** The folder of a pattern, down to where it depends on the result. */
function folderOf(pattern: string): string {
  const folder = dirname(pattern);
  return DEPENDS.test(folder) ? folderOf(folder) : folder;
}

/** A part of a pattern that is known when a result is saved. */
const DEPENDS = /\{\w*\}|%(0\d+)?d/;

/** Makes a file's folder and tries it with an empty file, whose name is no other process's. Throws `FileError`. */
export async function tryFolder(path: string, dir = dirname(path)): Promise<void> {
  try {
    await Deno.mkdir(dir, { recursive: true });
    await Deno.remove(await Deno.makeTempFile({ dir, prefix: ".ldm-" }));
  } catch (error) {
    throw fileError("write", path, error);
  }
}

async function makeFolder(path: string): Promise<void> {
  try {
    await Deno.mkdir(dirname(path), { recursive: true });
  } catch (error) {
    throw fileError("write", path, error);
  }
}

/** Whether a file has these bytes. */
async function holds(path: string, content: Uint8Array): Promise<boolean> {
  try {
    const { size } = await Deno.stat(path);
    if (size !== content.length) return false;
    const bytes = await Deno.readFile(path);
    return bytes.every((byte, i) => byte === content[i]);
  } catch {
    return false;
  }
}

/** The nth name that a pattern gives a result. Without a counter in the pattern one is put before the extension. */
function nameOf(pattern: string, fields: Fields, n: number): string {
  if (/%(0\d+)?d/.test(pattern.replaceAll("%%", ""))) return expand(pattern, fields, n);
  const plain = expand(pattern, fields, 0);
  const end = extname(plain);
  return n === 0 ? plain : `${plain.slice(0, -end.length)}-${n}${end}`;
}

function expand(pattern: string, { index, seed, prompt }: Fields, counter: number): string {
  const values: Readonly<Record<string, string>> = {
    index: String(index),
    seed: seed === undefined ? "" : String(seed),
    prompt: fileNameOf(prompt ?? ""),
  };
  return pattern.replaceAll(PLACEHOLDER, (text, width: string | undefined, field?: string) => {
    if (text === "%%") return "%";
    if (field !== undefined) return values[field];
    return String(counter).padStart(Number(width ?? 0), "0");
  });
}

/** A prompt as a part of a file name on any system. */
function fileNameOf(prompt: string): string {
  const safe = prompt.normalize("NFC").replaceAll(/[^\p{L}\p{N}\p{M}._-]+/gu, "_");
  const head = [...safe.replace(/^[._]+/, "")].slice(0, PROMPT_LENGTH).join("");
  return head.replace(/[._]+$/, "") || "untitled";
}

async function exists(path: string): Promise<"file" | "folder" | "special" | undefined> {
  let info: Deno.FileInfo;
  try {
    info = await Deno.stat(path);
  } catch {
    // A broken link is in the way as well; what cannot be looked at will refuse to be written.
    return (await Deno.lstat(path).catch(() => undefined)) ? "file" : undefined;
  }
  return info.isFile ? "file" : info.isDirectory ? "folder" : "special";
}

/** The name that a result of a file has beside it: "photo.jpg" → "photo.safetensors". */
export function besides(path: string, extension: string): string {
  return basename(path, extname(path)) + extension;
}
