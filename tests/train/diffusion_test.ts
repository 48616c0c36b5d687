import assert from "node:assert/strict";
import { openDevice } from "../../lib/gpu/device.ts";
import { Graph } from "../../lib/graph/tensor.ts";
import type { ClipConfig } from "../../lib/models/clip.ts";
import { paramsOf } from "../../lib/nn/params.ts";
import { folderTokenizer } from "../../lib/text/tokenizer.ts";
import {
  denoisingObjective,
  minSnrWeight,
  type NoiseSettings,
  noisyInputs,
  timesOf,
} from "../../lib/train/denoising.ts";
import { unetConfigOf } from "../../lib/train/shapes.ts";
import { textConditioner } from "../../lib/train/text_conditioner.ts";
import { Trainer } from "../../lib/train/trainer.ts";
import { fixture } from "../fixture.ts";
import { readGolden } from "../golden.ts";
import { channelsLast } from "../models/tiny.ts";
import {
  compare,
  given,
  GRADIENT,
  LATER,
  near,
  RATE,
  SETTINGS,
  setUp,
  STEPS,
} from "./golden_run.ts";

const NOISE: NoiseSettings = {
  prediction: "v_prediction",
  beta_schedule: "scaled_linear",
  beta_start: 0.00085,
  beta_end: 0.012,
  timesteps: 1000,
  zero_terminal_snr: true,
};

async function tinyTokenizer() {
  const read = (name: string) => Deno.readTextFile(fixture(`tiny/sd1/tokenizer/${name}`));
  return folderTokenizer({
    vocab: await read("vocab.json"),
    merges: await read("merges.txt"),
    config: JSON.parse(await read("tokenizer_config.json")),
    specialTokens: JSON.parse(await read("special_tokens_map.json")),
  });
}

Deno.test("a denoiser and its text encoder train as torch does: losses, gradients, average", async () => {
  const golden = await readGolden("denoiser");
  const tokenizer = await tinyTokenizer();
  const text: ClipConfig = {
    vocabulary: 994,
    positions: 77,
    width: 16,
    layers: 2,
    heads: 2,
    intermediate: 64,
    activation: "quick_gelu",
    eps: 1e-5,
    projection: undefined,
    eosTokenId: tokenizer.end,
  };
  const config = unetConfigOf({
    unet: {
      ...{ width: 8, multipliers: [1, 2], layers: 1, attention: [0], depth: 1 },
      ...{ heads: 2, context: 16, groups: 4 },
    },
  }, { channels: 4, size: 8, beside: 0 });
  const conditioner = textConditioner(text, tokenizer);
  const graph = new Graph();
  const objective = denoisingObjective(
    paramsOf(graph, "unet"),
    config,
    { encoderHiddenStates: conditioner.context(graph, 4) },
    { batch: 4, height: 8, width: 8 },
    NOISE.prediction,
  );
  await using device = await openDevice();
  using trainer = await Trainer.make(device, objective, {
    isTrained: () => true,
    optimizer: SETTINGS,
    label: "the denoiser",
  });
  const keyOf = (vector: string) => (name: string) =>
    `model.${vector}.${name.replace("text_model.", "")}`;
  setUp(trainer, (name) => given(golden, keyOf("start")(name)));

  const captions: string[] = JSON.parse(golden.metadata.get("captions") ?? "[]");
  const told = captions.map((caption) => caption === "" ? undefined : { text: caption });
  const said = await conditioner.inputs(told, 0);
  assert.deepEqual([...said.tokens], [...golden.integers.get("tokens") ?? []]);
  const times = timesOf(NOISE);
  times.alphas.forEach((alpha, t) =>
    // products of up to 1000 numbers, each rounded to f32
    assert.ok(Math.abs(alpha ** 2 - given(golden, "bars")[t]) <= 1e-6)
  );
  const latents = channelsLast(given(golden, "latents"), [4, 4, 8, 8]);
  for (let t = 1; t <= STEPS; t++) {
    const draw = {
      timesteps: [...golden.integers.get(`timesteps.${t - 1}`) ?? []],
      noise: channelsLast(given(golden, `noise.${t - 1}`), [4, 4, 8, 8]),
    };
    const inputs = noisyInputs(latents, draw, times, NOISE.prediction, 5);
    const { loss } = Object.fromEntries(await trainer.backward({ ...inputs, ...said }));
    near(loss[0], given(golden, "model.losses")[t - 1], 1e-4, `loss ${t}`);
    if (t === 1) await compare(trainer, "gradient", golden, GRADIENT, keyOf("gradient"));
    await trainer.step(t, RATE);
  }
  await compare(trainer, "average", golden, LATER, keyOf("average"));
});

Deno.test("minSnrWeight of a prediction is that of ε in the units of its error", () => {
  for (const [alpha, sigma] of [[0.9, Math.sqrt(0.19)], [0.3, Math.sqrt(0.91)]]) {
    const snr = (alpha / sigma) ** 2;
    const level = { alpha, sigma };
    const x0 = minSnrWeight("sample", level, 5);
    assert.equal(x0, Math.min(snr, 5));
    // errors of ε, v and x₀ at a fixed error of x₀: snr, snr + 1 and 1 times its square
    near(minSnrWeight("epsilon", level, 5) * snr, x0, 1e-12, "ε");
    near(minSnrWeight("v_prediction", level, 5) * (snr + 1), x0, 1e-12, "v");
    assert.equal(minSnrWeight("epsilon", level, undefined), 1);
  }
});
