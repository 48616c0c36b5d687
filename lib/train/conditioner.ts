/**
 * What a denoiser is told, as part of its training graph: each conditioner turns what is known of a picture into tokens
 * that the denoiser attends to (Rombach et al. 2022, section 3.3, τ_θ). Several are read as one: their tokens stand one
 * after another.
 */

import type { LabelledBox } from "../base/box.ts";
import type { HostArray } from "../gpu/program.ts";
import { Graph, type Tensor } from "../graph/tensor.ts";
import { type Manifest, manifestOf, unstacked } from "../nn/params.ts";

/** What is known of a picture. */
export interface Told {
  readonly text?: string;
  /** Name of its class. */
  readonly label?: string;
  readonly objects?: readonly LabelledBox[];
}

export interface Conditioner {
  /** Tokens that it gives. */
  readonly tokens: number;
  /** The tokens [n, tokens, width] of n pictures; adds inputs to the graph. */
  context(graph: Graph, n: number): Tensor;
  /**
   * Values of those inputs; `undefined` is told nothing. The seed decides what is left to chance. Throws `UsageError` for
   * what the model does not know.
   */
  inputs(
    told: readonly (Told | undefined)[],
    seed: number,
  ): Promise<Readonly<Record<string, HostArray>>>;
}

/** One that tells nothing: a single token of zeros, of which cross-attention makes its bias. */
export function silent(width: number): Conditioner {
  return {
    tokens: 1,
    context: (graph, n) => graph.constant(0, [n, 1, width]),
    inputs: () => Promise.resolve({}),
  };
}

/** Several as one. Their inputs must have names of their own. */
export function together(parts: readonly Conditioner[]): Conditioner {
  if (parts.length === 1) return parts[0];
  return {
    tokens: parts.reduce((sum, { tokens }) => sum + tokens, 0),
    context: (graph, n) => graph.concat(parts.map((part) => part.context(graph, n)), 1),
    inputs: async (told, seed) =>
      Object.assign({}, ...await Promise.all(parts.map((part) => part.inputs(told, seed)))),
  };
}

/** The parameters of a conditioner, by their names in the training graph. */
export function conditionerManifest(conditioner: Conditioner): Manifest {
  const graph = new Graph();
  return manifestOf(unstacked([conditioner.context(graph, 1)])[0].graph);
}
