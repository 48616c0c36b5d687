/** Whole tiny models' gradients by every parameter against torch, in the interpreter: fixtures/make/gradients.py. */

import { interpret } from "../../lib/graph/interpret.ts";
import { verify } from "../../lib/graph/verify.ts";
import {
  assertGolden,
  byName,
  differentiated,
  type ModelName,
  MODELS,
} from "./gradient_goldens.ts";

/** Torch computes the sines of timesteps in f32 whatever the model's precision is. */
const BOUND = 1e-10;

const isModel = (name: string): name is ModelName => name in MODELS;
for (const name of Object.keys(MODELS).filter(isModel)) {
  Deno.test(`gradients of ${name} by every parameter equal torch's`, async () => {
    const { loss, gradients, values, golden } = await differentiated(name);
    const outputs = [loss, ...gradients.map(({ gradient }) => gradient)];
    verify(outputs);
    const [[value], ...results] = interpret(outputs, values, { precision: "f64" });
    const found = byName(gradients, results);
    assertGolden(golden, MODELS[name].component, value, found, BOUND);
  });
}
