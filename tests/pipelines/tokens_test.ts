import { deepEqual, equal, throws } from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import { tokenizersOf } from "../../lib/pipelines/tokens.ts";

const END = 49407;
const FILES = {
  vocab:
    '{"<|startoftext|>": 5, "<|endoftext|>": 6, "!": 0, "a</w>": 1, "f": 2, "ox</w>": 3, "o": 4, "x</w>": 7}',
  merges: "#version: 0.2\no x</w>",
};

Deno.test("tokenizersOf uses CLIP's vocabulary with each encoder's padding where a checkpoint has none", () => {
  const model = { tokenizers: [undefined, undefined], padTokens: [END, 0] };
  const ids = tokenizersOf(model).map((each) => each.tokenize("a fox").ids);
  deepEqual(ids.map((each) => [...each.slice(0, 5)]), [
    [49406, 320, 3240, END, END],
    [49406, 320, 3240, END, 0],
  ]);
  equal(ids[0].length, 77);
});

Deno.test("tokenizersOf takes the checkpoint's own, and another vocabulary with the same padding", () => {
  const own = { ...FILES, specialTokens: { pad_token: "!" } };
  const [owned] = tokenizersOf({ tokenizers: [own], padTokens: [END] });
  deepEqual([...owned.tokenize("a fox").ids.slice(0, 6)], [5, 1, 2, 3, 6, 0]);
  const other = { vocab: FILES.vocab.replace('"a</w>": 1', '"a</w>": 9'), merges: FILES.merges };
  const [others] = tokenizersOf({ tokenizers: [own], padTokens: [END] }, other);
  deepEqual([...others.tokenize("a fox").ids.slice(0, 6)], [5, 9, 2, 3, 6, 0]);
  const [bare] = tokenizersOf({ tokenizers: [undefined], padTokens: [END] }, FILES);
  deepEqual([...bare.tokenize("a").ids.slice(0, 4)], [5, 1, 6, 6]);
});

Deno.test("tokenizersOf refuses files that make no tokenizer", () => {
  const broken = { vocab: "{}", merges: "" };
  throws(() => tokenizersOf({ tokenizers: [broken], padTokens: [END] }), FormatError);
});
