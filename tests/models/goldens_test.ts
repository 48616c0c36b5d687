/**
 * Every model against diffusers and transformers, module by module: fixtures/make/goldens.py and
 * sizes.py, through the double-precision interpreter. What differs is torch's own f32 rounding.
 */

import assert from "node:assert/strict";
import { type Values } from "../../lib/graph/interpret.ts";
import { Graph } from "../../lib/graph/tensor.ts";
import { type ClipConfig, clipInputs, clipText, pooledRow } from "../../lib/models/clip.ts";
import {
  clipConfigFromJson,
  unetConfigFromJson,
  vaeConfigFromJson,
} from "../../lib/models/config_from_json.ts";
import { clipConfigFromShapes } from "../../lib/models/config_from_shapes.ts";
import { clipOutput } from "../../lib/models/family.ts";
import { unet, type UnetConfig, unetInputs } from "../../lib/models/unet.ts";
import { decode, encode, type VaeConfig } from "../../lib/models/vae.ts";
import { paramsOf } from "../../lib/nn/params.ts";
import { readGolden } from "../golden.ts";
import { nmse } from "../tolerance.ts";
import { channelsLast, readTiny, runLabelled } from "./tiny.ts";

/**
 * Inside: the largest is 9e-11, behind feed-forward layers whose weights make the two GELUs differ,
 * and with them torch's rounding. The mutations below move what is inside by 1e-7 and more.
 */
const INSIDE = 1e-9;
/** Final outputs: times torch's own distance from double precision, which the goldens record. */
const FINAL = 4;
/**
 * A mistake that a golden can see moves the final output this much (fixtures/make/mutations.py).
 */
const SEEN = 1e-8;

type Golden = Awaited<ReturnType<typeof readGolden>>;

function tensorOf({ tensors }: Golden, name: string): Float32Array {
  const tensor = tensors.get(name);
  assert.ok(tensor, `the golden has no ${name}`);
  return tensor;
}

/**
 * Every golden module under `prefix` must have been built, and be near. Returns how many were
 * compared.
 */
function compare(golden: Golden, prefix: string, found: ReadonlyMap<string, Float64Array>): number {
  let compared = 0;
  for (const [name, expected] of golden.tensors) {
    if (!name.startsWith(`${prefix}.`) || DERIVED.test(name)) continue;
    const label = name.replace(/^(text_encoder(_2)?)\./, "$1.text_model.")
      .replace(/^(vae.*mid_block)$/, "$1.resnets.1"); // a block's result is its last layer's
    const actual = found.get(label);
    assert.ok(actual, `${name} is not labelled`);
    const error = nmse(actual, expected);
    assert.ok(error <= INSIDE, `${name}: NMSE ${error.toExponential(2)}`);
    compared++;
  }
  return compared;
}
const DERIVED = /\.(hidden_states\.\d+|last_hidden_state|used|pooled|text_embeds)$/;

function final(golden: Golden, name: string, actual: Float64Array, rounding = name): void {
  const bounds: Record<string, number> = JSON.parse(golden.metadata.get("rounding") ?? "{}");
  const error = nmse(actual, tensorOf(golden, name));
  const bound = FINAL * bounds[rounding];
  assert.ok(error <= bound, `${name}: NMSE ${error.toExponential(2)} > ${bound.toExponential(2)}`);
}

function at<V>(map: ReadonlyMap<string, V>, name: string): V {
  const value = map.get(name);
  assert.ok(value !== undefined, `there is no ${name}`);
  return value;
}

// ---- the UNet

const UNETS = ["sd1", "sd2", "sdxl", "lcm", "pruned"] as const;
const SIZE: Readonly<Record<string, readonly [number, number]>> = { sdxl: [12, 20] };
const unetFolder = (family: string) => `tiny/${family}${family === "pruned" ? "/unet" : ""}`;

