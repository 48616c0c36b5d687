import assert from "node:assert/strict";
import { composePrompt } from "../../lib/text/compose.ts";
import { CASES } from "./prompts.ts";

Deno.test("composePrompt parts and weighs prompts as A1111 does", () => {
  for (const { prompt, and } of CASES) {
    const parts = composePrompt(prompt).map(({ text, weight }) => [text, weight]);
    assert.deepEqual(parts, and, JSON.stringify(prompt));
  }
});

Deno.test("composePrompt is quick with much white space and many colons", () => {
  const blank = " ".repeat(100_000);
  assert.deepEqual(composePrompt(`a${blank}b`), [{ text: `a${blank}b`, weight: 1 }]);
  assert.equal(composePrompt(`a${": ".repeat(50_000)}2 AND b`).length, 2);
});
