/** `ldm train autoencoder`: a KL or VQ first stage of any f, into a `vae` folder that diffusers loads. */

import { join } from "node:path";
import type { Picture } from "../base/picture.ts";
import { torchCpu } from "../base/random.ts";
import { sheet } from "../formats/sheet.ts";
import type { Parameters } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import { compile } from "../gpu/program.ts";
import { Graph } from "../graph/tensor.ts";
import { vaeJson } from "../models/diffusers_json.ts";
import { quantize } from "../models/quantizer.ts";
import { decode, encode, type VaeConfig } from "../models/vae.ts";
import { paramsOf } from "../nn/params.ts";
import { pictureOf, saveComponent } from "./component.ts";
import type { AutoencoderConfig } from "./config.ts";
import type { ReadyExample } from "./examples.ts";
import { autoencoderShape, Start } from "./from.ts";
import { initial, normal, type Rule, uniform } from "./initial.ts";
import type { Course } from "./loop.ts";
import type { AdamW } from "./optimizer.ts";
import { seedOf } from "./order.ts";
import { openPerceptual } from "./perceptual.ts";
import { autoencoderObjective, discriminatorObjective } from "./reconstruction.ts";
import { vaeConfigOf } from "./shapes.ts";
import { memoryWith, type Objective, Trainer, type TrainingMemory } from "./trainer.ts";
import type { WeightReader } from "./vectors.ts";

/** AdamW's part of settings. */
export function adamWOf(
  { optimizer: { betas, eps, weight_decay, clip, ema } }: Pick<AutoencoderConfig, "optimizer">,
): AdamW {
  const [beta1, beta2] = betas;
  return { beta1, beta2, eps, weightDecay: weight_decay, clip: clip === 0 ? undefined : clip, ema };
}

/** Examples as one value of the graph's input. */
export function batchOf(examples: readonly ReadyExample[]): Float32Array<ArrayBuffer> {
  const size = examples[0].picture.data.length;
  const all = new Float32Array(size * examples.length);
  examples.forEach(({ picture }, i) => all.set(picture.data, i * size));
  return all;
}

const DISCRIMINATOR: readonly Rule[] = [
  ...[2, 5, 8, 11, 14].map((i): Rule => [`main.${i + 1}.weight`, normal(1, 0.02)]),
  ["weight", normal(0, 0.02)],
];

/** What the run of an autoencoder begins with. */
interface Beginning {
  readonly config: VaeConfig;
  /** config.json; `undefined`: as the config says. */
  readonly json: Readonly<Record<string, unknown>> | undefined;
  readonly read: WeightReader;
  /** Whether latents keep their scale: denoisers know it. */
  readonly keepsScale: boolean;
  readonly notes: readonly string[];
}

/** An autoencoder as settings ask for it. */
function newAutoencoder(settings: AutoencoderConfig): Beginning {
  const codes: Rule = [
    "quantize.embedding.weight",
    ({ shape: [n, c] }, random) => uniform(random, n * c, 1 / n),
  ];
  return {
    config: vaeConfigOf(settings),
    json: undefined,
    read: (entry) => initial(entry, settings.run.seed, [codes]),
    keepsScale: false,
    notes: [],
  };
}

/** A checkpoint's autoencoder. Throws `FormatError` where it is none for these settings. */
function goingOn(start: Start, settings: AutoencoderConfig): Beginning {
  start.requireAgreement(settings, autoencoderShape(start));
  const { vae } = start.architecture;
  if (!vae) throw new TypeError("There is no autoencoder");
  start.require("vae");
  return {
    config: vae,
    json: start.json("vae"),
    read: (entry) => start.read("vae", entry),
    keepsScale: true,
    notes: [`begins with the weights of "${start.path}"; latents keep their scale`],
  };
}

/** Examples by which a run is judged, at least one each. */
export interface Probe {
  readonly shown: readonly ReadyExample[];
  /** Of which the latents' scale is measured. */
  readonly measured: readonly ReadyExample[];
}

/** The run of an autoencoder. Dispose of it to free its memory. */
export class AutoencoderCourse implements Course, Disposable {
  readonly trainers: Readonly<Record<string, Trainer>>;
  readonly memory: TrainingMemory;
  readonly config: VaeConfig;
  readonly notes: readonly string[];
  readonly #began: Beginning;
  readonly #device: Device;
  readonly #settings: AutoencoderConfig;
  readonly #probe: Probe;
  readonly #owned: DisposableStack;