function runUnet(
  config: UnetConfig,
  values: Values,
  golden: Golden,
  family: string,
  timesteps: readonly number[],
): Map<string, Float64Array> {
  const [height, width] = SIZE[family] ?? [10, 14];
  const graph = new Graph();
  const inputs = unetInputs(graph, config, { batch: 2, height, width, tokens: 77 });
  unet(paramsOf(graph, "unet"), config, inputs);
  return runLabelled(graph, {
    ...values,
    sample: channelsLast(tensorOf(golden, "in.latents"), [2, 4, height, width]),
    timestep: timesteps,
    encoderHiddenStates: tensorOf(golden, "in.context"),
    textEmbeds: golden.tensors.get("text_encoder_2.text_embeds") ?? [],
    timeIds: golden.tensors.get("in.time_ids") ?? [],
    timestepCond: golden.tensors.get("in.timestep_cond") ?? [],
  });
}

for (const family of UNETS) {
  Deno.test(`unet equals diffusers in every module of the tiny ${family} model`, async () => {
    const golden = await readGolden(family);
    const tiny = await readTiny(unetFolder(family), "unet");
    const config = unetConfigFromJson(tiny.config);
    const timesteps: Record<string, number[]> = JSON.parse(at(golden.metadata, "timesteps"));

    const whole = runUnet(config, tiny.values, golden, family, timesteps.integer);
    const compared = compare(golden, "unet", whole);
    assert.ok(compared >= 50, `only ${compared} modules were compared`);
    final(golden, "unet", at(whole, "unet"), "unet@integer");
    const other = runUnet(config, tiny.values, golden, family, timesteps.fractional);
    final(golden, "unet@fractional", at(other, "unet"));
  });
}

/** Height and width of every 3×3 kernel exchanged. */
function swapKernels(
  values: Values,
  shapes: ReadonlyMap<string, readonly number[]>,
  prefix: string,
): Values {
  const swapped: Record<string, ArrayLike<number>> = { ...values };
  for (const [name, [co, ci, kh, kw]] of shapes) {
    if (kh !== 3) continue;
    const from = values[`${prefix}.${name}`];
    swapped[`${prefix}.${name}`] = Float32Array.from(from, (_, i) => {
      const [c, x, y, o] = [
        i % ci,
        Math.floor(i / ci) % kw,
        Math.floor(i / ci / kw) % kh,
        Math.floor(i / ci / kw / kh),
      ];
      assert.ok(o < co);
      return from[((o * kh + x) * kw + y) * ci + c];
    });
  }
  return swapped;
}

const UNET_MUTATIONS: Readonly<Record<string, (config: UnetConfig) => UnetConfig>> = {
  "epsilon of its resnets ten times larger": (c) => ({ ...c, eps: c.eps * 10 }),
  "epsilon of its transformers' group norm ten times larger": (c) => ({
    ...c,
    transformerEps: c.transformerEps * 10,
  }),
  "epsilon of its layer norms ten times larger": (c) => ({ ...c, layerEps: c.layerEps * 10 }),
  "the tanh form of GELU": (c) => ({ ...c, activation: "gelu_new" }),
  "sines before cosines": (c) => ({ ...c, flipSinToCos: false }),
};

for (const family of UNETS) {
  Deno.test(`unet's ${family} golden sees wrong epsilons, GELU, time embedding and kernels`, async () => {
    const golden = await readGolden(family);
    const { config: json, values, shapes } = await readTiny(unetFolder(family), "unet");
    const config = unetConfigFromJson(json);
    const moved = (changed: UnetConfig, with_: Values) => {
      const found = runUnet(changed, with_, golden, family, [801, 801]);
      return nmse(at(found, "unet"), tensorOf(golden, "unet"));
    };
    for (const [what, mutate] of Object.entries(UNET_MUTATIONS)) {
      const error = moved(mutate(config), values);
      assert.ok(error > SEEN, `${what} moves the output by ${error.toExponential(2)} only`);
    }
    const error = moved(config, swapKernels(values, shapes, "unet"));
    assert.ok(error > SEEN, `swapped kernels move the output by ${error.toExponential(2)} only`);
  });
}

