/**
 * What all passes share: graphs are never changed, they are copied into fresh ones node by node, oldest
 * first, and a rule says what stands in each node's place.
 */

import { sameShape, show } from "../base/shape.ts";
import { Graph, type Tensor } from "./tensor.ts";

/** Everything that the outputs depend on, oldest first. Throws `RangeError` for outputs of several graphs. */
export function reachable(outputs: readonly Tensor[]): Tensor[] {
  if (outputs.length === 0) return [];
  const { graph } = outputs[0];
  if (outputs.some((t) => t.graph !== graph)) {
    throw new RangeError("Outputs of different graphs cannot be treated together");
  }
  const found = new Set<Tensor>(outputs);
  for (const tensor of found) for (const input of tensor.inputs) found.add(input); // found grows
  return [...found].sort((a, b) => a.id - b.id);
}

/** The readers of each reachable tensor, oldest first, once for each time they read it. Being an output does not count. */
export function readersOf(outputs: readonly Tensor[]): Map<Tensor, Tensor[]> {
  const readers = new Map<Tensor, Tensor[]>();
  for (const node of reachable(outputs)) {
    readers.set(node, []);
    for (const input of node.inputs) readers.get(input)?.push(node);
  }
  return readers;
}

/**
 * What stands in a node's place: `node` is the copy in the new graph, whose inputs have been rewritten;
 * `original` is the node in the old graph. Returns `node` itself, or a tensor of the new graph with the
 * same shape, element type and meaning.
 */
export type Rule = (node: Tensor, original: Tensor) => Tensor;

/**
 * The outputs in a fresh graph, each reachable node replaced by what the rule says. Labels and scopes go
 * along; what the rule made and nobody reads is left behind, and labels of such nodes with it.
 * Throws when the rule changes a shape or an element type.
 */
export function rebuild(outputs: readonly Tensor[], rule: Rule): Tensor[] {
  return rewrite(rewrite(outputs, rule).outputs, (copy) => copy).outputs;
}

/** As `rebuild`, but leaves in the graph what nobody reads; `changed` tells whether the rule replaced anything. */
export function rewrite(
  outputs: readonly Tensor[],
  rule: Rule,
): { readonly outputs: Tensor[]; readonly changed: boolean } {
  if (outputs.length === 0) return { outputs: [], changed: false };
  const from = outputs[0].graph;
  const to = new Graph();
  let changed = false;
  const replacements = new Map<Tensor, Tensor>();
  const replacementOf = (old: Tensor): Tensor => {
    const found = replacements.get(old);
    if (!found) throw new Error(`Node ${old.id} (${old.op}) is used before it is made`);
    return found;
  };
  for (const original of reachable(outputs)) {
    const node = to.within(from.scopeOf(original), () => {
      const copy = to.copy(original, original.inputs.map(replacementOf));
      const replacement = rule(copy, original);
      changed ||= replacement !== copy;
      return replacement;
    });
    if (!sameShape(node.shape, original.shape) || node.dtype !== original.dtype) {
      const [was, is] = [original, node].map((t) => `${t.op} ${show(t.shape)} ${t.dtype}`);
      throw new Error(`A pass replaced ${was} of "${from.scopeOf(original)}" by ${is}`);
    }
    replacements.set(original, node);
  }
  for (const [name, tensor] of from.labels) {
    const node = replacements.get(tensor);
    if (node) to.label(name, node);
  }
  return { outputs: outputs.map(replacementOf), changed };
}
