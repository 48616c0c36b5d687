import assert from "node:assert/strict";
import { interpret, SCALAR } from "../../lib/graph/interpret.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { literal, returnText } from "../../lib/kernels/expression.ts";
import { mapKernel } from "../../lib/kernels/map.ts";
import { profileOf, testDevice } from "../gpu.ts";
import { prepare } from "./runner.ts";

Deno.test("literal writes f32 numbers that WGSL reads back, and refuses others", () => {
  assert.equal(literal(1), "1.0f");
  assert.equal(literal(-0.5), "-0.5f");
  assert.equal(literal(1e-7), `${Math.fround(1e-7)}f`);
  assert.throws(() => literal(Infinity), RangeError);
  assert.throws(() => literal(1e39), RangeError);
});

Deno.test("returnText writes nested operators in order", () => {
  const body = {
    op: "sub",
    args: [{ op: "exp", args: [{ input: 1 }] }, { op: "mul", args: [{ input: 0 }, 2] }],
  } as const;
  assert.equal(returnText(body, ["a", "b"]), "  return (exp(b) - (a * T(2.0f)));");
});

Deno.test("returnText computes and reads once what occurs several times", () => {
  const silu = {
    op: "mul",
    args: [{ input: 0 }, { op: "sigmoid", args: [{ input: 0 }] }],
  } as const;
  const body = { op: "add", args: [silu, { op: "mul", args: [silu, { input: 1 }] }] } as const;
  assert.equal(
    returnText(body, ["x_at(i)", "y"]),
    `  let shared0 = x_at(i);
  let shared1 = (shared0 * sigmoid_(shared0));
  return (shared1 + (shared1 * y));`,
  );
});

/** The results of one unary operator on the device. */
async function onDevice(
  op: "erf" | "tanh" | "sigmoid" | "sin" | "cos",
  values: Float32Array<ArrayBuffer>,
) {
  const device = await testDevice();
  const g = new Graph();
  const x: Tensor = g.input("x", [values.length]);
  const node = g.node(op, [x], {});
  const layoutOf = () => ({ format: "rows32", residence: "buffer" }) as const;
  const [variant] = mapKernel(node, profileOf(device, {}), layoutOf);
  using prepared = await prepare(device, node, variant, new Map([[x, values]]), layoutOf);
  prepared.reset();
  prepared.submit(1);
  return {
    actual: await prepared.read(),
    expected: interpret([node], { x: values }, { precision: "f64" })[0],
  };
}

const grid = Float32Array.from({ length: 40_001 }, (_, i) => (i - 20_000) / 4000); // −5 … 5

for (const [op, bound] of [["erf", 3e-7], ["tanh", 3e-7], ["sigmoid", 3e-7]] as const) {
  Deno.test(`${op} on the device is within ${bound} everywhere and saturates without NaN`, async () => {
    const { actual, expected } = await onDevice(op, grid);
    actual.forEach((value, i) => {
      assert.ok(Math.abs(value - expected[i]) <= bound, `${op}(${grid[i]}) is ${value}`);
    });
    const far = Float32Array.from([-1e30, -200, -90, 90, 200, 1e30, 0, 1e30]);
    const saturated = await onDevice(op, far);
    saturated.actual.forEach((value, i) => {
      const exact = SCALAR[op](far[i], 0, 0);
      assert.ok(Math.abs(value - exact) <= bound, `${op}(${far[i]}) is ${value}`);
    });
  });
}

Deno.test("erf on the device keeps its relative accuracy near 0", async () => {
  const small = Float32Array.from({ length: 400 }, (_, i) => 10 ** (-8 + i / 50)); // 1e-8 … 1
  const { actual, expected } = await onDevice("erf", small);
  actual.forEach((value, i) => {
    assert.ok(Math.abs(value - expected[i]) <= 4e-7 * expected[i], `erf(${small[i]}) is ${value}`);
  });
});

for (const op of ["sin", "cos"] as const) {
  Deno.test(`${op} on the device is within 3e-7 as far as timesteps go`, async () => {
    const far = Float32Array.from({ length: 40_001 }, (_, i) => (i - 20_000) / 10); // −2000 … 2000
    const { actual, expected } = await onDevice(op, far);
    actual.forEach((value, i) => {
      assert.ok(Math.abs(value - expected[i]) <= 3e-7, `${op}(${far[i]}) is ${value}`);
    });
  });
}
