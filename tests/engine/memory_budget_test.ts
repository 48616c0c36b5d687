/**
 * What a picture of Stable Diffusion 1.5 takes on the device, from its configs alone. These figures are the regression test
 * of memory; raising one needs a reason in the commit.
 */

import assert from "node:assert/strict";
import { klFirstStage, vaeManifest } from "../../lib/engine/first_stage.ts";
import { Programs } from "../../lib/engine/programs.ts";
import { clipBytes, clipManifest, denoiserBytes, unetManifest } from "../../lib/engine/stages.ts";
import { planWeight } from "../../lib/gpu/buffers.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import {
  clipConfigFromJson,
  unetConfigFromJson,
  vaeConfigFromJson,
} from "../../lib/models/config_from_json.ts";
import type { Manifest } from "../../lib/nn/params.ts";
import { fixture } from "../fixture.ts";

/** 2.3 GB, the figure of stable-diffusion.cpp, and 1.9 GB, in MiB. */
const [MUST, AIM] = [2193, 1812];

/** Bytes of f16 weights on the device, and programs that read them. */
function planned(device: Device, manifest: Manifest) {
  const readers = [...manifest.values()].flatMap(({ readers }) => readers);
  const weights = new Map(
    readers.map((reader) => [reader.name, planWeight(device, reader, "f16")]),
  );
  const programs = new Programs(device, new Map(), (name) => {
    const weight = weights.get(name);
    assert.ok(weight, name);
    return weight.layout;
  });
  const bytes = [...weights.values()].reduce((sum, weight) => sum + weight.bytes, 0);
  return { bytes, programs };
}

/** MiB of each stage of a picture of 512×512, weights and activations. */
async function stages(device: Device, prompts: number, budget: number) {
  const path = fixture("configs/sd15.json");
  const configs = JSON.parse(await Deno.readTextFile(path));
  const clip = clipConfigFromJson(configs.text_encoder);
  const unet = unetConfigFromJson(configs.unet);
  const vae = vaeConfigFromJson(configs.vae);
  const text = planned(device, clipManifest("text_encoder", clip));
  const denoiser = planned(device, unetManifest(unet));
  const decoder = planned(device, vaeManifest(vae, ["decode"]));
  const stage = klFirstStage(vae, { decode: decoder.programs, encode: decoder.programs });
  const encoder = { name: "text_encoder", config: clip, output: { skip: 0, finalNorm: true } };
  const latents = { height: 64, width: 64 };
  const work = { conditions: prompts, sets: 1, changes: false };
  const sizes = {
    text: text.bytes + clipBytes(text.programs, encoder, 1, 77),
    unet: denoiser.bytes +
      denoiserBytes(denoiser.programs, unet, { ...latents, tokens: 77 }, work, {
        budget,
        live: denoiser.bytes,
      }).peak,
    decoder: decoder.bytes +
      stage.bytes("decode", latents, {}, { budget, live: decoder.bytes }),
  };
  const mib = Object.entries(sizes).map(([name, size]) => [name, Math.ceil(size / 2 ** 20)]);
  return { most: Math.ceil(Math.max(...Object.values(sizes)) / 2 ** 20), mib };
}

for (const kind of ["software", "gpu"] as const) {
  Deno.test(`a picture of SD 1.5 at 512×512 takes at most 2.3 GB of a ${kind} device, and 1.9 GB where it must`, async () => {
    await using device = await openDevice({ kind });
    const guided = await stages(device, 2, Infinity);
    assert.ok(guided.most <= MUST, JSON.stringify(guided));
    const plain = await stages(device, 1, Infinity);
    assert.ok(plain.most <= AIM, JSON.stringify(plain));
    const tight = await stages(device, 2, AIM * 2 ** 20);
    assert.ok(tight.most <= AIM, JSON.stringify(tight));
    assert.equal(device.memory.peak, 0);
  });
}
