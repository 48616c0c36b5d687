import assert from "node:assert/strict";
import { MemoryError } from "../../lib/base/errors.ts";
import { torchCpu } from "../../lib/base/random.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Graph } from "../../lib/graph/tensor.ts";
import { paramsOf } from "../../lib/nn/params.ts";
import { adamWOf } from "../../lib/train/autoencoder.ts";
import { autoencoderConfig } from "../../lib/train/config.ts";
import { initial } from "../../lib/train/initial.ts";
import { autoencoderObjective } from "../../lib/train/reconstruction.ts";
import { vaeConfigOf } from "../../lib/train/shapes.ts";
import { Trainer } from "../../lib/train/trainer.ts";

const SHAPE = [2, 32, 32, 3];
const SIZE = SHAPE.reduce((a, b) => a * b);

const settings = autoencoderConfig([{
  name: "the test",
  isTyped: false,
  values: {
    run: { folder: "run" },
    data: { path: "pictures", size: SHAPE[1] },
    autoencoder: { f: 4, width: 8, groups: 4, layers: 1 },
  },
}]);

/** A small KL autoencoder with weights of its own. */
async function trainer(device: Device): Promise<Trainer> {
  const graph = new Graph();
  const objective = autoencoderObjective(
    paramsOf(graph, "vae"),
    vaeConfigOf(settings),
    paramsOf(graph, "discriminator"),
    graph.input("picture", SHAPE),
    {
      ...{ pixelLoss: "l1", regularisation: 1e-3, commitment: 0 },
      ...{ perceptual: undefined, adversarial: undefined },
    },
  );
  const made = await Trainer.make(device, objective, {
    isTrained: () => true,
    optimizer: adamWOf(settings),
    label: "the training of the test",
  });
  await made.vectors.begin((entry) => initial(entry, 1));
  return made;
}

/** Weights after two steps. */
async function trained(made: Trainer): Promise<ReadonlyMap<string, Float32Array>> {
  const random = torchCpu(2);
  for (let t = 1; t <= 2; t++) {
    const latents = SIZE / 3 / 16 * settings.autoencoder.channels;
    await made.backward({ picture: random.normal(SIZE), noise: random.normal(latents) });
    await made.step(t, { rate: 1e-3, emaDecay: 0 });
  }
  made.rest(); // so that there is room to read them back
  return await made.vectors.read("weight");
}

Deno.test("Trainer computes again what does not fit: the same weights to the bit, in no more than it was given", async () => {
  await using device = await openDevice();
  let expected: ReadonlyMap<string, Float32Array>;
  let plain: { readonly live: number; readonly steps: number; readonly bytes: number };
  {
    using made = await trainer(device);
    expected = await trained(made);
    const { program: { stepCount: steps, bytes } } = made;
    plain = { live: device.memory.live, steps, bytes };
  }
  for (const share of [0.8, 0.55]) {
    const memoryBudget = plain.live - plain.bytes * (1 - share);
    await using small = await openDevice({ memoryBudget });
    using made = await trainer(small);
    assert.ok(made.program.bytes <= plain.bytes * share);
    assert.ok(made.program.stepCount > plain.steps);
    const found = await trained(made);
    for (const [name, values] of expected) assert.deepEqual(found.get(name), values, name);
  }
});

Deno.test("Trainer refuses with both numbers what does not fit, however much is computed again", async () => {
  await using device = await openDevice({ memoryBudget: 12 * 2 ** 20 });
  await assert.rejects(
    trainer(device),
    (error: unknown) =>
      error instanceof MemoryError &&
      /^Cannot do the training of the test within 12 MiB: .* take \d+ MiB, and a step needs [2-9] MiB beside/
        .test(error.message),
  );
  assert.equal(device.memory.live, 0);
});