Deno.test("unet resizes to its skip connections where a size does not halve", async () => {
  const golden = await readGolden("sizes");
  for (const [family, height, width] of [["sd1", 9, 13], ["sdxl", 11, 6]] as const) {
    const tiny = await readTiny(`tiny/${family}`, "unet");
    const config = unetConfigFromJson(tiny.config);
    const graph = new Graph();
    unet(
      paramsOf(graph, "unet"),
      config,
      unetInputs(graph, config, { batch: 1, height, width, tokens: 5 }),
    );
    const found = runLabelled(graph, {
      ...tiny.values,
      sample: channelsLast(tensorOf(golden, `${family}.in`), [1, 4, height, width]),
      timestep: [Number(golden.metadata.get("timestep"))],
      encoderHiddenStates: tensorOf(golden, `${family}.context`),
      textEmbeds: golden.tensors.get(`${family}.text_embeds`) ?? [],
      timeIds: golden.tensors.get(`${family}.time_ids`) ?? [],
    });
    const error = nmse(at(found, "unet"), tensorOf(golden, `${family}.out`));
    assert.ok(error <= 1e-11, `${family}: NMSE ${error.toExponential(2)}`);
  }
});

// ---- text encoders

const TEXTS = [
  ["sd1", "text_encoder"],
  ["sd2", "text_encoder"],
  ["sdxl", "text_encoder"],
  ["sdxl", "text_encoder_2"],
  ["lcm", "text_encoder"],
] as const;

function runText(
  config: ClipConfig,
  values: Values,
  golden: Golden,
  component: string,
  output: { readonly skip: number; readonly finalNorm: boolean },
): { states: Map<string, Float64Array>; hidden: Float64Array; pooled: Float64Array } {
  const ids = at(golden.integers, component.replace("text_encoder", "in.tokens"));
  const graph = new Graph();
  const { tokens, pooledRows } = clipInputs(graph, 2, 77);
  const { hidden, pooled } = clipText(
    paramsOf(graph, component),
    config,
    tokens,
    output,
    pooledRows,
  );
  assert.ok(pooled);
  graph.label("hidden", hidden);
  graph.label("pooled", pooled);
  const rows = [0, 1].map((i) =>
    pooledRow(ids.subarray(i * 77, (i + 1) * 77), i, config.eosTokenId)
  );
  const states = runLabelled(graph, { ...values, tokens: ids, pooledRows: rows });
  return { states, hidden: at(states, "hidden"), pooled: at(states, "pooled") };
}

for (const [family, component] of TEXTS) {
  Deno.test(`clipText equals transformers in every layer of the tiny ${family} ${component}`, async () => {
    const golden = await readGolden(family);
    const tiny = await readTiny(`tiny/${family}`, component);
    const config = clipConfigFromJson(tiny.config);
    const kind = family === "lcm" ? "sd1" : family;
    const { states, hidden, pooled } = runText(
      config,
      tiny.values,
      golden,
      component,
      clipOutput(kind, config, 1),
    );
    compare(golden, component, states);
    final(golden, `${component}.used`, hidden);
    const name = config.projection === undefined ? "pooled" : "text_embeds";
    final(golden, `${component}.${name}`, pooled);
    for (let i = 0; i <= config.layers; i++) {
      const label = i === 0 ? "embeddings" : `encoder.layers.${i - 1}`;
      const error = nmse(
        at(states, `${component}.text_model.${label}`),
        tensorOf(golden, `${component}.hidden_states.${i}`),
      );
      assert.ok(error <= INSIDE, `hidden state ${i}: NMSE ${error.toExponential(2)}`);
    }
  });

  Deno.test(`clipText's ${family} ${component} golden sees a wrong epsilon and a wrong GELU`, async () => {
    const golden = await readGolden(family);
    const tiny = await readTiny(`tiny/${family}`, component);
    const config = clipConfigFromJson(tiny.config);
    const output = clipOutput(family === "lcm" ? "sd1" : family, config, 1);
    const wrong: ClipConfig[] = [
      { ...config, eps: config.eps * 10 },
      { ...config, activation: config.activation === "gelu" ? "gelu_new" : "gelu" },
    ];
    for (const changed of wrong) {
      const { hidden } = runText(changed, tiny.values, golden, component, output);
      const error = nmse(hidden, tensorOf(golden, `${component}.used`));
      assert.ok(
        error > SEEN,
        `${JSON.stringify(changed)} moves the output by ${error.toExponential(2)} only`,
      );
    }
  });
}

