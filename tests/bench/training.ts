/**
 * Steps of training beside torch: a small denoiser and a small autoencoder from scratch, f32, by AdamW with clipping, in
 * turns. Weights are random on both sides and data is noise: a step takes as long whatever is learnt.
 */

import { torchCpu } from "../../lib/base/random.ts";
import { sizeOf } from "../../lib/base/shape.ts";
import type { Device } from "../../lib/gpu/device.ts";
import type { HostArray } from "../../lib/gpu/program.ts";
import { Graph } from "../../lib/graph/tensor.ts";
import { unetJson, vaeJson } from "../../lib/models/diffusers_json.ts";
import { paramsOf } from "../../lib/nn/params.ts";
import { adamWOf } from "../../lib/train/autoencoder.ts";
import { autoencoderConfig, diffusionConfig, settingOf } from "../../lib/train/config.ts";
import { denoisingObjective } from "../../lib/train/denoising.ts";
import { initial } from "../../lib/train/initial.ts";
import type { AdamW } from "../../lib/train/optimizer.ts";
import { autoencoderObjective } from "../../lib/train/reconstruction.ts";
import type { Kind } from "../../lib/train/schema.ts";
import { unetConfigOf, vaeConfigOf } from "../../lib/train/shapes.ts";
import { type Objective, Trainer } from "../../lib/train/trainer.ts";
import type { Peer } from "./peers.ts";
import { whereTimeGoes } from "./profile.ts";
import type { Section } from "../../lib/cli/bench/report.ts";
import { type Contender, type Seconds, takeTurns, timed } from "../../lib/cli/bench/turns.ts";

export interface TrainingOptions {
  /** Cases whose names contain it. */
  readonly filter: string;
  readonly rounds: number;
  /** peers/torch_training.py */
  readonly torch: Peer | undefined;
  readonly progress: (what: string) => void;
}

/** What is trained. */
interface Case {
  readonly objective: Objective;
  readonly batch: number;
  readonly optimizer: AdamW;
  /** The same for peers/torch_training.py. */
  readonly torch: Readonly<Record<string, unknown>>;
}

const OURS = "ldm";
const TORCH = "torch";

/** Settings as words of the command line; the folders are never looked at. */
const words = (kind: Kind, list: readonly string[]) => list.map((word) => settingOf(kind, word));

/** Told of 16 tokens: the size of a run that learns small pictures within an hour on a few cores. */
function denoiser(): Case {
  const [batch, size, channels, tokens] = [16, 16, 4, 16];
  const settings = diffusionConfig(words("diffusion", [
    "run.folder=run",
    "data.path=pictures",
    "diffusion.first_stage=vae",
    "unet.width=64",
    "unet.multipliers=1,2,3",
    "unet.attention=1,2",
    "unet.heads=4",
    "unet.context=128",
  ]));
  const config = unetConfigOf(settings, { channels, size, beside: 0 });
  const graph = new Graph();
  const context = graph.input("context", [batch, tokens, config.contextWidth]);
  const latents = { batch, height: size, width: size };
  const p = paramsOf(graph, "unet");
  const told = { encoderHiddenStates: context };
  return {
    objective: denoisingObjective(p, config, told, latents, "epsilon"),
    batch,
    optimizer: adamWOf(settings),
    torch: { op: "denoiser", config: unetJson(config), batch, size, channels, tokens },
  };
}

/** KL, f = 4, without a discriminator. */
function autoencoder(): Case {
  const [batch, size] = [8, 64];
  const settings = autoencoderConfig(words("autoencoder", [
    "run.folder=run",
    "data.path=pictures",
    "autoencoder.f=4",
    "autoencoder.width=32",
  ]));
  const config = vaeConfigOf(settings);
  const graph = new Graph();
  const picture = graph.input("picture", [batch, size, size, config.inChannels]);
  const p = paramsOf(graph, "vae");
  const options = {
    pixelLoss: settings.autoencoder.reconstruction,
    regularisation: settings.autoencoder.kl_weight,
    commitment: 0,
    adversarial: undefined,
    perceptual: undefined,
  };
  return {
    objective: autoencoderObjective(p, config, paramsOf(graph, "discriminator"), picture, options),
    batch,
    optimizer: adamWOf(settings),
    torch: { op: "autoencoder", config: vaeJson(config, size), batch, size },
  };
}

