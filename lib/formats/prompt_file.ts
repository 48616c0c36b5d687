/**
 * Files of many prompts, in the forms that people have them in. Each line tells by itself what it is: a prompt (CompVis),
 * AUTOMATIC1111's "prompts from file" (`--prompt … --steps 20`), kohya's (`a fox --n blurry --s 20`), InvokeAI's dream
 * command (`"a fox" -s20`), or a JSON object with the names of AUTOMATIC1111's API. A header with a column "prompt" (or of
 * known settings, "class" or "boxes" among them) makes all of it CSV. What cannot be followed is refused with its line and reason: no line is half understood.
 */

import { counted } from "../base/counted.ts";
import { FormatError } from "../base/errors.ts";
import { parseCsv } from "../base/csv.ts";
import { type Asked, isHeader, itemOf } from "./prompt_fields.ts";
import { splitWords } from "./words.ts";

/** One request of a prompt file. */
export interface PromptItem extends Asked {
  /** From 1. */
  readonly line: number;
}

/** A line that cannot be followed, and why, as a phrase that can follow a colon. */
export interface BadLine {
  /** From 1. */
  readonly line: number;
  /** Why it cannot be followed. */
  readonly message: string;
}

/** What a prompt file asks for. */
export interface PromptFile {
  /** In the order of the lines. */
  readonly items: readonly PromptItem[];
  /** Lines that cannot be followed. */
  readonly bad: readonly BadLine[];
}

/** What a form makes of a line: a request, or several that differ in their seeds. Throws `FormatError`. */
type Form = (line: string) => readonly Asked[];

