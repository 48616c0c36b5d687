/** What a benchmark found: tables for a person, the same as JSON for a program. */

import { availableParallelism } from "node:os";
import project from "../../../deno.json" with { type: "json" };
import type { Device } from "../../gpu/device.ts";

export type Cell = string | number | undefined;

/** Rows of one kind. Keys of a row are the columns, in the order of the first row that has them. */
export interface Section {
  readonly title: string;
  /** What a reader must know of the figures. */
  readonly notes: readonly string[];
  readonly rows: readonly Readonly<Record<string, Cell>>[];
}

/** What was measured, and when. */
export interface Facts {
  readonly device: string;
  readonly driver: string;
  readonly processor: string;
  readonly date: string;
  readonly version: string;
  readonly runtime: string;
}

export interface Report extends Facts {
  readonly sections: readonly Section[];
}

export function factsOf({ adapter }: Device): Facts {
  return {
    device: adapter.name,
    driver: adapter.driver,
    processor: `${availableParallelism()} × ${processor()}`,
    date: new Date().toISOString(),
    version: `ldm ${project.version}`,
    runtime: `Deno ${Deno.version.deno}`,
  };
}

/** The processor's name where the system tells it (Linux). */
function processor(): string {
  try {
    const text = Deno.readTextFileSync("/proc/cpuinfo");
    return /^model name\s*:\s*(.+)$/m.exec(text)?.[1] ?? Deno.build.arch;
  } catch {
    return Deno.build.arch;
  }
}

/** The report as Markdown. */
export function markdown({ sections, ...facts }: Report): string {
  return [headMarkdown(facts), ...sections.map(sectionMarkdown)].join("\n");
}

/** What stands before the sections. */
export function headMarkdown(facts: Facts): string {
  const { version, device, processor, driver, date } = facts;
  // the runtime is told with the driver, which it is a part of
  return `# ${version} on ${device}\n\n${date}, ${processor}, driver ${driver}\n`;
}

/** One section as Markdown. */
export function sectionMarkdown({ title, notes, rows }: Section): string {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const texts = [columns, ...rows.map((row) => columns.map((column) => spelled(row[column])))];
  const isNumber = columns.map((column) => rows.some((row) => typeof row[column] === "number"));
  const widths = columns.map((_, i) => Math.max(...texts.map((line) => line[i].length)));
  const lines = texts.map((line) =>
    `| ${
      line.map((text, i) => isNumber[i] ? text.padStart(widths[i]) : text.padEnd(widths[i]))
        .join(" | ")
    } |`
  );
  const rule = `| ${
    widths.map((width, i) => isNumber[i] ? `${"-".repeat(width - 1)}:` : "-".repeat(width))
      .join(" | ")
  } |`;
  const paragraphs = notes.map((note) => `${note}\n`).join("\n");
  return [`## ${title}\n`, lines[0], rule, ...lines.slice(1), "", paragraphs].join("\n");
}

/** Three digits of a number; counts as they are. */
function spelled(cell: Cell): string {
  if (typeof cell !== "number") return cell ?? "";
  if (!Number.isFinite(cell)) return "";
  if (Number.isInteger(cell)) return String(cell);
  if (cell !== 0 && Math.abs(cell) < 1e-3) return cell.toExponential(1);
  const text = cell.toPrecision(3);
  return text.includes("e") ? String(Math.round(cell)) : text;
}
