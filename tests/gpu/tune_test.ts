/** Tuning: what there is to choose, how it is decided, and that nothing stays behind. */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { openDevice } from "../../lib/gpu/device.ts";
import { compile } from "../../lib/gpu/program.ts";
import {
  fastest,
  type Finding,
  kernelsVersion,
  median,
  tableOf,
  type Task,
  tasksOf,
  tune,
} from "../../lib/gpu/tune.ts";
import { Graph } from "../../lib/graph/tensor.ts";
import { SOURCES } from "../../lib/kernels/sources.ts";

const SHORT = { weights: "f16", rounds: 2, sample: 1 } as const;

/** Two attentions of one class, one of another, and a product. */
function program() {
  const g = new Graph();
  const of = (name: string, n: number, d: number) => g.input(name, [1, n, 2, d]);
  const options = { scale: 1, causal: false };
  const x = of("q", 33, 8).attention(of("k", 33, 8), of("v", 33, 8), options);
  const y = x.attention(of("k2", 40, 8), of("v2", 40, 8), options).reshape([33, 16]);
  const z = y.matmul(g.parameter("w", [24, 16], "linear"), { transposeB: true });
  return [z, of("q3", 9, 16).attention(of("k3", 5, 16), of("v3", 5, 16), options)];
}

Deno.test("tasksOf finds each class with several variants once, with its largest node", async () => {
  await using device = await openDevice();
  const tasks = tasksOf([program(), program()], device.profile, { weights: "f16" });
  const found = tasks.filter(({ shapeClass }) => shapeClass.startsWith("attention"))
    .map(({ shapeClass, count, node }) => [shapeClass, count, node.shape]);
  assert.deepEqual(found, [
    ["attention 2×48×48 head 8", 4, [1, 33, 2, 8]],
    ["attention 2×12×6 head 16", 2, [1, 9, 2, 16]],
  ]);
  for (const { names } of tasks) {
    assert.ok(names.length >= 2 && names.length <= 6, `${names}`);
    assert.equal(new Set(names).size, names.length);
  }
});

Deno.test("tune times every candidate of every task, chooses one of them and frees what it allocated", async () => {
  await using device = await openDevice();
  const before = device.memory.live;
  const tasks = tasksOf([program()], device.profile, { weights: "f16" });
  const findings: Finding[] = [];
  for await (const finding of tune(device, tasks, SHORT)) findings.push(finding);
  assert.deepEqual(findings.map(({ task }) => task), tasks);
  for (const { task, timings, chosen } of findings) {
    assert.deepEqual(timings.map(({ name }) => name), task.names);
    assert.ok(task.names.includes(chosen));
    assert.ok(timings.every(({ best, median }) => best >= 0 && median >= best));
  }
  assert.equal(device.memory.live, before);
});

Deno.test("tune leaves out what does not fit the device", async () => {
  await using device = await openDevice({ memoryBudget: 1000 });
  const task = tasksOf([program()], device.profile, { weights: "f16" })
    .find(({ shapeClass }) => shapeClass.startsWith("attention"));
  assert.ok(task);
  for await (const { timings, chosen } of tune(device, [task], SHORT)) {
    assert.deepEqual(timings, []);
    assert.equal(chosen, task.names[0]);
  }
  assert.equal(device.memory.live, 0);
});

Deno.test("a device with a table takes other kernels, and computes the same", async () => {
  const run = async (table?: ReadonlyMap<string, string>) => {
    await using device = await openDevice(
      table === undefined ? {} : { table: () => Promise.resolve(table) },
    );
    const tasks = tasksOf([program()], device.profile, { weights: "f16" });
    const last = new Map(
      tasks.map(({ shapeClass, names }) => [shapeClass, names[names.length - 1]]),
    );
    const g = new Graph();
    const of = (name: string, n: number) => g.input(name, [1, n, 2, 8]);
    const y = of("q", 33).attention(of("k", 33), of("v", 33), { scale: 1, causal: false });
    using compiled = await compile(device, new Map([["y", y]]), new Map());
    const values = (salt: number) =>
      new Float32Array(33 * 16).map((_, i) => Math.sin(i * (salt + 1)));
    const results = await compiled.run({ q: values(0), k: values(1), v: values(2) });
    const steps = (await compiled.profile()).length;
    return { result: results.get("y") ?? assert.fail(), last, steps };
  };
  const usual = await run();
  const tuned = await run(usual.last);
  assert.notDeepEqual(tuned.result, usual.result); // another order of sums
  usual.result.forEach((v, i) => assert.ok(Math.abs(v - tuned.result[i]) < 1e-5, `${i}`));
});

const TASK: Task = {
  shapeClass: "c",
  node: new Graph().input("x", [1]),
  names: ["a", "b", "c"],
  count: 1,
};
const timing = (name: string, median: number) => ({ name, median, best: 0 });

Deno.test("fastest decides by medians, and prefers the first variant to a gain within noise", () => {
  assert.equal(fastest([timing("a", 10), timing("b", 9), timing("c", 8)]), "c");
  assert.equal(fastest([timing("a", 10), timing("b", 9.8)]), "a");
  assert.equal(fastest([timing("a", 10), timing("b", 20)]), "a");
  assert.equal(fastest([]), undefined);
  const findings = [{ task: TASK, timings: [], chosen: "b" }];
  assert.deepEqual(tableOf(findings), new Map([["c", "b"]]));
});

Deno.test("median takes the middle, of two the lower", () => {
  assert.equal(median([5, 1, 9]), 5);
  assert.equal(median([4, 1, 2, 3]), 2);
});

Deno.test("kernelsVersion changes with every shader: all of them are counted", async () => {
  const folder = fileURLToPath(new URL("../../wgsl", import.meta.url));
  const files = [...Deno.readDirSync(folder)].map(({ name }) => name)
    .filter((name) => name.endsWith(".wgsl")).sort();
  const texts = await Promise.all(files.map((name) => Deno.readTextFile(`${folder}/${name}`)));
  for (const [i, text] of texts.entries()) {
    assert.ok(SOURCES.includes(text), `lib/kernels/sources.ts lacks ${files[i]}`);
  }
  assert.equal(SOURCES.length, files.length);
  assert.match(await kernelsVersion(), /^[0-9a-f]{24}$/);
});
