/** Prompts as token ids for every text encoder of a model. */

import type { Model, TokenIds } from "../engine/model.ts";
import {
  type ClipTokenizer,
  clipTokenizer,
  folderTokenizer,
  type TokenizerFiles,
} from "../text/tokenizer.ts";

/** Token ids of a prompt, and what was left out because it was too long. */
export type Tokenize = (prompt: string) => { readonly ids: TokenIds; readonly cut: string };

/** What a tokenizer splits text into. */
export type Vocabulary = Pick<TokenizerFiles, "vocab" | "merges">;

/** The tokens that pad, by their ids in CLIP's vocabulary. */
const padding = (id: number) => id === 0 ? "!" : "<|endoftext|>";

/**
 * The tokenizers of a model's text encoders as one. The vocabulary of `files` stands in for the checkpoint's own, padding
 * stays each encoder's; CLIP's vocabulary is used where neither is there. Throws `FormatError` for files that make no
 * tokenizer.
 */
export function tokenizerOf(
  { tokenizers, padTokens }: Pick<Model, "tokenizers" | "padTokens">,
  files?: Vocabulary,
): Tokenize {
  const all = tokenizers.map((own, i): ClipTokenizer => {
    const pad = padding(padTokens[i]);
    if (files === undefined) return own ? folderTokenizer(own) : clipTokenizer(pad);
    const { vocab, merges } = files;
    return folderTokenizer({ config: { pad_token: pad }, ...own, vocab, merges });
  });
  return (prompt) => {
    const tokens = all.map((tokenizer) => tokenizer.tokenize(prompt));
    return { ids: tokens.map(({ ids }) => ids), cut: tokens[0].cut };
  };
}
