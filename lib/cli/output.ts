/**
 * Where results go: a pattern of file names that never meets an existing file (unless asked to), a device or
 * pipe, or the bytes on stdout.
 */

import { basename, dirname, extname, join } from "node:path";
import { FileError, UsageError } from "../base/errors.ts";
import { fileError, writeWhole } from "../formats/files.ts";
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
  /** The path of the next result, or "-" for stdout; no other call returns it. Throws `FileError`. */
  next(fields: Fields): Promise<string>;
}

/** Writes a file whole, or to stdout where the path is "-". Throws `FileError`. */
export async function saveBytes(path: string, content: Uint8Array): Promise<void> {
  if (path === "-") await writeStdout(content);
  else await writeWhole(path, content);
}

export interface OutputOptions {
  /** What is written, with its dot: the only extension that a pattern may have. */
  readonly extension: string;
  /** The file name in a folder that is given without one. */
  readonly name: string;
  readonly overwrite: boolean;
}

/** Characters of a prompt that go into a file name. */
const PROMPT_LENGTH = 60;

const PLACEHOLDER = /%%|%(0\d+)?d|\{(\w*)\}/g;

/**
 * Checks a pattern, makes its folder and makes sure that files can be written there, so that nobody waits for a picture
 * that cannot be saved. Throws `UsageError` for a pattern that makes no sense, `FileError` for a folder that cannot be used.
 */
export async function openOutput(pattern: string, options: OutputOptions): Promise<Output> {
  if (pattern === "-") return { next: () => Promise.resolve("-") };
  const full = await completed(pattern, options);
  if (await exists(full) === "special") return { next: () => Promise.resolve(full) };
  checkPlaceholders(full);
  await prepareFolder(dirname(full), full);
  const used = new Set<string>();
  const isFree = async (path: string) => {
    if (used.has(path)) return false;
    const kind = await exists(path);
    if (kind === "folder") throw new FileError(`Cannot write "${path}": it is a folder`);
    return kind === undefined || options.overwrite;
  };
  return {
    async next(fields) {
      const path = await firstFree(full, fields, isFree);
      await prepareFolder(dirname(path), path);
      used.add(path);
      return path;
    },
  };
}

/** The pattern with a file name where it is a folder. Throws `UsageError` for another extension. */
async function completed(pattern: string, { extension, name }: OutputOptions): Promise<string> {
  if (pattern === "") throw new UsageError("Cannot write to an empty path: -o needs a file name");
  const kind = await exists(pattern);
  if (kind === "special") return pattern;
  const actual = extname(pattern.replaceAll(/\{\w*\}/g, "x")).toLowerCase();
  if (/[\\/]$/.test(pattern) || kind === "folder" || actual === "") return join(pattern, name);
  if (actual !== extension) {
    throw new UsageError(
      `Cannot write "${pattern}": the result is a ${extension} file, so its name must end in ${extension}`,
    );
  }
  return pattern;
}

function checkPlaceholders(pattern: string): void {
  for (const [text, , field] of pattern.matchAll(PLACEHOLDER)) {
    if (field === undefined || ["index", "seed", "prompt"].includes(field)) continue;
    throw new UsageError(
      `Cannot write to "${pattern}": ${text} means nothing, only %d, {index}, {seed} and {prompt} do`,
    );
  }
}

/** Makes a folder and tries it with an empty file. */
async function prepareFolder(folder: string, path: string): Promise<void> {
  if (/\{\w*\}|%(0\d+)?d/.test(folder)) return; // known when a picture is saved
  try {
    await Deno.mkdir(folder, { recursive: true });
    await Deno.remove(await Deno.makeTempFile({ dir: folder, prefix: ".ldm-" }));
  } catch (error) {
    throw fileError("write", path, error);
  }
}

/** The pattern's first name that nothing has. Without a counter in the pattern one is put before the extension. */
async function firstFree(
  pattern: string,
  fields: Fields,
  isFree: (path: string) => Promise<boolean>,
): Promise<string> {
  const counts = /%(0\d+)?d/.test(pattern.replaceAll("%%", ""));
  const plain = expand(pattern, fields, 0);
  const end = extname(plain);
  for (let n = 0;; n++) {
    const path = counts
      ? expand(pattern, fields, n)
      : n === 0
      ? plain
      : `${plain.slice(0, -end.length)}-${n}${end}`;
    if (await isFree(path)) return path;
  }
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
