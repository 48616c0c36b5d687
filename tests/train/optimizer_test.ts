import assert from "node:assert/strict";
import { openDevice } from "../../lib/gpu/device.ts";
import type { Profile } from "../../lib/kernels/kernel.ts";
import type { ManifestEntry } from "../../lib/nn/params.ts";
import { type AdamW, emaDecayAt } from "../../lib/train/optimizer.ts";
import { Optimizer } from "../../lib/train/update.ts";
import { placesOf, vectorBytes, Vectors } from "../../lib/train/vectors.ts";
import { readGolden } from "../golden.ts";
import { nmse } from "../tolerance.ts";

const DECAY = 0.7;
const SETTINGS: AdamW = {
  ...{ beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0.02, clip: 1, ema: DECAY },
};
const RATES = [0.01, 0.02, 0.005, 0.01, 0.03, 0.01];

function entry(name: string, shape: readonly number[]): ManifestEntry {
  return { name, shape, role: "vector", readers: [] };
}

const ENTRIES = [entry("a", [7, 5]), entry("b", [480]), entry("c", [1])];

Deno.test("placesOf begins every parameter at 256 bytes and every group at nothing", () => {
  const { places, sizes } = placesOf(ENTRIES, 1024 * 4);
  assert.deepEqual([...places.values()].map(({ begin }) => begin), [0, 64, 576]);
  assert.deepEqual(sizes, [640]);
  const cut = placesOf(ENTRIES, 512 * 4);
  assert.deepEqual([...cut.places.values()].map(({ group, begin }) => [group, begin]), [
    [0, 0],
    [1, 0],
    [2, 0],
  ]);
  const large = [entry("a", [5000 * 256]), entry("b", [4096 * 256])];
  assert.equal(placesOf(large, 2 ** 30).chunk, 9096 / 3);
  assert.equal(placesOf(large, 2 ** 23).chunk, 4096);
  assert.throws(() => placesOf(ENTRIES, 1024), /Cannot train "b": it has 480 numbers/);
});

interface Case {
  readonly what: string;
  readonly ema: number;
  readonly groups: number;
  readonly profile: Partial<Profile>;
}
const CASES: readonly Case[] = [
  { what: "with an average", ema: DECAY, groups: 1, profile: {} },
  { what: "without one", ema: 0, groups: 1, profile: {} },
  { what: "in several groups", ema: DECAY, groups: 3, profile: { maxBinding: 512 * 4 } },
  { what: "as on a GPU", ema: DECAY, groups: 1, profile: { kind: "gpu" } },
];

for (const { what, ema, groups, profile } of CASES) {
  Deno.test(`Optimizer makes torch's steps of AdamW with clipping and accumulation, ${what}`, async () => {
    const golden = await readGolden("adamw");
    const of = (name: string) => Float32Array.from(golden.tensors.get(name) ?? assert.fail(name));
    await using device = await openDevice();
    Object.assign(device.profile, profile);
    const settings = { ...SETTINGS, ema };
    using vectors = new Vectors(device, ENTRIES, settings);
    assert.equal(vectors.groups.length, groups);
    await vectors.begin(({ name }) => of(`start.${name}`));
    using optimizer = await Optimizer.make(device, vectors, { ...settings, accumulates: true });
    const give = (step: string) => {
      const targets = optimizer.places[optimizer.place];
      for (const [name, { group, begin }] of vectors.places) {
        device.gpu.queue.writeBuffer(targets[group], begin * 4, of(`${step}.${name}`));
      }
    };
    for (const [i, rate] of RATES.entries()) {
      for (const part of i === 2 ? ["x", "y", "z"] : ["x"]) {
        give(`gradient.${i}.${part}`);
        await optimizer.take();
      }
      const { norm, skipped } = await optimizer.step(i + 1, rate);
      assert.equal(skipped, false);
      assert.ok(Math.abs(norm / of("norms")[i] - 1) < 1e-6, `step ${i}: norm ${norm}`);
      for (const vector of ["weight", vectors.best] as const) {
        const values = await vectors.read(vector);
        for (const { name } of ENTRIES) {
          const error = nmse(values.get(name) ?? [], of(`${vector}.${i}.${name}`));
          assert.ok(error < 1e-12, `step ${i}, ${vector} of ${name}: NMSE ${error}`);
        }
      }
    }
  });
}

