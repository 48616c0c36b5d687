/** The program's mouth: results to stdout, where a failure matters; messages and progress to stderr, where it does not. */

import { FileError } from "../base/errors.ts";
import { fileError } from "../formats/files.ts";

const encoder = new TextEncoder();

/** All of `bytes` to stdout. Throws `FileError` when the reader is gone or the disk full. */
export async function writeStdout(bytes: Uint8Array): Promise<void> {
  try {
    for (let at = 0; at < bytes.length;) at += await Deno.stdout.write(bytes.subarray(at));
  } catch (error) {
    throw stdoutError(error);
  }
}

function stdoutError(error: unknown): unknown {
  if (error instanceof Deno.errors.BrokenPipe) {
    return new FileError("Cannot write to stdout: its reader has closed the pipe", {
      cause: error,
    });
  }
  return fileError("write to", "stdout", error);
}

/** Text to stdout at once, where nothing can be waited for. Throws `FileError`. */
export function writeStdoutSync(text: string): void {
  const bytes = encoder.encode(text);
  try {
    for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
  } catch (error) {
    throw stdoutError(error);
  }
}

/** One result on a line of its own. */
export function printLine(text: string): Promise<void> {
  return writeStdout(encoder.encode(text + "\n"));
}

/** One NDJSON event on stdout. */
export function printJson(event: Readonly<Record<string, unknown>>): Promise<void> {
  return printLine(JSON.stringify(event));
}

/** As `printJson`, at once. */
export function printJsonSync(event: Readonly<Record<string, unknown>>): void {
  writeStdoutSync(JSON.stringify(event) + "\n");
}

/** Text to stderr as it is. Nobody can be told that stderr fails. */
export function writeStderr(text: string): void {
  const bytes = encoder.encode(text);
  try {
    for (let at = 0; at < bytes.length;) at += Deno.stderr.writeSync(bytes.subarray(at));
  } catch { /* closed or full */ }
}
