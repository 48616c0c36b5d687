/**
 * The denoiser's conditions: prompts encoded, weighted, joined and brought to equal length.
 *
 * A prompt and a negative prompt of unlike length are repeated up to their least common multiple: a softmax over keys that all
 * come equally often is the softmax over the keys, so that each is attended to as if it stood alone. So do AUTOMATIC1111 and
 * stable-diffusion.cpp (in runs of their own) and ComfyUI (by the same repetition).
 */

import { guidanceEmbedding } from "../diffusion/denoiser.ts";
import type { LabelledBox } from "../base/box.ts";
import type { Condition, Model, TextEmbedding, TokenIds, Told } from "../engine/model.ts";
import { layoutTokens } from "../text/layout.ts";
import { classId } from "../text/told.ts";
import type { Embeddings } from "./embeddings.ts";
import { emphasize, interpolate, type WeightedChunk } from "./emphasis.ts";
import type { Settings } from "./events.ts";
import { ownClipSkip } from "./settings.ts";
import { type Chunk, type Reading, type Script, scriptsOf, textAt } from "./prompts.ts";

/** Chunks up to which prompts are repeated; beyond, the shorter is filled up with empty chunks. */
const MOST_REPEATED = 64;

/** How long prompts are, in chunks. */
export interface Lengths {
  /** Of every condition in the end. */
  readonly all: number;
  /** Whether repeating the shorter ones brings them there. */
  readonly repeats: boolean;
}

/** A schedule's texts are as long as the longest of them. */
const longest = ({ texts }: Script) => Math.max(...texts.map(({ length }) => length));

