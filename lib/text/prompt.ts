/**
 * A prompt as chunks of token ids with a weight each. A text encoder takes 77 tokens, start and end among them, so a longer
 * prompt is several chunks, encoded one by one and joined.
 * AUTOMATIC1111 and ComfyUI cut prompts into chunks at different places, and diffusers cuts off what does not fit.
 */

import { parseEmphasis, type Weighting } from "./emphasis.ts";
import { SPACE } from "./python.ts";
import type { ClipTokenizer } from "./tokenizer.ts";

export { parseEmphasis, type Segment, type Weighting } from "./emphasis.ts";

/** What a text encoder takes at once. */
export interface PromptChunk {
  /** Start token, prompt, end token, padding. [77] */
  readonly ids: Int32Array<ArrayBuffer>;
  /** How much each token counts; 1 for start, end and padding. [77] */
  readonly weights: Float32Array<ArrayBuffer>;
  /** How many tokens come before the padding, start and end included. */
  readonly count: number;
}

/** A prompt as a text encoder reads it. */
export interface ChunkedPrompt {
  /** At least one. */
  readonly chunks: readonly PromptChunk[];
  /** What did not fit, as text; "" where all did, as it always does with weighting "a1111" and "comfy". */
  readonly cut: string;
}

/**
 * The chunks of a prompt that has no schedule and no AND any more: see `schedulePrompt` and `composePrompt`. With
 * weighting "none" there is one, whatever the prompt, as in diffusers.
 */
export function chunkPrompt(
  tokenizer: ClipTokenizer,
  text: string,
  weighting: Weighting,
): ChunkedPrompt {
  return CHUNKERS[weighting](tokenizer, text);
}

const CHUNKERS: Readonly<
  Record<Weighting, (tokenizer: ClipTokenizer, text: string) => ChunkedPrompt>
> = {
  a1111: (tokenizer, text) => ({ chunks: chunksByComma(tokenizer, text), cut: "" }),
  comfy: (tokenizer, text) => ({ chunks: chunksBySegment(tokenizer, text), cut: "" }),
  none: (tokenizer, text) => {
    const { ids, count, cut } = tokenizer.tokenize(text);
    const weights = new Float32Array(ids.length).fill(1);
    return { chunks: [{ ids, weights, count }], cut };
  },
};

interface WeightedToken {
  readonly id: number;
  readonly weight: number;
}

/** At most `tokenizer.length` − 2 tokens with start, end and padding around them. */
function chunkOf(tokenizer: ClipTokenizer, tokens: readonly WeightedToken[]): PromptChunk {
  const { start, end, padding, length } = tokenizer;
  const ids = new Int32Array(length).fill(padding);
  const weights = new Float32Array(length).fill(1);
  ids.set([start, ...tokens.map(({ id }) => id), end]);
  weights.set(tokens.map(({ weight }) => weight), 1);
  return { ids, weights, count: tokens.length + 2 };
}

/** What follows a comma goes to the next chunk as a whole, where there are no more tokens of it than these. */
const BACKTRACK = 20;

/** A1111: chunks end where they are full, but after a comma that is near, and at BREAK (modules/sd_hijack_clip.py). */
function chunksByComma(tokenizer: ClipTokenizer, text: string): PromptChunk[] {
  const most = tokenizer.length - 2;
  const chunks: PromptChunk[] = [];
  let tokens: WeightedToken[] = [];
  let comma = -1; // the last one of this chunk
  const next = (carried: readonly WeightedToken[] = []) => {
    chunks.push(chunkOf(tokenizer, tokens));
    tokens = [...carried];
    comma = -1;
  };
  parseEmphasis(text, "a1111").forEach((segments, i) => {
    if (i > 0) next();
    for (const { text, weight } of segments) {
      for (const id of tokenizer.encode(text)) {
        if (id === tokenizer.comma) comma = tokens.length;
        else if (tokens.length === most && comma !== -1 && most - comma <= BACKTRACK) {
          const carried = tokens.slice(comma + 1);
          tokens.length = comma + 1;
          next(carried);
        }
        if (tokens.length === most) next();
        tokens.push({ id, weight });
      }
    }
  });
  if (tokens.length > 0 || chunks.length === 0) next();
  return chunks;
}

/** A piece of this many tokens may be torn. */
const LARGE = 8;
/** Where ComfyUI looks for the name of a trained word. */
const EMBEDDING = new RegExp(`(?<=${SPACE})(?=embedding:)`, "u");

/** ComfyUI: a piece of one weight that has few tokens stays whole, one of many fills the chunk (comfy/sd1_clip.py). */
function chunksBySegment(tokenizer: ClipTokenizer, text: string): PromptChunk[] {
  const most = tokenizer.length - 2;
  const chunks: PromptChunk[] = [];
  let tokens: WeightedToken[] = [];
  const next = () => {
    chunks.push(chunkOf(tokenizer, tokens));
    tokens = [];
  };
  const [segments] = parseEmphasis(text, "comfy");
  const pieces = segments.flatMap(({ text, weight }) =>
    text.split(EMBEDDING).map((piece) => tokenizer.encode(piece).map((id) => ({ id, weight })))
  );
  for (const piece of pieces) {
    let at = 0;
    while (tokens.length + piece.length - at > most) {
      const fits = piece.length < LARGE ? 0 : most - tokens.length;
      for (const token of piece.slice(at, at + fits)) tokens.push(token);
      at += fits;
      next();
    }
    for (const token of piece.slice(at)) tokens.push(token);
  }
  next();
  return chunks;
}
