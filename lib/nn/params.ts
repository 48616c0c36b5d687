/**
 * How a model function names its weights: `p.at("conv1").get("weight", [co, 3, 3, ci], "conv")`.
 * Running the function once yields the manifest: every parameter's name, shape and role.
 * The idea of scoped names at the point of use is candle's.
 */

import type { Shape } from "../base/shape.ts";
import type { Parameter, Role } from "../graph/ops.ts";
import { rebuild } from "../graph/rewrite.ts";
import type { Graph, Tensor } from "../graph/tensor.ts";

/** A scope of parameter names in one graph. */
export interface Params {
  readonly graph: Graph;
  /** Dotted name of this scope; "" at the root. */
  readonly path: string;
  /** The scope `path.scope`. */
  at(scope: string | number): Params;
  /** The parameter `path.name`, in the graph's layout of its role (see `Ops.parameter`). */
  get(name: string, shape: Shape, role: Role): Tensor;
}

/** What a model needs of a checkpoint for one parameter. */
export interface ManifestEntry {
  /** diffusers' name. */
  readonly name: string;
  /** Shape in the graph: convolution weights are [co, kh, kw, ci]. */
  readonly shape: Shape;
  readonly role: Role;
  /** What the graph reads that has rows of it; the tensor itself, unless it is stacked or cut. */
  readonly readers: readonly Parameter[];
}

/** Name → entry, in the order of first use. */
export type Manifest = ReadonlyMap<string, ManifestEntry>;

/**
 * The parameters `name` of several scopes, one after another along their first axis, as one: what is computed from them is
 * computed at once. A checkpoint has them apart.
 */
export function stacked(
  scopes: readonly Params[],
  name: string,
  shape: Shape,
  role: Role,
): Tensor {
  const pieces = scopes.map((p) => ({ name: pathOf(p, name), shape, begin: 0, end: shape[0] }));
  const [rows, ...rest] = shape;
  const label = pieces.map((piece) => piece.name).join(" + ");
  return scopes[0].graph.parameter(label, [scopes.length * rows, ...rest], role, pieces);
}

/** Entries `begin … end − 1` along the first axis of the parameter `name`. A checkpoint has it whole. */
export function rowsOf(
  p: Params,
  name: string,
  shape: Shape,
  role: Role,
  [begin, end]: readonly [begin: number, end: number],
): Tensor {
  const piece = { name: pathOf(p, name), shape, begin, end };
  const label = `${piece.name}[${begin} … ${end - 1}]`;
  return p.graph.parameter(label, [end - begin, ...shape.slice(1)], role, [piece]);
}

function pathOf({ path }: Params, name: string): string {
  return path === "" ? name : `${path}.${name}`;
}

/** Params whose tensors are `parameter` nodes of `graph`; `prefix` goes before every name, e.g. "unet". */
export function paramsOf(graph: Graph, prefix = ""): Params {
  const join = (name: string | number) => prefix === "" ? `${name}` : `${prefix}.${name}`;
  return {
    graph,
    path: prefix,
    at: (scope) => paramsOf(graph, join(scope)),
    get: (name, shape, role) => graph.parameter(join(name), shape, role),
  };
}

/**
 * The outputs with every stacked or cut parameter put together from whole ones, as training needs it: there each tensor
 * of the checkpoint has one place, whoever reads it. Those that `stay` names lie as they are read.
 */
export function unstacked(
  outputs: readonly Tensor[],
  stay: { has(name: string): boolean } = new Set(),
): Tensor[] {
  return rebuild(outputs, (node) => {
    if (node.op !== "parameter" || node.attrs.pieces === undefined) return node;
    if (stay.has(node.attrs.name)) return node;
    const { graph, attrs: { pieces, role } } = node;
    const parts = pieces.map(({ name, shape, begin, end }) =>
      graph.parameter(name, shape, role).slice(0, begin, end)
    );
    return parts.length === 1 ? parts[0] : graph.concat(parts, 0);
  });
}

/** Every parameter that a graph mentions, as a checkpoint has it. */
export function manifestOf(graph: Graph): Manifest {
  const entries = new Map<string, ManifestEntry>();
  for (const reader of parametersOf(graph).values()) {
    const { role, pieces = [reader] } = reader;
    for (const { name, shape } of pieces) {
      const readers = [...entries.get(name)?.readers ?? [], reader];
      entries.set(name, { name, shape, role, readers });
    }
  }
  return entries;
}

/** Every parameter that a graph mentions, as it reads them. */
export function parametersOf(graph: Graph): ReadonlyMap<string, Parameter> {
  return new Map(
    graph.nodes.flatMap((node) =>
      node.op === "parameter" ? [[node.attrs.name, node.attrs] as const] : []
    ),
  );
}

/** The shape a checkpoint stores: convolution weights are [co, ci, kh, kw] there. */
export function checkpointShape({ shape, role }: ManifestEntry): Shape {
  if (role !== "conv") return shape;
  const [co, kh, kw, ci] = shape;
  return [co, ci, kh, kw];
}
