/** What a request's prompts say to the denoiser at each of its calls, before anything is encoded. */

import type { TokenIds } from "../engine/model.ts";
import { composePrompt } from "../text/compose.ts";
import { networksOf } from "../text/networks.ts";
import { chunkPrompt, type Weighting } from "../text/prompt.ts";
import { schedulePrompt } from "../text/schedule.ts";
import type { ClipTokenizer } from "../text/tokenizer.ts";

/** As many tokens as the text encoders read at a time: ids and weights for each encoder. */
export interface Chunk {
  readonly ids: TokenIds;
  readonly weights: readonly Float32Array[];
}

/** What one condition says, over the walk. */
export interface Script {
  /** How much it counts, of several that are composed. */
  readonly weight: number;
  /** Each text once, in chunks. */
  readonly texts: readonly (readonly Chunk[])[];
  /** Which text comes when. */
  readonly spans: readonly Span[];
}

interface Span {
  /** The last call of the network that it holds for, see `textAt`. */
  readonly until: number;
  readonly text: number;
}

/** All that prompts say. */
export interface Reading {
  /** `undefined` where there is no guidance. */
  readonly negative: Script | undefined;
  /** One, or several that are composed. */
  readonly parts: readonly Script[];
  /** What an empty prompt says. */
  readonly empty: Chunk;
  /** What no text encoder reads, for each prompt of which something is cut. */
  readonly cut: readonly { readonly prompt: string; readonly text: string }[];
}

/** In the order of the denoiser's conditions. */
export function scriptsOf({ negative, parts }: Reading): readonly Script[] {
  return negative ? [negative, ...parts] : parts;
}

export interface Prompts {
  readonly prompt: string;
  /** `undefined` where there is no guidance. */
  readonly negativePrompt: string | undefined;
  readonly weighting: Weighting;
  /** Calls of the network that schedules are laid out for. */
  readonly calls: number;
}

/**
 * Reads prompts with the tokenizers of all text encoders. Schedules, AND and tags such as `<lora:name:1>`, which are cut
 * out, are of AUTOMATIC1111's language alone.
 */
export function readPrompts(tokenizers: readonly ClipTokenizer[], prompts: Prompts): Reading {
  const { prompt, negativePrompt, weighting, calls } = prompts;
  const empty = emptyChunk(tokenizers);
  const cut: { prompt: string; text: string }[] = [];
  const script = (text: string, weight: number, name: string): Script => {
    const spans = weighting === "a1111" ? schedulePrompt(text, calls) : [{ until: calls, text }];
    const texts = [...new Set(spans.map((span) => span.text))];
    return {
      weight,
      texts: texts.map((each) => {
        const read = chunksOf(tokenizers, each, weighting, empty);
        if (read.cut !== "") cut.push({ prompt: name, text: read.cut });
        return read.chunks;
      }),
      spans: spans.map(({ until, text }) => ({ until, text: texts.indexOf(text) })),
    };
  };
  const parts = weighting === "a1111"
    ? composePrompt(networksOf(prompt).text)
    : [{ text: prompt, weight: 1 }];
  return {
    parts: parts.map(({ text, weight }) => script(text, weight, "prompt")),
    negative: negativePrompt === undefined
      ? undefined
      : script(negativePrompt, 1, "negative prompt"),
    empty,
    cut,
  };
}

/** The chunks of a text. Where the vocabularies of two encoders give different numbers, the shorter is filled up. */
function chunksOf(
  tokenizers: readonly ClipTokenizer[],
  text: string,
  weighting: Weighting,
  empty: Chunk,
): { chunks: readonly Chunk[]; cut: string } {
  const read = tokenizers.map((tokenizer) => chunkPrompt(tokenizer, text, weighting));
  const count = Math.max(...read.map(({ chunks }) => chunks.length));
  const chunks = Array.from({ length: count }, (_, i): Chunk => ({
    ids: read.map((each, encoder) => each.chunks[i]?.ids ?? empty.ids[encoder]),
    weights: read.map((each, encoder) => each.chunks[i]?.weights ?? empty.weights[encoder]),
  }));
  return { chunks, cut: read[0].cut };
}

function emptyChunk(tokenizers: readonly ClipTokenizer[]): Chunk {
  const ids = tokenizers.map((tokenizer) => tokenizer.tokenize("").ids);
  return { ids, weights: ids.map(({ length }) => new Float32Array(length).fill(1)) };
}

/**
 * Which text holds for a call of the network, counted from 0. AUTOMATIC1111 compares that count with steps counted from 1
 * (`CFGDenoiser.step`), so that the first text holds for one call more than is written; after the last one the first
 * holds again.
 */
export function textAt({ spans }: Script, call: number): number {
  return (spans.find(({ until }) => call <= until) ?? spans[0]).text;
}
