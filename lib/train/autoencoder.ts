/** `ldm train autoencoder`: a KL or VQ first stage of any f, into a `vae` folder that diffusers loads. */

import { join } from "node:path";
import { torchCpu } from "../base/random.ts";
import type { Picture } from "../base/picture.ts";
import { sheet } from "../formats/sheet.ts";
import type { Parameters } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import { compile } from "../gpu/program.ts";
import { Graph } from "../graph/tensor.ts";
import { quantize } from "../models/quantizer.ts";
import { decode, encode, type VaeConfig } from "../models/vae.ts";
import { paramsOf } from "../nn/params.ts";
import { pictureOf, saveComponent } from "./component.ts";
import type { AutoencoderConfig } from "./config.ts";
import type { ReadyExample } from "./examples.ts";
import { initial, normal, type Rule, uniform } from "./initial.ts";
import type { Course } from "./loop.ts";
import type { AdamW } from "./optimizer.ts";
import { seedOf } from "./order.ts";
import { openPerceptual } from "./perceptual.ts";
import { autoencoderObjective, discriminatorObjective } from "./reconstruction.ts";
import { type Objective, Trainer } from "./trainer.ts";

/** Of every norm, as diffusers' AutoencoderKL has it. */
const EPS = 1e-6;

/** The autoencoder that settings ask for. */
export function vaeConfigOf({ autoencoder: settings }: AutoencoderConfig): VaeConfig {
  const levels = Math.log2(settings.f) + 1;
  const multipliers = settings.multipliers.length > 0
    ? settings.multipliers
    : Array.from({ length: levels }, (_, i) => [1, 2, 4][Math.min(i, 2)]);
  return {
    inChannels: settings.colours,
    outChannels: settings.colours,
    latentChannels: settings.channels,
    codes: settings.regulariser === "vq" ? settings.codebook : undefined,
    channels: multipliers.map((multiplier) => multiplier * settings.width),
    layers: settings.layers,
    groups: settings.groups,
    eps: EPS,
    midAttention: settings.attention,
    quantConv: true,
    postQuantConv: true,
    scalingFactor: 1,
    shiftFactor: 0,
  };
}

/** config.json of diffusers' AutoencoderKL or VQModel. `sampleSize`: pixels of a side that it was trained at. */
export function vaeJson(config: VaeConfig, sampleSize: number): Record<string, unknown> {
  const levels = config.channels.length;
  const shared = {
    act_fn: "silu",
    block_out_channels: config.channels,
    down_block_types: Array(levels).fill("DownEncoderBlock2D"),
    up_block_types: Array(levels).fill("UpDecoderBlock2D"),
    in_channels: config.inChannels,
    out_channels: config.outChannels,
    latent_channels: config.latentChannels,
    layers_per_block: config.layers,
    norm_num_groups: config.groups,
    sample_size: sampleSize,
    scaling_factor: config.scalingFactor,
    mid_block_add_attention: config.midAttention,
  };
  return config.codes === undefined ? { _class_name: "AutoencoderKL", ...shared } : {
    _class_name: "VQModel",
    ...shared,
    num_vq_embeddings: config.codes,
    vq_embed_dim: config.latentChannels,
  };
}

/** AdamW's part of settings. */
export function adamWOf(
  { optimizer: { betas, eps, weight_decay, clip } }: Pick<AutoencoderConfig, "optimizer">,
): AdamW {
  const [beta1, beta2] = betas;
  return { beta1, beta2, eps, weightDecay: weight_decay, clip: clip === 0 ? undefined : clip };
}

/** The most bytes that training may use on the device; `undefined`: all there is. */
export function ceilingOf(
  { optimizer: { memory_mib } }: Pick<AutoencoderConfig, "optimizer">,
): number | undefined {
  return memory_mib === 0 ? undefined : memory_mib * 2 ** 20;
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

/** Examples by which a run is judged, at least one each. */
export interface Probe {
  readonly shown: readonly ReadyExample[];
  /** Of which the latents' scale is measured. */
  readonly measured: readonly ReadyExample[];
}

/** The run of an autoencoder. Dispose of it to free its memory. */
export class AutoencoderCourse implements Course, Disposable {
  readonly trainers: Readonly<Record<string, Trainer>>;
  readonly config: VaeConfig;
  readonly #device: Device;
  readonly #settings: AutoencoderConfig;
  readonly #probe: Probe;
  readonly #owned: DisposableStack;

  private constructor(
    device: Device,
    settings: AutoencoderConfig,
    probe: Probe,
    trainers: Readonly<Record<string, Trainer>>,
    owned: DisposableStack,
  ) {
    this.#device = device;
    this.#settings = settings;
    this.#probe = probe;
    this.config = vaeConfigOf(settings);
    this.trainers = trainers;
    this.#owned = owned;
  }

  /**
   * New weights, or those of `start` by name, in the graph's layout. Throws `FileError`, `FormatError` and `MemoryError`
   * where the settings' perceptual loss cannot be used.
   */
  static async make(
    device: Device,
    settings: AutoencoderConfig,
    probe: Probe,
    start: ReadonlyMap<string, Float32Array<ArrayBuffer>> = new Map(),
  ): Promise<AutoencoderCourse> {
    const config = vaeConfigOf(settings);
    const { autoencoder, discriminator, data, optimizer: { batch }, run } = settings;
    const judge = { channels: discriminator.width, layers: discriminator.layers };
    const shape = [batch, data.size, data.size, config.inChannels];
    using owned = new DisposableStack();
    const perceptual = autoencoder.perceptual === ""
      ? undefined
      : owned.use(await openPerceptual(device, autoencoder.perceptual, data.size));
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
      rules: readonly Rule[],
    ) => {
      const isTrained = (name: string) => name.startsWith(`${prefix}.`);
      const label = `the training of the ${prefix === "vae" ? "autoencoder" : prefix}`;
      const options = { isTrained, frozen, optimizer, memory: ceilingOf(settings), label };
      const trainer = owned.use(await Trainer.make(device, objective, options));
      trainer.vectors.begin((entry) => start.get(entry.name) ?? initial(entry, run.seed, rules));
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
      const { vectors } = await make("discriminator", new Map(), hinge, DISCRIMINATOR);
      frozen = new Map([...frozen, ...vectors.parameters()]);
    }
    const width = config.codes ?? 1;
    await make("vae", frozen, objective, [
      [
        "quantize.embedding.weight",
        ({ shape: [n, c] }, random) => uniform(random, n * c, 1 / width),
      ],
    ]);
    return new AutoencoderCourse(device, settings, probe, trainers, owned.move());
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

  /** The average where there is one, else the weights. */
  get #best(): "average" | "weight" {
    return this.#settings.optimizer.ema > 0 ? "average" : "weight";
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
    using program = await compile(this.#device, outputs, vectors.parameters(this.#best), {
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

  /** Writes `vae/`. Latents are scaled to a standard deviation of 1, measured. */
  async save(folder: string): Promise<void> {
    const { latents } = await this.#reconstruct(this.#probe.measured);
    const mean = latents.reduce((sum, value) => sum + value, 0) / latents.length;
    const variance = latents.reduce((sum, value) => sum + (value - mean) ** 2, 0) / latents.length;
    const scalingFactor = 1 / Math.sqrt(Math.max(variance, 1e-12));
    const json = vaeJson({ ...this.config, scalingFactor }, this.#settings.data.size);
    await saveComponent(join(folder, "vae"), json, this.trainers.vae, "vae", {
      from: this.#best,
      dtype: this.#settings.run.dtype,
    });
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}
