/**
 * Tuned tables as files: JSON that says what it was measured with, so that a table of another device, driver or version
 * is recognised, and which variant each operator and shape class should take.
 */

import { dirname } from "node:path";
import { FormatError } from "../base/errors.ts";
import { fileError, writeWhole } from "./files.ts";

/** What a table holds for. */
export interface TuningFor {
  /** The adapter's name. */
  readonly adapter: string;
  /** Its driver, as far as that is known. */
  readonly driver: string;
  /** A hash of the kernels. */
  readonly kernels: string;
}

export interface Tuning extends TuningFor {
  /** Operator and shape class → variant. */
  readonly choices: ReadonlyMap<string, string>;
}

const FORMAT = "ldm tuning 1";
/** A table of this size was not written by us. */
const MOST_BYTES = 2 ** 20;

/** The table of a file; `undefined` where there is no file. Throws `FileError` and `FormatError`. */
export async function readTuning(path: string): Promise<Tuning | undefined> {
  const text = await textOf(path);
  if (text === undefined) return undefined;
  const bad = (what: string) =>
    new FormatError(`Cannot use the tuned table "${path}": ${what}; \`ldm tune\` makes it anew`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(bad("it is not JSON").message, { cause });
  }
  if (!isRecord(json) || json.format !== FORMAT) throw bad(`it does not say "${FORMAT}"`);
  const { adapter, driver, kernels, choices } = json;
  if (typeof adapter !== "string" || typeof driver !== "string" || typeof kernels !== "string") {
    throw bad("adapter, driver or kernels is missing");
  }
  if (!isRecord(choices)) throw bad("it holds no choices");
  const rows = new Map<string, string>();
  for (const [shapeClass, name] of Object.entries(choices)) {
    if (typeof name !== "string") throw bad(`the choice for "${shapeClass}" is not a name`);
    rows.set(shapeClass, name);
  }
  return { adapter, driver, kernels, choices: rows };
}

async function textOf(path: string): Promise<string | undefined> {
  try {
    const { size, isFile } = await Deno.stat(path);
    if (!isFile || size > MOST_BYTES) {
      throw new FormatError(
        `Cannot use the tuned table "${path}": it is no file of at most ${MOST_BYTES} bytes`,
      );
    }
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error instanceof FormatError ? error : fileError("read", path, error);
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Writes a table, whole or not at all; makes its folder. Throws `FileError`. */
export async function writeTuning(path: string, tuning: Tuning): Promise<void> {
  const { adapter, driver, kernels, choices } = tuning;
  const rows = Object.fromEntries([...choices].sort(([a], [b]) => a < b ? -1 : 1));
  const json = { format: FORMAT, adapter, driver, kernels, choices: rows };
  await Deno.mkdir(dirname(path), { recursive: true }).catch((error) => {
    throw fileError("make the folder", dirname(path), error);
  });
  await writeWhole(path, new TextEncoder().encode(JSON.stringify(json, undefined, 2) + "\n"));
}

/** Why a table does not hold here, as half a sentence; `undefined` where it does. */
export function mismatch(tuning: TuningFor, here: TuningFor): string | undefined {
  const words = {
    adapter: "another adapter",
    driver: "another driver",
    kernels: "other versions of the kernels",
  } as const;
  for (const key of ["adapter", "driver", "kernels"] as const) {
    if (tuning[key] !== here[key]) return `it was measured with ${words[key]} (${tuning[key]})`;
  }
  return undefined;
}
