/** What a tokenizer is made of, between those who read its files and those who build it. */

/** The files of a CLIP tokenizer, read. */
export interface TokenizerFiles {
  /** vocab.json */
  readonly vocab: string;
  /** merges.txt */
  readonly merges: string;
  /** tokenizer_config.json, parsed. */
  readonly config?: unknown;
  /** special_tokens_map.json, parsed; it overrules the config. */
  readonly specialTokens?: unknown;
}
