/**
 * Sums and maxima over any axes: [kept, reduced] → [kept], in two dispatches where the reduced axes are long. On GPUs the
 * invocations of a workgroup also fold together, which suits few results.
 */

import { show, sizeOf, stridesOf } from "../base/shape.ts";
import { type Across, acrossesFor, acrossParts } from "./across.ts";
import {
  type Binding,
  type Dispatch,
  type Kernel,
  type LayoutOf,
  type NodeOf,
  type Profile,
  type Residence,
  residencesOnce,
  resultBinding,
  type Variant,
} from "./kernel.ts";
import { collapse, flatGrid, indexText, placeText } from "./views.ts";
import divideSource from "../../wgsl/divide.wgsl" with { type: "text" };
import source from "../../wgsl/reduce.wgsl" with { type: "text" };
import acrossSource from "../../wgsl/reduce_across.wgsl" with { type: "text" };

const LANES = 64;

/** The longest run of elements that is folded at once; longer ones are cut into chunks of about equal number and length. */
const LONGEST = 512;

/** The same for a workgroup that folds together. */
const LONGEST_TOGETHER = LANES * LONGEST;

/** So many results keep a GPU busy one by one. */
const MANY = 4096;

/** Two values into one, the numbers of a vec4 into one, what a workgroup's invocations hold, and where they start. */
const FOLDS = {
  sum: {
    pair: "a + b",
    four: "(v.x + v.y) + (v.z + v.w)",
    across: "sum_across",
    start: "T()",
  },
  maximum: {
    pair: "max(a, b)",
    four: "max(max(v.x, v.y), max(v.z, v.w))",
    across: "max_across",
    start: "first",
  },
} as const;

/** Axes of an operand with their strides. */
interface Axes {
  readonly sizes: readonly number[];
  readonly strides: readonly number[];
}

/** Neighbouring axes merged; at least one axis. */
function merged(sizes: readonly number[], strides: readonly number[]): Axes {
  const { shape, views: [view] } = collapse({ shape: sizes, views: [{ offset: 0, strides }] });
  return { sizes: shape, strides: view.strides };
}

/** True where the innermost of some axes consists of whole vec4s. */
function endsInVec4s({ sizes, strides }: Axes): boolean {
  return strides[strides.length - 1] === 1 && sizes[sizes.length - 1] % 4 === 0;
}

/** Axes counted in vec4s; the innermost of `inner` axes holds them. */
function inVec4s({ sizes, strides }: Axes, inner: boolean): Axes {
  const last = (i: number) => inner && i === sizes.length - 1;
  return {
    sizes: sizes.map((n, i) => last(i) ? n / 4 : n),
    strides: strides.map((stride, i) => last(i) ? 1 : stride / 4),
  };
}

/** One dispatch: elements of `from` folded in chunks, [⌈reduced / chunk⌉, kept] written to `to`. */
interface Stage {
  readonly fold: keyof typeof FOLDS;
  readonly kept: Axes;
  readonly reduced: Axes;
  readonly from: { readonly source: Binding["source"]; readonly residence: Residence };
  readonly to: Binding["source"];
  readonly chunk: number;
  /** Where a workgroup folds a chunk together. */
  readonly together: Across | undefined;
}

function named(name: string, { sizes, strides }: Axes): Record<string, number> {
  return Object.fromEntries([
    [`${name}_first`, 0],
    ...sizes.map((n, axis) => [`${name}_size_${axis}`, n] as const),
    ...strides.map((stride, axis) => [`${name}_${axis}`, stride] as const),
  ]);
}

