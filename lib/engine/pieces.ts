/**
 * Between a checkpoint's tensors and the parameters that graphs read: most are the same, some parameters are several tensors
 * stacked (a self-attention's queries, keys and values) or some rows of one (each half of a gate).
 */

import { fromBf16, fromF16 } from "../base/dtype.ts";
import { sizeOf } from "../base/shape.ts";
import type { WeightInfo } from "../formats/checkpoint.ts";
import type { WeightSource } from "../gpu/buffers.ts";
import type { Parameter, Piece } from "../graph/ops.ts";
import type { Manifest } from "../nn/params.ts";

/** Tensors that are read together, since a parameter has rows of each, and the parameters that they make. */
export interface Batch {
  /** Not empty. */
  readonly tensors: readonly WeightInfo[];
  readonly readers: readonly Parameter[];
}

/** The rows that make a parameter. */
function piecesOf({ name, shape, pieces }: Parameter): readonly Piece[] {
  return pieces ?? [{ name, shape, begin: 0, end: shape[0] }];
}

/** What a manifest wants, whose names begin with `component.`, in the order of the file. */
export function batchesOf(
  infos: ReadonlyMap<string, WeightInfo>,
  manifest: Manifest,
  component: string,
): Batch[] {
  const batches: Batch[] = [];
  const done = new Set<string>();
  for (const { name } of infos.values()) {
    const entry = manifest.get(`${component}.${name}`);
    if (!entry || done.has(entry.name)) continue;
    const pieces = entry.readers.flatMap(piecesOf);
    const names = new Set(pieces.map((piece) => piece.name));
    const tensors = [...names].map((whole) => {
      const info = infos.get(whole.slice(component.length + 1));
      if (!info) throw new TypeError(`There is no tensor "${whole}"`);
      done.add(whole);
      return info;
    });
    batches.push({ tensors, readers: entry.readers });
  }
  return batches;
}

/** Element type of a parameter made of tensors of these types. */
export function joinedType(types: readonly WeightSource["dtype"][]): WeightSource["dtype"] {
  return types.every((type) => type === types[0]) ? types[0] : "f32";
}

/** Values of a parameter; `tensorOf` gives a checkpoint's tensor by the graph's name. */
export function sourceOf(
  reader: Parameter,
  tensorOf: (name: string) => WeightSource,
): WeightSource {
  const parts = piecesOf(reader).map(({ name, shape, begin, end }): WeightSource => {
    const { dtype, data } = tensorOf(name);
    const row = data.length / shape[0];
    return { dtype, data: data.subarray(begin * row, end * row) };
  });
  if (parts.length === 1) return parts[0];
  const dtype = joinedType(parts.map((part) => part.dtype));
  const all = parts.map((part) => part.dtype === dtype ? part.data : widened(part));
  const data = new Uint8Array(all.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of all) {
    data.set(part, at);
    at += part.length;
  }
  return { dtype, data };
}

/** Values as f32. */
function widened({ dtype, data }: WeightSource): Uint8Array {
  if (dtype === "f32") return data;
  const halves = new Uint16Array(data.slice().buffer);
  return new Uint8Array((dtype === "f16" ? fromF16 : fromBf16)(halves).buffer);
}

/** The tensor that value `index` of a parameter comes from, and the value's place in it. */
export function originOf(reader: Parameter, index: number): { name: string; index: number } {
  let at = 0;
  for (const { name, shape, begin, end } of piecesOf(reader)) {
    const row = sizeOf(shape) / shape[0];
    if (index < at + (end - begin) * row) return { name, index: index - at + begin * row };
    at += (end - begin) * row;
  }
  throw new RangeError(`"${reader.name}" has no value ${index}`);
}
