/** What happens to a tensor besides its name between single files and diffusers, in both directions. */

import { FormatError } from "../base/errors.ts";
import { sameShape, type Shape, show } from "../base/shape.ts";
import type { Change } from "./keys.ts";
import { FILE_BYTES, type TensorData } from "./safetensors.ts";

/** `out` [rows, columns] from `source` [columns, rows], elements of `size` bytes. */
export function transposeInto(
  out: Uint8Array,
  source: Uint8Array,
  shape: Shape,
  size: number,
): void {
  const [rows, columns] = shape;
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const from = (c * rows + r) * size;
      const to = (r * columns + c) * size;
      for (let b = 0; b < size; b++) out[to + b] = source[from + b];
    }
  }
}

/** What a change needs of the tensor in the file, for messages. */
export function needOf(change: Change | undefined): string {
  if (change === "squeeze") return "[o, i] or [o, i, 1, 1]";
  return change === "transpose" ? "two dimensions" : "a multiple of three rows (query, key, value)";
}

/**
 * Shape and byte range that a change leaves of a tensor; `undefined` where it cannot be applied.
 */
export function applied(change: Change | undefined, shape: Shape, bytes: number) {
  if (change === undefined) return { shape, from: 0, to: bytes };
  if (change === "squeeze") {
    const isPoint = shape.length >= 2 && shape.slice(2).every((n) => n === 1);
    return isPoint ? { shape: shape.slice(0, 2), from: 0, to: bytes } : undefined;
  }
  if (change === "transpose") {
    return shape.length === 2 ? { shape: [shape[1], shape[0]], from: 0, to: bytes } : undefined;
  }
  if (shape.length === 0 || shape[0] % 3 !== 0) return undefined;
  const third = bytes / 3;
  return {
    shape: [shape[0] / 3, ...shape.slice(1)],
    from: third * change,
    to: third * (change + 1),
  };
}

// ---- the way back

/** The tensor of a single file that diffusers' tensors make, in the order of their changes. Throws `FormatError`. */
export function joined(
  name: string,
  parts: readonly { readonly tensor: TensorData; readonly change: Change | undefined }[],
): TensorData {
  const [{ tensor, change }] = parts;
  if (typeof change === "number") return joinedThirds(name, parts);
  const { shape, dtype } = tensor;
  if (change === "squeeze" && shape.length === 2) {
    return { ...tensor, name, shape: [...shape, 1, 1] };
  }
  if (change !== "transpose") return { ...tensor, name };
  const turned = [shape[1], shape[0]];
  return {
    name,
    dtype,
    shape: turned,
    async data() {
      const source = await bytesOf(tensor);
      const out = new Uint8Array(source.length);
      transposeInto(out, source, turned, FILE_BYTES[dtype]);
      return out;
    },
  };
}

const THIRDS = [0, 1, 2];

/** Rows of query, key and value one after another. */
function joinedThirds(name: string, parts: Parameters<typeof joined>[1]): TensorData {
  const thirds = THIRDS.map((third) => parts.find(({ change }) => change === third)?.tensor);
  const whole = thirds.filter((tensor) => tensor !== undefined);
  const [{ dtype, shape }] = whole;
  const isAlike = whole.every((tensor) => tensor.dtype === dtype && sameShape(tensor.shape, shape));
  if (whole.length < THIRDS.length || !isAlike) {
    throw new FormatError(
      `Cannot make "${name}" of ${
        whole.map((tensor) => `"${tensor.name}" (${tensor.dtype} ${show(tensor.shape)})`).join(", ")
      }: query, key and value of one type and shape were needed; --dtype gives all one type`,
    );
  }
  return {
    name,
    dtype,
    shape: [shape[0] * THIRDS.length, ...shape.slice(1)],
    async data() {
      const pieces = [];
      for (const tensor of whole) pieces.push(await bytesOf(tensor));
      const out = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
      let at = 0;
      for (const piece of pieces) {
        out.set(piece, at);
        at += piece.length;
      }
      return out;
    },
  };
}

/** The values of a tensor to be written. */
export async function bytesOf({ data }: TensorData): Promise<Uint8Array> {
  return data instanceof Uint8Array ? data : await data();
}
