/** Where prompts come from: a file, read at once, or stdin, whose first lines need not wait for the last. */

import { fileError } from "../formats/files.ts";
import {
  decodePromptFile,
  isPromptTable,
  parsePromptFile,
  parsePromptLines,
  type PromptFile,
} from "../formats/prompt_file.ts";

/**
 * The requests of a prompt file, or of stdin for "-": of that, each time somebody asks, all whose lines are there. All of
 * it is waited for with `isWhole`, and where it is a table, whose rows may have several lines, or UTF-16. Throws `FileError`.
 */
export async function* promptsOf(
  source: string,
  isWhole: boolean,
): AsyncGenerator<PromptFile, void, undefined> {
  if (source !== "-") yield parsePromptFile(decodePromptFile(await readBytes(source)));
  else if (isWhole) {
    yield parsePromptFile(decodePromptFile(await new Response(Deno.stdin.readable).bytes()));
  } else yield* asTheyCome();
}

async function readBytes(path: string): Promise<Uint8Array> {
  return await Deno.readFile(path).catch((error) => {
    throw fileError("read", path, error);
  });
}

async function* asTheyCome(): AsyncGenerator<PromptFile, void, undefined> {
  let rest: Uint8Array = new Uint8Array();
  let line = 1;
  let areLines = false;
  for await (const bytes of Deno.stdin.readable) {
    rest = joined(rest, bytes);
    const end = rest.lastIndexOf(NEWLINE) + 1;
    if (end === 0 || UTF16_MARKS.has(rest[0])) continue;
    const text = decodePromptFile(rest.subarray(0, end));
    areLines ||= isPromptTable(text) === false;
    if (!areLines) continue;
    yield parsePromptLines(text, line);
    line += text.split(/\r\n|\n|\r/).length - 1;
    rest = rest.subarray(end);
  }
  const text = decodePromptFile(rest);
  yield areLines ? parsePromptLines(text, line) : parsePromptFile(text);
}

const NEWLINE = 10;
/** First bytes of UTF-16's marks, which begin no UTF-8. */
const UTF16_MARKS: ReadonlySet<number> = new Set([0xff, 0xfe]);

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(a.length + b.length);
  bytes.set(a);
  bytes.set(b, a.length);
  return bytes;
}
