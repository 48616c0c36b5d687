/**
 * The tiny models on the device against diffusers and transformers: the same goldens that tests/models compares with
 * the interpreter, now through simplification, fusion, kernels and plan.
 */

import assert from "node:assert/strict";
import { architectureOf, manifestsOf } from "../../lib/engine/architecture.ts";
import { loadWeights } from "../../lib/engine/weights.ts";
import {
  type ComponentName,
  openCheckpoint,
  requireComponent,
} from "../../lib/formats/checkpoint.ts";
import type { StoredParameter } from "../../lib/gpu/buffers.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { compile, type HostArray } from "../../lib/gpu/program.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { unet, unetInputs } from "../../lib/models/unet.ts";
import { decode, encode, factorOf } from "../../lib/models/vae.ts";
import { paramsOf } from "../../lib/nn/params.ts";
import { fixture } from "../fixture.ts";
import { readGolden } from "../golden.ts";
import { channelsFirst, channelsLast } from "../models/tiny.ts";
import { nmse } from "../tolerance.ts";

type Golden = Awaited<ReturnType<typeof readGolden>>;
type Inputs = Record<string, HostArray>;

/** Each module, f32 weights: rounding of a few hundred f32 operations in a row, and torch's own. */
const F32 = 1e-9;
/** Each module, f16 weights: sixteen squared half ulps of f16, and what layers behind amplify. */
const F16 = 1e-4;

function given({ tensors }: Golden, name: string): Float32Array<ArrayBuffer> {
  const tensor = tensors.get(name);
  assert.ok(tensor, `the golden has no ${name}`);
  return Float32Array.from(tensor);
}

interface Loaded {
  readonly architecture: Awaited<ReturnType<typeof architectureOf>>;
  readonly parameters: ReadonlyMap<string, StoredParameter>;
}

async function load(
  device: Device,
  folder: string,
  component: ComponentName,
  weights: "f16" | "f32",
): Promise<Loaded> {
  const path = fixture(`tiny/${folder}`);
  await using checkpoint = await openCheckpoint(path);
  const architecture = await architectureOf(checkpoint);
  const manifest = manifestsOf(architecture).get(component);
  assert.ok(manifest);
  const { parameters } = await loadWeights(
    device,
    requireComponent(checkpoint, component),
    manifest,
    component,
    path,
    { weights, progress: () => {} },
  );
  return { architecture, parameters };
}

/** Compares every labelled module that the golden has; returns the results. */
async function compareOnDevice(
  device: Device,
  graph: Graph,
  inputs: Inputs,
  parameters: Loaded["parameters"],
  golden: Golden,
  bound: number,
): Promise<ReadonlyMap<string, ArrayLike<number>>> {
  const wanted = new Map<string, Tensor>();
  for (const [label, tensor] of graph.labels) {
    if (golden.tensors.has(label)) wanted.set(label, tensor);
  }
  using program = await compile(device, wanted, parameters);
  const results = await program.run(inputs);
  for (const [label, { shape }] of wanted) {
    const flat = Float64Array.from(results.get(label) ?? []);
    const actual = shape.length === 4 ? channelsFirst(flat, shape) : flat;
    const error = nmse(actual, given(golden, label));
    assert.ok(error <= bound, `${label}: NMSE ${error.toExponential(2)}`);
  }
  return results;
}

async function compareUnet(
  device: Device,
  family: string,
  weights: "f16" | "f32",
  bound: number,
): Promise<ReadonlyMap<string, ArrayLike<number>>> {
  const golden = await readGolden(family);
  const folder = family === "pruned" ? "pruned/unet" : family;
  const { architecture, parameters } = await load(device, folder, "unet", weights);
  assert.ok(architecture.unet);
  const [height, width] = family === "sdxl" ? [12, 20] : [10, 14];
  const graph = new Graph();
  const size = { batch: 2, height, width, tokens: 77 };
  unet(paramsOf(graph, "unet"), architecture.unet, unetInputs(graph, architecture.unet, size));
  const timesteps: Record<string, number[]> = JSON.parse(golden.metadata.get("timesteps") ?? "{}");
  const optional = (name: string) => Float32Array.from(golden.tensors.get(name) ?? []);
  return await compareOnDevice(
    device,
    graph,
    {
      sample: channelsLast(given(golden, "in.latents"), [2, 4, height, width]),
      timestep: Float32Array.from(timesteps.integer),
      encoderHiddenStates: given(golden, "in.context"),
      textEmbeds: optional("text_encoder_2.text_embeds"),
      timeIds: optional("in.time_ids"),
      timestepCond: optional("in.timestep_cond"),
    },
    parameters,
    golden,
    bound,
  );
}

