/** Files made for tests. */

import assert from "node:assert/strict";
import { type FileDType, writeSafetensors } from "../../lib/formats/safetensors.ts";

/** A safetensors file, byte by byte: any text as header, any number of bytes after it. */
export function rawFile(header: string | Uint8Array, dataBytes = 0, length?: bigint): Uint8Array {
  const json = typeof header === "string" ? new TextEncoder().encode(header) : header;
  const file = new Uint8Array(8 + json.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, length ?? BigInt(json.length), true);
  file.set(json, 8);
  return file;
}

/** Writes tensors whose elements count up from 0 within each, modulo 97, in the given type. */
export async function writeCounting(
  path: string,
  shapes: Readonly<Record<string, readonly number[]>>,
  dtype: "F32" | "F16" = "F32",
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const tensors = Object.entries(shapes).map(([name, shape]) => {
    const values = counting(shape, name.length);
    const typed = dtype === "F16" ? new Float16Array(values) : values;
    return { name, dtype: dtype as FileDType, shape, data: new Uint8Array(typed.buffer) };
  });
  await writeSafetensors(path, tensors, metadata);
}

export function counting(shape: readonly number[], from = 0): Float32Array<ArrayBuffer> {
  const size = shape.reduce((product, n) => product * n, 1);
  return Float32Array.from({ length: size }, (_, i) => (from + i) % 97);
}

/**
 * Runs with renaming forbidden. Whoever writes to a device in a test does it in here: were a mistake to
 * rename a file over it, a test run as root would take the device from the whole machine.
 */
export async function withoutRenaming<T>(run: () => Promise<T>): Promise<T> {
  const rename = Deno.rename;
  Deno.rename = (_, to) => Promise.reject(new Error(`a file was to be renamed to "${to}"`));
  try {
    return await run();
  } finally {
    Deno.rename = rename;
  }
}

/** The error of a promise that must fail with this class; its message is one line that ends without a stop. */
export async function failure(
  promise: Promise<unknown>,
  kind: "FormatError" | "FileError" | "UsageError",
): Promise<string> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof Error);
    assert.equal(error.name, kind, `${error.stack}`);
    assert.match(error.message, /^Cannot [^\n]*[^.\n]$/);
    return error.message;
  }
  assert.fail(`nothing failed, a ${kind} was expected`);
}

/** Whole numbers below 2³¹ that are the same in every run (Lehmer's generator). */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => state = state * 48271 % 0x7fffffff;
}

export function pick<T>(random: () => number, from: readonly T[]): T {
  return from[random() % from.length];
}
