/** Properties that every pass must have, on random graphs. A failing seed is in the message. */

import assert from "node:assert/strict";
import { decompose } from "../../lib/graph/decompose.ts";
import { fuse } from "../../lib/graph/fuse.ts";
import { interpret } from "../../lib/graph/interpret.ts";
import { RULES } from "../../lib/graph/ops.ts";
import { print } from "../../lib/graph/print.ts";
import { reachable, rebuild } from "../../lib/graph/rewrite.ts";
import { simplify } from "../../lib/graph/simplify.ts";
import type { Tensor } from "../../lib/graph/tensor.ts";
import { verify } from "../../lib/graph/verify.ts";
import { type RandomGraph, randomGraph } from "./random_graph.ts";

type Pass = (outputs: readonly Tensor[]) => Tensor[];

/** Applying one of these again changes nothing. */
const PASSES: Readonly<Record<string, Pass>> = {
  rebuild: (outputs) => rebuild(outputs, (node) => node),
  decompose,
  simplify,
  fuse,
  "fuse after simplify": (outputs) => fuse(simplify(outputs)),
};

const COMPOSITIONS: Readonly<Record<string, Pass>> = {
  "simplify after decompose": (outputs) => simplify(decompose(outputs)),
  "fuse after simplify after decompose": (outputs) => fuse(simplify(decompose(outputs))),
  "decompose after fuse": (outputs) => decompose(fuse(outputs)),
};

const SEEDS = Array.from({ length: 300 }, (_, i) => i);

/** Where two results differ by more than the rounding of doubles allows. */
function difference(actual: Float64Array[], expected: Float64Array[]): string | undefined {
  for (const [i, values] of expected.entries()) {
    if (actual[i].length !== values.length) return `output ${i} has ${actual[i].length} elements`;
    const scale = values.reduce((top, v) => Math.max(top, Math.abs(v)), 1);
    const at = values.findIndex((v, j) => !(Math.abs(actual[i][j] - v) <= 1e-10 * scale));
    if (at >= 0) return `output ${i}[${at}] is ${actual[i][at]}, expected ${values[at]}`;
  }
  return undefined;
}

/** Runs a check on the graph of every seed; a failure tells seed and graph. */
function forRandomGraphs(check: (graph: RandomGraph) => void): void {
  for (const seed of SEEDS) {
    const graph = randomGraph(seed);
    try {
      check(graph);
    } catch (error) {
      const message = error instanceof Error ? error.message : `${error}`;
      throw new Error(`${message}\nseed ${seed}:\n${print(graph.outputs)}`, { cause: error });
    }
  }
}

for (const [name, pass] of Object.entries({ ...PASSES, ...COMPOSITIONS })) {
  Deno.test(`${name} preserves the meaning of random graphs and keeps the law`, () => {
    forRandomGraphs(({ outputs, values }) => {
      const after = pass(outputs);
      verify(after);
      const expected = interpret(outputs, values, { precision: "f64" });
      const wrong = difference(interpret(after, values, { precision: "f64" }), expected);
      assert.equal(wrong, undefined, `${wrong}\n${print(after)}`);
    });
  });
}

for (const [name, pass] of Object.entries(PASSES)) {
  Deno.test(`${name} changes nothing when applied again to random graphs`, () => {
    forRandomGraphs(({ outputs }) => {
      const after = pass(outputs);
      assert.equal(print(pass(after)), print(after));
    });
  });
}

Deno.test("randomGraph keeps the law, is the same for a seed, and reaches every operator", () => {
  const seen = new Set<string>();
  for (const seed of SEEDS) {
    const { outputs } = randomGraph(seed);
    verify(outputs);
    assert.equal(print(randomGraph(seed).outputs), print(outputs), `seed ${seed}`);
    for (const node of reachable(outputs)) seen.add(node.op);
  }
  assert.deepEqual(Object.keys(RULES).filter((op) => !seen.has(op)), []);
});
