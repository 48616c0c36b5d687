/** CLIP's tokenizer as the files of a diffusers folder. */

import type { TokenizerFiles } from "./tokenizer.ts";
import { BARE_TOKENS, CLIP_MERGES, CLIP_TOKENS, END, START, vocabularyOf } from "./vocabulary.ts";

/**
 * The built-in vocabulary for prompts of `length` tokens, which are filled up with the token `padding`. A smaller one of
 * `tokens` keeps the most frequent, and spells other words with them.
 */
export function clipTokenizerFiles(
  length: number,
  padding: string,
  tokens = CLIP_TOKENS,
): Required<TokenizerFiles> {
  const merges = CLIP_MERGES.slice(0, tokens - BARE_TOKENS);
  const special = (content: string) => ({
    content,
    lstrip: false,
    normalized: true,
    rstrip: false,
    single_word: false,
  });
  const specialTokens = {
    bos_token: special(START),
    eos_token: special(END),
    pad_token: padding,
    unk_token: special(END),
  };
  return {
    vocab: JSON.stringify(vocabularyOf(merges)),
    merges: ["#version: 0.2", ...merges, ""].join("\n"),
    specialTokens,
    config: {
      add_prefix_space: false,
      do_lower_case: true,
      errors: "replace",
      model_max_length: length,
      pad_token: padding,
      tokenizer_class: "CLIPTokenizer",
    },
  };
}
