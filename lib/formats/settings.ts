/**
 * Settings in sections, described by a table: read from TOML or JSON and from words such as `optimizer.lr=1e-4`, each value
 * checked where it is read, and written back whole as TOML. A value's type follows from its row in the table.
 */

import { parse, stringify, TomlError } from "smol-toml";
import { FormatError, UsageError } from "../base/errors.ts";
import { nearestOf } from "../base/nearest.ts";
import { fileError } from "./files.ts";

/** A row of the table. */
export interface Field<T> {
  /** What it is for and in which unit: a line in the file that is written. */
  readonly about: string;
  readonly fallback: T;
  /** What is accepted, as it follows "… was needed". */
  readonly needed: string;
  /** Whether there must be a value. */
  readonly isRequired?: boolean;
  /** A value of a file; undefined where it is not acceptable. */
  read(value: unknown): T | undefined;
  /** The value that a word stands for, for `read` to check. */
  fromWord(word: string): unknown;
}

export type Section = Readonly<Record<string, Field<unknown>>>;
export type Schema = Readonly<Record<string, Section>>;

/** Section → key → value. */
export type Settings<S extends Schema> = {
  readonly [Name in keyof S]: {
    readonly [Key in keyof S[Name]]: S[Name][Key] extends Field<infer T> ? T : never;
  };
};

/** Values from one place. */
export interface Source {
  /** How an error names it: `"train.toml"`, `--set lr=3`. */
  readonly name: string;
  /** Whether it was typed on the command line, which makes its errors `UsageError`s. */
  readonly isTyped: boolean;
  readonly values: Readonly<Record<string, unknown>>;
}

type Words = Readonly<Record<string, unknown>>;

