/**
 * Elementwise work and moves: one expression over strided views of the inputs, written to a strided view of the result.
 * Single elementwise operators, transposes, slices, broadcasts, enlargements, concatenations and padding are all of this kind.
 */

import { isElementwise } from "../graph/expression.ts";
import type { Expression } from "../graph/expression.ts";
import type { View } from "../graph/ops.ts";
import type { Tensor } from "../graph/tensor.ts";
import { broadcastView, sliceView, transposeView, wholeView } from "../graph/view.ts";
import { type Shape, sizeOf } from "../base/shape.ts";
import { returnText } from "./expression.ts";
import {
  type Binding,
  type Dispatch,
  type LayoutOf,
  type Profile,
  type Residence,
  residencesOnce,
  type Variant,
} from "./kernel.ts";
import {
  collapse,
  flatGrid,
  indexText,
  inVectors,
  isVectorised,
  type Part,
  parts,
  placeText,
  type Spacing,
  spacingOf,
} from "./views.ts";
import divideSource from "../../wgsl/divide.wgsl" with { type: "text" };
import source from "../../wgsl/map.wgsl" with { type: "text" };

/** One pass over a shape: `body` of the inputs' elements, stored at `result`. */
export interface MapPass {
  readonly shape: Shape;
  readonly body: Expression;
  readonly result: View;
  /** Which of the node's inputs is read how; `{ input: i }` in the body is the i-th of these. */
  readonly reads: readonly { readonly source: number; readonly view: View }[];
}

const LANES = 64;

const identity: Expression = { input: 0 };

/** A pass that writes all of the result in order. */
function pass(shape: Shape, body: Expression, views: readonly View[]): MapPass {
  return {
    shape,
    body,
    result: wholeView(shape),
    reads: views.map((view, source) => ({ source, view })),
  };
}

/** The passes that compute an elementwise or moving node, in order; `undefined` for any other. */
function asMap(node: Tensor): MapPass[] | undefined {
  const { shape } = node;
  const inputs: readonly Tensor[] = node.inputs;
  const [first] = inputs;
  const broadcast = (x: Tensor) => broadcastView(wholeView(x.shape), x.shape, shape);
  if (isElementwise(node.op)) {
    const body = { op: node.op, args: inputs.map((_, input) => ({ input })) };
    return [pass(shape, body, inputs.map(broadcast))];
  }
  /** Writes an input as it is to the part of the result that begins at an index. */
  const place = (source: number, begin: readonly number[]): MapPass => ({
    shape: inputs[source].shape,
    body: identity,
    result: sliceView(wholeView(shape), begin, inputs[source].shape),
    reads: [{ source, view: wholeView(inputs[source].shape) }],
  });
  switch (node.op) {
    case "map":
      return [pass(shape, node.attrs.body, node.attrs.views)];
    case "detach":
    case "reshape":
      return [pass(shape, identity, [wholeView(shape)])];
    case "broadcast":
      return [pass(shape, identity, [broadcast(first)])];
    case "transpose":
      return [pass(shape, identity, [transposeView(wholeView(first.shape), node.attrs.order)])];
    case "slice":
      return [pass(shape, identity, [sliceView(wholeView(first.shape), node.attrs.begin, shape)])];
    case "upsample": {
      const { factor } = node.attrs;
      const [n, h, w, c] = first.shape;
      const repeated = [n, h, factor, w, factor, c];
      const view = broadcastView(wholeView([n, h, 1, w, 1, c]), [n, h, 1, w, 1, c], repeated);
      return [pass(repeated, identity, [view])];
    }
    case "concat": {
      const { axis } = node.attrs;
      let at = 0;
      return inputs.map((x, source) => {
        const begin = shape.map((_, i) => i === axis ? at : 0);
        at += x.shape[axis];
        return place(source, begin);
      });
    }
    case "pad":
      return [pass(shape, 0, []), place(0, node.attrs.before)];
    default:
      return undefined;
  }
}

/** The one variant of an elementwise or moving node. Throws `RangeError` on others, and on operands that are not f32. */
export function mapKernel(
  node: Tensor,
  profile: Profile,
  layoutOf: LayoutOf,
): readonly [Variant] {
  const passes = asMap(node);
  if (passes === undefined) throw new RangeError(`"${node.op}" is not an elementwise operator`);
  const inputs: readonly Tensor[] = node.inputs;
  if ([node, ...inputs].some(({ dtype }) => dtype !== "f32")) {
    throw new RangeError(`Cannot compute "${node.op}" of whole numbers: maps are of f32 only`);
  }
  const residences = residencesOnce(node, profile, layoutOf);
  const halves = inputs.map((x) => isHalf(x, layoutOf));
  const dispatches = passes.flatMap((pass) =>
    dispatchesOf(node, pass, { residences, halves, profile })
  );
  return [{ name: "map", scratch: [], dispatches }];
}

