import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { readBack, type StoredParameter, storeWeight } from "../../lib/gpu/buffers.ts";
import { assemble } from "../../lib/gpu/compile.ts";
import { compile, realise } from "../../lib/gpu/program.ts";
import type { Values } from "../../lib/graph/interpret.ts";
import { interpret } from "../../lib/graph/interpret.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { checkpointShape, manifestOf } from "../../lib/nn/params.ts";
import { randomGraph } from "../graph/random_graph.ts";
import { assertClose } from "../tolerance.ts";

/** [co, kh, kw, ci] → [co, ci, kh, kw]. */
function checkpointOrder(values: ArrayLike<number>, [co, kh, kw, ci]: readonly number[]) {
  const out = new Float32Array(values.length);
  let from = 0;
  for (let o = 0; o < co; o++) {
    for (let tap = 0; tap < kh * kw; tap++) {
      for (let i = 0; i < ci; i++) out[(o * ci + i) * kh * kw + tap] = values[from++];
    }
  }
  return out;
}

/** Weights of a graph on the device, in f32. */
function upload(device: Device, graph: Graph, values: Values): Map<string, StoredParameter> {
  const stored = new Map<string, StoredParameter>();
  for (const entry of manifestOf(graph).values()) {
    const { name, role, shape } = entry;
    const given = role === "conv"
      ? checkpointOrder(values[name], shape)
      : Float32Array.from(values[name]);
    assert.equal(given.length, checkpointShape(entry).reduce((a, b) => a * b, 1));
    const data = new Uint8Array(given.buffer);
    stored.set(name, storeWeight(device, { dtype: "f32", data }, entry, "f32"));
  }
  return stored;
}

/** Host arrays of a graph's inputs. */
function inputsOf(outputs: readonly Tensor[], values: Values) {
  const inputs: Record<string, Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer>> = {};
  for (const node of outputs[0].graph.nodes) {
    if (node.op !== "input") continue;
    const given = values[node.attrs.name];
    inputs[node.attrs.name] = node.dtype === "i32"
      ? Int32Array.from(given)
      : Float32Array.from(given);
  }
  return inputs;
}

for (const kind of ["software", "gpu"] as const) {
  Deno.test(`compile keeps the meaning of random graphs on a ${kind} device with the least limits, poisoned or not`, async () => {
    await using device = await openDevice({ minimum: true, kind });
    for (let seed = 0; seed < 12; seed++) {
      const { outputs, values } = randomGraph(seed, 20);
      const computed = outputs.filter((t) => t.op !== "parameter" && t.dtype === "f32");
      const parameters = upload(device, outputs[0].graph, values);
      const expected = interpret(computed, values, { precision: "f64" });
      const named = new Map(computed.map((t, i) => [`${i}`, t]));
      let clean: Map<string, Float32Array> | undefined;
      for (const poison of [false, true]) {
        using program = await compile(device, named, parameters, { poison });
        const inputs = inputsOf(outputs, values);
        const results = await program.run(inputs);
        const again = await program.run(inputs);
        for (const [name, result] of results) {
          assertClose(result, expected[Number(name)], { reduction: 4096 }, `seed ${seed}, ${name}`);
          assert.deepEqual(again.get(name), result, `seed ${seed}: a second run differs`);
          if (clean) assert.deepEqual(result, clean.get(name), `seed ${seed}: poison shows`);
        }
        clean = results;
      }
    }
  });
}

Deno.test("compile frees what it allocated when a program is disposed", async () => {
  await using device = await openDevice();
  const before = device.memory.live;
  const graph = new Graph();
  const doubled = graph.input("x", [1024]).mul(2).exp();
  {
    using program = await compile(device, new Map([["y", doubled]]), new Map());
    assert.ok(device.memory.live > before);
    await program.run({ x: new Float32Array(1024) });
  }
  assert.equal(device.memory.live, before);
});

Deno.test("compile refuses a program beyond the memory budget with both numbers", async () => {
  await using device = await openDevice({ memoryBudget: 2 ** 20 });
  const x = new Graph().input("x", [2 ** 20]);
  await assert.rejects(
    compile(device, new Map([["y", x.exp()]]), new Map(), { label: "a test" }),
    /Cannot run a test: it needs \d+ MiB .* memory budget is 1 MiB/,
  );
  assert.equal(device.memory.live, 0);
});

