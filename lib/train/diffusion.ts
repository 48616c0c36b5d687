/**
 * `ldm train diffusion`: the denoiser in the latent space of any first stage, with what it is told (Rombach et al. 2022),
 * into a folder from which `ldm`, and where the architecture is its own diffusers, makes pictures.
 */

import { join } from "node:path";
import { FormatError } from "../base/errors.ts";
import type { Picture } from "../base/picture.ts";
import { torchCpu } from "../base/random.ts";
import { parseSchedulerConfig } from "../diffusion/plan.ts";
import { type LoadedFirstStage, loadFirstStage } from "../engine/load.ts";
import { parseBox } from "../formats/boxes.ts";
import {
  makeFolder,
  WEIGHT_FILES,
  writeComponent,
  writeJson,
} from "../formats/diffusers_folder.ts";
import { sheet } from "../formats/sheet.ts";
import type { Parameters } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import { compile } from "../gpu/program.ts";
import { Graph } from "../graph/tensor.ts";
import { ownDefaultsJson } from "../models/defaults.ts";
import { pipelineJson, stableDiffusionJson } from "../models/diffusers_json.ts";
import { unet, type UnetConfig } from "../models/unet.ts";
import { paramsOf, unstacked } from "../nn/params.ts";
import { adamWOf } from "./autoencoder.ts";
import { type Beginning, goingOn, newDenoiser } from "./beginning.ts";
import { type Beside, besideOf } from "./beside.ts";
import { tensorsUnder, weightsOf } from "./component.ts";
import { conditionerManifest, type Told } from "./conditioner.ts";
import { type Conditioning, openConditioning } from "./conditioning.ts";
import type { DiffusionConfig } from "./config.ts";
import { copyFirstStage } from "./copied.ts";
import type { Vocabulary } from "./dataset.ts";
import {
  denoisingObjective,
  drawAt,
  joined,
  noisyInputs,
  schedulerJson,
  timesOf,
} from "./denoising.ts";
import type { ReadyExample } from "./examples.ts";
import { Start } from "./from.ts";
import { Frozen } from "./frozen.ts";
import { type LatentSource, openLatents } from "./latents.ts";
import type { Course, Losses } from "./loop.ts";
import { seedOf } from "./order.ts";
import { predictionOf, rowsOf, samplePicture } from "./sampling.ts";
import { memoryWith, takenBy, Trainer, type TrainingMemory } from "./trainer.ts";
import type { WeightReader } from "./vectors.ts";

/** What a run needs to be told of its data. */
export interface DiffusionData {
  /** Whose text, class and boxes samples show where settings name none. */
  readonly shown: readonly ReadyExample[];
  /** Names that class and box conditioners know. */
  readonly vocabulary: Vocabulary;
}

/** Parts of a run that stay as they are. */
interface Parts {
  readonly device: Device;
  readonly settings: DiffusionConfig;
  readonly shown: readonly ReadyExample[];
  readonly stage: LoadedFirstStage;
  readonly latents: LatentSource;
  readonly beside: Beside | undefined;
  readonly conditioning: Conditioning;
  readonly frozen: Frozen;
  readonly trainer: Trainer;
  readonly memory: TrainingMemory;
}

/** The run of a denoiser. Dispose of it to free its memory. */
export class DiffusionCourse implements Course, Disposable {
  readonly trainers: { readonly denoiser: Trainer };
  readonly memory: TrainingMemory;
  readonly config: UnetConfig;
  readonly notes: readonly string[];
  /** config.json of the denoiser. */
  readonly #json: Beginning["json"];
  readonly #parts: Parts;
  readonly #owned: DisposableStack;

  private constructor(
    { config, json, notes }: Beginning,
    parts: Parts,
    owned: DisposableStack,
  ) {
    this.config = config;
    this.notes = notes;
    this.#json = json;
    this.trainers = { denoiser: parts.trainer };
    this.memory = parts.memory;
    this.#parts = parts;
    this.#owned = owned;
  }

