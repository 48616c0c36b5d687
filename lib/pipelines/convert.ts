/** Checkpoints in another form. */

import { type Conversion, convert, type ConvertOptions } from "../engine/convert.ts";
import { clipTokenizerFiles } from "../text/tokenizer_files.ts";
import { CLIP_TOKENS, END } from "../text/vocabulary.ts";

export type { CheckpointForm, Conversion, ConvertOptions } from "../engine/convert.ts";

/**
 * Writes a checkpoint as one file with the original names or as a diffusers folder, whole or not at all; with other types,
 * another first stage, or LoRAs folded into its weights where that is asked for. Tensor by tensor: memory holds a few. A
 * model that is stored in parts (`vae` alone) stays one. Throws `FileError` for what cannot be read or may not be replaced,
 * `FormatError` for what the new form cannot hold, and the signal's reason.
 */
export async function convertCheckpoint(
  input: string,
  output: string,
  options: ConvertOptions = {},
): Promise<Conversion> {
  return await convert(input, output, options, ({ length, padding, vocabulary = CLIP_TOKENS }) => {
    const tokens = Math.min(vocabulary, CLIP_TOKENS);
    return clipTokenizerFiles(length, padding === 0 ? "!" : END, tokens);
  });
}
