/** How reports of files are laid out as text: columns, headings, and what is cut short. --json gives all of it. */

/** What a command tells of something, in both forms. */
export interface Report {
  readonly json: Readonly<Record<string, unknown>>;
  readonly text: string;
}

/** Indented rows with their columns aligned: the first and the last to the left, those between to the right. */
export function aligned(rows: readonly (readonly string[])[]): string[] {
  const columns = Math.max(...rows.map((row) => row.length));
  const widths = Array.from(
    { length: columns },
    (_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)),
  );
  const cell = (text: string, i: number) =>
    i === 0 || i === columns - 1 ? text.padEnd(widths[i]) : text.padStart(widths[i]);
  return rows.map((row) => `  ${row.map(cell).join("  ").trimEnd()}`);
}

/** "859.5 M", "83.7 k". */
export function count(n: number): string {
  if (n < 1000) return String(n);
  const [value, unit] = n < 1e6 ? [n / 1e3, "k"] : n < 1e9 ? [n / 1e6, "M"] : [n / 1e9, "G"];
  return `${value.toPrecision(4)} ${unit}`;
}

/** How often each value comes, in the order of the first. */
export function tally(values: Iterable<string>): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
}

/** "F16", or "F16 (3), F32 (1)". */
export function tallied(counts: Readonly<Record<string, number>>): string {
  const entries = Object.entries(counts);
  return entries.map(([name, n]) => entries.length > 1 ? `${name} (${n})` : name).join(", ");
}

/** The beginning of a long text. */
export function shortened(text: string): string {
  return text.length > 160 ? `${text.slice(0, 160)}… (${text.length} characters)` : text;
}

/** The first names of many. */
export function listed(names: readonly string[]): string {
  return names.length > 20 ? `${names.slice(0, 20).join(", ")}, …` : names.join(", ");
}

/** Names under a heading, the first where there are more than `most`; nothing where there are none. */
export function named(heading: string, names: readonly string[], most = Infinity): string[] {
  if (names.length === 0) return [];
  const shown = names.slice(0, most).map((name) => `  ${name}`);
  return [`${heading} (${names.length}):`, ...shown, ...(names.length > most ? ["  …"] : [])];
}
