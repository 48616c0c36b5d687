/**
 * Tables as text (RFC 4180), a row at a time: a row that cannot be read does not spoil the others. Cells are quoted with
 * double quotes, which are doubled inside; a quoted cell may run over several lines.
 */

import { parse } from "csv-parse/sync";

/** A row, or what is wrong with it. */
export type CsvRow =
  & {
    /** The line that it begins on, from 1. */
    readonly line: number;
  }
  & ({ readonly cells: readonly string[] } | { readonly fault: string });

/** The rows of a text's lines. Empty rows and rows that begin with # are left out. Never throws. */
export function parseCsv(lines: readonly string[], delimiter = ","): CsvRow[] {
  const rows: CsvRow[] = [];
  for (let i = 0; i < lines.length;) {
    const line = i + 1;
    const first = lines[i];
    if (/^\s*(#|$)/.test(first)) {
      i += 1;
      continue;
    }
    const count = linesOfRow(lines, i);
    i += count ?? 1;
    if (count === undefined) rows.push({ line, fault: "a quote is not closed" });
    else {rows.push({
        line,
        ...cellsOf(lines.slice(line - 1, line - 1 + count).join("\n"), delimiter),
      });}
  }
  return rows;
}

/** How many lines a row has: as many as close its quotes. `undefined` where none does. */
function linesOfRow(lines: readonly string[], from: number): number | undefined {
  let quotes = 0;
  for (let i = from; i < lines.length; i++) {
    quotes += lines[i].split('"').length - 1;
    if (quotes % 2 === 0) return i - from + 1;
  }
  return undefined;
}

function cellsOf(text: string, delimiter: string): { cells: string[] } | { fault: string } {
  try {
    const [cells = []] = parse(text, { delimiter });
    return { cells };
  } catch {
    return { fault: "a quote stands inside a cell that is not quoted, or after one that is" };
  }
}
