/**
 * `ldm train lora`: products of low rank beside the layers of a Stable Diffusion checkpoint (Hu et al. 2021, as kohya's
 * tools train them), into one file that these tools, diffusers and `ldm` read. The checkpoint stays as it is.
 */

import { FormatError } from "../base/errors.ts";
import type { Picture } from "../base/picture.ts";
import { torchCpu } from "../base/random.ts";
import type { SchedulerConfig } from "../diffusion/plan.ts";
import { alphasCumprod, BETAS, rescaleZeroTerminalSnr } from "../diffusion/schedule.ts";
import { clipManifest, unetManifest } from "../engine/stages.ts";
import { sheet } from "../formats/sheet.ts";
import type { Parameters, StoredParameter } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import { compile } from "../gpu/program.ts";
import { Graph } from "../graph/tensor.ts";
import { unet } from "../models/unet.ts";
import { DOWN, layersOf, type LowRanks, UP, withLowRanks } from "../nn/lora.ts";
import { type Manifest, paramsOf, unstacked } from "../nn/params.ts";
import { adamWOf } from "./autoencoder.ts";
import { BaseModel, type Caption, type TextConditions } from "./base_model.ts";
import { weightsOf } from "./component.ts";
import type { LoraConfig } from "./config.ts";
import {
  denoisingObjective,
  drawAt,
  joined,
  noisyInputs,
  type Target,
  type Times,
} from "./denoising.ts";
import type { ReadyExample } from "./examples.ts";
import { initial, type Rule, zeros } from "./initial.ts";
import { type LatentSource, openLatents } from "./latents.ts";
import type { Course, Losses } from "./loop.ts";
import { saveLora } from "./lora_file.ts";
import { seedOf } from "./order.ts";
import { predictionOf, rowsOf, samplePicture } from "./sampling.ts";
import { memoryWith, type Objective, takenBy, Trainer, type TrainingMemory } from "./trainer.ts";

/** The same layers of attention in a text encoder. */
const TEXT_NAMES: Readonly<Record<string, string>> = {
  to_q: "q_proj",
  to_k: "k_proj",
  to_v: "v_proj",
  "to_out.0": "out_proj",
};

/** Up is zero at first, so that nothing is added; down is torch's usual start. */
const RULES: readonly Rule[] = [[`${UP}.weight`, zeros]];

/** What stands beside which layers of manifests. Throws `FormatError` where settings name a layer that there is not. */
export function lowRanksOf(
  { lora: { rank, alpha, targets, text_encoder } }: Pick<LoraConfig, "lora">,
  manifests: ReadonlyMap<string, Manifest>,
  path: string,
): LowRanks {
  const beside = { rank, scale: alpha === 0 ? 1 : alpha / rank };
  const ranks = new Map<string, typeof beside>();
  for (const target of targets) {
    const layers = [...manifests].flatMap(([component, manifest]) => {
      if (component === "unet") return layersOf(manifest, [target]);
      return text_encoder ? layersOf(manifest, [target, TEXT_NAMES[target] ?? target]) : [];
    });
    if (layers.length === 0) {
      throw new FormatError(
        `Cannot train a LoRA for "${path}": it has no layer whose name ends in "${target}", which lora.targets names`,
      );
    }
    for (const layer of layers) ranks.set(layer, beside);
  }
  return ranks;
}

/** The objective with products of low rank beside its layers. */
export function besideObjective({ loss, reports = {} }: Objective, ranks: LowRanks): Objective {
  const [beside, ...told] = withLowRanks([loss, ...Object.values(reports)], ranks);
  return {
    loss: beside,
    reports: Object.fromEntries(Object.keys(reports).map((name, i) => [name, told[i]])),
  };
}

/** Whether a parameter stands beside a layer. */
export const isLowRank = (name: string) => name.includes(`${DOWN}.`) || name.includes(`${UP}.`);

