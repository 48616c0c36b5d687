/**
 * Strided loops: a shape and how each operand is read (or the result written) at every index of it.
 * What maps, moves and reductions have in common: merging axes, reading four elements at once, and cutting
 * a loop into parts whose operands fit a binding.
 */

import type { View } from "../graph/ops.ts";
import { sizeOf } from "../base/shape.ts";
import { MAX_GROUPS, type Profile, windowOn } from "./kernel.ts";

/** Operand `i` is element `views[i].offset + Σ index · strides` of its buffer. */
export interface Loop {
  readonly shape: readonly number[];
  readonly views: readonly View[];
}

/** The same loop without axes of length 1, and with neighbouring axes merged where every view allows it. */
export function collapse({ shape, views }: Loop): Loop {
  const kept: { size: number; strides: number[] }[] = [];
  shape.forEach((size, axis) => {
    if (size === 1) return;
    const strides = views.map((view) => view.strides[axis]);
    const outer = kept.at(-1);
    if (outer?.strides.every((stride, i) => stride === strides[i] * size)) {
      outer.size *= size;
      outer.strides = strides;
    } else kept.push({ size, strides });
  });
  if (kept.length === 0) kept.push({ size: 1, strides: views.map(() => 1) });
  return {
    shape: kept.map(({ size }) => size),
    views: views.map(({ offset }, i) => ({
      offset,
      strides: kept.map(({ strides }) => strides[i]),
    })),
  };
}

const isMultipleOf4 = (n: number) => n % 4 === 0;

/** How four neighbours along the innermost axis lie: in one place, side by side as a vec4, or apart. */
export type Spacing = "same" | "four" | "apart";

export function spacingOf({ offset, strides }: View): Spacing {
  const inner = strides[strides.length - 1];
  if (inner === 0) return "same";
  return inner === 1 && [offset, ...strides.slice(0, -1)].every(isMultipleOf4) ? "four" : "apart";
}

/**
 * True where four neighbours along the innermost axis can be computed at once; the first view is the result. `apart`:
 * operands may be read number by number.
 */
export function isVectorised(
  { shape, views: [result, ...operands] }: Loop,
  { apart }: { readonly apart: boolean },
): boolean {
  return isMultipleOf4(shape[shape.length - 1]) && spacingOf(result) === "four" &&
    (apart || operands.every((view) => spacingOf(view) !== "apart"));
}

/** A view over groups of four neighbours: it counts vec4s where they are some, else numbers. */
const IN_VECTORS: { readonly [K in Spacing]: (view: View) => View } = {
  same: (view) => view,
  four: ({ offset, strides }) => ({
    offset: offset / 4,
    strides: [...strides.slice(0, -1).map((stride) => stride / 4), 1],
  }),
  apart: ({ offset, strides }) => ({
    offset,
    strides: strides.map((stride, i) => i === strides.length - 1 ? 4 * stride : stride),
  }),
};

/** The loop over groups of four neighbours. */
export function inVectors({ shape, views }: Loop): Loop {
  return {
    shape: [...shape.slice(0, -1), shape[shape.length - 1] / 4],
    views: views.map((view) => IN_VECTORS[spacingOf(view)](view)),
  };
}

/** What a buffer holds, to decide on windows. */
export interface Held {
  /** Bytes of one unit of the view. */
  readonly bytes: number;
  /** Bytes of the whole buffer. */
  readonly total: number;
  /** Units that are read beyond each place of the view. */
  readonly beyond: number;
}

/** A loop whose operands each fit one binding; `windows[i]` is absent where the whole buffer is bound. */
export interface Part extends Loop {
  readonly windows: readonly ({ readonly offset: number; readonly size: number } | undefined)[];
}

const reach = ({ shape }: Loop, { offset, strides }: View): number =>
  shape.reduce((sum, n, axis) => sum + (n - 1) * strides[axis], offset + 1);

/**
 * Cuts a loop until every operand fits one binding: the axis along which the worst operand reaches furthest is
 * halved. Throws `RangeError` where that cannot help.
 */
export function parts(loop: Loop, held: readonly Held[], profile: Profile): Part[] {
  const windows = loop.views.map((view, i) => {
    if (held[i].total <= profile.maxBinding) return { first: view.offset };
    return windowOn(view.offset, reach(loop, view) + held[i].beyond, held[i].bytes);
  });
  const sizes = windows.map((w) => "window" in w ? w.window.size : 0);
  const worst = sizes.indexOf(Math.max(...sizes));
  if (sizes[worst] <= profile.maxBinding) {
    return [{
      shape: loop.shape,
      views: loop.views.map(({ strides }, i) => ({ offset: windows[i].first, strides })),
      windows: windows.map((w) => "window" in w ? w.window : undefined),
    }];
  }
  const spans = loop.shape.map((n, axis) => (n - 1) * loop.views[worst].strides[axis]);
  const axis = spans.indexOf(Math.max(...spans));
  if (spans[axis] === 0) {
    throw new RangeError(
      `A loop over ${sizeOf(loop.shape)} elements cannot be cut to fit bindings`,
    );
  }
  const half = Math.ceil(loop.shape[axis] / 2);
  const cut = (begin: number, end: number): Loop => ({
    shape: loop.shape.map((n, i) => i === axis ? end - begin : n),
    views: loop.views.map(({ offset, strides }) => ({
      offset: offset + begin * strides[axis],
      strides,
    })),
  });
  return [cut(0, half), cut(half, loop.shape[axis])].flatMap((part) => parts(part, held, profile));
}

/** The type of an index with `rank` axes. */
const indexType = (rank: number): string => `array<u32, ${rank}>`;

/**
 * `fn name`: the index of the i-th element, in row-major order, of the shape that is in the parameters
 * `size_0`, `size_1`, …; it needs divide.wgsl.
 */
export function indexText(name: string, size: string, rank: number): string {
  const lines = Array.from({ length: rank - 1 }, (_, back) => {
    const axis = rank - 1 - back;
    return `  outer = divide(rest, params.${size}_${axis});
  at[${axis}] = rest - outer * params.${size}_${axis};
  rest = outer;`;
  });
  return `fn ${name}(i: u32) -> ${indexType(rank)} {
  var at: ${indexType(rank)};
  var rest = i;
  var outer = i;
${lines.join("\n")}
  at[0] = rest;
  return at;
}`;
}

/** `fn x_place`: where the element of an operand at an index lies, in the units in which it is bound. */
export function placeText(name: string, rank: number): string {
  const terms = Array.from({ length: rank }, (_, axis) => `at[${axis}] * params.${name}_${axis}`);
  const sum = [`params.${name}_first`, ...terms].join(" + ");
  return `fn ${name}_place(at: ${indexType(rank)}) -> u32 { return ${sum}; }`;
}

/** At least `groups` workgroups on two axes. */
export function flatGrid(groups: number): [columns: number, rows: number] {
  const rows = Math.ceil(groups / MAX_GROUPS);
  return [Math.ceil(groups / rows), rows];
}
