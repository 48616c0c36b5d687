/**
 * Weights of tokens applied to the text encoders' states, as the tools do whose prompts these are.
 * Convention: states of a chunk are [tokens, width], the encoders' side by side; each encoder is weighted by itself.
 */

/** One chunk of a text: its states, and for each encoder the weights of its tokens. */
export interface WeightedChunk {
  readonly hidden: Float32Array;
  readonly weights: readonly Float32Array[];
}

/**
 * AUTOMATIC1111's "Original": states times weights, then everything times a factor that restores the mean. Its mean is that of
 * a chunk of all texts that a schedule switches among, so these come together, the same text as often as the schedule has
 * it. Returns the states of each text's chunk.
 */
export function emphasize(
  chunks: readonly WeightedChunk[],
  widths: readonly number[],
): Float32Array[] {
  const results = chunks.map(({ hidden }) => hidden.slice());
  let offset = 0;
  for (const [encoder, width] of widths.entries()) {
    // weights of 1 change nothing, not even the last bit
    if (chunks.some(({ weights }) => weights[encoder].some((weight) => weight !== 1))) {
      let [before, after] = [0, 0];
      for (const { hidden, weights } of chunks) {
        forEach(hidden, weights[encoder], offset, width, (at, weight) => {
          before += hidden[at];
          after += Math.fround(hidden[at] * weight);
        });
      }
      const factor = Math.fround(before / after);
      for (const [i, { hidden, weights }] of chunks.entries()) {
        forEach(hidden, weights[encoder], offset, width, (at, weight) => {
          results[i][at] = Math.fround(hidden[at] * weight) * factor;
        });
      }
    }
    offset += width;
  }
  return results;
}

/** ComfyUI's: away from the states of an empty prompt, or towards them, token by token. */
export function interpolate(
  { hidden, weights }: WeightedChunk,
  empty: Float32Array,
  widths: readonly number[],
): Float32Array {
  const result = hidden.slice();
  let offset = 0;
  for (const [encoder, width] of widths.entries()) {
    forEach(hidden, weights[encoder], offset, width, (at, weight) => {
      if (weight === 1) return;
      result[at] = Math.fround(Math.fround(hidden[at] - empty[at]) * weight) + empty[at];
    });
    offset += width;
  }
  return result;
}

/** Every value of one encoder's states, with its token's weight. */
function forEach(
  hidden: Float32Array,
  weights: Float32Array,
  offset: number,
  width: number,
  visit: (at: number, weight: number) => void,
): void {
  const row = hidden.length / weights.length;
  for (let t = 0; t < weights.length; t++) {
    for (let i = 0; i < width; i++) visit(t * row + offset + i, weights[t]);
  }
}