/** Forms of a line, by how it looks; the first that looks right has it. */
const FORMS: readonly { readonly looks: RegExp; readonly read: Form }[] = [
  { looks: /\0|\uFFFD/, read: refuse("it is not text in UTF-8") },
  {
    looks: /^(\[|\{|\[\s*\{\s*".*)$/,
    read: refuse(
      "it begins a JSON document of several lines; one object a line was needed, which `jq -c .[]` makes",
    ),
  },
  { looks: /^\{\s*("|\}$)/, read: json },
  { looks: /^--\w/, read: a1111 },
  { looks: /^"(?:[^"\\]|\\.)*"\s+--?[A-Za-z]/, read: dream },
  { looks: /\s--[A-Za-z]/, read: kohya },
  { looks: /(?:)/, read: (prompt) => [{ recipe: { prompt } }] },
];

/** Reads the text of a prompt file. Never throws: what cannot be followed is in `bad`. Comments begin with #. */
export function parsePromptFile(text: string): PromptFile {
  const lines = linesOf(text);
  const first = lines.findIndex((line) => !isEmpty(line));
  const header = first < 0 ? undefined : csvHeader(lines[first]);
  return header === undefined ? parseLines(lines, 1) : parseTable(lines, first, header);
}

/** The same of lines in the middle of a file, which are no table's; the first has the number `line`. */
export function parsePromptLines(text: string, line: number): PromptFile {
  return parseLines(linesOf(text), line);
}

/** Whether a file that begins so is a table; `undefined` where there are only comments so far. */
export function isPromptTable(beginning: string): boolean | undefined {
  const first = linesOf(beginning).find((line) => !isEmpty(line));
  return first === undefined ? undefined : csvHeader(first) !== undefined;
}

function linesOf(text: string): string[] {
  return text.replace(/^\uFEFF/, "").split(/\r\n|\n|\r/);
}

function isEmpty(line: string): boolean {
  return /^\s*(#|$)/.test(line);
}

function parseLines(lines: readonly string[], first: number): PromptFile {
  const items: PromptItem[] = [];
  const bad: BadLine[] = [];
  for (const [i, text] of lines.entries()) {
    if (isEmpty(text)) continue;
    const trimmed = text.trim();
    const form = FORMS.find(({ looks }) => looks.test(trimmed));
    try {
      for (const item of form?.read(trimmed) ?? []) items.push({ line: first + i, ...item });
    } catch (error) {
      bad.push(badLine(first + i, error));
    }
  }
  return { items, bad };
}

function badLine(line: number, error: unknown): BadLine {
  if (error instanceof FormatError) return { line, message: error.message };
  throw error;
}

function refuse(message: string): Form {
  return () => {
    throw new FormatError(message);
  };
}

/** One object with the names of AUTOMATIC1111's API, stable-diffusion.cpp's or ours. */
function json(line: string): ReturnType<Form> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new FormatError(
      `its JSON cannot be read: ${error instanceof Error ? error.message : ""}`,
    );
  }
  return [itemOf(flattened(value), "json")];
}

/** Objects in the object that only group fields. */
const GROUPS: ReadonlySet<string> = new Set(["override_settings", "sample_params", "guidance"]);

function flattened(value: unknown): [name: string, value: unknown][] {
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([name, inner]) =>
    GROUPS.has(name) && !Array.isArray(inner) ? flattened(inner) : [[name, inner]]
  );
}

/** Words of a prompt run on to the next option. */
function a1111(line: string): ReturnType<Form> {
  const fields: [string, string][] = [];
  for (const word of splitWords(line)) {
    const [, name, value = ""] = /^--([\w-]+)(?:=(.*))?$/s.exec(word) ?? [];
    const last = fields.at(-1);
    if (name !== undefined) fields.push([name, value]);
    else if (last) last[1] = last[1] === "" ? word : `${last[1]} ${word}`;
  }
  return [itemOf(fields, "a1111")];
}

/** "prompt --n negative --w 512"; several seeds are several requests. */
function kohya(line: string): ReturnType<Form> {
  const [prompt, ...parts] = line.split(/\s+--(?=[A-Za-z])/);
  const fields = parts.map((part): [string, string] => {
    const [, name, value] = /^(\S+)\s*(.*)$/s.exec(part) ?? [];
    return [name, value];
  });
  const seeds = fields.find(([name]) => name === "d")?.[1].split(",") ?? [];
  const settings = [["prompt", prompt] as const, ...fields];
  return seeds.length <= 1
    ? [itemOf(settings, "kohya")]
    : seeds.map((seed) => itemOf(settings.map(([n, v]) => [n, n === "d" ? seed : v]), "kohya"));
}

/** `"prompt [negative]" -n4 -H 512 --steps=20`. */
function dream(line: string): ReturnType<Form> {
  const [text, ...words] = splitWords(line);
  const negative = [...text.matchAll(/\[([^\]]*)\]/g)].map(([, words]) => words.trim()).join(" ");
  const prompt = text.replaceAll(/\s*\[[^\]]*\]/g, "").trim();
  const fields: [string, string][] = [];
  for (const word of words) {
    const long = /^--([\w-]+)(?:=(.*))?$/s.exec(word);
    const short = /^-([A-Za-z])=?(.*)$/s.exec(word);
    const [, name, value] = long ?? short ?? [];
    const last = fields.at(-1);
    if (name !== undefined) fields.push([name, value ?? ""]);
    else if (last && last[1] === "") last[1] = word;
    else throw new FormatError(`${JSON.stringify(word)} is no option`);
  }
  const negatives = negative === "" ? [] : [["negative", negative] as const];
  return [itemOf([["prompt", prompt], ...negatives, ...fields], "dream")];
}

/** The separators of tables. */
const SEPARATORS = [",", ";", "\t"];

/** The separator and the columns, where a line is the header of a table with a prompt in each row. */
function csvHeader(line: string): { separator: string; columns: string[] } | undefined {
  for (const separator of SEPARATORS) {
    const [row] = parseCsv([line], separator);
    const columns = "cells" in row ? row.cells.map((cell) => cell.trim()) : [];
    const areNames = columns.every((name) => /^#?[\w -]+$/.test(name));
    if (areNames && isHeader(columns)) return { separator, columns };
  }
  return undefined;
}

/** Rows below a header. Columns whose names begin with # are remarks. */
function parseTable(
  lines: readonly string[],
  first: number,
  { separator, columns }: { separator: string; columns: readonly string[] },
): PromptFile {
  const items: PromptItem[] = [];
  const bad: BadLine[] = [];
  for (const row of parseCsv(lines.slice(first + 1), separator)) {
    const line = first + 1 + row.line;
    try {
      if ("fault" in row) throw new FormatError(row.fault);
      const { cells } = row;
      if (/[\0\uFFFD]/.test(cells.join())) throw new FormatError("it is not text in UTF-8");
      if (cells.length !== columns.length) {
        throw new FormatError(
          `it has ${counted(cells.length, "cell")}, and the header ${columns.length}`,
        );
      }
      const fields = columns.map((name, i): [string, string] => [name, cells[i]])
        .filter(([name, cell]) => !name.startsWith("#") && cell.trim() !== "");
      items.push({ line, ...itemOf(fields, "json") });
    } catch (error) {
      bad.push(badLine(line, error));
    }
  }
  return { items, bad };
}

/** The text of a prompt file's bytes: UTF-8, or UTF-16 where a mark says so. Bytes that make no text become U+FFFD. */
export function decodePromptFile(bytes: Uint8Array): string {
  const [a, b] = bytes;
  const encoding = a === 0xff && b === 0xfe
    ? "utf-16le"
    : a === 0xfe && b === 0xff
    ? "utf-16be"
    : "utf-8";
  return new TextDecoder(encoding).decode(bytes);
}
