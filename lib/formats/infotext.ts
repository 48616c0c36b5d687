/**
 * The text that AUTOMATIC1111's web UI writes into a picture under the key "parameters" and that most tools read:
 * the prompt, a line "Negative prompt: …", and one line of "Key: value" pairs. Written so that its own reader
 * (`modules/infotext_utils.py`) gives back every field, and read by that reader's rules.
 */

/** What a text-to-image picture was made with. Sampler and schedule are AUTOMATIC1111's labels. */
export interface Infotext {
  /** What to show; may have several lines. */
  readonly prompt: string;
  /** "" where there is none. */
  readonly negativePrompt: string;
  /**
   * In the order in which they are written; `undefined` leaves an entry out. Keys have two or more letters, digits, spaces,
   * hyphens and slashes.
   */
  readonly entries: Readonly<Record<string, string | number | undefined>>;
}

/** What a text says; values are as they were before they were quoted. */
export interface ReadInfotext {
  /** What to show. */
  readonly prompt: string;
  /** "" where there is none. */
  readonly negativePrompt: string;
  /** In the order in which they stand. */
  readonly entries: ReadonlyMap<string, string>;
}

/** Entries that hold a prompt exactly where the lines above do not. Only we write and read them. */
const EXACT = { prompt: "Exact prompt", negativePrompt: "Exact negative prompt" } as const;

/**
 * The text for the PNG key "parameters". The order of entries is the caller's; AUTOMATIC1111 begins with Steps. A prompt
 * that readers would not give back as it is (it holds a line "Negative prompt:", or spaces at the end of a line) is
 * written a second time, as an entry.
 */
export function writeInfotext({ prompt, negativePrompt, entries }: Infotext): string {
  const written = Object.entries(entries).flatMap(([key, value]) =>
    value === undefined ? [] : [`${key}: ${quote(String(value))}`]
  );
  const negative = negativePrompt === "" ? [] : [`Negative prompt: ${negativePrompt}`];
  const text = (pairs: readonly string[]) =>
    [prompt, ...negative, pairs.join(", ")].join("\n").trim();
  const read = readInfotext(text(written));
  const exact = [
    ...(read.prompt === prompt ? [] : [`${EXACT.prompt}: ${JSON.stringify(prompt)}`]),
    ...(read.negativePrompt === negativePrompt
      ? []
      : [`${EXACT.negativePrompt}: ${JSON.stringify(negativePrompt)}`]),
  ];
  return text([...written, ...exact]);
}

/** Readers cut values at commas and strip them, unless they are JSON strings. */
function quote(value: string): string {
  return /[,\n:]|^[\s"]|\s$/.test(value) ? JSON.stringify(value) : value;
}

/** With fewer pairs the last line is the prompt's. */
const LEAST_PAIRS = 3;

/**
 * Prompt, negative prompt and entries of a text by AUTOMATIC1111's rules; any text has a reading. An entry that comes
 * twice counts the second time, an empty one is none.
 */
export function readInfotext(text: string): ReadInfotext {
  const lines = text.trim().split("\n");
  let pairs = pairsOf(lines.at(-1) ?? "");
  if (pairs.length < LEAST_PAIRS) pairs = [];
  else lines.pop();
  const prompt: string[] = [];
  const negative: string[] = [];
  let into = prompt;
  for (const untrimmed of lines) {
    const line = untrimmed.trim();
    const isMark = line.startsWith(MARK);
    if (isMark) into = negative;
    // blank lines before the first words are dropped, as that reader does
    const words = isMark ? line.slice(MARK.length).trim() : line;
    if (words !== "" || into.length > 0) into.push(words);
  }
  const entries = new Map(
    pairs.filter(([, value]) => value !== "").map(([key, value]) => [key, unquote(value)]),
  );
  const taken = (key: string) => {
    const value = entries.get(key);
    entries.delete(key);
    return value;
  };
  // entries may name the prompts
  const inEntries = { prompt: taken("Prompt"), negativePrompt: taken("Negative prompt") };
  return {
    prompt: taken(EXACT.prompt) ?? (inEntries.prompt || prompt.join("\n")),
    negativePrompt: taken(EXACT.negativePrompt) ??
      (inEntries.negativePrompt || negative.join("\n")),
    entries,
  };
}
const MARK = "Negative prompt:";

/**
 * What that reader's expression `\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)` finds in a line, with Python's `\w`.
 * A key is the end of a run of its characters, so that a long line without a colon takes no longer than its length.
 */
function pairsOf(line: string): [key: string, value: string][] {
  const run = /[\p{L}\p{N}_ \-/]+/gu;
  const value = /\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)/uy;
  const pairs: [string, string][] = [];
  for (let found = run.exec(line); found; found = run.exec(line)) {
    const key = found[0].replace(/^[ \-/]+/, "");
    if (line[run.lastIndex] !== ":" || [...key].length < 2) continue;
    value.lastIndex = run.lastIndex + 1;
    pairs.push([key, value.exec(line)?.[1] ?? ""]);
    run.lastIndex = value.lastIndex;
  }
  return pairs;
}

function unquote(value: string): string {
  if (!value.startsWith('"') || !value.endsWith('"')) return value;
  try {
    const text: unknown = JSON.parse(value);
    return typeof text === "string" ? text : value;
  } catch {
    return value;
  }
}
