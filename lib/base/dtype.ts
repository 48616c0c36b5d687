/**
 * Element types: their sizes and names, and conversion of whole arrays between them.
 * `Float16Array` does f16 (round to nearest even); bf16 is the upper half of f32.
 */

/** Element types that tensors may have in files and in graphs. */
export const DTYPES = ["f32", "f16", "bf16", "i32", "u32"] as const;
export type DType = (typeof DTYPES)[number];

/** Bytes of one element. */
export const BYTES: Readonly<Record<DType, number>> = { f32: 4, f16: 2, bf16: 2, i32: 4, u32: 4 };

/** Widens bf16 bit patterns to f32; exact. */
export function fromBf16(bits: Uint16Array): Float32Array<ArrayBuffer> {
  const out = new Float32Array(bits.length);
  const words = new Uint32Array(out.buffer);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i] << 16;
  return out;
}

/** Rounds f32 to bf16 bit patterns, to nearest even; NaN stays NaN. */
export function toBf16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const w = words[i];
    const isNaN = (w & 0x7fffffff) > 0x7f800000;
    out[i] = isNaN ? (w >>> 16) | 0x40 : (w + 0x7fff + ((w >>> 16) & 1)) >>> 16;
  }
  return out;
}

/** Widens f16 bit patterns to f32; exact. */
export function fromF16(bits: Uint16Array): Float32Array<ArrayBuffer> {
  const out = new Float32Array(bits.length);
  const halves = new Float16Array(bits.buffer, bits.byteOffset, bits.length);
  out.set(halves);
  return out;
}

/** Rounds f32 to f16, to nearest even; beyond 65,504 becomes infinite. */
export function toF16(values: Float32Array): Float16Array<ArrayBuffer> {
  return new Float16Array(values);
}

/**
 * Where the exponent lies in one 32-bit word of packed elements, and what carries an all-ones
 * exponent into the sign.
 */
const EXPONENTS = {
  f32: { mask: 0x7f800000, one: 0x00800000, carry: 0x80000000 | 0, bytes: 4 },
  f16: { mask: 0x7c007c00, one: 0x04000400, carry: 0x80008000 | 0, bytes: 2 },
  bf16: { mask: 0x7f807f80, one: 0x00800080, carry: 0x80008000 | 0, bytes: 2 },
} as const;

/**
 * Index of the first NaN or infinity among packed elements, or -1. Integers have none. Two halves
 * are tested in one word: adding one to an all-ones exponent carries into the sign bit, which the
 * mask cleared.
 */
export function firstNonFinite(dtype: DType, data: ArrayBufferView): number {
  if (dtype === "i32" || dtype === "u32") return -1;
  const { mask, one, carry, bytes } = EXPONENTS[dtype];
  const whole = data.byteOffset % 4 === 0 ? Math.floor(data.byteLength / 4) : 0;
  const words = new Int32Array(data.buffer, whole === 0 ? 0 : data.byteOffset, whole);
  let from = 0; // word; blocks before it are known to be finite
  for (; from < words.length; from += 1024) {
    const to = Math.min(from + 1024, words.length);
    let seen = 0;
    for (let i = from; i < to; i++) seen |= (words[i] & mask) + one;
    if ((seen & carry) !== 0) break;
  }
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  for (let at = Math.min(from, whole) * 4; at + bytes <= data.byteLength; at += bytes) {
    const bits = bytes === 4 ? view.getInt32(at, true) : view.getUint16(at, true) * 0x10001;
    if ((((bits & mask) + one) & carry) !== 0) return at / bytes;
  }
  return -1;
}
