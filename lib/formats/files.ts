/**
 * Whole files, written so that nobody ever sees half of one: the bytes go to a temporary file in
 * the same folder, are flushed to the disk, and take the name in one rename. What the operating
 * system refuses becomes a sentence.
 */
import { dirname, join } from "node:path";
import { FileError } from "../base/errors.ts";

/** What went wrong, by the operating system's error name, as the second half of a sentence. */
const CAUSES: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file or folder",
  ENOTDIR: "a part of the path is a file, not a folder",
  EISDIR: "it is a folder, a file was needed",
  EACCES: "permission was denied",
  EPERM: "the system does not permit it",
  EROFS: "the file system is read-only",
  ENOSPC: "the disk is full; free some space or choose another disk",
  EDQUOT: "the disk quota is used up; free some space or choose another disk",
  EFBIG: "the file system does not allow files of this size",
  ENAMETOOLONG: "the name is too long",
  EMFILE: "too many files are open",
  EIO: "the disk reports an input/output error",
  ELOOP: "its symbolic links form a loop",
};

/**
 * The operating system's error as a `FileError` "Cannot <doing> "<path>": <cause>"; other errors
 * come back as they are.
 */
export function fileError(doing: string, path: string, error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const code = "code" in error && typeof error.code === "string" ? error.code : undefined;
  if (code === undefined && !(error instanceof Deno.errors.NotCapable)) return error;
  const cause = (code !== undefined ? CAUSES[code] : undefined) ?? error.message;
  return new FileError(`Cannot ${doing} "${path}": ${cause}`, { cause: error });
}

/** Pieces of a file, in order. */
export type Chunks =
  | Uint8Array
  | Iterable<Uint8Array>
  | AsyncIterable<Uint8Array>;

/** How a file gets to its place. */
export interface WriteOptions {
  /** The name of the temporary file, for a process that alone uses it; one that nothing has where it is left out. */
  readonly temporary?: string;
}

/**
 * Writes a file whole or not at all, replacing what was there only when everything is on the disk.
 * A symbolic link is followed. What exists and is no regular file (a pipe, a device) is written
 * directly. Throws `FileError`; whatever `content` throws is passed on; in both cases the old file
 * stays and the temporary one is removed.
 */
export async function writeWhole(
  path: string,
  content: Chunks,
  options: WriteOptions = {},
): Promise<void> {
  const old = await Deno.stat(path).catch(() => undefined);
  if (old?.isDirectory) throw new FileError(`Cannot write "${path}": ${CAUSES.EISDIR}`);
  if (old && !old.isFile) {
    using file = await Deno.open(path, { write: true }).catch((e) => {
      throw fileError("write", path, e);
    });
    await writeAll(file, content, path);
    return;
  }
  const target = old ? await Deno.realPath(path) : path;
  await viaTemporary(path, target, content, options, async (temporary) => {
    if (old?.mode) await Deno.chmod(temporary, old.mode & 0o777);
    await Deno.rename(temporary, target);
  });
}

/**
 * Writes a file whole or not at all under a name that nothing has, also when others want it at the same time. False where
 * something has it: then nothing is changed. Throws as `writeWhole` does.
 */
export async function writeNew(
  path: string,
  content: Chunks,
  options: WriteOptions = {},
): Promise<boolean> {
  let isNew = false;
  await viaTemporary(path, path, content, options, async (temporary) => {
    isNew = await takeName(temporary, path);
  });
  return isNew;
}

/** Gives a file a name that nothing has, in place of its own; false where something has it. */
async function takeName(temporary: string, path: string): Promise<boolean> {
  try {
    await Deno.link(temporary, path);
    await Deno.remove(temporary);
    return true;
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) return await reserve(temporary, path);
    await Deno.remove(temporary);
    return false;
  }
}

/** As `takeName`, where the file system has no hard links: an empty file has the name for a moment. */
async function reserve(temporary: string, path: string): Promise<boolean> {
  try {
    (await Deno.open(path, { write: true, createNew: true })).close();
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
    await Deno.remove(temporary);
    return false;
  }
  await Deno.rename(temporary, path);
  return true;
}

/** Writes a temporary file beside `target` and lets `place` put it there. */
async function viaTemporary(
  path: string,
  target: string,
  content: Chunks,
  { temporary: name }: WriteOptions,
  place: (temporary: string) => Promise<void>,
): Promise<void> {
  const temporary = join(dirname(target), name ?? `.ldm-${crypto.randomUUID()}.tmp`);
  const mode = name === undefined ? { createNew: true } : { create: true, truncate: true };
  try {
    using file = await Deno.open(temporary, { write: true, ...mode }).catch((e) => {
      throw fileError("write", path, e);
    });
    try {
      await writeAll(file, content, path);
      await file.sync();
      await place(temporary);
    } catch (error) {
      throw fileError("write", path, error);
    }
  } catch (error) {
    await Deno.remove(temporary).catch(() => {});
    throw error;
  }
}

async function writeAll(file: Deno.FsFile, content: Chunks, path: string): Promise<void> {
  for await (const chunk of content instanceof Uint8Array ? [content] : content) {
    try {
      for (let at = 0; at < chunk.length;) at += await file.write(chunk.subarray(at));
    } catch (error) {
      throw fileError("write", path, error);
    }
  }
}
