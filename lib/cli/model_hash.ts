/** The hash by which AUTOMATIC1111 and the sites around it know a checkpoint. */

import { createHash } from "node:crypto";
import { fileError } from "../formats/files.ts";

/** Bytes that are read at a time. */
const PIECE = 1 << 22;

/**
 * The first ten hexadecimal digits of the SHA-256 of a file; `undefined` for a folder, which has none. Reads all of it: some
 * seconds for a checkpoint. Throws `FileError`.
 */
export async function hashOf(path: string): Promise<string | undefined> {
  const hash = createHash("sha256");
  try {
    if ((await Deno.stat(path)).isDirectory) return undefined;
    using file = await Deno.open(path);
    const piece = new Uint8Array(PIECE);
    for (let n = await file.read(piece); n !== null; n = await file.read(piece)) {
      hash.update(piece.subarray(0, n));
    }
  } catch (error) {
    throw fileError("read the checkpoint", path, error);
  }
  return hash.digest("hex").slice(0, 10);
}
