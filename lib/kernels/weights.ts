/**
 * Weights on their way from a checkpoint to a device: which layout each parameter has, and the packing into it.
 * Linear and convolution weights lie in panels of 32 outputs, so that eight lanes read four columns each, side by side,
 * and a block of eight f16 (four f32) along the reduction is one 16-byte load; the last block is filled with zeros.
 * Tables that are looked up lie in rows. Vectors stay f32.
 */

import { firstNonFinite, fromBf16 } from "../base/dtype.ts";
import type { Role } from "../graph/ops.ts";
import { type Shape, show, sizeOf } from "../base/shape.ts";
import { type Format, type Layout, PANEL, type Profile, TEXTURE_WIDTH } from "./kernel.ts";

/** Element types that weights may have in a checkpoint. */
export interface WeightSource {
  readonly dtype: "f32" | "f16" | "bf16";
  /** Little-endian elements in checkpoint order: linear [n, k], conv [co, ci, kh, kw], else row-major. */
  readonly data: Uint8Array;
}

/** A weight that cannot be packed as asked; `"beyond f16"` can still be packed as f32. */
export class WeightError extends RangeError {
  constructor(
    readonly reason: "not finite" | "beyond f16",
    /** Position of the first such value in the checkpoint's order. */
    readonly index: number,
    readonly value: number,
  ) {
    super(`value ${index} is ${value}, ${NEEDED[reason]}`);
  }
}
const NEEDED = {
  "not finite": "but weights must be finite",
  "beyond f16": "which f16 cannot hold (largest 65504)",
};

/** Elements of one 16-byte block, or 0 where a format has none. */
const BLOCK: Readonly<Record<Format, number>> = { rows16: 0, rows32: 0, panels16: 8, panels32: 4 };
const isHalf = (format: Format) => format === "rows16" || format === "panels16";

/** Formats of each role by element type. */
const FORMATS: { readonly [K in Role]: { readonly f16: Format; readonly f32: Format } } = {
  linear: { f16: "panels16", f32: "panels32" },
  conv: { f16: "panels16", f32: "panels32" },
  embedding: { f16: "rows16", f32: "rows32" },
  vector: { f16: "rows32", f32: "rows32" },
};

/** Where a parameter lies on a device. Software devices read fastest from textures. */
export function layoutFor(
  role: Role,
  shape: Shape,
  dtype: "f16" | "f32",
  { kind, maxTextureSide }: Profile,
): Layout {
  const format = FORMATS[role][dtype];
  const lines = packedBytes(shape, { format, residence: "texture" }) / (16 * TEXTURE_WIDTH);
  const inTexture = BLOCK[format] > 0 && kind === "software" && lines <= maxTextureSide;
  return { format, residence: inTexture ? "texture" : "buffer" };
}

/** Outputs and reduction length of a weight [n, …, k]. */
function matrix(shape: Shape): { n: number; k: number } {
  return { n: shape[0], k: sizeOf(shape.slice(1)) };
}

/** Bytes of a packed parameter, a multiple of 16. */
export function packedBytes(shape: Shape, { format }: Layout): number {
  const { n, k } = matrix(shape);
  const block = BLOCK[format];
  const count = block === 0
    ? sizeOf(shape)
    : Math.ceil(n / PANEL) * PANEL * Math.ceil(k / block) * block;
  return Math.ceil(count * (isHalf(format) ? 2 : 4) / 16) * 16;
}

/** Memory that is used from weight to weight: the system takes longer to give fresh pages than packing takes to fill them. */
export class Scratch {
  #packed = new Uint8Array(0);
  #rounded = new Float16Array(0);

