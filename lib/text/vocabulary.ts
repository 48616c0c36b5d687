/**
 * CLIP's byte-pair vocabulary (Radford et al. 2021; fixtures/clip, MIT). Checkpoints in one file carry none, so it is
 * built in: the merges alone, for every token follows from them.
 */

import merges from "../../fixtures/clip/merges.txt" with { type: "text" };

/** Marks the last piece of a word. */
export const END_OF_WORD = "</w>";
export const START = "<|startoftext|>";
export const END = "<|endoftext|>";

/** The built-in merges: 48,894 lines "a b", the most frequent first. */
export const CLIP_MERGES: readonly string[] = merges.split("\n").filter((line) =>
  line !== "" && !line.startsWith("#version")
);

/** Tokens of a vocabulary without merges: bytes, bytes that end a word, start and end. */
export const BARE_TOKENS = 514;
/** Tokens of CLIP's vocabulary. */
export const CLIP_TOKENS: number = BARE_TOKENS + CLIP_MERGES.length;

/**
 * The token ids that belong to merges: 256 bytes, 256 bytes that end a word, a token for each merge, start and end.
 * So CLIP's own vocab.json was made.
 */
export function vocabularyOf(merges: readonly string[]): Record<string, number> {
  const bytes = byteCharacters();
  const words = [
    ...bytes,
    ...bytes.map((byte) => byte + END_OF_WORD),
    ...merges.map((merge) => merge.replace(" ", "")),
    START,
    END,
  ];
  return Object.fromEntries(words.map((word, id) => [word, id]));
}

/** The printable character that stands for each byte in GPT-2's vocabularies, printable bytes first. */
function byteCharacters(): string[] {
  const range = (from: number, to: number) =>
    Array.from({ length: to - from + 1 }, (_, i) => from + i);
  const printable = [...range(0x21, 0x7e), ...range(0xa1, 0xac), ...range(0xae, 0xff)];
  const others = range(0, 255).filter((byte) => !printable.includes(byte));
  return String.fromCodePoint(...printable, ...others.map((_, i) => 256 + i)).split("");
}
