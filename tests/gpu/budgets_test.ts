/**
 * The largest models planned without a device: of each step, dispatches, distinct shaders and peak bytes of activations; and
 * what is kept from step to step because it depends on the prompts alone. These numbers are
 * the performance regression test of machines too small to run the models; raising one needs a reason in the commit.
 */

import assert from "node:assert/strict";
import { assemble, peakOf } from "../../lib/gpu/compile.ts";
import { gradients } from "../../lib/graph/grad.ts";
import { hoist } from "../../lib/graph/hoist.ts";
import { Graph } from "../../lib/graph/tensor.ts";
import type { Profile } from "../../lib/kernels/kernel.ts";
import { layoutFor } from "../../lib/kernels/weights.ts";
import { unetConfigFromJson } from "../../lib/models/config_from_json.ts";
import { unet, unetInputs } from "../../lib/models/unet.ts";
import { layersOf } from "../../lib/nn/lora.ts";
import { manifestOf, parametersOf, paramsOf } from "../../lib/nn/params.ts";
import { denoisingObjective } from "../../lib/train/denoising.ts";
import { besideObjective, isLowRank } from "../../lib/train/lora.ts";
import { fixture } from "../fixture.ts";
import { LLVMPIPE } from "../kernels/profiles.ts";

const MIB = 2 ** 20;

/** What llvmpipe and a middling GPU offer. */
const PROFILES: Readonly<Record<Profile["kind"], Profile>> = {
  software: LLVMPIPE,
  gpu: { ...LLVMPIPE, kind: "gpu", maxBinding: 1024 * MIB, subgroups: false },
};

async function configOf(file: string) {
  const path = fixture(`configs/${file}.json`);
  return unetConfigFromJson(JSON.parse(await Deno.readTextFile(path)).unet);
}

async function plan(file: string, side: number, batch: number, profile: Profile) {
  const config = await configOf(file);
  const graph = new Graph();
  const size = { batch, height: side, width: side, tokens: 77 };
  const prediction = unet(paramsOf(graph, "unet"), config, unetInputs(graph, config, size));
  const parameters = parametersOf(graph);
  const lasting = new Set(["encoderHiddenStates", "textEmbeds", "timeIds"]);
  const { once, outputs } = hoist([prediction], lasting);
  const layoutOf = (name: string) => {
    const entry = parameters.get(name);
    assert.ok(entry);
    return layoutFor(entry.role, entry.shape, "f16", profile);
  };
  const step = new Map([["prediction", outputs[0]]]);
  const kept = [...once.values()].reduce((sum, { size }) => sum + size * 4, 0);
  return { ...assemble(step, profile, layoutOf, { bound: new Set(once.keys()) }), kept };
}

interface Budget {
  readonly file: string;
  readonly side: number;
  readonly batch: number;
  readonly kind: Profile["kind"];
  readonly dispatches: number;
  readonly pipelines: number;
  readonly mib: number;
  readonly kept: number;
}

const BUDGETS: readonly Budget[] = [
  {
    file: "sd15",
    side: 64,
    batch: 1,
    kind: "software",
    dispatches: 1080,
    pipelines: 38,
    mib: 140,
    kept: 8,
  },
  {
    file: "sd15",
    side: 64,
    batch: 2,
    kind: "software",
    dispatches: 1130,
    pipelines: 38,
    mib: 240,
    kept: 15,
  },
  {
    file: "sd15",
    side: 64,
    batch: 2,
    kind: "gpu",
    dispatches: 560,
    pipelines: 40,
    mib: 160,
    kept: 15,
  },
  {
    file: "sdxl",
    side: 128,
    batch: 2,
    kind: "gpu",
    dispatches: 1100,
    pipelines: 28,
    mib: 500,
    kept: 98,
  },
  {
    file: "sdxl",
    side: 128,
    batch: 2,
    kind: "software",
    dispatches: 3150,
    pipelines: 28,
    mib: 690,
    kept: 98,
  },
];

for (const { file, side, batch, kind, ...most } of BUDGETS) {
  Deno.test(`the ${file} UNet on ${batch} latents of ${side}² is planned for a ${kind} device within its budget`, async () => {
    const { steps, pipelines, plan: { bytes }, kept } = await plan(
      file,
      side,
      batch,
      PROFILES[kind],
    );
    const dispatches = steps.filter((step) => step.kind === "dispatch").length;
    const mib = Math.ceil(bytes / MIB);
    const found = { dispatches, pipelines, mib, kept: Math.ceil(kept / MIB) };
    for (const key of ["dispatches", "pipelines", "mib", "kept"] as const) {
      assert.ok(found[key] <= most[key], `${key}: ${JSON.stringify(found)}`);
    }
  });
}

Deno.test("training a LoRA of sd15 with a picture of 512² is planned within its budget, and within less where it is told to", async () => {
  const config = await configOf("sd15");
  const graph = new Graph();
  const told = { encoderHiddenStates: graph.input("states", [1, 77, config.contextWidth]) };
  const size = { batch: 1, height: 64, width: 64 };
  const plain = denoisingObjective(paramsOf(graph, "unet"), config, told, size, "epsilon");
  const layers = layersOf(manifestOf(graph), ["to_q", "to_k", "to_v", "to_out.0"]);
  const ranks = new Map(layers.map((layer) => [layer, { rank: 4, scale: 1 }]));
  const { loss } = besideObjective(plain, ranks);
  const all = parametersOf(loss.graph);
  const trained = [...all.values()].filter(({ name }) => isLowRank(name));
  const outputs = new Map([["loss", loss]]);
  gradients(loss, trained.map((each) => loss.graph.parameter(each.name, each.shape, each.role)))
    .forEach((gradient, i) => outputs.set(trained[i].name, gradient));
  const layoutOf = (name: string) => {
    const { role, shape } = all.get(name) ?? assert.fail(name);
    return isLowRank(name)
      ? { format: "rows32", residence: "buffer" } as const
      : layoutFor(role, shape, "f16", PROFILES.gpu);
  };
  const placed = new Set(trained.map(({ name }) => name));
  const planned = (mib: number) => {
    const assembly = assemble(outputs, PROFILES.gpu, layoutOf, { placed, budget: mib * MIB });
    const dispatches = assembly.steps.length;
    return { dispatches, mib: Math.ceil(peakOf(assembly).kept / MIB) };
  };
  const whole = planned(Infinity);
  assert.ok(whole.dispatches <= 4300 && whole.mib <= 1400, JSON.stringify(whole));
  const small = planned(450);
  assert.ok(small.dispatches <= 1.2 * whole.dispatches && small.mib <= 450, JSON.stringify(small));
});
