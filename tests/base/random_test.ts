import assert from "node:assert/strict";
import { UsageError } from "../../lib/base/errors.ts";
import { type NoiseSource, perPicture, torchCpu, torchCuda } from "../../lib/base/random.ts";
import { readGolden, ulpDistance } from "../golden.ts";

const { tensors, integers } = await readGolden("noise");

/** The goldens of one kind as seed → calls in order, each [size, values]. */
function calls(kind: string): Map<bigint, [number, Float32Array][]> {
  const bySeed = new Map<bigint, [number, Float32Array][]>();
  for (const [name, values] of tensors) {
    const [k, seed, call, size] = name.split(".");
    if (k !== kind) continue;
    const list = bySeed.get(BigInt(seed)) ?? [];
    list[Number(call)] = [Number(size), values];
    bySeed.set(BigInt(seed), list);
  }
  return bySeed;
}

/** Compares successive calls of every seed; returns how many values were compared. */
function compare(kind: string, make: (seed: bigint) => NoiseSource, ulps: number): number {
  let count = 0;
  for (const [seed, list] of calls(kind)) {
    const source = make(seed);
    list.forEach(([size, expected], call) => {
      const distance = ulpDistance(source.normal(size), expected);
      assert.ok(
        distance <= ulps,
        `${kind} seed ${seed} call ${call} size ${size}: ${distance} ulp`,
      );
      count += size;
    });
  }
  return count;
}

Deno.test("torchCpu equals torch.randn over calls of mixed sizes on one generator", () => {
  // Long calls are bit-equal; 1 ulp allows for short calls, which go through the platform's log1p, cos and sin.
  assert.equal(compare("cpu", torchCpu, 1), 7 * 2495);
});

Deno.test("torchCpu equals torch.randn at the size of a latent", () => {
  for (const [seed, [[size, expected]]] of calls("large")) {
    const x = torchCpu(seed).normal(size);
    const kept = Float32Array.from(
      [0, size / 2, size - 64].flatMap((at) => [...x.subarray(at, at + 64)]),
    );
    assert.equal(ulpDistance(kept, expected), 0, `seed ${seed}`);
  }
});

Deno.test("torchCpu.uniform and integers equal torch.rand and torch.randint", () => {
  for (const seed of [0, 7]) {
    const source = torchCpu(seed);
    assert.deepEqual(source.uniform(33), tensors.get(`uniform.${seed}`));
    assert.deepEqual(source.integers(-3, 1000, 33), integers.get(`integers.${seed}`));
  }
});

Deno.test("torchCpu keeps the second value of a pair for the next short call only", () => {
  const [pair, apart] = [torchCpu(3), torchCpu(3)];
  const whole = pair.normal(2);
  const first = apart.normal(1);
  apart.normal(16);
  assert.deepEqual([first[0], apart.normal(1)[0]], [...whole]);
});

Deno.test("torchCuda equals the published vector for seed 0", () => {
  // stable-diffusion-webui modules/rng_philox.py, its docstring
  const expected = Float32Array.of(
    ...[-0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564],
    ...[-0.62285122, -0.32838709, -1.07454231, -0.36314407, -1.67105067, 2.26550497],
  );
  assert.ok(ulpDistance(torchCuda(0).normal(12), expected) <= 1); // 1: printed with 8 decimals
});

Deno.test("torchCuda equals numpy's Philox over calls and 64-bit seeds", () => {
  assert.equal(compare("cuda", torchCuda, 1), 5 * 369); // 1 ulp: log and sin of two libraries
});

Deno.test("torchCpu and torchCuda refuse a seed that torch refuses", () => {
  for (const seed of [1.5, NaN, 2n ** 64n, -(2n ** 63n) - 1n]) {
    assert.throws(() => torchCpu(seed), UsageError);
    assert.throws(() => torchCuda(seed), UsageError);
  }
});

Deno.test("perPicture gives each picture its own stream", () => {
  const batch = perPicture([torchCpu(5), torchCpu(6)]);
  const [a, b] = [torchCpu(5), torchCpu(6)];
  for (let call = 0; call < 2; call++) {
    assert.deepEqual([...batch.normal(40)], [...a.normal(20), ...b.normal(20)]);
  }
  assert.throws(() => batch.normal(3), RangeError);
});