Deno.test("clipText counts skipped layers from the top", async () => {
  const golden = await readGolden("sd1");
  const tiny = await readTiny("tiny/sd1", "text_encoder");
  const config = clipConfigFromJson(tiny.config);
  const { hidden } = runText(config, tiny.values, golden, "text_encoder", {
    skip: 1,
    finalNorm: false,
  });
  const error = nmse(hidden, tensorOf(golden, "text_encoder.hidden_states.1"));
  assert.ok(error <= INSIDE, `NMSE ${error.toExponential(2)}`);
});

Deno.test("clipText of SD 2's single file, with a layer more, equals that of its folder", async () => {
  const golden = await readGolden("sd2");
  const tiny = await readTiny("tiny/sd2.safetensors", "text_encoder");
  const config = clipConfigFromShapes(tiny.shapes, { heads: [2], activation: "gelu" });
  const { hidden } = runText(
    config,
    tiny.values,
    golden,
    "text_encoder",
    clipOutput("sd2", config, 1),
  );
  final(golden, "text_encoder.used", hidden);
});

// ---- autoencoders

const VAES = [
  ["sd1", "tiny/sd1"],
  ["sd2", "tiny/sd2"],
  ["sdxl", "tiny/sdxl"],
  ["lcm", "tiny/lcm"],
  ["vae_f2", "tiny/vae_f2"],
  ["vae_f16", "tiny/vae_f16"],
] as const;
const LATENT: Readonly<Record<string, readonly [number, number]>> = { vae_f16: [2, 3] };

function runVae(
  config: VaeConfig,
  values: Values,
  golden: Golden,
  family: string,
  half: "decoder" | "encoder",
): Map<string, Float64Array> {
  const [h, w] = LATENT[family] ?? [5, 7];
  const f = 2 ** (config.channels.length - 1);
  const graph = new Graph();
  const p = paramsOf(graph, "vae");
  if (half === "decoder") {
    decode(p, config, graph.input("z", [1, h, w, 4]));
    return runLabelled(graph, {
      ...values,
      z: channelsLast(tensorOf(golden, "in.z"), [1, 4, h, w]),
    });
  }
  encode(p, config, graph.input("picture", [1, h * f, w * f, 3]));
  const picture = channelsLast(tensorOf(golden, "in.picture"), [1, 3, h * f, w * f]);
  return runLabelled(graph, { ...values, picture });
}

for (const [family, folder] of VAES) {
  Deno.test(`decode and encode equal diffusers in every module of the ${family} autoencoder`, async () => {
    const golden = await readGolden(family);
    const tiny = await readTiny(folder, "vae");
    const config = vaeConfigFromJson(tiny.config);
    const decoded = runVae(config, tiny.values, golden, family, "decoder");
    const encoded = runVae(config, tiny.values, golden, family, "encoder");
    assert.ok(compare(golden, "vae", new Map([...decoded, ...encoded])) >= 15);
    final(golden, "vae.decoder", at(decoded, "vae.decoder"));
    final(golden, "vae.moments", at(encoded, "vae.moments"));
  });

  Deno.test(`the ${family} autoencoder's golden sees a wrong epsilon and swapped kernels`, async () => {
    const golden = await readGolden(family);
    const { config: json, values, shapes } = await readTiny(folder, "vae");
    const config = vaeConfigFromJson(json);
    const swapped = swapKernels(values, shapes, "vae");
    for (const [half, name] of [["decoder", "vae.decoder"], ["encoder", "vae.moments"]] as const) {
      const moved = (changed: VaeConfig, with_: Values) =>
        nmse(at(runVae(changed, with_, golden, family, half), name), tensorOf(golden, name));
      const epsilon = moved({ ...config, eps: config.eps * 10 }, values);
      assert.ok(epsilon > SEEN, `epsilon moves the ${half} by ${epsilon.toExponential(2)} only`);
      const kernels = moved(config, swapped);
      assert.ok(
        kernels > SEEN,
        `swapped kernels move the ${half} by ${kernels.toExponential(2)} only`,
      );
    }
  });
}

Deno.test("channelsLast moves the second of four axes to the end", () => {
  assert.deepEqual([...channelsLast([0, 1, 2, 3, 4, 5], [1, 2, 1, 3])], [0, 3, 1, 4, 2, 5]);
});
