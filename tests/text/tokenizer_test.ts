import assert from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import { type ClipTokenizer, clipTokenizer, folderTokenizer } from "../../lib/text/tokenizer.ts";
import { clipTokenizerFiles } from "../../lib/text/tokenizer_files.ts";
import { BARE_TOKENS, CLIP_MERGES, END, vocabularyOf } from "../../lib/text/vocabulary.ts";

interface Golden {
  readonly pads: Record<string, number>;
  readonly cases: ({ readonly prompt: string } & Record<string, { ids: number[]; cut: string }>)[];
}

const read = (path: string) =>
  Deno.readTextFile(new URL(`../../fixtures/${path}`, import.meta.url));
const golden: Golden = JSON.parse(await read("goldens/tokens.json"));
const tiny = async (config: Record<string, unknown> = {}) => ({
  vocab: await read("tiny/sd1/tokenizer/vocab.json"),
  merges: await read("tiny/sd1/tokenizer/merges.txt"),
  config: JSON.parse(await read("tiny/sd1/tokenizer/tokenizer_config.json")),
  specialTokens: {
    ...JSON.parse(await read("tiny/sd1/tokenizer/special_tokens_map.json")),
    ...config,
  },
});

/** Compares with transformers on every prompt. */
function compare(name: string, tokenizer: ClipTokenizer) {
  assert.equal(tokenizer.padding, golden.pads[name]);
  for (const { prompt, [name]: expected } of golden.cases) {
    const { ids, count, cut } = tokenizer.tokenize(prompt);
    assert.equal(ids.length, 77);
    assert.deepEqual([...ids.subarray(0, count)], expected.ids, JSON.stringify(prompt));
    assert.ok(ids.subarray(count).every((id) => id === tokenizer.padding), JSON.stringify(prompt));
    assert.equal(cut, expected.cut, JSON.stringify(prompt));
  }
}

Deno.test("clipTokenizer gives the ids and the cut text of transformers' CLIPTokenizer", () => {
  assert.ok(golden.cases.length >= 60);
  compare("sd1", clipTokenizer("<|endoftext|>"));
});

Deno.test('clipTokenizer with "!" as padding gives those of SD 2, where every "!" is padding', () => {
  compare("sd2", clipTokenizer("!"));
});

Deno.test("folderTokenizer gives those of a small vocabulary", async () => {
  compare("tiny", folderTokenizer(await tiny()));
});

Deno.test("folderTokenizer lets special_tokens_map.json overrule tokenizer_config.json", async () => {
  const bang = folderTokenizer(await tiny({ pad_token: "!" }));
  assert.equal(bang.padding, JSON.parse((await tiny()).vocab)["!"]);
  assert.notEqual(bang.padding, bang.end);
  assert.deepEqual([...bang.tokenize("!").ids.subarray(0, 4)], [
    bang.start,
    bang.padding,
    bang.end,
    bang.padding,
  ]);
});

Deno.test("folderTokenizer without configs pads to 77 with the end token", async () => {
  const { vocab, merges } = await tiny();
  const tokenizer = folderTokenizer({ vocab, merges });
  assert.deepEqual([tokenizer.length, tokenizer.padding], [77, tokenizer.end]);
  const endless = folderTokenizer({ vocab, merges, config: { model_max_length: 1e30 } });
  assert.equal(endless.length, 77);
  assert.deepEqual(endless.tokenize("a cat").ids, tokenizer.tokenize("a cat").ids);
});

Deno.test("tokenize counts what it keeps and tells what it cut", () => {
  const tokenizer = clipTokenizer("<|endoftext|>");
  assert.deepEqual(tokenizer.tokenize("").count, 2);
  const full = tokenizer.tokenize("cat ".repeat(75));
  assert.deepEqual([full.count, full.cut, full.ids[76]], [77, "", tokenizer.end]);
  const over = tokenizer.tokenize("cat ".repeat(75) + "and two dogs");
  assert.deepEqual([over.count, over.cut], [77, "and two dogs"]);
  assert.deepEqual(over.ids, full.ids);
});

Deno.test("vocabularyOf makes CLIP's vocab.json from its merges", async () => {
  assert.deepEqual(vocabularyOf(CLIP_MERGES), JSON.parse(await read("clip/vocab.json")));
});

Deno.test("clipTokenizerFiles of fewer tokens keep frequent words whole and spell the others", () => {
  const small = folderTokenizer(clipTokenizerFiles(16, END, BARE_TOKENS + 2000));
  assert.deepEqual([small.length, small.end], [16, BARE_TOKENS + 2000 - 1]);
  const pieces = (text: string) => small.encode(text).map((id) => small.piece(id));
  assert.deepEqual(pieces("red"), ["red</w>"]);
  const spelled = pieces("hippopotamus");
  assert.ok(spelled.length > 1, spelled.join(" "));
  assert.equal(spelled.join(""), "hippopotamus</w>");
});

Deno.test("folderTokenizer refuses files that make no tokenizer, by name", async () => {
  const good = await tiny();
  const refuses = (change: Partial<typeof good>, message: RegExp) =>
    assert.throws(() => folderTokenizer({ ...good, ...change }), (error) => {
      assert.ok(error instanceof FormatError);
      assert.match(error.message, message);
      return true;
    });
  refuses({ vocab: "{" }, /Cannot use vocab.json: it is not JSON/);
  refuses({ vocab: '{"a": "b"}' }, /Cannot use vocab.json: the id of "a" is "b"/);
  refuses({ vocab: "{}" }, /its vocabulary has no "<\|startoftext\|>"/);
  refuses({ merges: "a b\nabc" }, /Cannot use merges.txt: its line "abc" is not two tokens/);
  refuses({ specialTokens: { pad_token: "[PAD]" } }, /its vocabulary has no "\[PAD\]"/);
});
