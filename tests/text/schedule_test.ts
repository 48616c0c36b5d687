import assert from "node:assert/strict";
import { schedulePrompt } from "../../lib/text/schedule.ts";
import { CASES, STEPS } from "./prompts.ts";

const spans = (text: string, steps: number) =>
  schedulePrompt(text, steps).map(({ until, text }) => [until, text]);

Deno.test("schedulePrompt changes prompts when A1111's grammar does", () => {
  for (const { prompt, schedule } of CASES) {
    assert.deepEqual(spans(prompt, STEPS), schedule, JSON.stringify(prompt));
  }
});

Deno.test("schedulePrompt counts steps, or shares of them where the number has a point", () => {
  assert.deepEqual(spans("[a:b:8]", 20), [[8, "a"], [20, "b"]]);
  assert.deepEqual(spans("[a:b:0.4]", 20), [[8, "a"], [20, "b"]]);
  assert.deepEqual(spans("[a:b:1.0]", 20), [[20, "a"]]);
  assert.deepEqual(spans("[a:b:1]", 20), [[1, "a"], [20, "b"]]);
  assert.deepEqual(spans("[a:b:0.3]", 1), [[1, "b"]]);
  assert.deepEqual(spans("[a|b|c]", 4), [[1, "a"], [2, "b"], [3, "c"], [4, "a"]]);
});

Deno.test("schedulePrompt reads deeply nested and long prompts", () => {
  const deep = 20000;
  assert.deepEqual(spans("(".repeat(deep) + ")".repeat(deep), 3).length, 1);
  assert.deepEqual(spans("[".repeat(deep), 3), [[3, "[".repeat(deep)]]);
  assert.deepEqual(spans("[".repeat(deep) + "a" + ":b:1]".repeat(deep), 3), [[1, "a"], [3, "b"]]);
  assert.deepEqual(spans("[a|b]".repeat(2000), 2), [[1, "a".repeat(2000)], [2, "b".repeat(2000)]]);
});
