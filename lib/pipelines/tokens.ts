/** The tokenizers of a model's text encoders. */

import type { Model } from "../engine/model.ts";
import {
  type ClipTokenizer,
  clipTokenizer,
  folderTokenizer,
  type TokenizerFiles,
} from "../text/tokenizer.ts";

/** What a tokenizer splits text into. */
export type Vocabulary = Pick<TokenizerFiles, "vocab" | "merges">;

/** The tokens that pad, by their ids in CLIP's vocabulary. */
const padding = (id: number) => id === 0 ? "!" : "<|endoftext|>";

/**
 * One tokenizer for each text encoder of a model. The vocabulary of `files` stands in for the checkpoint's own, padding
 * stays each encoder's; CLIP's vocabulary is used where neither is there. Throws `FormatError` for files that make no
 * tokenizer.
 */
export function tokenizersOf(
  { tokenizers, padTokens }: Pick<Model, "tokenizers" | "padTokens">,
  files?: Vocabulary,
): readonly ClipTokenizer[] {
  return tokenizers.map((own, i): ClipTokenizer => {
    const pad = padding(padTokens[i]);
    if (files === undefined) return own ? folderTokenizer(own) : clipTokenizer(pad);
    const { vocab, merges } = files;
    return folderTokenizer({ config: { pad_token: pad }, ...own, vocab, merges });
  });
}
