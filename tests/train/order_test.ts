import { deepEqual, equal, notDeepEqual, ok } from "node:assert/strict";
import { after, BEGINNING, permutation, seedOf } from "../../lib/train/order.ts";

Deno.test("permutation has every number once, in an order that the seed decides", () => {
  for (const length of [0, 1, 2, 257]) {
    const order = permutation(length, 7);
    deepEqual(order.toSorted(), Uint32Array.from({ length }, (_, i) => i));
    deepEqual(order, permutation(length, 7));
  }
  notDeepEqual(permutation(257, 7), permutation(257, 8));
});

Deno.test("permutation puts every number everywhere equally often", () => {
  const rounds = 4000;
  const counts = new Float64Array(16);
  for (let seed = 0; seed < rounds; seed++) {
    permutation(4, seed).forEach((value, i) => counts[4 * i + value]++);
  }
  const expected = rounds / 4;
  const chi2 = counts.reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0);
  ok(chi2 < 27.9, `${chi2}`); // 9 degrees of freedom, one in a thousand
});

Deno.test("seedOf depends on each number, their order and how many there are", () => {
  const seeds = [[], [0], [0, 0], [1], [1, 0], [0, 1], [1, 2], [2, 1], [2 ** 32 - 1], [2 ** 31]];
  equal(new Set(seeds.map((words) => seedOf(...words))).size, seeds.length);
  ok(seeds.every((words) => seedOf(...words) >>> 0 === seedOf(...words)));
});

Deno.test("after counts examples, then epochs", () => {
  deepEqual(after(BEGINNING, 2), { epoch: 0, index: 1 });
  deepEqual(after({ epoch: 3, index: 1 }, 2), { epoch: 4, index: 0 });
  deepEqual(after({ epoch: 3, index: 0 }, 1), { epoch: 4, index: 0 });
});
