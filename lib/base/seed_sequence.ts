/**
 * numpy's `SeedSequence` (O'Neill's `seed_seq_fe`): a few numbers spread over a pool of words, from which seeds are drawn.
 * What torch's Brownian trees get their seeds from.
 */

const u32 = (x: number) => x >>> 0;

/** A hash whose multiplier changes with every word. */
function hashing(start: number, factor: number): (word: number) => number {
  let multiplier = start;
  return (word) => {
    word ^= multiplier;
    multiplier = Math.imul(multiplier, factor);
    word = Math.imul(word, multiplier);
    return u32(word ^ (word >>> 16));
  };
}

function mixed(x: number, y: number): number {
  const word = Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y);
  return u32(word ^ (word >>> 16));
}

/** A number's words, the lowest first; of 0 one. */
function wordsOf(value: number): number[] {
  return value < 2 ** 32 ? [value] : [u32(value), ...wordsOf(Math.floor(value / 2 ** 32))];
}

/**
 * `SeedSequence(entropy, spawn_key=spawnKey, pool_size=poolSize).generate_state(count)`. Numbers are whole, from 0 to
 * 2⁵³ − 1.
 */
export function seedSequence(
  entropy: number,
  spawnKey: readonly number[],
  poolSize: number,
  count: number,
): Uint32Array<ArrayBuffer> {
  const run = wordsOf(entropy);
  // a key is told apart from more entropy by zeros between them
  while (spawnKey.length > 0 && run.length < poolSize) run.push(0);
  const words = [...run, ...spawnKey.flatMap(wordsOf)];
  const hash = hashing(0x43b0d7e5, 0x931e8875);
  const pool = Uint32Array.from({ length: poolSize }, (_, i) => hash(words[i] ?? 0));
  for (let from = 0; from < poolSize; from++) {
    for (let to = 0; to < poolSize; to++) {
      if (from !== to) pool[to] = mixed(pool[to], hash(pool[from]));
    }
  }
  for (const word of words.slice(poolSize)) {
    for (let to = 0; to < poolSize; to++) pool[to] = mixed(pool[to], hash(word));
  }
  const draw = hashing(0x8b51f9dd, 0x58f38ded);
  return Uint32Array.from({ length: count }, (_, i) => draw(pool[i % poolSize]));
}
