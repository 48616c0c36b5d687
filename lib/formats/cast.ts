/** Tensors of floats rounded to another type while they are written. */

import { toBf16, toF16 } from "../base/dtype.ts";
import { FormatError } from "../base/errors.ts";
import { bytesOf } from "./changes.ts";
import { type FileDType, type TensorData, toFloat32 } from "./safetensors.ts";

/** A type that a checkpoint's floats can be rounded to. */
export type CastType = "f16" | "f32" | "bf16";
/** All of them. */
export const CAST_TYPES: readonly CastType[] = ["f16", "f32", "bf16"];

/** Each type's name in files, and how values become it. */
const CASTS: Readonly<
  Record<
    CastType,
    { readonly dtype: FileDType; readonly round: (values: Float32Array) => ArrayBufferView }
  >
> = {
  f16: { dtype: "F16", round: toF16 },
  f32: { dtype: "F32", round: (values) => values },
  bf16: { dtype: "BF16", round: toBf16 },
};

/** The largest finite f16. */
const F16_MAX = 65504;

const FLOATS: ReadonlySet<FileDType> = new Set(["F64", "F32", "F16", "BF16"]);

/**
 * The tensor as another type; integers stay what they are. Reading it throws `FormatError` where a finite value is beyond
 * f16.
 */
export function cast(tensor: TensorData, to: CastType): TensorData {
  const { dtype, round } = CASTS[to];
  const { name } = tensor;
  if (tensor.dtype === dtype || !FLOATS.has(tensor.dtype)) return tensor;
  return {
    ...tensor,
    dtype,
    async data() {
      const bytes = await bytesOf(tensor) as Uint8Array<ArrayBuffer>; // no worker shares it
      const values = toFloat32(tensor.dtype, bytes, name);
      if (to === "f16") requireF16(values, name);
      const { buffer, byteOffset, byteLength } = round(values);
      return new Uint8Array(buffer, byteOffset, byteLength);
    },
  };
}

/** Throws `FormatError`. What rounds down to the largest number is still held. */
function requireF16(values: Float32Array, name: string): void {
  const beyond = values.find((value) => Math.abs(value) >= F16_MAX + 16 && Number.isFinite(value));
  if (beyond === undefined) return;
  throw new FormatError(
    `Cannot convert "${name}" to f16: it holds ${beyond}, and the largest f16 is ${F16_MAX}; ` +
      `bf16 holds such numbers, as f32 does`,
  );
}
