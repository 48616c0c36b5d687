/** Parts of a model as files: one for all of them, or a folder in the manner of diffusers. */

import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { FormatError } from "../base/errors.ts";
import type { TokenizerFiles } from "../base/tokenizer_files.ts";
import { type Checkpoint, type ComponentName } from "../formats/checkpoint.ts";
import {
  makeFolder,
  writeComponent,
  writeJson,
  writeTokenizer,
} from "../formats/diffusers_folder.ts";
import { parseJson } from "../formats/json.ts";
import { type FileDType, type TensorData, writeSafetensors } from "../formats/safetensors.ts";
import { ALONE, type FilePlace, originalTensors, placeOf } from "../formats/single_file.ts";
import { readTokenizer, tokenizerKey } from "../formats/tokenizer_folder.ts";
import { writeFolder } from "../formats/whole_folder.ts";
import { FAMILIES, type Family } from "../models/family.ts";
import type { Pipeline } from "../models/diffusers_json.ts";
import type { Architecture } from "./architecture.ts";
import { type ConvertedPart, indexOf, schedulerOf } from "./converted.ts";

/** A tokenizer that is wanted where nobody brings one. */
export interface WantedTokenizer {
  /** Tokens of a prompt. */
  readonly length: number;
  /** The id that fills them up. */
  readonly padding: number;
  /** Tokens that the text encoder knows; all of CLIP's where absent. */
  readonly vocabulary?: number;
}

/** Tokenizers by what is wanted of them. */
export type MakeTokenizer = (wanted: WantedTokenizer) => TokenizerFiles;

/** What is converted to what. */
export interface Job {
  readonly input: string;
  readonly output: string;
  readonly checkpoint: Checkpoint;
  readonly architecture: Architecture;
  /** A folder. */
  readonly tokenizer: string | undefined;
  readonly makeTokenizer: MakeTokenizer;
}

// ---- one file

/**
 * Writes one file whole: with a family's prefixes, or a lone part without any. Throws `FileError`,
 * and `FormatError` for what has no place there.
 */
export async function saveFile(parts: readonly ConvertedPart[], job: Job): Promise<void> {
  const { output, checkpoint, architecture } = job;
  const tensors = parts.flatMap(({ pieces }) =>
    pieces.flatMap(({ component, tensors }) => {
      const place = parts.length === 1
        ? aloneOf(component, pieces.length)
        : architecture.family && placeOf(component, architecture.family);
      if (place) return originalTensors(tensors, place);
      throw new FormatError(`Cannot put "${job.input}" into a single file: ${noPlace(component)}`);
    })
  );
  const scheduler = parts.length === 1 ? undefined : schedulerOf(checkpoint, architecture);
  await writeSafetensors(output, [...tensors, ...markersOf(architecture.family, scheduler)], {
    ...metadataOf(parts, job, scheduler),
    ...(parts.length > 1 && await tokenizersIn(job)),
  });
}

/** Halves of a TAESD that stand together have their names before them. */
function aloneOf(component: ComponentName, pieces: number): FilePlace | undefined {
  const naming = ALONE[component];
  const half = /^taesd_(.*)/.exec(component)?.[1];
  return naming && { naming, prefix: half !== undefined && pieces > 1 ? `${half}.` : "" };
}

function noPlace(component: ComponentName): string {
  return component.startsWith("taesd")
    ? "its first stage is a TAESD, for which such files have no place; --vae gives it another"
    : component === "conditioner"
    ? "it is told classes or boxes, for which such files have no place; only a folder holds it"
    : `it has no UNet of a family whose files have a place for its ${component}`;
}

/** What a scheduler says in a tensor's name, as fine-tunes of SDXL do; SD 2 says it by its weights. */
function markersOf(family: Family | undefined, scheduler: unknown): TensorData[] {
  if (typeof scheduler !== "object" || scheduler === null || family === "sd2") return [];
  const { prediction_type: prediction, rescale_betas_zero_snr: rescales } = Object.fromEntries(
    Object.entries(scheduler),
  );
  const empty = (name: string): TensorData => ({
    name,
    dtype: "F32",
    shape: [0],
    data: new Uint8Array(),
  });
  if (prediction !== "v_prediction") return [];
  return [empty("v_pred"), ...(rescales === true ? [empty("ztsnr")] : [])];
}

/** Keys of metadata that are true of the old bytes only. */
const OF_BYTES = /hash/;

/** What the old file said, and under "config" what tensors do not tell (`architectureOf` reads it). */
function metadataOf(
  parts: readonly ConvertedPart[],
  { checkpoint: { metadata }, architecture: { index } }: Job,
  scheduler: unknown,
): Record<string, string> {
  const configs = {
    ...Object.fromEntries(parts.map(({ config, json }) => [config, json])),
    ...(scheduler !== undefined && { scheduler }),
    ...(index !== undefined && { model_index: index }),
  };
  const kept = [...metadata].filter(([key]) => !OF_BYTES.test(key));
  return { format: "pt", ...Object.fromEntries(kept), config: JSON.stringify(configs) };
}

/** Tokens of CLIP's prompts, which readers of single files take. */
const LENGTH = 77;

