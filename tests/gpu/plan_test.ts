import assert from "node:assert/strict";
import { type Life, planSlots } from "../../lib/gpu/plan.ts";

/** A small generator, so that a failing seed can be repeated. */
function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
}

function randomLives(seed: number): Life[] {
  const next = random(seed);
  return Array.from({ length: 1 + Math.floor(next() * 60) }, () => {
    const first = Math.floor(next() * 40);
    return {
      bytes: 16 * (1 + Math.floor(next() * 1000)),
      kind: next() < 0.2 ? "texture" : "buffer",
      first,
      last: first + Math.floor(next() * next() * 30),
    };
  });
}

Deno.test("planSlots never lets two live values share a slot", () => {
  for (let seed = 0; seed < 200; seed++) {
    const lives = randomLives(seed);
    const { slots, slotOf } = planSlots(lives);
    for (let step = 0; step < 80; step++) {
      const live = lives.map((_, i) => i).filter((i) =>
        lives[i].first <= step && step <= lives[i].last
      );
      const used = live.map((i) => slotOf[i]);
      assert.equal(new Set(used).size, used.length, `seed ${seed}, step ${step}`);
    }
    lives.forEach((life, i) => {
      assert.ok(slots[slotOf[i]].bytes >= life.bytes, `seed ${seed}`);
      assert.equal(slots[slotOf[i]].kind, life.kind, `seed ${seed}`);
    });
  }
});

Deno.test("planSlots needs no more than the values that are alive at once in a chain", () => {
  const chain: Life[] = Array.from({ length: 10 }, (_, i) => ({
    bytes: 64,
    kind: "buffer",
    first: i,
    last: i + 1,
  }));
  assert.equal(planSlots(chain).bytes, 128);
});

Deno.test("planSlots counts every slot once", () => {
  const plan = planSlots([
    { bytes: 32, kind: "buffer", first: 0, last: 3 },
    { bytes: 16, kind: "buffer", first: 1, last: 1 },
    { bytes: 16, kind: "buffer", first: 2, last: 3 },
    { bytes: 48, kind: "texture", first: 2, last: 2 },
  ]);
  assert.equal(plan.bytes, 32 + 16 + 48);
});