function dispatchOf(stage: Stage): Dispatch {
  const { fold, from, to, chunk, together } = stage;
  const outer = (axes: Axes) => axes.strides.every((stride) => stride % 4 === 0);
  const keptVec4s = endsInVec4s(stage.kept) && outer(stage.reduced);
  const foldedVec4s = endsInVec4s(stage.reduced) && outer(stage.kept) && chunk % 4 === 0;
  const vector = keptVec4s || foldedVec4s;
  const kept = vector ? inVec4s(stage.kept, keptVec4s) : stage.kept;
  const reduced = vector ? inVec4s(stage.reduced, foldedVec4s) : stage.reduced;
  const rounds = foldedVec4s ? chunk / 4 : chunk;
  const count = sizeOf(kept.sizes) * Math.ceil(sizeOf(reduced.sizes) / rounds);
  const [gridColumns, gridRows] = flatGrid(together ? count : Math.ceil(count / LANES));
  const type = vector ? "vec4f" : "f32";
  const resultType = keptVec4s ? "vec4f" : "f32";
  const { pair, four, across, start } = FOLDS[fold];
  const shared = together ? acrossParts(together, type, LANES) : undefined;
  return {
    shader: {
      source: together ? acrossSource : source,
      type,
      constants: { LANES, ...shared?.constants },
      functions: [
        ...(shared
          ? [
            shared.functions,
            `fn across(value: T, lane: Lane) -> T { return ${across}(value, lane); }`,
            `fn started(first: T) -> T { return ${start}; }`,
          ]
          : []),
        divideSource,
        indexText("kept_index", "kept_size", kept.sizes.length),
        indexText("reduced_index", "reduced_size", reduced.sizes.length),
        placeText("kept", kept.sizes.length),
        placeText("reduced", reduced.sizes.length),
        `fn folded(a: T, b: T) -> T { return ${pair}; }`,
        `fn finished(v: T) -> ${resultType} { return ${foldedVec4s ? four : "v"}; }`,
      ].join("\n"),
      bindings: [
        { name: "x", element: type, access: "read", ...from },
        resultBinding(resultType, to),
      ],
    },
    params: {
      u32: {
        count,
        grid_columns: gridColumns,
        kept: sizeOf(kept.sizes),
        reduced: sizeOf(reduced.sizes),
        chunk: rounds,
        ...named("kept", kept),
        ...named("reduced", reduced),
      },
    },
    grid: [gridColumns, gridRows, 1],
    iterations: together ? Math.ceil(rounds / LANES) + 2 * LANES : rounds,
  };
}

function reduction(
  node: NodeOf<"sum" | "maximum">,
  profile: Profile,
  layoutOf: LayoutOf,
): readonly [Variant, ...Variant[]] {
  const [x] = node.inputs;
  const [residence] = residencesOnce(node, profile, layoutOf);
  if (residence === "buffer" && x.size * 4 > profile.maxBinding) {
    throw new RangeError(
      `Cannot reduce ${show(x.shape)}: ${
        x.size * 4
      } bytes exceed a binding of ${profile.maxBinding}`,
    );
  }
  const strides = stridesOf(x.shape);
  const pick = (reduced: boolean): Axes => {
    const axes = x.shape.map((_, i) => i).filter((i) => node.attrs.axes.includes(i) === reduced);
    return merged(axes.map((i) => x.shape[i]), axes.map((i) => strides[i]));
  };
  const [kept, reduced] = [pick(false), pick(true)];
  const from = { source: 0, residence };
  const variantOf = (together?: Across): Variant => {
    const length = sizeOf(reduced.sizes);
    const longest = together ? LONGEST_TOGETHER : LONGEST;
    const chunk = length <= longest
      ? length
      : Math.ceil(Math.max(longest, Math.sqrt(length)) / 4) * 4;
    const chunks = Math.ceil(length / chunk);
    const stage = { fold: node.op, together };
    const dispatches = chunks === 1
      ? [dispatchOf({ ...stage, kept, reduced, from, to: "result", chunk })]
      : [
        dispatchOf({ ...stage, kept, reduced, from, to: { scratch: 0 }, chunk }),
        dispatchOf({
          ...stage,
          kept: { sizes: [node.size], strides: [1] },
          reduced: { sizes: [chunks], strides: [node.size] },
          from: { source: { scratch: 0 }, residence: "buffer" },
          to: "result",
          chunk: chunks,
        }),
      ];
    const scratch = chunks === 1 ? [] : [chunks * node.size * 4];
    return { name: together?.name ?? "chunks", scratch, dispatches };
  };
  const alone = variantOf();
  if (profile.kind === "software") return [alone];
  const [best, ...others] = acrossesFor(profile).map(variantOf);
  return node.size >= MANY ? [alone, best, ...others] : [best, ...others, alone];
}

export const sum: Kernel<"sum"> = reduction;
export const maximum: Kernel<"maximum"> = reduction;