  /** So many bytes, with whatever was in them. */
  packed(bytes: number): Uint8Array<ArrayBuffer> {
    if (this.#packed.length < bytes) this.#packed = new Uint8Array(bytes);
    return this.#packed.subarray(0, bytes);
  }

  /** Values rounded to f16, as bit patterns. */
  rounded(values: Float32Array): Uint16Array<ArrayBuffer> {
    if (this.#rounded.length < values.length) this.#rounded = new Float16Array(values.length);
    this.#rounded.set(values);
    return new Uint16Array(this.#rounded.buffer, 0, values.length);
  }
}

/**
 * The bytes of a parameter of `shape` (as the graph has it: conv [co, kh, kw, ci]) in `layout`. They lie in `scratch` until
 * the next weight is packed. Throws `WeightError` on values that are not finite, or that f16 cannot hold where the layout is f16.
 */
export function pack(
  source: WeightSource,
  role: Role,
  shape: Shape,
  layout: Layout,
  scratch = new Scratch(),
): Uint8Array<ArrayBuffer> {
  const bytes = sizeOf(shape) * (source.dtype === "f32" ? 4 : 2);
  if (source.data.byteLength !== bytes) {
    throw new RangeError(
      `Cannot pack a weight of shape ${show(shape)}: ${source.data.byteLength} bytes of ` +
        `${source.dtype} were given, ${bytes} are needed`,
    );
  }
  const out = scratch.packed(packedBytes(shape, layout));
  const bits = elements(source, isHalf(layout.format), scratch);
  if (out.length > sizeOf(shape) * (isHalf(layout.format) ? 2 : 4)) out.fill(0); // what fills up blocks
  const taps = role === "conv" ? shape[1] * shape[2] : 1;
  const inner = role === "conv" ? shape[3] : matrix(shape).k;
  const target = bits instanceof Uint16Array
    ? new Uint16Array(out.buffer, 0, out.length / 2)
    : new Uint32Array(out.buffer, 0, out.length / 4);
  const block = BLOCK[layout.format];
  if (block === 0) toRows(bits, target, shape[0], taps, inner);
  else if (taps === 1 && inner % block === 0) blocksToPanels(bits, out, shape[0], inner / block);
  else if (inner % block === 0 && bits instanceof Uint16Array) {
    halfTapsToPanels(bits, out, shape[0], taps, inner);
  } else if (inner % block === 0) tapsToPanels(bits, target, shape[0], taps, inner, block);
  else toPanels(bits, target, shape[0], taps, inner, block);
  return out;
}

/** Bit patterns of all elements in the checkpoint's order: u16 of f16, or u32 of f32. */
function elements(
  source: WeightSource,
  half: boolean,
  scratch: Scratch,
): Uint16Array | Uint32Array {
  const { dtype } = source;
  const size = dtype === "f32" ? 4 : 2;
  const data = source.data.byteOffset % 4 === 0 ? source.data : source.data.slice();
  const bad = firstNonFinite(dtype, data);
  const count = data.byteLength / size;
  if (dtype === "f16") {
    const halves = new Float16Array(data.buffer, data.byteOffset, count);
    if (bad >= 0) throw new WeightError("not finite", bad, halves[bad]);
    if (half) return new Uint16Array(data.buffer, data.byteOffset, count);
    return new Uint32Array(new Float32Array(halves).buffer);
  }
  const words = dtype === "f32"
    ? new Uint32Array(data.buffer, data.byteOffset, count)
    : new Uint32Array(fromBf16(new Uint16Array(data.buffer, data.byteOffset, count)).buffer);
  const values = new Float32Array(words.buffer, words.byteOffset, count);
  if (bad >= 0) throw new WeightError("not finite", bad, values[bad]);
  if (!half) return words;
  const rounded = scratch.rounded(values);
  const beyond = firstNonFinite("f16", rounded);
  if (beyond >= 0) throw new WeightError("beyond f16", beyond, values[beyond]);
  return rounded;
}

/** [n, inner, taps] → [n, taps, inner]. */
function toRows(
  bits: Uint16Array | Uint32Array,
  out: Uint16Array | Uint32Array,
  n: number,
  taps: number,
  inner: number,
): void {
  if (taps === 1) return out.set(bits);
  for (let o = 0, at = 0; o < n; o++) {
    for (let i = 0; i < inner; i++) {
      for (let tap = 0; tap < taps; tap++) out[(o * taps + tap) * inner + i] = bits[at++];
    }
  }
}

/** Blocks of 16 bytes in a cache line. */
const LINE = 4;

/** [n, blocks] of 16 bytes → [panel, block, column]. */
function blocksToPanels(
  bits: Uint16Array | Uint32Array,
  bytes: Uint8Array<ArrayBuffer>,
  n: number,
  blocks: number,
): void {
  const aligned = bits.byteOffset % 4 === 0 ? bits : bits.slice();
  const from = new Uint32Array(aligned.buffer, aligned.byteOffset, n * blocks * 4);
  const to = new Uint32Array(bytes.buffer, 0, bytes.length / 4);
  for (let panel = 0; panel < n; panel += PANEL) {
    const columns = Math.min(PANEL, n - panel);
    for (let first = 0; first < blocks; first += LINE) { // a cache line of each column at a time
      const last = Math.min(first + LINE, blocks);
      for (let column = 0; column < columns; column++) {
        let at = ((panel + column) * blocks + first) * 4;
        for (let block = first; block < last; block++) {
          const target = (panel * blocks + block * PANEL + column) * 4;
          to[target] = from[at++];
          to[target + 1] = from[at++];
          to[target + 2] = from[at++];
          to[target + 3] = from[at++];
        }
      }
    }
  }
}

/**
 * [n, inner, taps] → [panel, tap, inner block, column, within the block] of f16, two at a time. A block of all columns of a
 * panel is written at once, since what lies beside it comes from far apart, and the taps of its channels lie together.
 */
function halfTapsToPanels(
  bits: Uint16Array,
  bytes: Uint8Array<ArrayBuffer>,
  n: number,
  taps: number,
  inner: number,
): void {
  const out = new Uint32Array(bytes.buffer, 0, bytes.length / 4);
  const blocks = inner / 8;
  for (let panel = 0; panel < n; panel += PANEL) {
    const columns = Math.min(PANEL, n - panel);
    for (let block = 0; block < blocks; block++) {
      for (let tap = 0; tap < taps; tap++) {
        let to = ((panel / PANEL * taps + tap) * blocks + block) * PANEL * 4;
        let from = (panel * inner + block * 8) * taps + tap;
        for (let c = 0; c < columns; c++, to += 4, from += inner * taps) {
          let at = from;
          out[to] = bits[at] | bits[at += taps] << 16;
          out[to + 1] = bits[at += taps] | bits[at += taps] << 16;
          out[to + 2] = bits[at += taps] | bits[at += taps] << 16;
          out[to + 3] = bits[at += taps] | bits[at += taps] << 16;
        }
      }
    }
  }
}

/** The same for f32. */
function tapsToPanels(
  bits: Uint16Array | Uint32Array,
  out: Uint16Array | Uint32Array,
  n: number,
  taps: number,
  inner: number,
  block: number,
): void {
  const blocks = inner / block;
  for (let o = 0; o < n; o++) {
    const column = o % PANEL;
    const panel = (o - column) * taps * inner;
    const source = o * inner * taps;
    for (let tap = 0; tap < taps; tap++) { // a tap at a time: taps lie apart by what maps to one cache set
      let at = source + tap;
      let to = panel + tap * inner * PANEL + column * block;
      for (let b = 0; b < blocks; b++, to += PANEL * block) {
        for (let i = 0; i < block; i++, at += taps) out[to + i] = bits[at];
      }
    }
  }
}

/** The same for channels that do not fill blocks: [panel, block of (tap, inner), column, within the block]. */
function toPanels(
  bits: Uint16Array | Uint32Array,
  out: Uint16Array | Uint32Array,
  n: number,
  taps: number,
  inner: number,
  block: number,
): void {
  const blocks = Math.ceil(taps * inner / block);
  for (let o = 0, at = 0; o < n; o++) {
    const column = o % PANEL;
    const panel = (o - column) * blocks * block;
    for (let i = 0; i < inner; i++) {
      for (let tap = 0; tap < taps; tap++) {
        const k = tap * inner + i;
        const within = k % block;
        out[panel + (k - within) * PANEL + column * block + within] = bits[at++];
      }
    }
  }
}
