import assert from "node:assert/strict";
import { parseEmphasis, type Weighting } from "../../lib/text/emphasis.ts";
import { CASES } from "./prompts.ts";

const pairs = (text: string, weighting: Weighting) =>
  parseEmphasis(text, weighting).map((part) => part.map(({ text, weight }) => [text, weight]));

Deno.test("parseEmphasis weighs as A1111's parser does", () => {
  assert.ok(CASES.length >= 200);
  for (const { prompt, a1111 } of CASES) {
    assert.deepEqual(pairs(prompt, "a1111"), a1111, JSON.stringify(prompt));
  }
});

Deno.test("parseEmphasis weighs as ComfyUI's parser does", () => {
  for (const { prompt, comfy } of CASES) {
    assert.deepEqual(pairs(prompt, "comfy"), [comfy], JSON.stringify(prompt));
  }
});

Deno.test('parseEmphasis with "none" leaves a prompt alone', () => {
  for (const { prompt } of CASES) assert.deepEqual(pairs(prompt, "none"), [[[prompt, 1]]]);
});

Deno.test("parseEmphasis takes a number that is none for text, where A1111 fails", () => {
  assert.deepEqual(pairs("(a:1.2.3) b", "a1111"), [[["a:1.2.3", 1.1], [" b", 1]]]);
  assert.deepEqual(pairs("(a:.)", "a1111"), [[["a:.", 1.1]]]);
  assert.deepEqual(pairs("a:1.2.3)", "a1111"), [[["a:1.2.3)", 1]]]);
});

Deno.test("parseEmphasis reads numbers as Python does, but for those that are none", () => {
  const weight = (number: string) => parseEmphasis(`(a:${number})`, "comfy")[0][0].weight;
  const numbers = [" 1.5 ", "1e-1", "1_0.5", ".5", "5.", "-2", "+1", "٣", "１.５", "𝟘𝟙"];
  assert.deepEqual(numbers.map(weight), [1.5, 0.1, 10.5, 0.5, 5, -2, 1, 3, 1.5, 1]);
  for (const text of ["inf", "nan", "1_", "_1", "1__0", "", "1 2", "0x10", "1e"]) {
    assert.equal(weight(text), 1.1, text);
  }
});

Deno.test("parseEmphasis keeps weights finite, however they are nested", () => {
  const huge = "9".repeat(400);
  for (const prompt of [`(a:${huge})`, `((a:${huge}):${huge})`, `(((a:${huge}):-${huge}):0)`]) {
    for (const weighting of ["a1111", "comfy"] as const) {
      for (const { weight } of parseEmphasis(prompt, weighting)[0]) {
        assert.ok(Number.isFinite(Math.fround(weight)), prompt);
      }
    }
  }
});

Deno.test("parseEmphasis is quick with many brackets", () => {
  const many = "(".repeat(5000) + "a" + ")".repeat(5000);
  assert.equal(parseEmphasis(many, "comfy")[0].length, 1);
  assert.equal(parseEmphasis(many, "a1111")[0].length, 1);
  assert.equal(parseEmphasis("[".repeat(5000), "a1111").length, 1);
});
