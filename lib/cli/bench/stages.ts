/** A checkpoint's stages one at a time, on made-up latents: text encoder, denoiser, decoder. */

import { torchCpu } from "../../base/random.ts";
import { type Architecture, architectureOf } from "../../engine/architecture.ts";
import type {
  Condition,
  Denoiser,
  Model,
  TextEmbedding,
  Tiling,
  TokenIds,
  Told,
} from "../../engine/model.ts";
import { programsOf } from "../../engine/tuning.ts";
import { openCheckpoint } from "../../formats/checkpoint.ts";
import { optimise } from "../../gpu/compile.ts";
import { reachable } from "../../graph/rewrite.ts";
import type { Tensor } from "../../graph/tensor.ts";
import type { ConditionerConfig } from "../../models/conditioner.ts";
import { followed } from "../../pipelines/conditions.ts";
import { checkSize } from "../../pipelines/requests.ts";
import { tokenizersOf } from "../../pipelines/tokens.ts";
import { layoutTokens } from "../../text/layout.ts";
import { timed } from "./turns.ts";

/** Pieces of work, and what they are called. */
export const STAGES = {
  clip: "text encoder, one prompt",
  unet: "denoiser, one latent",
  guided: "denoiser, guided (two)",
  vae: "decoder",
} as const;
export type Stage = keyof typeof STAGES;
export const STAGE_NAMES: readonly Stage[] = ["clip", "unet", "guided", "vae"];

export const PROMPT = "a photo of an astronaut riding a horse on mars";

/** Pixels. */
export interface Size {
  readonly width: number;
  readonly height: number;
}

/** Inputs of the stages: the same for everyone who is timed. */
export interface Inputs {
  readonly ids: TokenIds;
  /** [c, height, width]: what the denoiser sees, of which the first channels are the latents. */
  readonly sample: Float32Array<ArrayBuffer>;
  /** Latents. */
  readonly height: number;
  /** Latents. */
  readonly width: number;
}

/** The stages of a model at one size. Dispose of them to free the denoiser. */
export interface Stages extends Disposable {
  readonly inputs: Inputs;
  /** Those that the model has. */
  readonly names: readonly Stage[];
  /** What each gave when it ran last; nothing of the guided denoiser. */
  readonly results: ReadonlyMap<Stage, Float32Array>;
  /** The tokens that the denoiser is told [tokens, width]. */
  context(): Promise<Float32Array>;
  run(stage: Stage): Promise<void>;
  /** Frees the denoiser; it is made again where it runs again. */
  release(): void;
}

/**
 * `channels` are those that the denoiser sees. Nothing runs yet. Throws `UsageError` for a size that the model cannot have,
 * `MemoryError` where it does not fit.
 */
export function stagesOf(
  model: Model,
  channels: number,
  size: Size,
  tiling: Tiling = "auto",
): Stages {
  checkSize(size.width, size.height, model.factor);
  const inputs = inputsOf(model, channels, size);
  const { ids, sample, height, width } = inputs;
  const tokens = ids[0].length;
  model.prepare({
    ...size,
    ...{
      pictures: 1,
      prompts: 2,
      sets: 1,
      changes: false,
      keeps: false,
      encodes: false,
      clipSkip: 1,
      tiling,
    },
    ...{ tokens: (model.readsText ? tokens : 0) + model.toldTokens, chunk: tokens },
  });
  const latents = {
    data: sample.subarray(0, model.latentChannels * height * width),
    channels: model.latentChannels,
    height,
    width,
  };
  const results = new Map<Stage, Float32Array>();
  let text: TextEmbedding | undefined;
  const encode = async () => text = (await model.encodeText([ids]))[0];
  let told: Condition | undefined;
  const condition = async () => told ??= await conditionOf(model, text ?? await encode(), size);
  let denoiser: Denoiser | undefined;
  const predict = async (conditions: readonly Condition[]) => {
    denoiser ??= model.denoiser({ height, width });
    return await denoiser.predict(sample, 500, conditions);
  };
  const work: Readonly<Record<Stage, () => Promise<void>>> = {
    clip: async () => void results.set("clip", (await encode()).hidden),
    unet: async () => void results.set("unet", (await predict([await condition()]))[0]),
    guided: async () => {
      const one = await condition();
      await predict([one, one]);
    },
    vae: async () => void results.set("vae", (await model.decodeImage(latents, { tiling })).data),
  };
  const release = () => {
    denoiser?.[Symbol.dispose]();
    denoiser = undefined;
  };
  return {
    inputs,
    names: STAGE_NAMES.filter((name) => name !== "clip" || model.readsText),
    results,
    context: async () => (await condition()).text.hidden,
    run: (stage) => work[stage](),
    release,
    [Symbol.dispose]: release,
  };
}