/** The lengths that a reading comes to, known before anything is encoded. */
export function lengthsOf({ negative, parts }: Reading): Lengths {
  const positive = Math.max(...parts.map(longest));
  const other = negative ? longest(negative) : positive;
  const multiple = positive / greatestCommonDivisor(positive, other) * other;
  const most = Math.max(positive, other);
  const repeats = multiple <= Math.max(MOST_REPEATED, most);
  return { all: repeats ? multiple : most, repeats };
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/** What the network is told, by call. */
export interface Conditions {
  /** For a call, counted from 0: the negative prompt, under guidance, then every part of the prompt. Equal lists are one. */
  at(call: number): readonly Condition[];
}

const keyAt = (scripts: readonly Script[], call: number) =>
  scripts.map((script) => textAt(script, call)).join();

/** How many different lists of conditions the network is told in so many calls. */
export function countSets(reading: Reading, calls: number): number {
  const scripts = scriptsOf(reading);
  return new Set(Array.from({ length: calls }, (_, call) => keyAt(scripts, call))).size;
}

/** Every chunk that a reading needs states of. */
export function chunksOf(reading: Reading, { weighting }: Pick<Settings, "weighting">): Chunk[] {
  const scripts = scriptsOf(reading);
  const chunks = scripts.flatMap(({ texts }) => texts.flat());
  const isWeighted = weighting === "comfy" &&
    chunks.some(({ weights }) => weights.some((each) => each.some((weight) => weight !== 1)));
  const isFilled = !lengthsOf(reading).repeats ||
    scripts.some((script) => script.texts.some(({ length }) => length < longest(script)));
  return isWeighted || isFilled ? [...chunks, reading.empty] : chunks;
}

/** Encodes a reading; what is not known, in one call of the model. */
export async function conditionsOf(
  model: Model,
  embeddings: Embeddings,
  settings: Settings,
  reading: Reading,
): Promise<Conditions> {
  const { parts, negative, empty } = reading;
  const chunks = chunksOf(reading, settings).map(({ ids }) => ids);
  const found = await embeddings.of(chunks, ownClipSkip(model, settings));
  const states: States = new Map(chunks.map((ids, i) => [ids, found[i]]));
  const lengths = lengthsOf(reading);
  const positive = Math.max(...parts.map(longest));
  const shared = sharedBy(model, settings);
  const scripts = scriptsOf(reading);
  const told = await toldOf(model, settings);
  const conditions = scripts.map((script) => {
    const own = script === negative ? longest(script) : positive;
    return encoded(model, settings, script, states, empty).map((each): Condition => {
      const text = brought(stretched(each, own), lengths, states.get(empty.ids));
      const isZero = script === negative && settings.zeroNegative;
      const said = isZero ? zeros(text) : text;
      const beside = script === negative ? told?.nothing : told?.something;
      return { text: beside ? followed(model, said, beside) : said, ...shared };
    });
  });
  const lists = new Map<string, readonly Condition[]>();
  return {
    at(call) {
      const key = keyAt(scripts, call);
      const list = lists.get(key) ??
        scripts.map((script, i) => conditions[i][textAt(script, call)]);
      lists.set(key, list);
      return list;
    },
  };
}

/** What the conditioner says of what is asked for, and of nothing; `undefined` where the model has none. */
async function toldOf(
  model: Model,
  settings: Settings,
): Promise<{ readonly something: TextEmbedding; readonly nothing: TextEmbedding } | undefined> {
  const { conditioner } = model;
  if (!conditioner) return undefined;
  const tell = (label: string | undefined, boxes: readonly LabelledBox[]): Told => ({
    ...(conditioner.classes && { classId: classId(label, conditioner.classes) }),
    ...(conditioner.layout && { layout: layoutTokens(boxes, conditioner.layout) }),
  });
  const [something, nothing] = await model.encodeTold([
    tell(settings.label, settings.boxes ?? []),
    tell(undefined, []),
  ]);
  return { something, nothing };
}

/** Tokens of text and then others; those alone where the model reads no text. */
export function followed(
  { readsText }: Pick<Model, "readsText">,
  text: TextEmbedding,
  more: TextEmbedding,
): TextEmbedding {
  return readsText
    ? { ...text, hidden: joined([text.hidden, more.hidden]), tokens: text.tokens + more.tokens }
    : more;
}

/** What conditions say beside the text. */
function sharedBy(
  { wantsSizes, guidanceWidth }: Model,
  { width, height, cfgScale }: Settings,
): Omit<Condition, "text"> {
  return {
    // nothing is cropped, and the original size is the one that is asked for
    ...(wantsSizes && { timeIds: [height, width, 0, 0, height, width] }),
    ...(guidanceWidth !== undefined && {
      guidance: guidanceEmbedding(cfgScale - 1, guidanceWidth),
    }),
  };
}

/** States by the ids of a chunk. */
type States = ReadonlyMap<TokenIds, TextEmbedding>;

function stateOf(states: States, { ids }: Chunk): TextEmbedding {
  const state = states.get(ids);
  if (!state) throw new TypeError("A chunk was not encoded");
  return state;
}

/** A text whose states are chunks one after another; `tokens` are those of one chunk. */
interface Chunked {
  readonly chunks: readonly Float32Array[];
  readonly tokens: number;
  readonly pooled?: Float32Array;
}

/** The texts of a script, weighted, each as long as the longest. The pooled state is the first chunk's. */
function encoded(
  { textWidths }: Model,
  { weighting, match }: Settings,
  script: Script,
  states: States,
  empty: Chunk,
): Chunked[] {
  const count = longest(script);
  const { texts, spans } = script;
  // stable-diffusion.cpp restores the mean of both encoders' states together
  const isJoint = match === "sdcpp";
  const widths = isJoint ? [textWidths.reduce((a, b) => a + b)] : textWidths;
  const weighted = (chunk: Chunk): WeightedChunk => ({
    hidden: stateOf(states, chunk).hidden,
    weights: isJoint ? chunk.weights.slice(0, 1) : chunk.weights,
  });
  const plain = states.get(empty.ids)?.hidden;
  const columns = Array.from({ length: count }, (_, i): Float32Array[] => {
    const column = texts.map((chunks) => weighted(chunks[i] ?? empty));
    if (weighting !== "a1111") {
      return column.map((each) => plain ? interpolate(each, plain, widths) : each.hidden);
    }
    // texts that come again count again in the mean
    const all = emphasize(spans.map(({ text }) => column[text]), widths);
    return texts.map((_, text) => all[spans.findIndex((span) => span.text === text)]);
  });
  return texts.map(([first], text) => {
    const { tokens, pooled } = stateOf(states, first);
    return { chunks: columns.map((column) => column[text]), tokens, ...(pooled && { pooled }) };
  });
}

/** The last token's states again and again: so AUTOMATIC1111 makes prompts that are composed equally long. */
function stretched(text: Chunked, count: number): Chunked {
  const { chunks, tokens } = text;
  const last = chunks[chunks.length - 1];
  if (chunks.length === count) return text;
  const row = last.subarray(last.length - last.length / tokens);
  const rest = joined(new Array<Float32Array>(tokens).fill(row));
  const more = new Array<Float32Array>(count - chunks.length).fill(rest);
  return { ...text, chunks: [...chunks, ...more] };
}

/** As long as all are: repeated, or filled up with what an empty chunk says. */
function brought(
  { chunks, tokens, pooled }: Chunked,
  { all, repeats }: Lengths,
  empty: TextEmbedding | undefined,
): TextEmbedding {
  const full = Array.from(
    { length: all },
    (_, i) => repeats || i < chunks.length ? chunks[i % chunks.length] : empty?.hidden ?? chunks[0],
  );
  return { hidden: joined(full), tokens: tokens * all, ...(pooled && { pooled }) };
}

/** Arrays one after another. */
export function joined(parts: readonly Float32Array[]): Float32Array {
  if (parts.length === 1) return parts[0];
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function zeros({ hidden, tokens, pooled }: TextEmbedding): TextEmbedding {
  return {
    hidden: new Float32Array(hidden.length),
    tokens,
    ...(pooled && { pooled: new Float32Array(pooled.length) }),
  };
}
