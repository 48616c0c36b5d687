import assert from "node:assert/strict";
import { gradients } from "../../lib/graph/grad.ts";
import { interpret } from "../../lib/graph/interpret.ts";
import { costOf, peakOf, rematerialise, type Task } from "../../lib/graph/remat.ts";
import { reachable } from "../../lib/graph/rewrite.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { randomGraph } from "./random_graph.ts";

const SEEDS = Array.from({ length: 60 }, (_, i) => i);

/** Every node as a task; leaves take nothing and cost nothing. */
function tasksOf(outputs: readonly Tensor[]): { nodes: Tensor[]; tasks: Task[] } {
  const nodes = reachable(outputs);
  const numbers = new Map(nodes.map((node, i) => [node, i]));
  const tasks = nodes.map((node): Task => {
    const isLeaf = node.inputs.length === 0;
    const inputs: readonly Tensor[] = node.inputs;
    return {
      reads: inputs.map((x) => numbers.get(x) ?? assert.fail()),
      bytes: isLeaf ? 0 : node.size * 4,
      scratch: 0,
      cost: isLeaf ? 0 : costOf(node),
      stays: isLeaf || outputs.includes(node),
    };
  });
  return { nodes, tasks };
}

/** Gradients of a sum of everything that a random graph gives, by its leaves: these read again what came long before. */
function trained(seed: number) {
  const { outputs, values } = randomGraph(seed);
  const leaves = reachable(outputs).filter(({ dtype, inputs }) =>
    dtype === "f32" && inputs.length === 0
  );
  const parts = outputs.filter(({ dtype }) => dtype === "f32")
    .map((x) => x.mul(x).sum(x.shape.map((_, axis) => axis)).reshape([]));
  const [first, ...others] = parts;
  return { outputs: gradients(others.reduce((a, b) => a.add(b), first), leaves), values };
}

/** The outputs when nodes are computed in an order, each from the values made last, and nothing is kept that nobody reads. */
function computed(
  outputs: readonly Tensor[],
  nodes: readonly Tensor[],
  order: readonly number[],
  given: Readonly<Record<string, ArrayLike<number>>>,
): { readonly results: ArrayLike<number>[]; readonly most: number } {
  const places = new Map<Tensor, number[]>(); // where each is computed
  for (const [at, i] of order.entries()) places.set(nodes[i], [...places.get(nodes[i]) ?? [], at]);
  const lastReader = new Map<number, number>(); // by where it was made
  const madeFor = (x: Tensor, at: number) => {
    const made = places.get(x)?.findLast((place) => place < at);
    return made ?? assert.fail(`${x.op} is read before it is made`);
  };
  for (const [at, i] of order.entries()) {
    const inputs: readonly Tensor[] = nodes[i].inputs;
    for (const x of inputs) lastReader.set(madeFor(x, at), at);
  }
  for (const output of outputs) lastReader.set(madeFor(output, order.length), order.length);
  const held = new Map<number, Float64Array>();
  let most = 0;
  const isLeaf = (i: number) => nodes[i].inputs.length === 0;
  for (const [at, i] of order.entries()) {
    const node = nodes[i];
    const graph = new Graph();
    const values: Record<string, ArrayLike<number>> = { ...given };
    const inputs: readonly Tensor[] = node.inputs;
    const leaves = inputs.map((x) => {
      const made = madeFor(x, at);
      values[`value ${made}`] = held.get(made) ?? assert.fail(`${x.op} was given up too early`);
      return graph.input(`value ${made}`, x.shape, x.dtype);
    });
    const [value] = interpret([graph.copy(node, leaves)], values, { precision: "f64" });
    held.set(at, Float64Array.from(value));
    const live = [...held].reduce(
      (sum, [made, { length }]) => sum + (isLeaf(order[made]) ? 0 : length * 4),
      0,
    );
    most = Math.max(most, live);
    for (const made of held.keys()) {
      if ((lastReader.get(made) ?? -1) <= at) held.delete(made);
    }
  }
  const results = outputs.map((output) =>
    held.get(madeFor(output, order.length)) ?? assert.fail("an output was given up")
  );
  return { results, most };
}