/** Seconds that each stage takes when it runs for the first time. */
export async function coldTimes(
  { names, run }: Pick<Stages, "names" | "run">,
  progress: (what: string) => void,
): Promise<Map<Stage, number>> {
  const first = new Map<Stage, number>();
  for (const stage of names) {
    progress(`${STAGES[stage]}, cold`);
    first.set(stage, (await timed(() => run(stage))).wall);
  }
  return first;
}

function inputsOf(model: Model, channels: number, size: Size): Inputs {
  const ids = tokenizersOf(model).map((each) => each.tokenize(PROMPT).ids);
  const [height, width] = [size.height / model.factor, size.width / model.factor];
  return { ids, sample: torchCpu(7).normal(channels * height * width), height, width };
}

async function conditionOf(
  model: Model,
  text: TextEmbedding,
  { height, width }: Size,
): Promise<Condition> {
  const [told] = model.conditioner ? await model.encodeTold([nothing(model.conditioner)]) : [];
  return {
    text: told ? followed(model, text, told) : text,
    ...(model.wantsSizes && { timeIds: [height, width, 0, 0, height, width] }),
    ...(model.guidanceWidth !== undefined && { guidance: new Float32Array(model.guidanceWidth) }),
  };
}

/** The first class, and no boxes. */
function nothing({ classes, layout }: ConditionerConfig): Told {
  return { ...(classes && { classId: 0 }), ...(layout && { layout: layoutTokens([], layout) }) };
}

/** What a checkpoint, and the first stage that replaces its own, are. */
export async function architectureAt(path: string, vae?: string): Promise<Architecture> {
  await using checkpoint = await openCheckpoint(path);
  const architecture = await architectureOf(checkpoint);
  return vae === undefined
    ? architecture
    : { ...architecture, vae: (await architectureAt(vae)).vae };
}

/** The arithmetic of each stage in GFLOP; 0 of one that is not there. */
export function workOf(architecture: Architecture, size: Size): Readonly<Record<Stage, number>> {
  const programs = programsOf(architecture, size);
  const of = (name: string) => flopsOf(programs.get(name) ?? []) / 1e9;
  const encoders = [...architecture.textEncoders.keys()];
  return {
    "clip": encoders.reduce((sum, name) => sum + of(name), 0),
    "unet": of("denoiser"),
    "guided": of("guided denoiser"),
    "vae": of("decoder"),
  };
}

/** Multiplications and additions of products, convolutions and attention in a program, by the plain algorithms. */
function flopsOf(outputs: readonly Tensor[]): number {
  let flops = 0;
  for (const node of reachable(optimise(outputs))) {
    if (node.op === "matmul") {
      const [a] = node.inputs;
      flops += 2 * node.size * a.shape[a.rank - 1];
    } else if (node.op === "conv2d") {
      const [, weight] = node.inputs;
      flops += 2 * node.size * weight.size / weight.shape[0];
    } else if (node.op === "attention") {
      flops += 4 * node.size * node.inputs[1].shape[1];
    }
  }
  return flops;
}
