/** What the text encoders make of chunks of prompts, kept for prompts that come again. */

import type { Model, TextEmbedding, TokenIds } from "../engine/model.ts";

/** Bytes of states that are kept: some 500 chunks of SD 1, 200 of SDXL. */
const USUAL_BYTES = 128 * 2 ** 20;

export class Embeddings {
  readonly #model: Model;
  readonly #limit: number;
  /** The latest used last. */
  readonly #kept = new Map<string, TextEmbedding>();
  #bytes = 0;

  /** Keeps at most so many bytes. */
  constructor(model: Model, limit: number = USUAL_BYTES) {
    this.#model = model;
    this.#limit = limit;
  }

  /** Bytes that are kept. */
  get bytes(): number {
    return this.#bytes;
  }

  /** States of chunks, in order. What is not known is encoded in one call of the model. Throws what the model throws. */
  async of(chunks: readonly TokenIds[], clipSkip: number): Promise<TextEmbedding[]> {
    const keyed = new Map(chunks.map((ids) => [keyOf(ids, clipSkip), ids]));
    const missing = [...keyed].filter(([key]) => !this.#kept.has(key));
    const states = missing.length === 0
      ? []
      : await this.#model.encodeText(missing.map(([, ids]) => ids), clipSkip);
    const known = new Map(missing.map(([key], i) => [key, states[i]]));
    const found = chunks.map((ids) => {
      const key = keyOf(ids, clipSkip);
      const state = known.get(key) ?? this.#kept.get(key);
      if (!state) throw new TypeError("The model encoded fewer prompts than it was given");
      return state;
    });
    for (const [i, key] of [...keyed.keys()].entries()) {
      this.#keep(key, known.get(key) ?? this.#kept.get(key) ?? found[i]);
    }
    return found;
  }

  /** Encodes what is not known of these chunks in one call, in their order, as far as it can be kept. */
  async fill(chunks: readonly TokenIds[], clipSkip: number): Promise<void> {
    const width = this.#model.textWidths.reduce((a, b) => a + b);
    let room = this.#limit;
    const fitting = new Map<string, TokenIds>();
    for (const ids of chunks) {
      const key = keyOf(ids, clipSkip);
      if (fitting.has(key)) continue;
      room -= (ids[0].length + 1) * width * Float32Array.BYTES_PER_ELEMENT;
      if (room < 0) break;
      fitting.set(key, ids);
    }
    await this.of([...fitting.values()], clipSkip);
  }

  #keep(key: string, state: TextEmbedding): void {
    this.#forget(key);
    this.#kept.set(key, state);
    this.#bytes += bytesOf(state);
    for (const oldest of this.#kept.keys()) {
      if (this.#bytes <= this.#limit) break;
      this.#forget(oldest);
    }
  }

  #forget(key: string): void {
    const state = this.#kept.get(key);
    if (state) this.#bytes -= bytesOf(state);
    this.#kept.delete(key);
  }
}

function keyOf(ids: TokenIds, clipSkip: number): string {
  return [clipSkip, ...ids.map((each) => each.join())].join(";");
}

function bytesOf({ hidden, pooled }: TextEmbedding): number {
  return hidden.byteLength + (pooled?.byteLength ?? 0);
}
