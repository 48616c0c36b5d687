/** The conditioners that settings name, together, and the folders that they leave. */

import { join } from "node:path";
import { FormatError } from "../base/errors.ts";
import { WEIGHT_FILES, writeComponent, writeTokenizer } from "../formats/diffusers_folder.ts";
import type { FloatType } from "../formats/safetensors.ts";
import type { Device } from "../gpu/device.ts";
import type { ClipConfig } from "../models/clip.ts";
import { type ConditionerConfig, conditionerJson } from "../models/conditioner.ts";
import { clipJson, type Pipeline } from "../models/diffusers_json.ts";
import type { TokenizerFiles } from "../text/tokenizer.ts";
import { tensorsUnder, type Weight } from "./component.ts";
import { type Conditioner, silent, together } from "./conditioner.ts";
import type { DiffusionConfig } from "./config.ts";
import { copyTextEncoder } from "./copied.ts";
import type { Vocabulary } from "./dataset.ts";
import {
  classConditioner,
  CONDITIONER,
  conditionerConfigOf,
  layoutConditioner,
} from "./learnt_conditioner.ts";
import {
  FrozenText,
  TEXT_ENCODER,
  textConditioner,
  textConfigOf,
  textTokenizerOf,
} from "./text_conditioner.ts";

/** Dispose of it to free what it holds. */
export interface Conditioning extends Conditioner, Disposable {
  /** The text encoder that is trained, and what reads classes and boxes. */
  readonly text: ClipConfig | undefined;
  readonly learnt: ConditionerConfig | undefined;
  /** Writes what making pictures needs of it, and says what it is. Throws `FileError`. */
  save(folder: string, weights: readonly Weight[], dtype: FloatType): Promise<Pipeline>;
}

/** A conditioner and how it is saved. */
interface Part extends Conditioner {
  /** Of its tokens. */
  readonly width: number;
  /** Whose width that is, among settings. */
  readonly widthOf: string;
  readonly text?: ClipConfig;
  readonly learnt?: ConditionerConfig;
  readonly save: Conditioning["save"];
}

/**
 * A text encoder that is trained reads by the files of `tokenizer`, or with CLIP's vocabulary. Throws `FileError` and
 * `FormatError` where the settings' text encoder cannot be used, or widths differ.
 */
export async function openConditioning(
  device: Device,
  settings: DiffusionConfig,
  vocabulary: Vocabulary,
  tokenizer?: TokenizerFiles,
): Promise<Conditioning> {
  using owned = new DisposableStack();
  const { diffusion: { conditioner: names }, unet: { context } } = settings;
  const parts: Part[] = [];
  if (names.includes("text")) parts.push(textPart(settings, tokenizer));
  if (names.includes("clip")) {
    const frozen = owned.use(await FrozenText.open(device, settings.clip.path));
    parts.push(clipPart(frozen));
  }
  if (names.includes("class") || names.includes("boxes") || parts.length === 0) {
    parts.push(learntPart(conditionerConfigOf(settings, vocabulary)));
  }
  for (const { width, widthOf } of parts) {
    if (width === context) continue;
    throw new FormatError(
      `Cannot train a denoiser that is told tokens of ${context} numbers (unet.context) with ${widthOf}, which gives ` +
        `${width}: they must be equal`,
    );
  }
  const all = together(parts);
  const held = owned.move();
  return {
    text: parts.find(({ text }) => text)?.text,
    learnt: parts.find(({ learnt }) => learnt)?.learnt,
    tokens: all.tokens,
    context: all.context,
    inputs: all.inputs,
    async save(...what) {
      let pipeline: Pipeline = {};
      for (const { save } of parts) pipeline = { ...pipeline, ...await save(...what) };
      return pipeline;
    },
    [Symbol.dispose]: () => held[Symbol.dispose](),
  };
}

function learntPart(config: ConditionerConfig): Part {
  const parts = [
    ...(config.classes ? [classConditioner(config)] : []),
    ...(config.layout ? [layoutConditioner(config)] : []),
  ];
  return {
    ...(parts.length === 0 ? silent(config.width) : together(parts)),
    width: config.width,
    widthOf: "unet.context",
    learnt: config,
    async save(folder, weights, dtype) {
      const tensors = tensorsUnder(CONDITIONER, weights, dtype);
      const path = join(folder, CONDITIONER);
      await writeComponent(path, conditionerJson(config), tensors, WEIGHT_FILES.diffusers);
      return { conditioner: ["ldm", "Conditioner"] };
    },
  };
}

/** What a text encoder leaves in a pipeline. */
const TEXT_PIPELINE: Pipeline = {
  text_encoder: ["transformers", "CLIPTextModel"],
  tokenizer: ["transformers", "CLIPTokenizer"],
};

function textPart(settings: DiffusionConfig, given: TokenizerFiles | undefined): Part {
  const { tokenizer, files } = textTokenizerOf(settings, given);
  const config = textConfigOf(settings, tokenizer);
  return {
    ...textConditioner(config, tokenizer),
    width: config.width,
    widthOf: "text.width",
    text: config,
    async save(folder, weights, dtype) {
      const path = join(folder, TEXT_ENCODER);
      const tensors = tensorsUnder(TEXT_ENCODER, weights, dtype);
      await writeComponent(path, clipJson(config, tokenizer), tensors, WEIGHT_FILES.transformers);
      await writeTokenizer(files, join(folder, "tokenizer"));
      return TEXT_PIPELINE;
    },
  };
}

function clipPart(frozen: FrozenText): Part {
  return {
    tokens: frozen.tokens,
    context: frozen.context,
    inputs: frozen.inputs,
    width: frozen.width,
    widthOf: "the text encoder of clip.path",
    async save(folder) {
      await copyTextEncoder(frozen.checkpoint, frozen.json, folder);
      await writeTokenizer(frozen.files, join(folder, "tokenizer"));
      return TEXT_PIPELINE;
    },
  };
}
