import { deepEqual } from "node:assert/strict";
import { parseCsv } from "../../lib/base/csv.ts";

Deno.test("parseCsv reads quoted cells that hold quotes, commas and lines", () => {
  const text = 'a, b ,"c, ""d"""\n\n# a remark, with a comma\n"two\nlines",,x';
  deepEqual(parseCsv(text.split("\n")), [
    { line: 1, cells: ["a", " b ", 'c, "d"'] },
    { line: 4, cells: ["two\nlines", "", "x"] },
  ]);
  deepEqual(parseCsv(["a;b,c"], ";"), [{ line: 1, cells: ["a", "b,c"] }]);
});

Deno.test("parseCsv goes on after a row that it cannot read", () => {
  const rows = parseCsv(['"never,closed', "a,b", '"x"y,z', "c,d"]);
  deepEqual(rows.map((row) => [row.line, "cells" in row]), [
    [1, false],
    [2, true],
    [3, false],
    [4, true],
  ]);
});
