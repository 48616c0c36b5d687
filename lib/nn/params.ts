/**
 * How a model function names its weights: `p.at("conv1").get("weight", [co, 3, 3, ci], "conv")`.
 * Running the function once yields the manifest: every parameter's name, shape and role.
 * The idea of scoped names at the point of use is candle's.
 */

import type { Shape } from "../base/shape.ts";
import type { Role } from "../graph/ops.ts";
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
}

/** Name → entry, in the order of first use. */
export type Manifest = ReadonlyMap<string, ManifestEntry>;

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

/** Every parameter that a graph mentions. */
export function manifestOf(graph: Graph): Manifest {
  const entries = new Map<string, ManifestEntry>();
  for (const node of graph.nodes) {
    if (node.op === "parameter") entries.set(node.attrs.name, node.attrs);
  }
  return entries;
}

/** The shape a checkpoint stores: convolution weights are [co, ci, kh, kw] there. */
export function checkpointShape({ shape, role }: ManifestEntry): Shape {
  if (role !== "conv") return shape;
  const [co, kh, kw, ci] = shape;
  return [co, ci, kh, kw];
}