/** Shares of picture and noise at every time that a checkpoint was trained with; diffusers' defaults where it says nothing. */
export function timesOfScheduler(scheduler: SchedulerConfig): Times {
  const { betaSchedule = "linear", betaStart = 0.0001, betaEnd = 0.02 } = scheduler;
  const { trainedBetas, trainTimesteps = 1000, rescaleZeroSnr = false } = scheduler;
  const betas = trainedBetas
    ? Float32Array.from(trainedBetas)
    : BETAS[betaSchedule](betaStart, betaEnd, trainTimesteps);
  const bars = [...(rescaleZeroSnr ? rescaleZeroTerminalSnr(betas) : alphasCumprod(betas))];
  return { alphas: bars.map(Math.sqrt), sigmas: bars.map((bar) => Math.sqrt(1 - bar)) };
}

/** What a run needs to be told of its data. */
export interface LoraData {
  /** Whose texts samples show where settings name none. */
  readonly shown: readonly ReadyExample[];
}

/** Parts of a run that stay as they are. */
interface Parts {
  readonly device: Device;
  readonly settings: LoraConfig;
  readonly shown: readonly ReadyExample[];
  readonly base: BaseModel;
  readonly ranks: LowRanks;
  readonly text: TextConditions;
  readonly latents: LatentSource;
  /** The checkpoint's. */
  readonly parameters: Parameters;
  readonly trainer: Trainer;
  readonly memory: TrainingMemory;
}

/** The run of a LoRA. Dispose of it to free its memory. */
export class LoraCourse implements Course, Disposable {
  readonly trainers: { readonly lora: Trainer };
  readonly memory: TrainingMemory;
  readonly #parts: Parts;
  readonly #times: Times;
  readonly #target: Target;
  readonly #owned: DisposableStack;

  private constructor(parts: Parts, owned: DisposableStack) {
    this.trainers = { lora: parts.trainer };
    this.memory = parts.memory;
    this.#parts = parts;
    this.#times = timesOfScheduler(parts.base.scheduler);
    this.#target = parts.base.scheduler.prediction ?? "epsilon";
    this.#owned = owned;
  }

  /**
   * New products, or those of `start` by name, in the graph's layout. Throws `FileError`, `FormatError` and `MemoryError`
   * where the settings' checkpoint cannot be used.
   */
  static async make(
    device: Device,
    settings: LoraConfig,
    { shown }: LoraData,
    start: ReadonlyMap<string, Float32Array<ArrayBuffer>> = new Map(),
  ): Promise<LoraCourse> {
    using owned = new DisposableStack();
    const { lora, data, optimizer: { batch }, run } = settings;
    const base = owned.use(await BaseModel.open(device, lora.model, lora.weights));
    const { stage, unet: config } = base;
    const multiple = stage.factor * 2 ** (config.down.length - 1);
    if (data.size % multiple !== 0) {
      throw new FormatError(
        `Cannot train with pictures of ${data.size} pixels and "${lora.model}": data.size must be a multiple of ${multiple}`,
      );
    }
    const size = data.size / stage.factor;
    const manifests = new Map<"unet" | "text_encoder" | "text_encoder_2", Manifest>([
      ["unet", unetManifest(config)],
    ]);
    if (lora.text_encoder) {
      for (const [name, each] of base.textEncoders) manifests.set(name, clipManifest(name, each));
    }
    const ranks = lowRanksOf(settings, manifests, lora.model);
    const text = lora.text_encoder ? base.builtText() : base.encodedText();
    const graph = new Graph();
    const objective = denoisingObjective(
      paramsOf(graph, "unet"),
      config,
      text.build(graph, batch),
      { batch, height: size, width: size },
      base.scheduler.prediction ?? "epsilon",
    );
    const parameters = new Map<string, StoredParameter>();
    for (const [component, manifest] of manifests) {
      const weights = owned.use(await base.weights(component, manifest, lora.weights));
      for (const [name, stored] of weights.parameters) parameters.set(name, stored);
    }
    const trainers: Trainer[] = [];
    const latents = owned.use(
      await openLatents(
        stage,
        settings,
        lora.cache_latents,
        () => trainers.forEach((each) => each.rest()),
      ),
    );
    const spare = await takenBy(device, () => text.inputs([undefined]));
    const unchanged = device.memory.live;
    const trainer = owned.use(
      await Trainer.make(device, besideObjective(objective, ranks), {
        isTrained: isLowRank,
        frozen: parameters,
        optimizer: adamWOf(settings),
        accumulate: settings.optimizer.accumulate,
        spare,
        label: "the training of the LoRA",
      }),
    );
    trainers.push(trainer);
    await trainer.vectors.begin((entry) =>
      start.get(entry.name) ?? initial(entry, run.seed, RULES)
    );
    const parts = {
      ...{ device, settings, shown, base, ranks, text, latents, parameters, trainer },
      memory: memoryWith(unchanged, [trainer]),
    };
    return new LoraCourse(parts, owned.move());
  }