const CASES: Readonly<Record<string, () => Case>> = {
  "denoiser, 16 latents 16×16×4, width 64": denoiser,
  "autoencoder, 8 pictures 64×64, width 32": autoencoder,
};

/** Steps beside torch, then where the time of ours goes. */
export async function* trainingSections(
  device: Device,
  { filter, rounds, torch, progress }: TrainingOptions,
): AsyncGenerator<Section, void, undefined> {
  const rows: Record<string, string | number | undefined>[] = [];
  const profiles: Section[] = [];
  for (const [name, make] of Object.entries(CASES)) {
    if (!name.includes(filter)) continue;
    const { objective, batch, optimizer, torch: request } = make();
    progress(`${name}: compiling`);
    const begin = performance.now();
    using trainer = await Trainer.make(device, objective, {
      isTrained: () => true,
      optimizer,
      label: name,
    });
    await trainer.vectors.begin((entry) => initial(entry, 0));
    const inputs = inputsOf(objective);
    let t = 0;
    const step = async () => {
      await trainer.backward(inputs);
      await trainer.step(++t, 1e-4);
    };
    await step();
    const first = (performance.now() - begin) / 1e3;
    const ours: Contender = {
      name: OURS,
      turn: async () => {
        progress(`${name}, ldm`);
        return { step: await timed(step) };
      },
    };
    const theirs = torch && {
      name: TORCH,
      turn: async () => {
        progress(`${name}, torch`);
        return { step: await torch.ask(request) };
      },
    };
    await theirs?.turn(); // it makes the model, and settles
    const seconds = await takeTurns(theirs ? [ours, theirs] : [ours], rounds);
    rows.push({ "model": name, ...figures(seconds, batch), ...sizes(trainer), "first s": first });
    progress(`${name}: profile`);
    const { program } = trainer;
    profiles.push(whereTimeGoes(name, [await program.profile()], [await program.time(1)]));
  }
  if (rows.length === 0) return;
  yield {
    title: "Training",
    notes: [
      "A step: loss, gradients, clipping, AdamW, and with ldm the average of the denoiser's weights. Pictures a second: medians of " +
      "turns. CPU: had all cores been the process's own. First: graph, shaders, and one step.",
    ],
    rows,
  };
  yield* profiles;
}

function figures(seconds: ReadonlyMap<string, ReadonlyMap<string, Seconds>>, batch: number) {
  const [mine, theirs] = [OURS, TORCH].map((name) => seconds.get(name)?.get("step"));
  const pace = (taken: number | undefined) => taken && batch / taken;
  const ratio = (a: number | undefined, b: number | undefined) => a && b && b / a;
  return {
    "ldm /s": pace(mine?.median),
    "torch /s": pace(theirs?.median),
    "ratio": ratio(mine?.median, theirs?.median),
    "ratio CPU": ratio(mine?.cpu, theirs?.cpu),
  };
}

function sizes({ program, vectors }: Trainer) {
  const weights = [...vectors.places.values()].reduce((sum, { size }) => sum + size, 0);
  return {
    "weights M": weights / 1e6,
    "MiB": program.bytes / 2 ** 20,
    "steps": program.stepCount,
    "pipelines": program.pipelineCount,
  };
}

/** Noise for every input; 1 for what is one number a picture. */
function inputsOf({ loss }: Objective): Record<string, HostArray> {
  const random = torchCpu(1);
  const values: Record<string, HostArray> = {};
  for (const { op, attrs } of loss.graph.nodes) {
    if (op !== "input") continue;
    const size = sizeOf(attrs.shape);
    const isOne = size === attrs.shape[0];
    values[attrs.name] = isOne ? new Float32Array(size).fill(1) : random.normal(size);
  }
  return values;
}