Deno.test("rematerialise keeps the meaning of random graphs to the bit, in as little memory as its peak says", () => {
  let repeated = 0;
  for (const seed of SEEDS) {
    const { outputs, values } = trained(seed);
    const { nodes, tasks } = tasksOf(outputs);
    const whole = peakOf(tasks, [...tasks.keys()]);
    const expected = interpret(outputs, values, { precision: "f64" });
    for (const share of [1, 0.9, 0.75]) {
      const { order, peak } = rematerialise(tasks, whole * share) ?? {};
      if (!order || peak === undefined) continue;
      const { results, most } = computed(outputs, nodes, order, values);
      const wrong = results.findIndex((result, i) =>
        [...expected[i]].some((value, j) => !Object.is(value, result[j]))
      );
      assert.equal(wrong, -1, `seed ${seed}, share ${share}: output ${wrong} differs`);
      assert.equal(most, peak, `seed ${seed}, share ${share}`);
      if (order.length > nodes.length && peak <= whole * share) repeated++;
      if (share === 1) assert.deepEqual(order, [...tasks.keys()]);
    }
  }
  assert.ok(repeated > 20, `${repeated} schedules compute something again to keep to their budget`);
});

/** A loss behind many layers of products and what follows them, and its gradients by their weights. */
function deepNetwork(layers: number): readonly Tensor[] {
  const graph = new Graph();
  const weights = Array.from(
    { length: layers },
    (_, i) => graph.parameter(`w${i}`, [16, 16], "linear"),
  );
  const output = weights.reduce(
    (x, w) => x.matmul(w, { transposeB: true }).tanh(),
    graph.input("x", [512, 16]),
  );
  return gradients(output.mul(output).sum([0, 1]), weights);
}

Deno.test("rematerialise trains a chain of layers in a fifth of its memory for one more forward part", () => {
  const layers = 64;
  const { tasks } = tasksOf(deepNetwork(layers));
  const order = [...tasks.keys()];
  const layer = 512 * 16 * 4;
  const kept = peakOf(tasks, order);
  assert.ok(kept > layers * layer, "the network keeps too little for this test");
  const costs = (which: readonly number[]) => which.reduce((sum, i) => sum + tasks[i].cost, 0);
  let last = 1;
  for (const [share, most] of [[0.5, 1.2], [0.25, 1.3], [0.2, 1.4]]) {
    const found = rematerialise(tasks, kept * share) ?? assert.fail(`nothing for ${share}`);
    assert.ok(found.peak <= kept * share, `${found.peak / layer} layers for ${share}`);
    const cost = costs(found.order) / costs(order);
    assert.ok(cost <= most, `a share of ${share} costs ${cost}`);
    assert.ok(cost >= last, "less memory costs less");
    last = cost;
  }
});

Deno.test("rematerialise gives up what is cheap to compute again before what is dear", () => {
  const task = (reads: readonly number[], cost: number, stays = false): Task => ({
    ...{ reads, cost, stays, bytes: 100, scratch: 0 },
  });
  // 0 and 1 are both read at the end; something larger stands between
  const tasks = [
    task([], 9),
    task([], 1),
    { ...task([], 1), bytes: 150 },
    task([0, 1, 2], 1, true),
  ];
  assert.deepEqual(rematerialise(tasks, 450)?.order, [0, 1, 2, 3]);
  assert.deepEqual(rematerialise(tasks, 250)?.order.slice(0, 4), [0, 1, 2, 1]);
});

Deno.test("rematerialise keeps what a task is about to read, however cheap, and gives up something dearer", () => {
  const task = (reads: readonly number[], bytes: number, cost: number): Task => ({
    ...{ reads, bytes, cost, scratch: 0, stays: false },
  });
  const tasks = [
    task([], 100, 1),
    task([], 100, 1),
    task([], 250, 1000),
    task([0, 1], 100, 1),
    task([2, 3], 10, 1),
  ];
  assert.deepEqual(rematerialise(tasks, 460), { order: [0, 1, 2, 3, 2, 4], peak: 450 });
});

Deno.test("rematerialise comes as near as it can where a budget is too small, and ends", () => {
  const { tasks } = tasksOf(deepNetwork(32));
  const { peak } = rematerialise(tasks, 1) ?? { peak: Infinity };
  assert.ok(peak > 1);
});