Deno.test("Vectors have an average where one is asked for, and take no memory for it else", async () => {
  await using device = await openDevice();
  const bytes = (ema: number) => {
    using vectors = new Vectors(device, ENTRIES, { ema });
    const { live } = device.memory;
    assert.equal(live, vectorBytes(placesOf(ENTRIES, device.profile.maxBinding), { ema }));
    assert.equal(vectors.best, ema > 0 ? "average" : "weight");
    return live;
  };
  assert.equal(bytes(0) / bytes(0.5), 4 / 5);
  using vectors = new Vectors(device, ENTRIES, { ema: 0 });
  await assert.rejects(vectors.read("average"), /This training has no averages/);
});

Deno.test("Optimizer adds ε to the root of the second moment, after its correction", async () => {
  await using device = await openDevice();
  const settings: AdamW = { ...SETTINGS, eps: 0.01, weightDecay: 0, clip: undefined, ema: 0 };
  using vectors = new Vectors(device, [entry("a", [1])], settings);
  using optimizer = await Optimizer.make(device, vectors, { ...settings, accumulates: false });
  const gradient = 1e-3;
  device.gpu.queue.writeBuffer(optimizer.places[0][0], 0, Float32Array.of(gradient));
  await optimizer.take();
  await optimizer.step(1, 0.5);
  const [weight] = (await vectors.read("weight")).get("a") ?? [];
  // of one step both corrected moments are the gradient's own
  assert.ok(Math.abs(weight / (-0.5 * gradient / (gradient + 0.01)) - 1) < 1e-5, `${weight}`);
});

Deno.test("Optimizer leaves out a step whose gradient is not finite, and goes on", async () => {
  await using device = await openDevice();
  using vectors = new Vectors(device, ENTRIES, SETTINGS);
  const ones = new Map(ENTRIES.map(({ name, shape }) => [
    name,
    new Float32Array(shape.reduce((a, b) => a * b)).fill(1),
  ]));
  vectors.write("weight", ones);
  using optimizer = await Optimizer.make(device, vectors, { ...SETTINGS, accumulates: true });
  vectors.write("gradient", ones);
  vectors.write("gradient", new Map([["c", Float32Array.of(NaN)]]));
  await optimizer.take();
  const spoilt = await optimizer.step(1, 0.1);
  assert.deepEqual(spoilt.skipped, true);
  assert.deepEqual(await vectors.read("weight"), ones);
  vectors.write("gradient", ones);
  await optimizer.take();
  assert.equal((await optimizer.step(1, 0.1)).skipped, false);
  const weight = await vectors.read("weight");
  assert.ok((weight.get("c")?.[0] ?? 1) < 0.95);
});

Deno.test("Optimizer changes every chunk of large vectors alike, each once", async () => {
  await using device = await openDevice();
  const size = 9000 * 256;
  using vectors = new Vectors(device, [entry("a", [size])], SETTINGS);
  assert.equal(vectors.chunk, 3000);
  const ones = new Map([["a", new Float32Array(size).fill(1)]]);
  vectors.write("weight", ones);
  using optimizer = await Optimizer.make(device, vectors, { ...SETTINGS, accumulates: false });
  for (let t = 1; t <= 2; t++) {
    vectors.write("gradient", ones);
    await optimizer.take();
    const { norm } = await optimizer.step(t, 0.1);
    assert.ok(Math.abs(norm / Math.sqrt(size) - 1) < 1e-5);
  }
  for (const vector of ["weight", "moment1", "moment2", "average"] as const) {
    const values = (await vectors.read(vector)).get("a") ?? assert.fail();
    assert.ok(values[0] > 0 && values[0] !== 1);
    assert.ok(values.every((value) => value === values[0]), vector);
  }
});

Deno.test("emaDecayAt follows fast at first and reaches the decay that was asked for", () => {
  assert.equal(emaDecayAt(0.999, 1), 2 / 11);
  assert.equal(emaDecayAt(0.999, 100_000), 0.999);
});
