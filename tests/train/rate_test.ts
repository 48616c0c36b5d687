import { equal, ok } from "node:assert/strict";
import { learningRate } from "../../lib/train/rate.ts";

const options = { lr: 2, warmup: 10, final: 0, steps: 110 } as const;
const near = (a: number, b: number) => ok(Math.abs(a - b) < 1e-12, `${a} is not ${b}`);

Deno.test("learningRate rises from 0 in the warm-up and then falls as its schedule says", () => {
  for (const schedule of ["constant", "linear", "cosine"] as const) {
    equal(learningRate(0, { ...options, schedule }), 0);
    near(learningRate(5, { ...options, schedule }), 1);
    near(learningRate(10, { ...options, schedule }), 2);
  }
  equal(learningRate(109, { ...options, schedule: "constant" }), 2);
  near(learningRate(60, { ...options, schedule: "linear" }), 1);
  near(learningRate(85, { ...options, schedule: "linear" }), 0.5);
  near(learningRate(60, { ...options, schedule: "cosine" }), 1);
  near(learningRate(35, { ...options, schedule: "cosine" }), 1 + Math.SQRT1_2);
  near(learningRate(110, { ...options, schedule: "cosine" }), 0);
  near(learningRate(500, { ...options, schedule: "linear" }), 0);
});

Deno.test("learningRate stops at the share that is to be left, and needs no warm-up", () => {
  const half = { ...options, final: 0.1, warmup: 0, schedule: "cosine" } as const;
  near(learningRate(0, half), 2);
  near(learningRate(55, half), 2 * (0.1 + 0.9 / 2));
  near(learningRate(110, half), 0.2);
  near(learningRate(3, { ...half, steps: 0 }), 0.2);
});