  /**
   * New weights, or those of the settings' checkpoint, or those of `start` by name, in the graph's layout. Throws
   * `FileError`, `FormatError` and `MemoryError` where the settings' first stage, text encoder or checkpoint cannot be used.
   */
  static async make(
    device: Device,
    settings: DiffusionConfig,
    { shown, vocabulary }: DiffusionData,
    start: ReadonlyMap<string, Float32Array<ArrayBuffer>> = new Map(),
  ): Promise<DiffusionCourse> {
    using owned = new DisposableStack();
    const { diffusion, data, optimizer: { batch } } = settings;
    const { first_stage } = diffusion;
    const stage = owned.use(
      await loadFirstStage(device, first_stage, { weights: "f32", lifetime: "run" }),
    );
    const size = data.size / stage.factor;
    if (!Number.isInteger(size)) {
      throw new FormatError(
        `Cannot train with pictures of ${data.size} pixels and the first stage "${first_stage}": data.size must be a ` +
          `multiple of ${stage.factor}`,
      );
    }
    if (diffusion.zero_terminal_snr && diffusion.prediction === "epsilon") {
      throw new FormatError(
        `Cannot train with diffusion.zero_terminal_snr and prediction = "epsilon": where all is noise, noise says nothing ` +
          `of the picture; use prediction = "v_prediction"`,
      );
    }
    using from = diffusion.from === "" ? undefined : await Start.open(diffusion.from);
    const tokenizer = await from?.tokenizerFiles();
    const conditioning = owned.use(
      await openConditioning(device, settings, vocabulary, tokenizer),
    );
    const { latentChannels: channels, factor } = stage;
    const beside = besideOf(settings, { channels, size, factor }, () => latents);
    const form = { channels, size, beside: beside?.channels ?? 0 };
    const beginning = from
      ? goingOn(from, settings, form, conditioning)
      : newDenoiser(settings, form);
    const { config } = beginning;
    const read: WeightReader = (entry) => start.get(entry.name) ?? beginning.read(entry);
    const graph = new Graph();
    const objective = denoisingObjective(
      paramsOf(graph, "unet"),
      config,
      { encoderHiddenStates: conditioning.context(graph, batch) },
      { batch, height: size, width: size },
      diffusion.prediction,
      beside && graph.input("beside", [batch, size, size, beside.channels]),
    );
    const fixed = diffusion.train_conditioner ? new Map() : conditionerManifest(conditioning);
    const values = new Map<string, Float32Array<ArrayBuffer>>();
    for (const entry of fixed.values()) values.set(entry.name, await read(entry));
    const frozen = owned.use(
      new Frozen(device, fixed, ({ name }) => values.get(name) ?? new Float32Array()),
    );
    const trainers: Trainer[] = [];
    const latents = owned.use(
      await openLatents(
        stage,
        settings,
        diffusion.cache_latents,
        () => trainers.forEach((each) => each.rest()),
      ),
    );
    const spare = await takenBy(device, () => conditioning.inputs([undefined], 0));
    const unchanged = device.memory.live;
    const trainer = owned.use(
      await Trainer.make(device, objective, {
        isTrained: (name) => !fixed.has(name),
        frozen: frozen.parameters,
        optimizer: adamWOf(settings),
        accumulate: settings.optimizer.accumulate,
        spare,
        label: "the training of the denoiser",
      }),
    );
    trainers.push(trainer);
    await trainer.vectors.begin(read);
    const parts = {
      ...{ device, settings, shown, stage, latents, beside, conditioning, frozen, trainer },
      memory: memoryWith(unchanged, [trainer]),
    };
    return new DiffusionCourse(beginning, parts, owned.move());
  }

  async backward(
    examples: readonly ReadyExample[],
    { index }: { readonly index: number },
  ): Promise<Losses> {
    const { settings, latents: source, beside, conditioning, trainer } = this.#parts;
    const { run: { seed }, diffusion } = settings;
    const latents = await source.of(examples.map(({ picture }) => picture));
    const besides = await beside?.of(examples, examples.map((_, i) => seedOf(seed, index, 3, i)));
    const numbers = latents[0].length;
    const times = timesOf(diffusion);
    const batch = examples.length;
    const draw = drawAt(seed, index, { batch, numbers, times: times.alphas.length });
    const chances = torchCpu(seedOf(seed, index, 1)).uniform(batch);
    const told = examples.map((example, i) =>
      chances[i] < diffusion.caption_dropout ? undefined : example
    );
    const results = await trainer.backward({
      ...noisyInputs(
        joined(latents),
        draw,
        times,
        diffusion.prediction,
        diffusion.min_snr || undefined,
      ),
      ...await conditioning.inputs(told, seedOf(seed, index, 2)),
      ...(besides && { beside: joined(besides) }),
    });
    return { loss: results.get("loss")?.[0] ?? NaN, losses: {} };
  }

