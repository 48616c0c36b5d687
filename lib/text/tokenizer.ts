/**
 * CLIP's tokenizer: a prompt to the 77 token ids that the text encoders take.
 * It follows transformers' CLIPTokenizer, which diffusers uses: unlike OpenAI's original it repairs no encoding (ftfy) and
 * reads no HTML entities, and a padding token of "!" (SD 2, the second encoder of SDXL) makes every "!" of a prompt padding.
 * Byte-pair encoding is the npm package's.
 */

import { Tokenizer } from "@huggingface/tokenizers";
import { FormatError } from "../base/errors.ts";
import type { TokenizerFiles } from "../base/tokenizer_files.ts";
import { CLIP_MERGES, END, END_OF_WORD, START, vocabularyOf } from "./vocabulary.ts";

export type { TokenizerFiles } from "../base/tokenizer_files.ts";

/** Token ids of a prompt, of fixed length. */
export interface Tokens {
  /** Start token, prompt, end token, padding: as many as the text encoder takes, 77. */
  readonly ids: Int32Array<ArrayBuffer>;
  /** How many of them come before the padding, start and end included. */
  readonly count: number;
  /** What did not fit, as text; "" where all did. */
  readonly cut: string;
}

/** CLIP's way from text to token ids. */
export interface ClipTokenizer {
  /** Token ids of a prompt. */
  tokenize(prompt: string): Tokens;
  /**
   * Token ids of a piece of text, however many: no start, no end, no padding. The padding token is not looked for, so
   * that a "!" is a word of its own, as AUTOMATIC1111 and ComfyUI have it.
   */
  encode(text: string): number[];
  /** Token ids as text again. */
  decode(ids: readonly number[]): string;
  /** The vocabulary's spelling of a token, such as "fox</w>"; "" for an id that it does not have. */
  piece(id: number): string;
  /** Id that every prompt starts with. */
  readonly start: number;
  /** Id that ends a prompt. */
  readonly end: number;
  /** Id that fills up what is left. */
  readonly padding: number;
  /** The token of a comma that ends a word, where the vocabulary has one. */
  readonly comma: number | undefined;
  /** The number of ids that `tokenize` gives. */
  readonly length: number;
}

/** The tokenizer of a folder. Throws `FormatError` when the files do not make one. */
export function folderTokenizer(files: TokenizerFiles): ClipTokenizer {
  const vocabulary = parseVocabulary(files.vocab);
  const settings = { ...fieldsOf(files.config), ...fieldsOf(files.specialTokens) };
  const special = [
    specialToken(settings, "bos_token", START),
    specialToken(settings, "eos_token", END),
    specialToken(settings, "unk_token", END),
    specialToken(settings, "pad_token", END),
  ];
  const length = settings.model_max_length;
  const isLength = typeof length === "number" && length >= 2 && length <= 4096; // absent or 1e30 means none
  return build(vocabulary, parseMerges(files.merges), special, isLength ? length : 77);
}

/** The tokenizer with CLIP's own vocabulary, for checkpoints that carry none. SD 1 pads with the end token, SD 2 with "!". */
export function clipTokenizer(padding: "<|endoftext|>" | "!"): ClipTokenizer {
  const special = [
    { content: START, normalized: true },
    { content: END, normalized: true },
    { content: END, normalized: true },
    { content: padding, normalized: false },
  ];
  return build(vocabularyOf(CLIP_MERGES), CLIP_MERGES, special, 77);
}

/** A token that is looked for before byte-pair encoding: in the text as it is or as normalised. Of two alike, the later counts. */
interface SpecialToken {
  readonly content: string;
  readonly normalized: boolean;
}

