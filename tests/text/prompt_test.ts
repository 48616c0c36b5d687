import assert from "node:assert/strict";
import { chunkPrompt, type PromptChunk } from "../../lib/text/prompt.ts";
import { clipTokenizer } from "../../lib/text/tokenizer.ts";
import { CASES } from "./prompts.ts";

const tokenizer = clipTokenizer("<|endoftext|>");
const { start, end } = tokenizer;

/** The prompt's tokens in a chunk as text. */
const said = ({ ids, count }: PromptChunk) =>
  tokenizer.decode([...ids.subarray(1, count - 1)]).trim();

Deno.test("chunkPrompt gives a short prompt as start, tokens, end, padding, and weights of 1 around it", () => {
  const { chunks: [chunk, ...more], cut } = chunkPrompt(tokenizer, "a (fox:1.5)", "a1111");
  assert.deepEqual([more.length, cut, chunk.count], [0, "", 4]);
  assert.deepEqual([...chunk.ids.subarray(0, 6)], [start, 320, 3240, end, end, end]);
  assert.deepEqual([...chunk.weights.subarray(0, 5)], [1, 1, 1.5, 1, 1]);
  assert.deepEqual([chunk.ids.length, chunk.weights.length], [77, 77]);
});

Deno.test("chunkPrompt gives the chunks of A1111 and ComfyUI", () => {
  for (const { prompt, chunks } of CASES) {
    for (const weighting of ["a1111", "comfy"] as const) {
      const got = chunkPrompt(tokenizer, prompt, weighting).chunks.map((
        { ids, weights, count },
      ) => ({
        ids: [...ids.subarray(1, count - 1)],
        weights: Array.from(weights.subarray(1, count - 1)),
      }));
      const expected = chunks[weighting].map(({ ids, weights }) => ({
        ids,
        weights: ids.map((_, i) => Math.fround(weights[i] ?? 1)),
      }));
      assert.deepEqual(got, expected, `${weighting} ${JSON.stringify(prompt)}`);
    }
  }
});

Deno.test("chunkPrompt pads as the tokenizer does and leaves the prompt's own ! alone", () => {
  const bang = clipTokenizer("!");
  for (const weighting of ["a1111", "comfy"] as const) {
    const { ids, count } = chunkPrompt(bang, "wow!", weighting).chunks[0];
    assert.deepEqual([...ids.subarray(0, 6), count], [start, 2781, 256, end, 0, 0, 4]);
  }
  const plain = chunkPrompt(bang, "wow!", "none").chunks[0];
  assert.deepEqual([...plain.ids], [...bang.tokenize("wow!").ids]);
});

Deno.test('chunkPrompt with "none" has no grammar and tells what it cut', () => {
  const { chunks, cut } = chunkPrompt(tokenizer, `(a:2) BREAK ${"cat ".repeat(80)}end`, "none");
  assert.equal(chunks.length, 1);
  assert.ok(chunks[0].weights.every((weight) => weight === 1));
  assert.match(said(chunks[0]), /^\( a : 2 \) break/);
  assert.match(cut, /^(cat )+end$/);
});

Deno.test("chunkPrompt goes on in a second chunk after 75 tokens", () => {
  for (const weighting of ["a1111", "comfy"] as const) {
    const { chunks, cut } = chunkPrompt(tokenizer, "cat ".repeat(76), weighting);
    assert.deepEqual([chunks.map(({ count }) => count), cut], [[77, 3], ""]);
    assert.equal(chunks[0].ids[76], end);
    assert.equal(chunkPrompt(tokenizer, "cat ".repeat(75), weighting).chunks.length, 1);
  }
});

Deno.test("chunkPrompt takes what follows a comma of the last 20 tokens along to the next chunk", () => {
  const counts = (words: string) =>
    chunkPrompt(tokenizer, words, "a1111").chunks.map(({ count }) => count - 2);
  const words = (count: number) => "cat ".repeat(count);
  assert.deepEqual(counts(`${words(60)}, ${words(30)}`), [61, 30]);
  assert.deepEqual(counts(`${words(55)}, ${words(30)}`), [56, 30]);
  assert.deepEqual(counts(`${words(54)}, ${words(30)}`), [75, 10]);
  assert.deepEqual(counts(`${words(74)}, ${words(3)}`), [75, 3]);
  assert.deepEqual(counts(`${words(75)}, ${words(3)}`), [75, 4]); // a comma does not go back behind another
  assert.deepEqual(counts(`${words(50)}, ${words(10)}, ${words(20)}`), [62, 20]);
});

Deno.test("chunkPrompt carries weights along, and BREAK begins a chunk", () => {
  const long = chunkPrompt(tokenizer, `${"cat ".repeat(70)}, (${"dog ".repeat(10)}:1.5)`, "a1111");
  assert.deepEqual(long.chunks.map(({ count }) => count), [73, 12]);
  assert.ok(long.chunks[1].weights.subarray(1, 11).every((weight) => weight === 1.5));
  const broken = chunkPrompt(tokenizer, "a cat BREAK a dog BREAK", "a1111").chunks;
  assert.deepEqual(broken.map(said), ["a cat", "a dog"]);
  assert.deepEqual(chunkPrompt(tokenizer, "BREAK a dog", "a1111").chunks.map(said), ["", "a dog"]);
  assert.deepEqual(chunkPrompt(tokenizer, "a BREAK b", "comfy").chunks.map(said), ["a break b"]);
});

Deno.test("chunkPrompt as ComfyUI tears pieces of 8 tokens and more, and moves smaller ones", () => {
  const counts = (text: string) =>
    chunkPrompt(tokenizer, text, "comfy").chunks.map(({ count }) => count - 2);
  const words = (count: number) => "cat ".repeat(count);
  assert.deepEqual(counts(`${words(70)}(${words(7)}:2)`), [70, 7]);
  assert.deepEqual(counts(`${words(70)}(${words(8)}:2)`), [75, 3]);
  assert.deepEqual(counts(`${words(73)}embedding:x y`), [73, 5]);
  assert.deepEqual(counts(words(200)), [75, 75, 50]);
});

Deno.test("chunkPrompt gives an empty prompt one chunk", () => {
  for (const weighting of ["a1111", "comfy", "none"] as const) {
    const { chunks } = chunkPrompt(tokenizer, "", weighting);
    assert.deepEqual(chunks.map(({ count }) => count), [2]);
    assert.deepEqual([...chunks[0].ids], [...tokenizer.tokenize("").ids]);
  }
});
