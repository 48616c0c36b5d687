import assert from "node:assert/strict";
import { UsageError } from "../../lib/base/errors.ts";
import { composePrompt } from "../../lib/text/compose.ts";
import { drawsOf, resolveDynamic } from "../../lib/text/dynamic.ts";
import { chunkPrompt, parseEmphasis, type PromptChunk } from "../../lib/text/prompt.ts";
import { schedulePrompt } from "../../lib/text/schedule.ts";
import { clipTokenizer } from "../../lib/text/tokenizer.ts";

const SIGNS = ["(", ")", "[", "]", "{", "}", ":", "|", "\\", "$$", "${", "%{", "__", "=", "!", ","];
const WORDS = ["a", "cat", " ", "  ", "\n", "猫", "🦊", "é", "\ud83e", "\0", "x=", "*", ".."];
const NUMBERS = ["1", "0.5", "-3", "1e9", "2-3", "9".repeat(50), ".", "1.2.3", "٣"];
const PHRASES = [
  " AND ",
  " BREAK ",
  "[a:b:3]",
  "(c:1.2)",
  "[d|e]",
  "{f|g}",
  "__h__",
  "embedding:i",
];
const ATOMS = [...SIGNS, ...SIGNS, ...WORDS, ...NUMBERS, ...PHRASES];

/** 2,000 texts of signs and words in any order; every tenth is long. */
function* texts(): Generator<string> {
  const draw = drawsOf(11);
  const atom = () => ATOMS[Math.floor(draw() * ATOMS.length)];
  for (let i = 0; i < 2000; i++) {
    const length = i % 10 === 0 ? 200 : 24;
    yield Array.from({ length: Math.floor(draw() * length) }, atom).join("");
  }
}

/** Without what emphasis takes away: brackets, backslashes, numbers (1e9 too), white space, BREAK. */
const bare = (text: string) => text.replaceAll(/[()[\]\\:+.\se\x85\p{Nd}-]|BREAK/gu, "");

Deno.test("prompts of any characters give 77 tokens a chunk with finite weights, and lose no text", () => {
  const tokenizer = clipTokenizer("<|endoftext|>");
  const isSound = ({ ids, weights, count }: PromptChunk) =>
    ids.length === 77 && weights.length === 77 && weights.every(Number.isFinite) &&
    ids[0] === tokenizer.start && ids.subarray(count - 1).every((id) => id === tokenizer.end);
  for (const text of texts()) {
    const named = JSON.stringify(text);
    for (const weighting of ["a1111", "comfy", "none"] as const) {
      const { chunks } = chunkPrompt(tokenizer, text, weighting);
      assert.ok(chunks.length > 0 && chunks.every(isSound), named);
      const said = parseEmphasis(text, weighting).flat().map((segment) => segment.text).join("");
      assert.equal(bare(said), bare(text), named);
    }
  }
});

Deno.test("prompts of any characters have a text for every step, and no text that they do not hold", () => {
  for (const text of texts()) {
    const named = JSON.stringify(text);
    for (const steps of [1, 7]) {
      const spans = schedulePrompt(text, steps);
      assert.equal(spans.at(-1)?.until, steps, named);
      spans.forEach(({ until, text: at }, i) => {
        assert.ok(Number.isInteger(until) && until > (spans[i - 1]?.until ?? 0), named);
        assert.ok(at !== spans[i - 1]?.text && isWithin(at, text), named);
      });
    }
    const parts = composePrompt(text);
    assert.ok(parts.every(({ weight }) => Number.isFinite(weight)), named);
    assert.ok(isWithin(parts.map((part) => part.text).join(""), text), named);
  }
});

/** Whether `part` is `text` with characters left out. */
function isWithin(part: string, text: string): boolean {
  let at = 0;
  for (const character of text) if (part.startsWith(character, at)) at += character.length;
  return at === part.length;
}

Deno.test("resolveDynamic gives any prompt a text or one sentence, the same for a seed", () => {
  const wildcards = (name: string) => name === "h" ? ["{x|y}", "__h__", "z"] : [];
  const attempt = (text: string, seed: number) => {
    try {
      return resolveDynamic(text, drawsOf(seed), wildcards);
    } catch (error) {
      if (error instanceof UsageError) return error;
      throw error;
    }
  };
  for (const text of texts()) {
    const outcome = attempt(text, 3);
    if (outcome instanceof UsageError) assert.doesNotMatch(outcome.message, /\n/);
    assert.deepEqual(attempt(text, 3), outcome);
    if (!/[\\${%]|__/.test(text)) assert.equal(outcome, text, JSON.stringify(text));
  }
});
