/** A line of words as a POSIX shell splits them, as Python's shlex does: quotes group, a backslash escapes. */

import { FormatError } from "../base/errors.ts";

/** One piece of a word: 'literal', "with \" and \\", \escaped, or plain. */
const PIECE = /'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^\s'"\\]+)/sy;

/** The words of a line. Throws `FormatError` where a quote is not closed. */
export function splitWords(line: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  for (let at = 0; at < line.length;) {
    if (/\s/.test(line[at])) {
      if (word !== undefined) words.push(word);
      word = undefined;
      at += 1;
      continue;
    }
    PIECE.lastIndex = at;
    const match = PIECE.exec(line);
    if (!match) throw new FormatError(`a quote is not closed: ${line.slice(at, at + 20)}`);
    const [piece, literal, quoted, escaped, plain] = match;
    word = (word ?? "") +
      (literal ?? quoted?.replaceAll(/\\(["\\])/g, "$1") ?? escaped ?? plain);
    at += piece.length;
  }
  if (word !== undefined) words.push(word);
  return words;
}