  async backward(
    examples: readonly ReadyExample[],
    { index }: { readonly index: number },
  ): Promise<Losses> {
    const { settings: { run: { seed }, lora, data }, latents: source, text, trainer } = this.#parts;
    const latents = await source.of(examples.map(({ picture }) => picture));
    const [{ length: numbers }] = latents;
    const batch = examples.length;
    const draw = drawAt(seed, index, { batch, numbers, times: this.#times.alphas.length });
    const chances = torchCpu(seedOf(seed, index, 1)).uniform(batch);
    const captions = examples.map((example, i) =>
      chances[i] < lora.caption_dropout ? undefined : captionOf(example, data.size)
    );
    const results = await trainer.backward({
      ...noisyInputs(joined(latents), draw, this.#times, this.#target, lora.min_snr || undefined),
      ...await text.inputs(captions),
    });
    return { loss: results.get("loss")?.[0] ?? NaN, losses: {} };
  }

  /** A row of samples for each prompt. */
  async sample(): Promise<Picture> {
    const { settings: { sample: { prompts, count } }, shown } = this.#parts;
    if (prompts.length === 0) {
      return sheet(await this.pictures(shown.slice(0, count).map(({ text = "" }) => text)));
    }
    const texts = prompts.flatMap((prompt): string[] => Array(count).fill(prompt));
    return sheet(await this.pictures(texts), { columns: count });
  }

  /** A picture for each text, by DDIM with the settings' guidance; noise is torch's by `sample.seed` and place. */
  async pictures(texts: readonly string[]): Promise<Picture[]> {
    const { device, settings, base, ranks, text, parameters, trainer } = this.#parts;
    const { sample: { steps, cfg_scale, seed }, data } = settings;
    const { unet: config, stage, scheduler } = base;
    const size = data.size / stage.factor;
    const rows = rowsOf(cfg_scale);
    const graph = new Graph();
    const plain = unet(paramsOf(graph, "unet"), config, {
      sample: graph.input("sample", [1, size, size, config.inChannels])
        .broadcast([rows, size, size, config.inChannels]),
      timestep: graph.input("timestep", [rows]),
      ...text.build(graph, rows),
    });
    const [prediction] = unstacked(withLowRanks([plain], ranks), parameters);
    const all = new Map([...parameters, ...trainer.vectors.parameters(trainer.vectors.best)]);
    using program = await compile(device, new Map([["prediction", prediction]]), all, {
      label: "samples",
    });
    const made: Picture[] = [];
    for (const [i, each] of texts.entries()) {
      const caption = { text: each, sizes: [data.size, data.size, 0, 0, data.size, data.size] };
      const told = await text.inputs(rows === 2 ? [undefined, caption] : [caption]);
      const predict = predictionOf(program, told, cfg_scale);
      made.push(await samplePicture(predict, stage, { scheduler, steps, seed: seed + i, size }));
    }
    stage.unload("decode");
    return made;
  }

  /** Writes the LoRA as one file, under the folder's name in kohya's naming, under the one that diffusers looks for in its own. */
  async save(folder: string): Promise<void> {
    const { settings, base, trainer } = this.#parts;
    await saveLora(folder, await weightsOf(trainer), settings, base);
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}

function captionOf(
  { text = "", original, picture }: ReadyExample,
  size: number,
): Caption {
  const { height, width } = original;
  return { text, sizes: [height, width, picture.cropTop, picture.cropLeft, size, size] };
}
