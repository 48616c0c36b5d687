/**
 * JSON that other programs wrote into pictures, read without trust: Python's NaN and Infinity are null, and whole numbers
 * that a double cannot hold, as ComfyUI's seeds are, keep every digit as a bigint.
 */

export type Json = null | boolean | number | bigint | string | readonly Json[] | JsonObject;
export interface JsonObject {
  readonly [name: string]: Json;
}

/** Strings, which are kept, or one of the three numbers that Python writes and JSON does not know. */
const STRING_OR_NUMBER = /"(?:\\.|[^"\\])*"|-?\bInfinity\b|\bNaN\b/g;

/** The value of a text; `undefined` where it is not JSON. */
export function parseJson(text: string): Json | undefined {
  const plain = text.replaceAll(STRING_OR_NUMBER, (part) => part.startsWith('"') ? part : "null");
  try {
    return JSON.parse(plain, wholeNumbers as (key: string, value: unknown) => unknown) as Json;
  } catch {
    return undefined; // also where it is nested too deeply
  }
}

function wholeNumbers(_: string, value: Json, { source }: { source?: string }): Json {
  const isUnsafe = typeof value === "number" && !Number.isSafeInteger(value);
  return isUnsafe && source !== undefined && /^-?\d+$/.test(source) ? BigInt(source) : value;
}

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A field of what may be an object; `undefined` where it has none of this name. */
export function fieldOf(value: Json | undefined, name: string): Json | undefined {
  return isObject(value) && Object.hasOwn(value, name) ? value[name] : undefined;
}

/** A field that is a text. */
export function textOf(value: Json | undefined, name: string): string | undefined {
  const field = fieldOf(value, name);
  return typeof field === "string" ? field : undefined;
}

/** A field that is a number, or a text that spells one. */
export function numberOf(value: Json | undefined, name: string): number | undefined {
  const field = fieldOf(value, name);
  if (typeof field === "number") return field;
  return typeof field === "string" ? parseNumber(field) : undefined;
}

/** A finite number from a text that is nothing else. */
export function parseNumber(text: string): number | undefined {
  const value = /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(text) ? Number(text) : NaN;
  return Number.isFinite(value) ? value : undefined;
}
