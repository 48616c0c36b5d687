/**
 * The gradient of attention whose heads fit registers: nothing of the size queries × keys is kept. Other heads are lowered to
 * operators that have kernels (lower.ts).
 */

import { show } from "../base/shape.ts";
import type { Tensor } from "../graph/tensor.ts";
import gradientSource from "../../wgsl/attention_gradient.wgsl" with { type: "text" };
import logSumSource from "../../wgsl/attention_log_sum.wgsl" with { type: "text" };
import { depthFor } from "./attention.ts";
import {
  type Binding,
  type Kernel,
  MAX_ITERATIONS,
  type NodeOf,
  type Profile,
  residencesOf,
  resultBinding,
  type Variant,
} from "./kernel.ts";
import { WIDEST_HEAD } from "./lower.ts";

/** Rows of an invocation, columns that it takes at a time, and lanes that share reading them. */
interface Tile {
  readonly name: string;
  readonly LANES: number;
  readonly ROWS: number;
  readonly COLUMNS: number;
  readonly SHARE: number;
}

/** The tiles worth trying, the best first. What is summed up takes ROWS · d4 registers of four. */
function tilesFor(d4: number, { kind, subgroups }: Profile): readonly [Tile, ...Tile[]] {
  const alone = { name: "registers", COLUMNS: 4, SHARE: 1 };
  if (kind === "gpu") return [{ ...alone, LANES: 64, ROWS: d4 <= 10 ? 2 : 1 }];
  const portable = { ...alone, LANES: 8, ROWS: d4 <= 20 ? 4 : 1 };
  if (subgroups !== true || d4 > 20) return [portable]; // wide heads make so much text that it takes long to compile
  return [{ ...portable, name: "subgroups", COLUMNS: 8, SHARE: 8 }, portable];
}

/** Rows and columns of scores. */
interface Extent {
  readonly rows: number;
  readonly columns: number;
}

/** Throws `RangeError` where an invocation cannot run so long, or an operand exceeds a binding. */
function assertPossible(
  node: Tensor,
  bindings: readonly Binding[],
  iterations: number,
  { maxBinding }: Profile,
): void {
  const inputs: readonly Tensor[] = node.inputs;
  const sizes = bindings.map(({ source, residence }) =>
    residence === "texture" || typeof source === "object"
      ? 0
      : 4 * (source === "result" ? node : inputs[source]).size
  );
  if (iterations <= MAX_ITERATIONS && Math.max(...sizes) <= maxBinding) return;
  throw new RangeError(
    `Cannot differentiate attention of ${show(inputs[0].shape)} to ${show(inputs[1].shape)}: ` +
      `it loops ${iterations} times over ${
        Math.max(...sizes)
      } bytes, this device binds ${maxBinding}`,
  );
}

function variantsOf(
  node: NodeOf<"attentionGradient"> | NodeOf<"attentionLogSum">,
  { rows, columns }: Extent,
  { source, bindings, constants, functions }: {
    readonly source: string;
    readonly bindings: readonly Binding[];
    readonly constants: Readonly<Record<string, boolean>>;
    readonly functions: string;
  },
  profile: Profile,
): readonly [Variant, ...Variant[]] {
  const [{ shape: [n, , heads, d] }] = node.inputs;
  if (d % 4 !== 0 || d > WIDEST_HEAD) {
    throw new RangeError(`Attention with heads of ${d} channels must be lowered before it is run`);
  }
  const D4 = d / 4;
  const { scale, causal } = node.attrs;
  const variantOf = ({ name, ...tile }: Tile): Variant => {
    const { LANES, ROWS, COLUMNS, SHARE } = tile;
    const steps = Math.ceil(columns / COLUMNS);
    const DEPTH = depthFor(D4, steps);
    const iterations = steps * (D4 / DEPTH + 1);
    assertPossible(node, bindings, iterations, profile);
    const sharing = { OWN: COLUMNS / SHARE, PASSED: SHARE > 1 ? 1 : 0 };
    return {
      name,
      scratch: [],
      dispatches: [{
        shader: {
          source,
          type: "vec4f",
          constants: { ...tile, ...sharing, DEPTH, D4, CAUSAL: causal, ...constants },
          functions,
          bindings,
        },
        params: { u32: { rows, columns, heads }, f32: { scale } },
        grid: [Math.ceil(rows / ROWS / LANES), heads, n],
        iterations,
      }],
    };
  };
  const [best, ...others] = tilesFor(D4, profile);
  return [variantOf(best), ...others.map(variantOf)];
}

export const attentionLogSum: Kernel<"attentionLogSum"> = (node, profile, layoutOf) => {
  const residences = residencesOf(node, profile, layoutOf);
  const read = (name: string, source: number): Binding => ({
    name,
    source,
    element: "vec4f",
    access: "read",
    residence: residences[source],
  });
  const [q, k] = node.inputs;
  const bindings = [resultBinding("f32"), read("q", 0), read("k", 1)];
  const extent = { rows: q.shape[1], columns: k.shape[1] };
  const shader = { source: logSumSource, bindings, constants: {}, functions: "" };
  return variantsOf(node, extent, shader, profile);
};

/** Inputs of the node that stand for rows and columns, by what is differentiated by; `summed`: which of them is added up. */
const ROLES = {
  q: { a: 0, e: 3, b: 1, f: 2, summed: "b" },
  k: { a: 1, e: 2, b: 0, f: 3, summed: "b" },
  v: { a: 1, e: 2, b: 0, f: 3, summed: "f" },
} as const;

export const attentionGradient: Kernel<"attentionGradient"> = (node, profile, layoutOf) => {
  const { of } = node.attrs;
  const residences = residencesOf(node, profile, layoutOf);
  const read = (name: string, source: number, element: "f32" | "vec4f" = "vec4f"): Binding => ({
    name,
    source,
    element,
    access: "read",
    residence: residences[source],
  });
  const { a, b, e, f, summed } = ROLES[of];
  const bindings = [
    resultBinding("vec4f"),
    ...[read("a", a), read("b", b), read("e", e), read("f", f)],
    read("log_sums", 4, "f32"),
    read("along", 5, "f32"),
  ];
  const extent = { rows: node.inputs[a].shape[1], columns: node.inputs[b].shape[1] };
  return variantsOf(node, extent, {
    source: gradientSource,
    bindings,
    constants: { OF_QUERIES: of === "q", OF_VALUES: of === "v" },
    functions: `fn summed_at(i: u32) -> vec4f { return ${summed}_at(i); }`,
  }, profile);
};