  /** What samples show: what settings name, else what is known of the probe. */
  #wanted(): Told[] {
    const { settings: { sample: { prompts, boxes, count } }, shown } = this.#parts;
    const objects = boxes.map((box) => parseBox(box, "sample.boxes"));
    const named = prompts.length > 0 ? prompts : boxes.length > 0 ? [""] : [];
    if (named.length === 0) return shown.slice(0, count);
    return named.flatMap((name) => Array(count).fill({ text: name, label: name, objects }));
  }

  /** A row of samples for each prompt. */
  async sample(): Promise<Picture> {
    const { settings: { sample: { prompts, count } } } = this.#parts;
    const pictures = await this.pictures(this.#wanted());
    return sheet(pictures, prompts.length > 0 ? { columns: count } : {});
  }

  /**
   * Samples of what is told, one each, by DDIM with the settings' guidance; noise is torch's by `sample.seed` and place.
   * What is seen beside latents is made of the shown examples, in turn.
   */
  async pictures(told: readonly Told[]): Promise<Picture[]> {
    const { device, settings, shown, beside, conditioning, frozen, trainer, stage } = this.#parts;
    const { sample: { steps, cfg_scale, seed }, diffusion } = settings;
    const { sampleSize: size = 0, outChannels: channels } = this.config;
    const rows = rowsOf(cfg_scale);
    const graph = new Graph();
    const x = graph.input("sample", [1, size, size, channels]);
    const [prediction] = unstacked([unet(paramsOf(graph, "unet"), this.config, {
      sample:
        (beside ? graph.concat([x, graph.input("beside", [1, size, size, beside.channels])], 3) : x)
          .broadcast([rows, size, size, this.config.inChannels]),
      timestep: graph.input("timestep", [rows]),
      encoderHiddenStates: conditioning.context(graph, rows),
    })]);
    const parameters: Parameters = new Map([
      ...frozen.parameters,
      ...trainer.vectors.parameters(trainer.vectors.best),
    ]);
    using program = await compile(device, new Map([["prediction", prediction]]), parameters, {
      label: "the denoiser's samples",
    });
    const scheduler = parseSchedulerConfig(schedulerJson(diffusion));
    const made: Picture[] = [];
    for (const [i, each] of told.entries()) {
      const seen = await beside?.of([shown[i % shown.length]], [seedOf(seed, i)]);
      const inputs = {
        ...await conditioning.inputs(rows === 2 ? [undefined, each] : [each], seed),
        ...(seen && { beside: seen[0] }),
      };
      const predict = predictionOf(program, inputs, cfg_scale);
      made.push(await samplePicture(predict, stage, { scheduler, steps, seed: seed + i, size }));
    }
    stage.unload("decode");
    return made;
  }

  /** Writes everything that making pictures needs: `unet/`, `vae/`, `scheduler/`, what conditions, and `model_index.json`. */
  async save(folder: string): Promise<void> {
    const {
      settings: { run: { dtype }, diffusion, concat, sample },
      beside,
      conditioning,
      frozen,
      trainer,
    } = this.#parts;
    const weights = [...await weightsOf(trainer), ...frozen.weights];
    const tensors = tensorsUnder("unet", weights, dtype);
    await writeComponent(join(folder, "unet"), this.#json, tensors, WEIGHT_FILES.diffusers);
    const vae = await copyFirstStage(diffusion.first_stage, folder);
    await makeFolder(join(folder, "scheduler"));
    const scheduler = join(folder, "scheduler", "scheduler_config.json");
    await writeJson(scheduler, schedulerJson(diffusion));
    const told = await conditioning.save(folder, weights, dtype);
    const components = {
      ...told,
      scheduler: ["diffusers", "DDIMScheduler"],
      unet: ["diffusers", "UNet2DConditionModel"],
      vae: ["diffusers", vae],
    } as const;
    const readsText = "text_encoder" in told && !("conditioner" in told);
    const isStable = readsText && (!beside || concat.source === "mask");
    const index = isStable
      ? stableDiffusionJson(components, beside ? "inpaint" : "text")
      : { ...pipelineJson(components), ...(beside && { concat }) };
    const asked = ownDefaultsJson({ steps: sample.steps, cfgScale: sample.cfg_scale });
    await writeJson(join(folder, "model_index.json"), { ...index, ...asked });
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}