  private constructor(
    device: Device,
    settings: AutoencoderConfig,
    probe: Probe,
    began: Beginning,
    trainers: Readonly<Record<string, Trainer>>,
    unchanged: number,
    owned: DisposableStack,
  ) {
    this.#device = device;
    this.#settings = settings;
    this.#probe = probe;
    this.#began = began;
    this.config = began.config;
    this.notes = began.notes;
    this.trainers = trainers;
    this.memory = memoryWith(unchanged, Object.values(trainers));
    this.#owned = owned;
  }

  /**
   * New weights, or those of the settings' autoencoder, or those of `start` by name, in the graph's layout. Throws
   * `FileError`, `FormatError` and `MemoryError` where the settings' autoencoder or perceptual loss cannot be used.
   */
  static async make(
    device: Device,
    settings: AutoencoderConfig,
    probe: Probe,
    start: ReadonlyMap<string, Float32Array<ArrayBuffer>> = new Map(),
  ): Promise<AutoencoderCourse> {
    using owned = new DisposableStack();
    using from = settings.autoencoder.from === ""
      ? undefined
      : await Start.open(settings.autoencoder.from);
    const began = from ? goingOn(from, settings) : newAutoencoder(settings);
    const { config } = began;
    const { autoencoder, discriminator, data, optimizer: { batch, accumulate }, run } = settings;
    const judge = { channels: discriminator.width, layers: discriminator.layers };
    const shape = [batch, data.size, data.size, config.inChannels];
    const perceptual = autoencoder.perceptual === ""
      ? undefined
      : owned.use(await openPerceptual(device, autoencoder.perceptual, data.size));
    const unchanged = device.memory.live;
    const graph = new Graph();
    const objective = autoencoderObjective(
      paramsOf(graph, "vae"),
      config,
      paramsOf(graph, "discriminator"),
      graph.input("picture", shape),
      {
        pixelLoss: autoencoder.reconstruction,
        regularisation: config.codes === undefined ? autoencoder.kl_weight : 1,
        commitment: autoencoder.commitment,
        adversarial: discriminator.weight > 0
          ? { config: judge, weight: discriminator.weight }
          : undefined,
        perceptual: perceptual && {
          weight: autoencoder.perceptual_weight,
          distance: perceptual.distance,
        },
      },
    );
    const optimizer = adamWOf(settings);
    const trainers: Record<string, Trainer> = {};
    const make = async (
      prefix: string,
      frozen: Parameters,
      objective: Objective,
      read: WeightReader,
    ) => {
      const isTrained = (name: string) => name.startsWith(`${prefix}.`);
      const label = `the training of the ${prefix === "vae" ? "autoencoder" : prefix}`;
      const options = { isTrained, frozen, optimizer, accumulate, label };
      const trainer = owned.use(await Trainer.make(device, objective, options));
      await trainer.vectors.begin((entry) => start.get(entry.name) ?? read(entry));
      trainers[prefix] = trainer;
      return trainer;
    };
    let frozen: Parameters = perceptual?.parameters ?? new Map();
    if (discriminator.weight > 0) {
      const second = new Graph();
      const inputs = [
        second.input("picture", shape),
        second.input("reconstruction", shape),
      ] as const;
      const hinge = discriminatorObjective(paramsOf(second, "discriminator"), judge, ...inputs);
      const { vectors } = await make(
        "discriminator",
        new Map(),
        hinge,
        (entry) => initial(entry, run.seed, DISCRIMINATOR),
      );
      frozen = new Map([...frozen, ...vectors.parameters()]);
    }
    await make("vae", frozen, objective, began.read);
    return new AutoencoderCourse(device, settings, probe, began, trainers, unchanged, owned.move());
  }

