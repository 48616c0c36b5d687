/** Styles: named texts that are put around prompts, from a styles.csv as AUTOMATIC1111 writes it. */

import { parseCsv } from "../base/csv.ts";
import { FormatError, UsageError } from "../base/errors.ts";
import { trimEnd, trimStart } from "./python.ts";

/** What a style says: `{prompt}` in it stands for the prompt, else it follows after a comma. */
export interface Style {
  /** Around the prompt. */
  readonly prompt: string;
  /** Around the negative prompt. */
  readonly negativePrompt: string;
}

/**
 * The styles of a table with the columns name, prompt (text, in old files) and negative_prompt, by name; of two with one
 * name the later counts. Throws `FormatError`, which names the line; `where` says what is read.
 */
export function parseStyles(csv: string, where = "the styles"): Map<string, Style> {
  const [header, ...rows] = parseCsv(csv.replace(/^\ufeff/, "").split(/\r\n|\r|\n/));
  const titles = header && "cells" in header ? header.cells.map((title) => title.trim()) : [];
  const column = (...names: string[]) => titles.findIndex((title) => names.includes(title));
  const at = { name: column("name"), prompt: column("prompt", "text") };
  const negativeAt = column("negative_prompt");
  if (at.name < 0 || at.prompt < 0) {
    throw new FormatError(
      `Cannot read ${where}: the first row is ${JSON.stringify(titles.join(","))}, ` +
        '"name,prompt,negative_prompt" was needed',
    );
  }
  const styles = new Map<string, Style>();
  for (const row of rows) {
    if ("fault" in row) {
      throw new FormatError(`Cannot read ${where}: in line ${row.line} ${row.fault}`);
    }
    const cell = (index: number) => row.cells[index] ?? "";
    const [name, prompt, negativePrompt] = [at.name, at.prompt, negativeAt].map(cell);
    if (name !== "") styles.set(name, { prompt, negativePrompt });
  }
  return styles;
}

/** A prompt and its negative with styles applied, in order. Throws `UsageError` for a style that is not there. */
export function applyStyles<T extends Style>(
  prompts: T,
  names: readonly string[],
  styles: ReadonlyMap<string, Style>,
): T {
  return names.reduce((done, name) => {
    const style = styles.get(name);
    if (style === undefined) throw unknownStyle(name, styles);
    return {
      ...done,
      prompt: merged(style.prompt, done.prompt),
      negativePrompt: merged(style.negativePrompt, done.negativePrompt),
    };
  }, prompts);
}

function merged(style: string, prompt: string): string {
  if (style.includes("{prompt}")) return style.split("{prompt}").join(prompt);
  return [prompt, style].map((text) => trimStart(trimEnd(text))).filter((text) => text !== "")
    .join(", ");
}

function unknownStyle(name: string, styles: ReadonlyMap<string, Style>): UsageError {
  const known = [...styles.keys()].map((style) => JSON.stringify(style)).join(", ");
  return new UsageError(
    `Cannot use the style ${JSON.stringify(name)}: the file has ${
      known === "" ? "no styles" : known
    }`,
  );
}
