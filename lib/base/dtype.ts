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
