import { deepEqual, equal, notDeepEqual, throws } from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import { tokenizerOf } from "../../lib/pipelines/tokens.ts";

const END = 49407;
const FILES = {
  vocab:
    '{"<|startoftext|>": 5, "<|endoftext|>": 6, "!": 0, "a</w>": 1, "f": 2, "ox</w>": 3, "o": 4, "x</w>": 7}',
  merges: "#version: 0.2\no x</w>",
};

Deno.test("tokenizerOf uses CLIP's vocabulary with each encoder's padding where a checkpoint has none", () => {
  const { ids } = tokenizerOf({ tokenizers: [undefined, undefined], padTokens: [END, 0] })("a fox");
  deepEqual(ids.map((each) => [...each.slice(0, 5)]), [
    [49406, 320, 3240, END, END],
    [49406, 320, 3240, END, 0],
  ]);
  equal(ids[0].length, 77);
});

Deno.test("tokenizerOf takes the checkpoint's own, and another vocabulary with the same padding", () => {
  const own = { ...FILES, specialTokens: { pad_token: "!" } };
  const [ids] = tokenizerOf({ tokenizers: [own], padTokens: [END] })("a fox").ids;
  deepEqual([...ids.slice(0, 6)], [5, 1, 2, 3, 6, 0]);
  const other = { vocab: FILES.vocab.replace('"a</w>": 1', '"a</w>": 9'), merges: FILES.merges };
  const [others] = tokenizerOf({ tokenizers: [own], padTokens: [END] }, other)("a fox").ids;
  deepEqual([...others.slice(0, 6)], [5, 9, 2, 3, 6, 0]);
  const bare = tokenizerOf({ tokenizers: [undefined], padTokens: [END] }, FILES)("a").ids[0];
  deepEqual([...bare.slice(0, 4)], [5, 1, 6, 6]);
});

Deno.test("tokenizerOf tells what does not fit, and refuses files that make no tokenizer", () => {
  const tokenize = tokenizerOf({ tokenizers: [undefined], padTokens: [END] });
  equal(tokenize("a fox").cut, "");
  equal(tokenize("fox ".repeat(76)).cut, "fox");
  notDeepEqual(tokenize("fox ".repeat(76)).ids, tokenize("fox").ids);
  const broken = { vocab: "{}", merges: "" };
  throws(() => tokenizerOf({ tokenizers: [broken], padTokens: [END] }), FormatError);
});