/** Writes one value to all of a node's result. */
export function filling(node: Tensor, value: number, profile: Profile): Dispatch[] {
  return dispatchesOf(node, pass(node.shape, value, []), { residences: [], halves: [], profile });
}

/** True where a parameter is kept as f16; throws on layouts whose elements are not in order. */
function isHalf(x: Tensor, layoutOf: LayoutOf): boolean {
  if (x.op !== "parameter") return false;
  const { format } = layoutOf(x);
  if (format !== "rows32" && format !== "rows16") {
    throw new RangeError(`Cannot read "${x.attrs.name}" element by element: it lies in ${format}`);
  }
  return format === "rows16";
}

/** How the inputs of a node lie. */
interface Lying {
  readonly residences: readonly Residence[];
  readonly halves: readonly boolean[];
  readonly profile: Profile;
}

/** How an operand is bound. */
interface Operand {
  readonly name: string;
  readonly source: number | "result";
  readonly residence: Residence;
  readonly half: boolean;
  /** Of what is computed at once; one number counts as the same for all. */
  readonly spacing: Spacing;
  /** Bytes of the whole buffer. */
  readonly total: number;
}

/** The text that reads an operand at its place; `inner`: its stride there. */
function readText({ name, half, spacing }: Operand, inner: string): string {
  const i = `${name}_place(at)`;
  const number = (at: string) =>
    half ? `half_of(${name}_at((${at}) / 8u), ${at})` : `${name}_at(${at})`;
  switch (spacing) {
    case "same":
      return `T(${number(i)})`;
    case "four":
      return half ? `halves_of(${name}_at(${i} / 2u), ${i})` : `${name}_at(${i})`;
    case "apart":
      return `T(${[0, 1, 2, 3].map((k) => number(`${i} + ${k}u * (${inner} / 4u)`)).join(", ")})`;
  }
}

function elementOf({ half, spacing }: Operand): Binding["element"] {
  return half ? "vec4u" : spacing === "four" ? "vec4f" : "f32";
}

function dispatchesOf(
  node: Tensor,
  { shape, body, result, reads }: MapPass,
  { residences, halves, profile }: Lying,
): Dispatch[] {
  const inputs: readonly Tensor[] = node.inputs;
  const scalar = collapse({ shape, views: [result, ...reads.map(({ view }) => view)] });
  const vector = isVectorised(scalar, { apart: profile.kind === "software" });
  const loop = vector ? inVectors(scalar) : scalar;
  const operands = loop.views.map((_, i): Operand => {
    const source = i === 0 ? "result" : reads[i - 1].source;
    const half = source !== "result" && halves[source];
    return {
      name: source === "result" ? "result" : `x${i - 1}`,
      source,
      residence: source === "result" ? "buffer" : residences[source],
      half,
      spacing: vector ? spacingOf(scalar.views[i]) : "same",
      total: (source === "result" ? node : inputs[source]).size * (half ? 2 : 4),
    };
  });
  const rank = loop.shape.length;
  const held = operands.map(({ residence, spacing, half, total }, i) => ({
    bytes: (spacing === "four" ? 4 : 1) * (half ? 2 : 4),
    total: residence === "texture" ? 0 : total,
    beyond: spacing === "apart" ? 3 * loop.views[i].strides[rank - 1] / 4 : 0,
  }));
  const values = reads.map((_, i) => `value${i}`);
  const functions = [
    divideSource,
    indexText("index_of", "size", rank),
    ...operands.map(({ name }) => placeText(name, rank)),
    `fn evaluate(at: array<u32, ${rank}>) -> T {
${
      operands.slice(1).map((operand, i) =>
        `  let ${values[i]} = ${readText(operand, `params.${operand.name}_${rank - 1}`)};`
      ).join("\n")
    }
${returnText(body, values)}
}`,
  ].join("\n");
  const names = operands.map(({ name }) => name);
  return parts(loop, held, profile).map((part) => ({
    shader: {
      source,
      type: vector ? "vec4f" : "f32",
      constants: { LANES },
      functions,
      bindings: operands.map((operand, i): Binding => ({
        name: operand.name,
        source: operand.source,
        element: elementOf(operand),
        access: i === 0 ? "read_write" : "read",
        residence: operand.residence,
        ...(part.windows[i] ? { window: part.windows[i] } : {}),
      })),
    },
    ...span(part, names),
    iterations: 0,
  }));
}

/** Parameters and grid of one part. */
function span({ shape, views }: Part, names: readonly string[]): Pick<Dispatch, "params" | "grid"> {
  const count = sizeOf(shape);
  const [columns, rows] = flatGrid(Math.ceil(count / LANES));
  const u32: Record<string, number> = { count, columns };
  shape.forEach((n, axis) => u32[`size_${axis}`] = n);
  views.forEach(({ offset, strides }, i) => {
    u32[`${names[i]}_first`] = offset;
    strides.forEach((stride, axis) => u32[`${names[i]}_${axis}`] = stride);
  });
  return { params: { u32 }, grid: [columns, rows, 1] };
}