Deno.test("compile names a weight that is not on the device, and does not call it a lack of memory", async () => {
  await using device = await openDevice();
  const graph = new Graph();
  const scaled = graph.parameter("block.scale", [4], "vector").mul(graph.input("x", [4], "f32"));
  await assert.rejects(
    compile(device, new Map([["scaled", scaled]]), new Map(), {}),
    { name: "TypeError", message: 'There is no weight "block.scale" on the device' },
  );
});

Deno.test("run refuses a missing input and one of the wrong length", async () => {
  await using device = await openDevice();
  const x = new Graph().input("x", [2, 3]);
  using program = await compile(device, new Map([["y", x.exp()]]), new Map());
  await assert.rejects(program.run({}), /Input "x" of shape \[2, 3\] was given nothing/);
  await assert.rejects(program.run({ x: new Float32Array(5) }), /was given 5 values/);
});

Deno.test("run copies inputs and outputs on the device where it is told to", async () => {
  await using device = await openDevice();
  const x = new Graph().input("x", [8]);
  using program = await compile(device, new Map([["y", x.mul(3)]]), new Map());
  const usage = GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const source = device.createBuffer(64, usage, "source");
  const target = device.createBuffer(64, usage, "target");
  device.gpu.queue.writeBuffer(source, 0, Float32Array.from({ length: 16 }, (_, i) => i));
  const results = await program.run(
    { x: { buffer: source, offset: 32 } },
    { y: { buffer: target, offset: 16 } },
  );
  assert.equal(results.size, 0);
  using identity = await compile(device, new Map([["y", x.mul(1).add(0).mul(2)]]), new Map());
  const doubled = await identity.run({ x: { buffer: target, offset: 16 } });
  assert.deepEqual(
    [...doubled.get("y") ?? []],
    Array.from({ length: 8 }, (_, i) => (i + 8) * 6),
  );
});

Deno.test("realise writes placed outputs into each set's buffers; what others read, and what is no whole vec4s, is returned", async () => {
  await using device = await openDevice();
  const x = new Graph().input("x", [64]);
  const read = x.mul(x).sum([0]).mul(2).broadcast([4]).mul(x.slice(0, 0, 4));
  const outputs = new Map([
    ["alone", x.add(1)],
    ["read", read],
    ["reader", read.sum([0]).broadcast([8]).mul(3)],
    ["odd", x.slice(0, 0, 3).mul(5)],
    ["same", x.mul(7)],
    ["again", x.mul(7)],
  ]);
  const names = [...outputs.keys()];
  const assembly = assemble(outputs, device.profile, () => assert.fail(), {
    placed: new Set(names),
  });
  assert.deepEqual([...assembly.outputs.keys()], ["read", "odd", "same", "again"]);
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
  const buffers = [0, 1].map(() => device.createBuffer(names.length * 256, usage, "results"));
  const bound = buffers.map((buffer) =>
    new Map(names.map((name, i) => [name, { buffer, offset: i * 256 }]))
  );
  using program = await realise(device, assembly, new Map(), { bound, poison: true });
  for (const set of [1, 0]) {
    const given = Float32Array.from({ length: 64 }, (_, i) => i / 8 + set);
    const results = await program.run({ x: given }, {}, set);
    const [bytes] = await readBack(device, [{ buffer: buffers[set], bytes: names.length * 256 }]);
    const at = (
      name: string,
      length: number,
    ) => [...new Float32Array(bytes, names.indexOf(name) * 256, length)];
    assert.deepEqual(at("alone", 64), [...given].map((v) => v + 1));
    const sum = given.reduce((total, v) => total + v * v, 0) * 2;
    const [first] = [...given.slice(0, 4)].map((v) => v * sum);
    assert.ok(Math.abs((results.get("read")?.[0] ?? NaN) - first) <= 1e-5 * first);
    const total = (given[0] + given[1] + given[2] + given[3]) * sum * 3;
    assert.ok(at("reader", 8).every((v) => Math.abs(v - total) <= 1e-5 * total));
    assert.deepEqual([...results.get("odd") ?? []], [...given.slice(0, 3)].map((v) => v * 5));
    assert.deepEqual(results.get("same"), given.map((v) => v * 7));
  }
});

Deno.test("run fails with a sentence once the device is lost", async () => {
  const device = await openDevice();
  const x = new Graph().input("x", [8]);
  const program = await compile(device, new Map([["y", x.exp()]]), new Map());
  device.gpu.destroy();
  await assert.rejects(
    async () => {
      await program.run({ x: new Float32Array(8) });
      await program.run({ x: new Float32Array(8) });
    },
    (error) =>
      error instanceof Error && error.name === "DeviceError" && /\S+ .*device/i.test(error.message),
  );
});
