/**
 * What Python takes for white space, words and numbers. The grammars of prompts are defined by programs in Python, whose
 * `\s`, `\w`, `\d` and `float` know other characters than JavaScript's.
 */

/** `\s` of Python's re: the separators U+001C to U+001F and U+0085 are in it, U+FEFF is not. For use in a RegExp. */
export const SPACE = String
  .raw`[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]`;
/** `\w`, without the brackets of a class; combining marks are not in it. */
const WORD = String.raw`\p{L}\p{N}_`;

const START = new RegExp(`^${SPACE}+`, "u");
const IS_SPACE = new RegExp(SPACE, "u");

/** `text.lstrip()` */
export function trimStart(text: string): string {
  return text.replace(START, "");
}

/** `text.rstrip()`. No expression is anchored at the end: it would try each run of spaces. */
export function trimEnd(text: string): string {
  let end = text.length;
  while (end > 0 && IS_SPACE.test(text[end - 1])) end--;
  return text.slice(0, end);
}

/** The text between occurrences of a word of its own: `re.split(r"\bWORD\b", text)`. */
export function splitAtWord(text: string, word: string): string[] {
  return text.split(new RegExp(`(?<![${WORD}])${word}(?![${WORD}])`, "u"));
}

/** Numbers beyond it are taken for it: weights are stored as f32, and stay finite. */
const LARGEST = 3.4028234663852886e38;

/** A number that f32 can hold. */
export function finite(value: number): number {
  return Math.max(-LARGEST, Math.min(LARGEST, value));
}

const DIGITS = String.raw`\d+(?:_\d+)*`;
const FLOAT = new RegExp(
  String.raw`^[+-]?(?:${DIGITS}(?:\.(?:${DIGITS})?)?|\.${DIGITS})(?:e[+-]?${DIGITS})?$`,
  "i",
);

/** `float(text)`: `undefined` where Python raises an error, and for "inf" and "nan", which are no weights. */
export function pythonFloat(text: string): number | undefined {
  const ascii = trimStart(trimEnd(text)).replaceAll(/\p{Nd}/gu, digitValue);
  return FLOAT.test(ascii) ? finite(Number(ascii.replaceAll("_", ""))) : undefined;
}

/** Unicode has its digits in runs of ten, in order, so that those before one tell its value. */
function digitValue(digit: string): string {
  const code = digit.codePointAt(0) ?? 0;
  let before = 0;
  while (/\p{Nd}/u.test(String.fromCodePoint(code - before - 1))) before++;
  return String(before % 10);
}