function build(
  vocabulary: Readonly<Record<string, number>>,
  merges: readonly string[],
  special: readonly SpecialToken[],
  length: number,
): ClipTokenizer {
  const idOf = ({ content }: SpecialToken) => {
    const id = vocabulary[content];
    if (id !== undefined) return id;
    throw new FormatError(`Cannot use this tokenizer: its vocabulary has no "${content}"`);
  };
  const [start, end, , padding] = special.map(idOf);
  const engineWith = (tokens: readonly SpecialToken[]) =>
    new Tokenizer(tokenizerJson(vocabulary, merges, tokens, special[2].content), {
      clean_up_tokenization_spaces: false,
    });
  const engine = engineWith(special);
  const unpadded = once(() => {
    const others = special.slice(0, 3);
    const isAlso = others.some(({ content }) => content === special[3].content);
    return isAlso ? engine : engineWith(others);
  });
  const pieces = once(() => new Map(Object.entries(vocabulary).map(([piece, id]) => [id, piece])));
  return {
    start,
    end,
    padding,
    length,
    comma: vocabulary["," + END_OF_WORD],
    tokenize(prompt) {
      const all = engine.encode(lowerSigma(prompt)).ids;
      const kept = all.slice(0, length - 2);
      const over = all.slice(kept.length);
      const ids = new Int32Array(length).fill(padding);
      ids.set([start, ...kept, end]);
      const cut = over.length > 0 ? engine.decode(over).trim() : "";
      return { ids, count: kept.length + 2, cut };
    },
    encode: (text) => unpadded().encode(lowerSigma(text)).ids,
    decode: (ids) => ids.length > 0 ? engine.decode([...ids]) : "",
    piece: (id) => pieces().get(id) ?? "",
  };
}

/** Rust lower-cases character by character, JavaScript knows the final sigma. */
const lowerSigma = (text: string) => text.replaceAll("Σ", "σ");

/** What `make` returns, made when it is first asked for. */
function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}

/** A tokenizer.json that does what CLIPTokenizer does, for the npm package. */
function tokenizerJson(
  vocabulary: Readonly<Record<string, number>>,
  merges: readonly string[],
  special: readonly SpecialToken[],
  unknown: string,
) {
  const added = new Map(special.map((token) => [token.content, token]));
  return {
    added_tokens: [...added.values()].map(({ content, normalized }) => ({
      ...{ id: vocabulary[content], content, normalized, special: true },
      ...{ single_word: false, lstrip: false, rstrip: false },
    })),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "NFC" },
        { type: "Replace", pattern: { Regex: String.raw`\s+` }, content: " " },
        { type: "Lowercase" },
      ],
    },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: WORDS }, behavior: "Removed", invert: true },
        // use_regex would split words a second time, where white space is JavaScript's and not Rust's.
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: null,
    decoder: { type: "ByteLevel" },
    model: {
      type: "BPE",
      vocab: vocabulary,
      merges,
      unk_token: unknown,
      continuing_subword_prefix: "",
      end_of_word_suffix: END_OF_WORD,
      fuse_unk: false,
    },
  };
}

/** CLIP's words: contractions, runs of letters, single digits, runs of anything else but white space. */
const WORDS = String.raw`'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+`;

function parseMerges(text: string): string[] {
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#version"));
  const wrong = lines.find((line) => line.split(" ").length !== 2);
  if (wrong === undefined) return lines;
  throw new FormatError(`Cannot use merges.txt: its line "${wrong}" is not two tokens`);
}

function parseVocabulary(text: string): Record<string, number> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw new FormatError("Cannot use vocab.json: it is not JSON");
  }
  const vocabulary: Record<string, number> = {};
  for (const [token, id] of Object.entries(fieldsOf(parsed))) {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0) {
      throw new FormatError(`Cannot use vocab.json: the id of "${token}" is ${JSON.stringify(id)}`);
    }
    vocabulary[token] = id;
  }
  return vocabulary;
}

/** The fields of a JSON object; of anything else, none. */
function fieldsOf(json: unknown): Record<string, unknown> {
  return typeof json === "object" && json !== null ? Object.fromEntries(Object.entries(json)) : {};
}

/** A setting such as `"pad_token": "!"` or `"eos_token": { "content": …, "normalized": … }`. */
function specialToken(
  settings: Readonly<Record<string, unknown>>,
  key: string,
  usual: string,
): SpecialToken {
  const setting = settings[key];
  if (typeof setting === "string") return { content: setting, normalized: false };
  const { content, normalized } = fieldsOf(setting);
  return typeof content === "string"
    ? { content, normalized: normalized === true }
    : { content: usual, normalized: false };
}
