import { deepEqual, throws } from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import { splitWords } from "../../lib/formats/words.ts";

Deno.test("splitWords splits as Python's shlex does", () => {
  // each pair is what shlex.split of Python 3.11 gives
  const cases: readonly (readonly [string, readonly string[]])[] = [
    ["", []],
    ["  a  b\tc ", ["a", "b", "c"]],
    [`"a b" 'c d'`, ["a b", "c d"]],
    [`a"b c"d'e f'g`, ["ab cde fg"]],
    [`"" ''`, ["", ""]],
    [String.raw`a\ b \"c\" \\`, ["a b", '"c"', "\\"]],
    [String.raw`"a\"b\\c\d"`, [String.raw`a"b\c\d`]],
    [String.raw`'a\b'`, [String.raw`a\b`]],
    [`"it's" fine`, ["it's", "fine"]],
    ["狐 'é è'", ["狐", "é è"]],
  ];
  for (const [line, words] of cases) deepEqual(splitWords(line), words, line);
});

Deno.test("splitWords refuses a quote that is not closed", () => {
  for (const line of ["a cat's hat", '"a', "a\\"]) throws(() => splitWords(line), FormatError);
});