/** Tokenizers that are not those that single files are read with, for the metadata. */
async function tokenizersIn(job: Job): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const { name, padding } of encodersOf(job.architecture)) {
    const own = await job.checkpoint.tokenizerFiles(name);
    if (!own || isLike(own, job.makeTokenizer({ length: LENGTH, padding }))) continue;
    found[tokenizerKey(name)] = JSON.stringify(own);
  }
  return found;
}

/** Whether two tokenizers make the same of a prompt. */
function isLike(a: TokenizerFiles, b: TokenizerFiles): boolean {
  const traits = ({ vocab, config, specialTokens }: TokenizerFiles) => {
    const settings: Readonly<Record<string, unknown>> = Object.assign({}, config, specialTokens);
    const { model_max_length: length, pad_token: pad } = settings;
    const padding = typeof pad === "object" && pad !== null ? Reflect.get(pad, "content") : pad;
    return { length, padding, vocab: parseJson(vocab) };
  };
  return isDeepStrictEqual(traits(a), traits(b));
}

// ---- a folder

const TYPES: Readonly<Partial<Record<FileDType, string>>> = { F16: "float16", BF16: "bfloat16" };

/**
 * Makes a folder whole: of a pipeline, or of a lone part. Throws `FileError`, and `FormatError` for half of a
 * TAESD.
 */
export async function saveFolder(parts: readonly ConvertedPart[], job: Job): Promise<void> {
  const { input, output, checkpoint, architecture } = job;
  const half = parts.flatMap(({ pieces }) => pieces.length === 1 ? pieces : [])
    .find(({ component }) => component.startsWith("taesd"));
  if (half) {
    throw new FormatError(
      `Cannot make a folder of "${input}": it holds one half of a TAESD, and both were needed`,
    );
  }
  if (parts.length === 1) {
    return await writeFolder(output, (folder) => writePart(parts[0], folder));
  }
  const scheduler = schedulerOf(checkpoint, architecture);
  const tokenizers = await tokenizersOf(job);
  const components: Pipeline = {
    ...Object.fromEntries(parts.map(({ name, made }) => [name, made])),
    scheduler: ["diffusers", classOf(scheduler)],
    ...Object.fromEntries(tokenizers.map(([name]) => [name, ["transformers", "CLIPTokenizer"]])),
  };
  const index = indexOf(input, architecture, components);
  await writeFolder(output, async (folder) => {
    for (const part of parts) await writePart(part, join(folder, part.name));
    await makeFolder(join(folder, "scheduler"));
    await writeJson(join(folder, "scheduler", "scheduler_config.json"), scheduler);
    for (const [name, files] of tokenizers) await writeTokenizer(files, join(folder, name));
    await writeJson(join(folder, "model_index.json"), index);
  });
}

function classOf(scheduler: unknown): string {
  const named = typeof scheduler === "object" && scheduler !== null
    ? Reflect.get(scheduler, "_class_name")
    : undefined;
  return typeof named === "string" ? named : "DDIMScheduler";
}

/** Weights and config.json, which says the type of the weights where transformers looks for it. */
async function writePart(
  { pieces, json, text, file }: ConvertedPart,
  folder: string,
): Promise<void> {
  const tensors = pieces.flatMap((piece) => piece.tensors);
  const type = TYPES[tensors[0]?.dtype] ?? "float32";
  const whole = text ?? JSON.stringify(json, null, 2);
  const typed = whole.replace(/("(?:torch_)?dtype"\s*:\s*")[^"]*"/, `$1${type}"`);
  await writeComponent(folder, typed, tensors, file);
}

const TOKENIZERS = { text_encoder: "tokenizer", text_encoder_2: "tokenizer_2" } as const;

/** What each text encoder asks of its tokenizer, and that one's folder. */
function encodersOf({ family = "sd1", textEncoders }: Architecture) {
  const { padTokens } = FAMILIES[family];
  return [...textEncoders].map(([encoder, { positions, vocabulary }], i) => ({
    name: TOKENIZERS[encoder],
    length: positions,
    padding: padTokens[Math.min(i, padTokens.length - 1)],
    vocabulary,
  }));
}

/** A tokenizer for each text encoder, by its folder's name. */
async function tokenizersOf(
  { checkpoint, architecture, tokenizer: given, makeTokenizer }: Job,
): Promise<readonly (readonly [name: string, files: TokenizerFiles])[]> {
  const found: (readonly [string, TokenizerFiles])[] = [];
  for (const { name, ...wanted } of encodersOf(architecture)) {
    const usual = makeTokenizer(wanted);
    const files = given === undefined
      ? await checkpoint.tokenizerFiles(name)
      : await givenTokenizer(given, name, usual);
    found.push([name, files ?? usual]);
  }
  return found;
}

/**
 * The tokenizer of a diffusers folder, or of a folder of its own: there both encoders have its vocabulary, the second with
 * its usual padding. Throws `FormatError` where there is none.
 */
async function givenTokenizer(
  path: string,
  name: string,
  usual: TokenizerFiles,
): Promise<TokenizerFiles> {
  const own = await readTokenizer(join(path, name));
  if (own) return own;
  const files = await readTokenizer(path);
  if (files && name === "tokenizer") return files;
  if (files) return { ...usual, vocab: files.vocab, merges: files.merges };
  throw new FormatError(
    `Cannot use "${path}" as ${name}: a folder with vocab.json and merges.txt was needed`,
  );
}
