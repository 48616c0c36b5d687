import assert from "node:assert/strict";
import { torchCpu } from "../../lib/base/random.ts";
import { release, type StoredParameter, storeWeight } from "../../lib/gpu/buffers.ts";
import { assemble, peakOf } from "../../lib/gpu/compile.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { realise } from "../../lib/gpu/program.ts";
import { gradients } from "../../lib/graph/grad.ts";
import { Graph } from "../../lib/graph/tensor.ts";

const [SIDE, CHANNELS, LAYERS] = [32, 16, 6];

/** Convolutions, norms and what follows them, and the gradients by their weights. */
function network() {
  const graph = new Graph();
  const weights = Array.from(
    { length: LAYERS },
    (_, i) => graph.parameter(`w${i}`, [CHANNELS, 3, 3, CHANNELS], "conv"),
  );
  const [one, none] = [1, 0].map((value) => graph.constant(value, [CHANNELS]));
  const padding = { top: 1, bottom: 1, left: 1, right: 1 };
  const output = weights.reduce((x, w) => {
    const h = x.groupNormalize(x.groupMoments(4), one, none, { groups: 4, eps: 1e-5 });
    return h.mul(h.sigmoid()).conv2d(w, { stride: 1, padding }).add(x);
  }, graph.input("x", [1, SIDE, SIDE, CHANNELS]));
  const loss = output.mul(output).sum([0, 1, 2, 3]);
  const outputs = new Map([["loss", loss]]);
  gradients(loss, weights).forEach((gradient, i) => outputs.set(`${i}`, gradient));
  return outputs;
}

for (const kind of ["software", "gpu"] as const) {
  Deno.test(`a program that computes again on a ${kind} device gives the same bits, poisoned, and needs less`, async () => {
    await using device = await openDevice({ kind });
    const outputs = network();
    const random = torchCpu(1);
    using owned = new DisposableStack();
    const parameters = new Map<string, StoredParameter>();
    const shape = [CHANNELS, 3, 3, CHANNELS];
    const size = CHANNELS * CHANNELS * 9;
    for (let i = 0; i < LAYERS; i++) {
      const values = random.normal(size).map((v) => v / 12);
      const entry = { name: `w${i}`, role: "conv", shape } as const;
      const data = new Uint8Array(values.buffer);
      const stored = storeWeight(device, { dtype: "f32", data }, entry, "f32");
      owned.defer(() => release(device, stored.resource));
      parameters.set(entry.name, stored);
    }
    const x = random.normal(SIDE * SIDE * CHANNELS);
    const assembled = (budget: number) =>
      assemble(outputs, device.profile, (name) => parameters.get(name)?.layout ?? assert.fail(), {
        choice: device.choice,
        budget,
      });
    const whole = assembled(Infinity);
    const { kept } = peakOf(whole);
    const small = assembled(kept * 0.65);
    assert.ok(peakOf(small).kept <= kept * 0.65);
    const count = ({ steps }: typeof whole) => {
      const computed = steps.filter((step) => step.kind === "dispatch");
      return computed.length;
    };
    assert.ok(count(small) > count(whole), `${count(small)} dispatches, once ${count(whole)}`);
    using plain = await realise(device, whole, parameters, {});
    using again = await realise(device, small, parameters, { poison: true });
    assert.deepEqual(await again.run({ x }), await plain.run({ x }));
  });
}