async function compareAutoencoder(
  device: Device,
  family: string,
): Promise<ReadonlyMap<string, ArrayLike<number>>> {
  const golden = await readGolden(family);
  const { architecture: { vae }, parameters } = await load(device, family, "vae", "f32");
  assert.ok(vae);
  const [h, w] = family === "vae_f16" ? [2, 3] : [5, 7];
  const f = factorOf(vae);
  const graph = new Graph();
  const p = paramsOf(graph, "vae");
  decode(p, vae, graph.input("z", [1, h, w, 4]));
  encode(p, vae, graph.input("picture", [1, h * f, w * f, 3]));
  return await compareOnDevice(
    device,
    graph,
    {
      z: channelsLast(given(golden, "in.z"), [1, 4, h, w]),
      picture: channelsLast(given(golden, "in.picture"), [1, 3, h * f, w * f]),
    },
    parameters,
    golden,
    F32,
  );
}

for (const kind of ["software", "gpu"] as const) {
  for (const [weights, bound] of [["f32", F32], ["f16", F16]] as const) {
    for (const family of ["sd1", "sd2", "sdxl", "lcm", "pruned"]) {
      Deno.test(`the ${family} UNet on a ${kind} device with ${weights} weights equals diffusers module by module`, async () => {
        await using device = await openDevice({ minimum: true, kind });
        const { size } = await compareUnet(device, family, weights, bound);
        assert.ok(size >= 50, `only ${size} modules were compared`);
      });
    }
  }

  for (const family of ["sd1", "sdxl", "vae_f2", "vae_f16"]) {
    Deno.test(`the ${family} autoencoder on a ${kind} device equals diffusers module by module`, async () => {
      await using device = await openDevice({ minimum: true, kind });
      const { size } = await compareAutoencoder(device, family);
      assert.ok(size >= 10, `only ${size} modules were compared`);
    });
  }
}

/** A table that sends every 3×3 convolution one way; those that cannot go it take the usual one. */
class OneWay extends Map<string, string> {
  constructor(readonly algorithm: string) {
    super();
  }
  override get(shapeClass: string): string | undefined {
    return shapeClass.startsWith("conv2d 3×3 ") ? this.algorithm : undefined;
  }
}

/** Names of results that differ in any number: they were computed another way. */
function differing(
  some: ReadonlyMap<string, ArrayLike<number>>,
  others: ReadonlyMap<string, ArrayLike<number>>,
): string[] {
  return [...some].filter(([name, values]) =>
    Array.from(values).some((value, i) => value !== others.get(name)?.[i])
  ).map(([name]) => name);
}

for (const algorithm of ["winograd2", "winograd4"]) {
  Deno.test(`the sd1 UNet and autoencoder with ${algorithm} equal diffusers module by module`, async () => {
    await using usual = await openDevice({ minimum: true });
    const table = new OneWay(algorithm);
    await using device = await openDevice({ minimum: true, table: () => Promise.resolve(table) });
    for (const [weights, bound] of [["f32", F32], ["f16", F16]] as const) {
      const changed = differing(
        await compareUnet(usual, "sd1", weights, bound),
        await compareUnet(device, "sd1", weights, bound),
      );
      assert.ok(changed.length >= 50, `only ${changed.length} modules were computed another way`);
    }
    const changed = differing(
      await compareAutoencoder(usual, "sd1"),
      await compareAutoencoder(device, "sd1"),
    );
    assert.ok(changed.length >= 10, `only ${changed.length} modules were computed another way`);
  });
}