  async backward(
    examples: readonly ReadyExample[],
    { index, step }: { readonly index: number; readonly step: number },
  ): Promise<{ loss: number; losses: Record<string, number> }> {
    const { vae, discriminator } = this.trainers;
    const { run: { seed }, discriminator: { start } } = this.#settings;
    const picture = batchOf(examples);
    const isJudged = discriminator !== undefined && step >= start;
    const { latentChannels, codes } = this.config;
    const { f } = this.#settings.autoencoder;
    const latents = examples.length * (this.#settings.data.size / f) ** 2 * latentChannels;
    const told = await vae.backward({
      picture,
      ...(codes === undefined && { noise: torchCpu(seedOf(seed, index)).normal(latents) }),
      ...(discriminator && { adversary: Float32Array.of(isJudged ? 1 : 0) }),
    });
    const losses: Record<string, number> = {};
    for (const [name, values] of told) {
      if (name === "usage") losses.codes = values.filter((count) => count > 0).length;
      else if (name !== "reconstruction" && name !== "loss") losses[name] = values[0];
    }
    const reconstruction = told.get("reconstruction");
    if (isJudged && reconstruction) { // until then it does not learn either, as in the paper's code
      const hinge = await discriminator.backward({ picture, reconstruction });
      losses.discriminator = hinge.get("loss")?.[0] ?? NaN;
    }
    return { loss: told.get("loss")?.[0] ?? NaN, losses };
  }

  /** Latents and reconstructions of examples, whose latents are the distribution's mean, or codes. */
  async #reconstruct(
    examples: readonly ReadyExample[],
  ): Promise<{ latents: Float32Array; pictures: Picture[]; psnr: number }> {
    const { config } = this;
    const { data: { size }, autoencoder: { colours } } = this.#settings;
    const graph = new Graph();
    const p = paramsOf(graph, "vae");
    const picture = graph.input("picture", [1, size, size, config.inChannels]);
    const encoded = encode(p, config, picture);
    const latents = config.codes === undefined
      ? encoded.slice(3, 0, config.latentChannels)
      : quantize(p, config.codes, encoded).nearest;
    const outputs = new Map([["latents", latents], ["made", decode(p, config, latents)]]);
    const { vectors } = this.trainers.vae;
    using program = await compile(this.#device, outputs, vectors.parameters(vectors.best), {
      label: "reconstructions",
    });
    const all: number[] = [];
    const pictures: Picture[] = [];
    let squares = 0;
    for (const { picture: { data } } of examples) {
      const results = await program.run({ picture: data });
      const made = results.get("made") ?? new Float32Array(data.length);
      for (const value of results.get("latents") ?? []) all.push(value);
      data.forEach((value, i) =>
        squares += ((value - Math.max(-1, Math.min(1, made[i]))) / 2) ** 2
      );
      pictures.push(
        pictureOf(data, size, colours),
        pictureOf(made, size, colours),
      );
    }
    const mean = squares / (examples.length * size * size * config.inChannels);
    return { latents: Float32Array.from(all), pictures, psnr: -10 * Math.log10(mean) };
  }

  /** Originals and reconstructions side by side. */
  async sample(): Promise<Picture> {
    const { pictures } = await this.#reconstruct(this.#probe.shown);
    return sheet(pictures, {
      columns: 2 * Math.max(1, Math.round(Math.sqrt(pictures.length / 4))),
    });
  }

  /** Peak signal-to-noise ratio of the reconstructions that are shown, dB. */
  async psnr(): Promise<number> {
    return (await this.#reconstruct(this.#probe.shown)).psnr;
  }

  /** What latents are multiplied with for a standard deviation of 1, measured. */
  async #scale(): Promise<number> {
    const { latents } = await this.#reconstruct(this.#probe.measured);
    const mean = latents.reduce((sum, value) => sum + value, 0) / latents.length;
    const variance = latents.reduce((sum, value) => sum + (value - mean) ** 2, 0) / latents.length;
    return 1 / Math.sqrt(Math.max(variance, 1e-12));
  }

  /** Writes `vae/`. The scale of a new one's latents is measured. */
  async save(folder: string): Promise<void> {
    const { config } = this;
    const { keepsScale, json } = this.#began;
    const scalingFactor = keepsScale ? config.scalingFactor : await this.#scale();
    const whole = json ?? vaeJson({ ...config, scalingFactor }, this.#settings.data.size);
    await saveComponent(join(folder, "vae"), whole, this.trainers.vae, "vae", {
      dtype: this.#settings.run.dtype,
    });
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}