function isTable(value: unknown): value is Words {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// ---- kinds of values

export interface Range {
  readonly least?: number;
  readonly most?: number;
  /** Below this, and not it. */
  readonly below?: number;
  /** Above this, and not it. */
  readonly above?: number;
}

function isWithin(n: number, { least, most, below, above }: Range): boolean {
  return Number.isFinite(n) && n >= (least ?? -Infinity) && n <= (most ?? Infinity) &&
    n < (below ?? Infinity) && n > (above ?? -Infinity);
}

function describe(kind: string, { least, most, below, above }: Range): string {
  const parts = [
    least === undefined ? [] : [`of at least ${least}`],
    above === undefined ? [] : [`above ${above}`],
    most === undefined ? [] : [`at most ${most}`],
    below === undefined ? [] : [`below ${below}`],
  ].flat();
  return parts.length === 0 ? kind : `${kind} ${parts.join(" and ")}`;
}

function numberOf(word: string): unknown {
  return /\S/.test(word) && !Number.isNaN(Number(word)) ? Number(word) : word;
}

/** A number in a range. */
export function number(fallback: number, range: Range, about: string): Field<number> {
  return {
    about,
    fallback,
    needed: describe("a number", range),
    read: (value) => typeof value === "number" && isWithin(value, range) ? value : undefined,
    fromWord: numberOf,
  };
}

/** A whole number in a range. */
export function whole(fallback: number, range: Range, about: string): Field<number> {
  return {
    ...number(fallback, range, about),
    needed: describe("a whole number", range),
    read: (value) =>
      typeof value === "number" && Number.isSafeInteger(value) && isWithin(value, range)
        ? value
        : undefined,
  };
}

/** True or false. */
export function flag(fallback: boolean, about: string): Field<boolean> {
  const words = new Map<string, boolean>([["true", true], ["false", false]]);
  return {
    about,
    fallback,
    needed: "true or false",
    read: (value) => typeof value === "boolean" ? value : undefined,
    fromWord: (word) => words.get(word.toLowerCase()) ?? word,
  };
}

/** A text. Where it is required, an empty one is none. */
export function text(fallback: string, about: string): Field<string> {
  return {
    about,
    fallback,
    needed: "a text",
    read: (value) => typeof value === "string" ? value : undefined,
    fromWord: (word) => word,
  };
}

export function requiredText(about: string): Field<string> {
  return { ...text("", about), isRequired: true };
}

/** One of some words or numbers. */
export function choice<const T extends string | number>(
  choices: readonly T[],
  fallback: NoInfer<T>,
  about: string,
): Field<T> {
  return {
    about,
    fallback,
    needed: `one of ${choices.join(", ")}`,
    read: (value) => choices.find((choice) => choice === value),
    fromWord: (word) => choices.find((choice) => String(choice) === word) ?? word,
  };
}

/** A list, or one value for a list of one. */
export function list<T>(
  item: Field<T>,
  fallback: readonly T[],
  about: string,
  count?: number,
): Field<readonly T[]> {
  const many = count === undefined ? "a list" : `a list of ${count}`;
  return {
    about,
    fallback,
    needed: `${many}, each ${item.needed}`,
    read(value) {
      const values = (Array.isArray(value) ? value : [value]).map((one) => item.read(one));
      const good = values.filter((one) => one !== undefined);
      return good.length === values.length && (count ?? good.length) === good.length
        ? good
        : undefined;
    },
    fromWord(word) {
      const inner = word.trim().replace(/^\[(.*)\]$/s, "$1");
      if (inner.trim() === "") return [];
      return inner.split(",").map((one) => item.fromWord(one.trim().replace(/^"(.*)"$/s, "$1")));
    },
  };
}

// ---- reading

/** What a TOML or JSON file says. Throws `FileError` and `FormatError`. */
export async function readSettingsFile(path: string): Promise<Source> {
  const text = await Deno.readTextFile(path).catch((error) => {
    throw fileError("read the settings", path, error);
  });
  return parseSettings(text, `"${path}"`);
}

/** What a TOML or JSON text says. Throws `FormatError` that names the line. */
export function parseSettings(text: string, name: string): Source {
  const plain = text.replace(/^\uFEFF/, "");
  const isJson = /^\s*\{/.test(plain);
  let values: unknown;
  try {
    values = isJson ? JSON.parse(plain) : parse(plain);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    const line = error instanceof TomlError ? `line ${error.line}: ` : "";
    const [what] = error.message.replace(/^Invalid TOML document: /, "").split("\n");
    throw new FormatError(
      `Cannot read ${name}: it is not ${isJson ? "JSON" : "TOML"} (${line}${what})`,
    );
  }
  return { name, isTyped: false, values: isTable(values) ? values : {} };
}

/**
 * What a word says: `section.key=value`, or `key=value` where only one section has the key. `option` is what it was typed
 * after. Throws `UsageError`.
 */
export function parseSetting(schema: Schema, word: string, option = "--set"): Source {
  const name = `${option} ${word}`;
  const fail = (what: string) => new UsageError(`Cannot use ${name}: ${what}`);
  const [, path, value] = /^([^=]+)=(.*)$/s.exec(word) ?? [];
  if (path === undefined) {
    throw fail("section.key=value was needed, such as optimizer.lr=1e-4");
  }
  const { section, key } = locate(schema, path.trim(), fail);
  return {
    name,
    isTyped: true,
    values: { [section]: { [key]: schema[section][key].fromWord(value) } },
  };
}

function locate(schema: Schema, path: string, fail: (what: string) => Error) {
  const dot = path.lastIndexOf(".");
  if (dot >= 0) {
    const [section, key] = [path.slice(0, dot), path.slice(dot + 1)];
    if (Object.hasOwn(schema, section) && Object.hasOwn(schema[section], key)) {
      return { section, key };
    }
    throw fail(`there is no ${path}${meant(path, pathsOf(schema))}`);
  }
  const sections = Object.keys(schema).filter((name) => Object.hasOwn(schema[name], path));
  if (sections.length === 1) return { section: sections[0], key: path };
  throw fail(
    sections.length === 0
      ? `there is no ${path}${meant(path, Object.values(schema).flatMap(Object.keys))}`
      : `${path} is in several sections: ${sections.map((name) => `${name}.${path}`).join(", ")}`,
  );
}

function pathsOf(schema: Schema): string[] {
  return Object.entries(schema).flatMap(([section, fields]) =>
    Object.keys(fields).map((key) => `${section}.${key}`)
  );
}

function meant(name: string, names: Iterable<string>): string {
  const nearest = nearestOf(name, names);
  return nearest === undefined ? "" : `; did you mean ${nearest}?`;
}

/**
 * The settings that some sources make, later ones before earlier ones, what none says as the table has it. Throws
 * `FormatError` (`UsageError` for what was typed) for a name that there is not, a value that is not acceptable, and one
 * that is missing.
 */
export function readSettings<S extends Schema>(
  schema: S,
  sources: readonly Source[],
): Settings<S> {
  const found = new Map<string, unknown>();
  for (const source of sources) {
    for (const [path, value] of valuesOf(schema, source)) found.set(path, value);
  }
  const sections = Object.entries(schema).map(([section, fields]) => {
    const values = Object.entries(fields).map(([key, field]) => {
      const value = found.get(`${section}.${key}`) ?? field.fallback;
      if (field.isRequired && value === field.fallback) throw missing(section, key, field, sources);
      return [key, value];
    });
    return [section, Object.fromEntries(values)];
  });
  return Object.fromEntries(sections) as Settings<S>;
}

function missing(
  section: string,
  key: string,
  { about }: Field<unknown>,
  sources: readonly Source[],
): Error {
  const [first] = sources;
  const message = `${section}.${key} is missing (${about}); add it, or --set ${section}.${key}=…`;
  return first === undefined || first.isTyped
    ? new UsageError(`Cannot train: ${message}`)
    : new FormatError(`Cannot use ${first.name}: ${message}`);
}

function* valuesOf(schema: Schema, source: Source): Generator<[path: string, value: unknown]> {
  const fail = (what: string) => {
    const message = `Cannot use ${source.name}: ${what}`;
    return source.isTyped ? new UsageError(message) : new FormatError(message);
  };
  for (const [section, values] of Object.entries(source.values)) {
    if (!isTable(values)) throw fail(strayKey(schema, section));
    if (!Object.hasOwn(schema, section)) {
      throw fail(`there is no section [${section}]${meant(section, Object.keys(schema))}`);
    }
    const fields = schema[section];
    for (const [key, value] of Object.entries(values)) {
      if (!Object.hasOwn(fields, key)) {
        throw fail(`there is no ${section}.${key}${meant(key, Object.keys(fields))}`);
      }
      const field = fields[key];
      const read = field.read(value);
      if (read === undefined) {
        const shown = (JSON.stringify(value) ?? String(value)).slice(0, 60);
        throw fail(`${section}.${key} is ${shown}, and ${field.needed} was needed`);
      }
      yield [`${section}.${key}`, read];
    }
  }
}

/** What is wrong with a value outside of all sections. */
function strayKey(schema: Schema, key: string): string {
  const home = Object.keys(schema).find((section) => Object.hasOwn(schema[section], key));
  if (home !== undefined) return `${key} stands outside of its section [${home}]`;
  if (Object.hasOwn(schema, key)) return `${key} is no section, and [${key}] was needed`;
  return `there is no section of ${key}${meant(key, Object.values(schema).flatMap(Object.keys))}`;
}

/** Settings that are not as the table has them, by section.key. */
export function changedSettings<S extends Schema>(
  schema: S,
  settings: Settings<S>,
): ReadonlyMap<string, unknown> {
  const changed = new Map<string, unknown>();
  for (const [section, fields] of Object.entries(schema)) {
    const values: Words = settings[section];
    for (const [key, { fallback }] of Object.entries(fields)) {
      const isUsual = JSON.stringify(values[key]) === JSON.stringify(fallback);
      if (!isUsual) changed.set(`${section}.${key}`, values[key]);
    }
  }
  return changed;
}

/** Settings as TOML, every one with what it is for; reading it gives the same settings. */
export function printSettings<S extends Schema>(schema: S, settings: Settings<S>): string {
  return Object.entries(schema).map(([section, fields]) => {
    const values: Words = settings[section];
    const lines = Object.entries(fields).map(([key, { about }]) =>
      `${stringify({ [key]: values[key] }).trimEnd()} # ${about}`
    );
    return `[${section}]\n${lines.join("\n")}\n`;
  }).join("\n");
}
