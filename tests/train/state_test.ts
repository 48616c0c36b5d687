import assert from "node:assert/strict";
import { join } from "node:path";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Graph } from "../../lib/graph/tensor.ts";
import { readState, writeState } from "../../lib/train/state.ts";
import { Trainer } from "../../lib/train/trainer.ts";
import { inFolder } from "../folders.ts";

/** Brings four numbers towards zero. */
async function shrinking(device: Device, ema: number): Promise<Trainer> {
  const w = new Graph().parameter("w", [4], "vector");
  return await Trainer.make(device, { loss: w.mul(w).sum([0]) }, {
    isTrained: () => true,
    optimizer: { beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0, clip: undefined, ema },
    label: "shrinking",
  });
}

const progress = { step: 1, position: { epoch: 0, index: 2 } };

Deno.test("readState takes up a state that has an average where none is kept, and refuses one that lacks it", async () => {
  await using device = await openDevice();
  using averaging = await shrinking(device, 0.5);
  await averaging.vectors.begin(() => Float32Array.of(1, 2, 3, 4));
  await averaging.backward({});
  await averaging.step(1, 0.1);
  const weight = await averaging.vectors.read("weight");
  assert.notDeepEqual(await averaging.vectors.read("average"), weight);
  using plain = await shrinking(device, 0);
  await inFolder(async (folder) => {
    const [old, own] = ["old", "own"].map((name) => join(folder, `${name}.safetensors`));
    await writeState(old, progress, { a: averaging });
    assert.deepEqual(await readState(old, { a: plain }), progress);
    for (const name of ["weight", "moment1", "moment2"] as const) {
      assert.deepEqual(await plain.vectors.read(name), await averaging.vectors.read(name));
    }
    await writeState(own, progress, { a: plain });
    assert.ok((await Deno.stat(own)).size < (await Deno.stat(old)).size);
    await assert.rejects(
      readState(own, { a: averaging }),
      /its "a\/average\/w" is missing, \[4\] was needed; resume with the settings/,
    );
  });
});
