/** Folders that are there whole or not at all: made beside their place, and put there by one rename. */

import { basename, dirname, join, resolve } from "node:path";
import { FileError } from "../base/errors.ts";
import { fileError } from "./files.ts";

/**
 * Makes a folder in the place of `path`: `fill` writes into one beside it, which takes the name when that is done and is
 * removed where it fails. What had the name is removed then, so the caller must know that it may. Throws `FileError`, and
 * what `fill` throws.
 */
export async function writeFolder(
  path: string,
  fill: (folder: string) => Promise<void>,
): Promise<void> {
  const target = await Deno.realPath(path).catch(() => resolve(path));
  const beside = () => join(dirname(target), `.ldm-${crypto.randomUUID()}.tmp`);
  const [made, old] = [beside(), beside()];
  try {
    await Deno.mkdir(made, { recursive: true });
    await fill(made);
    const hadName = await Deno.rename(target, old).then(() => true, (error) => {
      if (error instanceof Deno.errors.NotFound) return false;
      throw error;
    });
    await Deno.rename(made, target).catch(async (error) => {
      if (hadName) await Deno.rename(old, target);
      throw error;
    });
    if (hadName) await Deno.remove(old, { recursive: true });
  } catch (error) {
    await Deno.remove(made, { recursive: true }).catch(() => {});
    const told = fileError("write", path, error);
    if (!(told instanceof FileError)) throw told;
    throw new FileError(told.message.replaceAll(made, path), { cause: error });
  }
}

/**
 * Makes sure that nothing is lost where a result takes the name `path`. Throws `FileError` where something has the name and
 * may not be replaced, or where a folder holds what `isOurs` does not know.
 */
export async function requirePlace(
  path: string,
  { form, overwrite, isOurs }: {
    readonly form: "file" | "folder";
    readonly overwrite: boolean;
    /** Whether a name in a folder is of something that may go with the folder. */
    readonly isOurs: (name: string) => boolean;
  },
): Promise<void> {
  const cannot = (what: string) => new FileError(`Cannot write "${path}": ${what}`);
  const info = await Deno.lstat(path).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw fileError("write", path, error);
  });
  if (!info) return;
  const old = await Deno.stat(path).catch(() => info);
  if (old.isDirectory !== (form === "folder")) {
    throw cannot(
      form === "file" ? "it is a folder, a file was needed" : "it is a file, a folder was needed",
    );
  }
  const names = old.isDirectory
    ? (await Array.fromAsync(Deno.readDir(path), ({ name }) => name)).sort()
    : [basename(path)];
  if (names.length === 0) return;
  if (!overwrite) throw cannot("it exists already; --overwrite replaces it");
  const strange = old.isDirectory ? names.find((name) => !isOurs(name)) : undefined;
  if (strange === undefined) return;
  throw cannot(
    `it holds "${strange}", which is no part of a checkpoint and would be lost; choose another folder`,
  );
}
