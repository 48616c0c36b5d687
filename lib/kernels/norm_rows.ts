/** Rows of channels as kernels of norms read and share them: how wide, which part is bound, which lanes have which rows. */

import type { Tensor } from "../graph/tensor.ts";
import { type Across, acrossesFor, BY_WORKGROUP } from "./across.ts";
import {
  type Binding,
  type Dispatch,
  type Profile,
  type Residence,
  type Rows,
  splitRows,
  type Variant,
  windowOn,
} from "./kernel.ts";
import { flatGrid } from "./views.ts";

/** Four channels at a time where they divide by four. */
export function widthOf(channels: number): { type: "f32" | "vec4f"; width: 1 | 4 } {
  return channels % 4 === 0 ? { type: "vec4f", width: 4 } : { type: "f32", width: 1 };
}

/** What `T` alone cannot say: folding the numbers of a T, and making one of them. */
export const FOLDS = {
  f32: `fn sum_of(v: T) -> f32 { return v; }
fn max_of(v: T) -> f32 { return v; }
fn gathered(v: array<f32, 1>) -> T { return v[0]; }`,
  vec4f: `fn sum_of(v: T) -> f32 { return (v.x + v.y) + (v.z + v.w); }
fn max_of(v: T) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
fn gathered(v: array<f32, 4>) -> T { return T(v[0], v[1], v[2], v[3]); }`,
} as const;

/** What of a tensor is bound, and where in it the rows begin. */
export type Part = Pick<Binding, "window"> & { readonly first: number };

/** Rows of an activation of `channels` f32 as a dispatch binds them: textures and small buffers whole. */
export function partOf(x: Tensor, rows: Rows, residence: Residence, profile: Profile): Part {
  if (residence === "texture" || x.size * 4 <= profile.maxBinding) return { first: 0 };
  const channels = x.shape[x.rank - 1];
  return windowOn(rows.begin * channels, rows.end * channels, 4);
}

export const windowed = ({ window }: Part): Pick<Binding, "window"> => window ? { window } : {};

/** How the lanes of a workgroup share rows: `lanes` have `rows` of them together. */
export interface Sharing {
  readonly name: string;
  readonly lanes: number;
  readonly rows: number;
  readonly across: Across;
}
/** Of a workgroup. */
export const THREADS = 64;
export const ALONE: Sharing = { name: "rows", lanes: 1, rows: 1, across: BY_WORKGROUP };
export const SEVERAL: Sharing = { ...ALONE, rows: 8 };

/** Rows that a whole workgroup shares, in the ways a device has. */
export function togetherOn(profile: Profile): readonly [Sharing, ...Sharing[]] {
  const sharing = (across: Across) => ({ name: across.name, lanes: THREADS, rows: 1, across });
  const [best, ...others] = acrossesFor(profile);
  return [sharing(best), ...others.map(sharing)];
}

/** The rows of a matrix [rows, columns] of T, shared out to lanes. */
export function byRows(
  node: Tensor,
  profile: Profile,
  sharings: readonly [Sharing, ...Sharing[]],
  dispatchOf: (sharing: Sharing, rows: Rows, whole: boolean) => Dispatch,
): readonly [Variant, ...Variant[]] {
  const channels = node.shape[node.rank - 1];
  const parts = splitRows(node.size / channels, channels, profile);
  const variantOf = (sharing: Sharing): Variant => {
    const dispatches = parts.map((rows) => dispatchOf(sharing, rows, parts.length === 1));
    return { name: sharing.name, scratch: [], dispatches };
  };
  const [first, ...rest] = sharings;
  return [variantOf(first), ...rest.map(variantOf)];
}

/** Grid over sets of rows. */
export function rowGrid(rows: number, sharing: Sharing): [columns: number, rows: number] {
  return flatGrid(Math.ceil(rows / sharing.rows / (THREADS / sharing.lanes)));
}
