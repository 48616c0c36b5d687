/** What folders of models hold, read with sentences for what goes wrong. */

import { FormatError } from "../base/errors.ts";
import { fileError } from "./files.ts";

/** The remedy for a file that is not what it was. */
export const AGAIN = "download or copy it again";

/** Names in a folder, sorted. Throws `FileError`. */
export async function listFolder(path: string): Promise<string[]> {
  try {
    return (await Array.fromAsync(Deno.readDir(path), ({ name }) => name)).sort();
  } catch (error) {
    throw fileError("list the folder", path, error);
  }
}

/** Whether there is a file. */
export async function isFile(path: string): Promise<boolean> {
  return await Deno.stat(path).then((info) => info.isFile, () => false);
}

/** Throws `FileError`. */
export async function readText(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    throw fileError("read", path, error);
  }
}

/** Throws `FileError`, and `FormatError` for what is not JSON. */
export async function readJson(path: string): Promise<unknown> {
  const text = await readText(path);
  try {
    return JSON.parse(text);
  } catch {
    throw new FormatError(`Cannot read "${path}": it is not JSON; ${AGAIN}`);
  }
}

/** A field of what may be an object; `undefined` where it has none of this name. */
export function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null && Object.hasOwn(value, name)
    ? (value as Record<string, unknown>)[name]
    : undefined;
}
