import assert from "node:assert/strict";
import { pythonFloat, SPACE, splitAtWord, trimEnd, trimStart } from "../../lib/text/python.ts";

Deno.test("SPACE is what Python's \\s is", () => {
  const pattern = new RegExp(SPACE, "u");
  const found = Array.from({ length: 0x10000 }, (_, code) => code)
    .filter((code) => pattern.test(String.fromCharCode(code)));
  const from = (first: number, last: number) =>
    Array.from({ length: last - first + 1 }, (_, i) => first + i);
  assert.deepEqual(found, [
    ...from(0x9, 0xd),
    ...from(0x1c, 0x20),
    ...[0x85, 0xa0, 0x1680],
    ...from(0x2000, 0x200a),
    ...[0x2028, 0x2029, 0x202f, 0x205f, 0x3000],
  ]);
  assert.equal(trimEnd(trimStart("\x1c\u3000a b\x85\n")), "a b");
  assert.equal(trimEnd(trimStart("\ufeffa")), "\ufeffa");
});

Deno.test("splitAtWord knows letters and digits of every writing, but no marks", () => {
  assert.deepEqual(splitAtWord("AND a ANDb AND", "AND"), ["", " a ANDb ", ""]);
  assert.deepEqual(splitAtWord("猫AND犬 1AND _AND ½AND", "AND"), ["猫AND犬 1AND _AND ½AND"]);
  assert.deepEqual(splitAtWord("\u0301AND🦊", "AND"), ["\u0301", "🦊"]);
});

Deno.test("pythonFloat is float(), and undefined where that raises an error or gives no number", () => {
  const numbers = { "1": 1, " -1.5e1\n": -15, "1_0": 10, ".5": 0.5, "५": 5, "+0": 0 };
  for (const [text, value] of Object.entries(numbers)) assert.equal(pythonFloat(text), value);
  for (const text of ["", "a", "inf", "NaN", "0x1", "1.2.3", "1 2", "½", "."]) {
    assert.equal(pythonFloat(text), undefined, text);
  }
  assert.equal(pythonFloat("1e999"), 3.4028234663852886e38);
});
