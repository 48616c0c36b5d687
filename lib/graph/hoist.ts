/**
 * Code motion out of the loop over runs (Aho et al.'s loop-invariant code): what depends only on inputs that stay the
 * same from run to run is computed once and handed to the rest as inputs. A UNet's keys and values of the text are of
 * this kind, and so is what it makes of pooled text and sizes.
 */

import { reachable, rebuild } from "./rewrite.ts";
import type { Tensor } from "./tensor.ts";
import { VIEWS } from "./view.ts";

/** A graph cut in two. */
export interface Hoisted {
  /** To be computed whenever a lasting input changes, under the names of the inputs that stand for them. */
  readonly once: ReadonlyMap<string, Tensor>;
  /** The outputs, in a fresh graph, in terms of these and of all other inputs. */
  readonly outputs: readonly Tensor[];
}

/** The tensor behind views, which are left to their readers: they cost nothing there. */
function viewed(x: Tensor): Tensor {
  const [first] = x.inputs;
  return first && VIEWS.has(x.op) ? viewed(first) : x;
}

/** Cuts the graph behind outputs where values that depend on `lasting` inputs alone meet the others. */
export function hoist(outputs: readonly Tensor[], lasting: ReadonlySet<string>): Hoisted {
  const nodes = reachable(outputs);
  const changes = new Set<Tensor>();
  const lasts = new Set<Tensor>(); // parameters and constants are in neither set
  for (const node of nodes) {
    const { op, inputs, attrs } = node;
    if (op === "input") (lasting.has(attrs.name) ? lasts : changes).add(node);
    else if (inputs.some((x) => changes.has(x))) changes.add(node);
    else if (inputs.some((x) => lasts.has(x))) lasts.add(node);
  }
  const readers: readonly { readonly inputs: readonly Tensor[] }[] = [
    { inputs: outputs },
    ...nodes.filter((node) => changes.has(node)),
  ];
  const met = readers.flatMap(({ inputs }) => inputs.filter((x) => lasts.has(x)).map(viewed));
  const cut = [...new Set(met)].filter(({ op }) => op !== "input");
  const names = new Map(cut.map((tensor, i) => [tensor, `once ${i}`]));
  return {
    once: new Map([...names].map(([tensor, name]) => [name, tensor])),
    outputs: rebuild(outputs, (node, original) => {
      const name = names.get(original);
      return name === undefined ? node : node.graph.input(name, node.shape, node.dtype);
    }),
  };
}
