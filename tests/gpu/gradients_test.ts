/**
 * Whole tiny models' gradients by every parameter against torch, on the device, from weights that lie in rows as they do in
 * training: fixtures/make/gradients.py.
 */

import assert from "node:assert/strict";
import { sizeOf } from "../../lib/base/shape.ts";
import { storageBuffer, type StoredParameter } from "../../lib/gpu/buffers.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { compile, type HostArray } from "../../lib/gpu/program.ts";
import type { Tensor } from "../../lib/graph/tensor.ts";
import {
  assertGolden,
  byName,
  type Differentiated,
  differentiated,
  type ModelName,
  MODELS,
} from "../models/gradient_goldens.ts";

/** A few hundred f32 operations in a row, forwards and backwards. */
const BOUND = 1e-8;

/** Every parameter of the graph in a buffer of its own, in rows of f32. */
function inRows(device: Device, { gradients, values }: Differentiated) {
  return new Map(
    gradients.map(({ parameter: { attrs, size, shape } }): [string, StoredParameter] => {
      const data = new Float32Array(Math.ceil(size / 4) * 4);
      let at = 0;
      for (
        const { name, shape: whole, begin, end } of attrs.pieces ??
          [{ name: attrs.name, shape, begin: 0, end: shape[0] }]
      ) {
        const row = sizeOf(whole) / whole[0];
        data.set(Float32Array.from(values[name]).subarray(begin * row, end * row), at);
        at += (end - begin) * row;
      }
      const buffer = storageBuffer(device, data.byteLength, attrs.name);
      device.gpu.queue.writeBuffer(buffer, 0, data);
      const layout = { format: "rows32", residence: "buffer" } as const;
      return [attrs.name, { layout, bytes: buffer.size, resource: { kind: "buffer", buffer } }];
    }),
  );
}

/** Each kind of device has all kernels; what is in none of the others is in one. */
const TESTED: Readonly<Record<"software" | "gpu", readonly ModelName[]>> = {
  software: ["unet_sd1", "clip_sd1"],
  gpu: ["vae_sd1", "clip_sd1"],
};

for (const kind of ["software", "gpu"] as const) {
  for (const name of TESTED[kind]) {
    Deno.test(`gradients of ${name} by every parameter equal torch's on a ${kind} device`, async () => {
      await using device = await openDevice({ minimum: true, kind });
      const model = await differentiated(name);
      const { loss, gradients, values, golden } = model;
      const outputs = new Map<string, Tensor>([
        ["loss", loss],
        ...gradients.map(({ gradient }, i) => [`${i}`, gradient] as const),
      ]);
      const inputs: Record<string, HostArray> = {};
      for (const node of loss.graph.nodes) {
        if (node.op !== "input") continue;
        const given = values[node.attrs.name];
        inputs[node.attrs.name] = node.dtype === "i32"
          ? Int32Array.from(given)
          : Float32Array.from(given);
      }
      using program = await compile(device, outputs, inRows(device, model), { poison: true });
      const results = await program.run(inputs);
      const numbers = gradients.map((_, i) => results.get(`${i}`) ?? []);
      const [value] = results.get("loss") ?? [];
      assert.ok(numbers.every((list) => list.length > 0));
      const found = byName(gradients, numbers);
      assertGolden(golden, MODELS[name].component, value, found, BOUND);
    });
  }
}
