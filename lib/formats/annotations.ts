/**
 * What a data set says of its pictures: Hugging Face's imagefolder files (`metadata.jsonl`, `metadata.csv`: `file_name`,
 * `text`, `label`, `objects`, `map`) and the `.json` of WebDataset samples, which holds the same but the name.
 */

import { counted } from "../base/counted.ts";
import { parseCsv } from "../base/csv.ts";
import { FormatError } from "../base/errors.ts";
import { type MarkedBox, markedBoxes } from "./boxes.ts";

/** Each is there where the data set has it. */
export interface Annotation {
  /** What the picture shows, in words. */
  readonly text?: string;
  /** The name or the number of its class. */
  readonly label?: string;
  readonly objects?: readonly MarkedBox[];
  /** A picture whose colours say what lies where; relative to the file that says it, with slashes. */
  readonly map?: string;
}

export interface AnnotatedFile extends Annotation {
  /** Relative to the file that says it; with slashes. */
  readonly file: string;
}

/** A record that cannot be used, and why, as a phrase that can follow a colon. */
export interface BadRecord {
  /** The line in the file, from 1. */
  readonly line: number;
  readonly message: string;
}

export interface Annotations {
  readonly files: readonly AnnotatedFile[];
  readonly bad: readonly BadRecord[];
}

type Fields = Readonly<Record<string, unknown>>;

/** Keys by which each thing goes, the first that is there counting. */
const KEYS = {
  file: ["file_name", "image", "file", "path"],
  text: ["text", "caption", "prompt"],
  label: ["label", "class", "cls"],
  map: ["map"],
} as const;

function isRecord(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The text or number under the first of some keys that is there; an empty one is none. */
function named(fields: Fields, keys: readonly string[]): string | undefined {
  for (const key of keys) {
    const value = fields[key];
    if (value === undefined || value === null) continue;
    if (typeof value !== "string" && typeof value !== "number") {
      throw new FormatError(`its ${key} is ${JSON.stringify(value).slice(0, 60)}, no text`);
    }
    return String(value).trim() || undefined;
  }
  return undefined;
}

/** The annotation in a JSON value. Throws `FormatError`, a phrase that can follow a colon. */
export function annotationOf(json: unknown): Annotation {
  if (!isRecord(json)) throw new FormatError("it is not a JSON object");
  const [text, label] = [named(json, KEYS.text), named(json, KEYS.label)];
  const map = named(json, KEYS.map);
  const { objects } = json;
  return {
    ...(text === undefined ? {} : { text: oneLine(text) }),
    ...(label === undefined ? {} : { label }),
    ...(map === undefined ? {} : { map: pathOf(map) }),
    ...(objects === undefined || objects === null ? {} : { objects: markedBoxes(objects) }),
  };
}

/** A path with slashes, from where it is said. */
function pathOf(file: string): string {
  return file.replaceAll("\\", "/").replace(/^(\.\/)+/, "");
}

/** A caption's lines as one. */
export function oneLine(text: string): string {
  return text.replace(/^\uFEFF/, "").trim().replaceAll(/\s*[\r\n]+\s*/g, " ");
}

/** Reads a `metadata.jsonl`: an object a line. Never throws: what cannot be used is in `bad`. */
export function parseJsonLines(text: string): Annotations {
  const lines = text.replace(/^\uFEFF/, "").split(/\r\n|\n|\r/);
  return collect(
    lines.flatMap((line, i) =>
      line.trim() === "" ? [] : [{ line: i + 1, fields: () => jsonOf(line, "it") }]
    ),
  );
}

/** Reads a `metadata.csv`, whose first row names the columns; a cell `objects` holds JSON. Never throws. */
export function parseCsvAnnotations(text: string): Annotations {
  const [header, ...rows] = parseCsv(text.replace(/^\uFEFF/, "").split(/\r\n|\n|\r/));
  const columns = header !== undefined && "cells" in header ? header.cells : [];
  return collect(rows.map((row) => ({
    line: row.line,
    fields: () => {
      if ("fault" in row) throw new FormatError(row.fault);
      if (row.cells.length !== columns.length) {
        throw new FormatError(
          `it has ${counted(row.cells.length, "cell")}, and the header ${columns.length}`,
        );
      }
      const cells = columns.map((name, i): [string, string] => [name.trim(), row.cells[i]]);
      return Object.fromEntries(
        cells.filter(([, cell]) => cell !== "").map(([name, cell]) => [
          name,
          name === "objects" ? jsonOf(cell, "the cell objects") : cell,
        ]),
      );
    },
  })));
}

function jsonOf(text: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new FormatError(`${what} is not JSON`);
  }
}

function collect(
  records: readonly { readonly line: number; readonly fields: () => unknown }[],
): Annotations {
  const files: AnnotatedFile[] = [];
  const bad: BadRecord[] = [];
  for (const { line, fields } of records) {
    try {
      const json = fields();
      const file = isRecord(json) ? named(json, KEYS.file) : undefined;
      if (file === undefined) throw new FormatError("it has no file_name");
      files.push({
        file: pathOf(file),
        ...annotationOf(json),
      });
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      bad.push({ line, message: error.message });
    }
  }
  return { files, bad };
}
