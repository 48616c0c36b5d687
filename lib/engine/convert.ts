/** A checkpoint in another form: one file or a diffusers folder, in another type, with another first stage, with LoRAs in it. */

import { resolve, sep } from "node:path";
import { FileError, FormatError, UsageError } from "../base/errors.ts";
import { sizeOf } from "../base/shape.ts";
import { cast, type CastType } from "../formats/cast.ts";
import { bytesOf } from "../formats/changes.ts";
import { type Checkpoint, openCheckpoint } from "../formats/checkpoint.ts";
import { LORA_COMPONENTS } from "../formats/lora_names.ts";
import { FILE_BYTES, type TensorData } from "../formats/safetensors.ts";
import { requirePlace } from "../formats/whole_folder.ts";
import { type Architecture, architectureOf, autoencoderFor } from "./architecture.ts";
import { type ConvertedPart, folderClip, partsOf } from "./converted.ts";
import { type MakeTokenizer, saveFile, saveFolder } from "./converted_files.ts";
import { type LoraChoice, Loras } from "./lora.ts";

/** What a checkpoint can become. */
export type CheckpointForm = "file" | "folder";

/** How a checkpoint is converted. */
export interface ConvertOptions {
  /** What the result is; where absent a name that ends in ".safetensors" is a file's, any other a folder's. */
  readonly form?: CheckpointForm;
  /** Type of all weights; each as it is where absent. */
  readonly dtype?: CastType;
  /** Another first stage: a VAE file or folder, or for a folder also a TAESD. */
  readonly vae?: string;
  /** Folded into the weights. */
  readonly loras?: readonly LoraChoice[];
  /** A folder with vocab.json and merges.txt, or a diffusers folder; where absent the checkpoint's, else CLIP's. */
  readonly tokenizer?: string;
  /** Whether what has the result's name is replaced, once the result is whole; false where absent. */
  readonly overwrite?: boolean;
  /** Called while tensors are written, with bytes that are done, bytes in all, and the part's name. */
  readonly progress?: (done: number, total: number, part: string) => void;
  /** Ends the work before the next tensor; nothing is left of it then. */
  readonly signal?: AbortSignal;
}

/** What was written. */
export interface Conversion {
  /** Where. */
  readonly path: string;
  /** As what. */
  readonly form: CheckpointForm;
  /** The model's parts that it holds. */
  readonly parts: readonly string[];
  /** Of tensors. */
  readonly bytes: number;
  /** Keys of tensors that no model needs, such as moving averages: they were left out. */
  readonly dropped: readonly string[];
  /** Sentences about what is amiss, such as layers of a LoRA that the model does not have. */
  readonly warnings: readonly string[];
}

/** Names that a converted folder may hold: it may be replaced by another. */
const OURS: ReadonlySet<string> = new Set([
  ...["model_index.json", "scheduler", "tokenizer", "tokenizer_2", "unet", "vae", "conditioner"],
  ...["text_encoder", "text_encoder_2", "config.json", "model.safetensors"],
  "diffusion_pytorch_model.safetensors",
]);

/** Parts of a checkpoint that another first stage replaces. */
const FIRST_STAGES = ["vae", "taesd_encoder", "taesd_decoder"] as const;

/** What a name asks for. Throws `UsageError` for one of a file of another kind, which nobody means as a folder's. */
function formOf(output: string): CheckpointForm {
  if (output.endsWith(".safetensors")) return "file";
  if (!/\.(ckpt|pth?|bin|gguf)$/i.test(output)) return "folder";
  throw new UsageError(
    `Cannot write "${output}": a name that ends in .safetensors, for a file, or one without an extension, for a folder, ` +
      `was needed`,
  );
}

/** As `convertCheckpoint` of lib/pipelines, which knows how a tokenizer is made. */
export async function convert(
  input: string,
  output: string,
  options: ConvertOptions,
  makeTokenizer: MakeTokenizer,
): Promise<Conversion> {
  const { dtype, vae, loras = [], tokenizer, overwrite = false } = options;
  const form = options.form ?? formOf(output);
  if (form === "file" && tokenizer !== undefined) {
    throw new UsageError(
      `Cannot put the tokenizer "${tokenizer}" into a single file: only a folder has a place for one`,
    );
  }
  const sources = [input, vae, tokenizer, ...loras.map(({ path }) => path)];
  await requireApart(output, sources.filter((path) => path !== undefined));
  await requirePlace(output, { form, overwrite, isOurs: (name) => OURS.has(name) });

  await using stack = new AsyncDisposableStack();
  const checkpoint = stack.use(await openCheckpoint(input));
  const folded = stack.use(new Loras(input));
  const own = await architectureOf(checkpoint);
  const architecture = form === "file" ? own : asInFolders(own, checkpoint);
  const components = new Map(
    [...checkpoint.components].map(([name, weights]) => {
      const changeable = LORA_COMPONENTS.find((each) => each === name);
      return [name, changeable ? folded.over(changeable, weights) : weights];
    }),
  );
  const { warnings } = await folded.use(loras);
  const other = vae === undefined ? undefined : stack.use(await openCheckpoint(vae));
  if (other) { for (const name of FIRST_STAGES) components.delete(name); }
  const { parts, dropped } = await partsOf(checkpoint, architecture, components);
  if (other) parts.push(await firstStageOf(other, architecture));
  const typed = dtype === undefined ? parts : parts.map((part) => inType(part, dtype));
  const { counted, bytes } = withProgress(typed, options);
  const job = { input, output, checkpoint, architecture, tokenizer, makeTokenizer };
  await (form === "file" ? saveFile : saveFolder)(counted, job);
  return {
    path: output,
    form,
    parts: parts.map(({ name }) => name),
    bytes,
    dropped: [...checkpoint.ignored, ...checkpoint.unexpected, ...dropped],
    warnings,
  };
}

/** Throws `FileError` where the result would replace what it is made of, or a folder that this is in. */
async function requireApart(output: string, sources: readonly string[]): Promise<void> {
  const real = (path: string) => Deno.realPath(path).catch(() => resolve(path));
  const target = await real(output);
  for (const source of sources) {
    const path = await real(source);
    if (path !== target && !path.startsWith(target + sep)) continue;
    throw new FileError(
      `Cannot convert "${source}" to "${output}": that is the same place; choose another name`,
    );
  }
}

/** The text encoder of SD 2 as folders have it, where no config says otherwise. */
function asInFolders(architecture: Architecture, { configs }: Checkpoint): Architecture {
  const { family, textEncoders } = architecture;
  return {
    ...architecture,
    textEncoders: new Map(
      [...textEncoders].map(([name, config]) => [
        name,
        configs.has(name) ? config : folderClip(family, config),
      ]),
    ),
  };
}

/** The first stage of another checkpoint, for this one's denoiser. Throws `FormatError`. */
async function firstStageOf(
  checkpoint: Checkpoint,
  { family, unet }: Architecture,
): Promise<ConvertedPart> {
  const own = await architectureOf(checkpoint);
  const vae = own.vae && autoencoderFor(own.vae, checkpoint, family);
  const components = new Map(
    FIRST_STAGES.flatMap((name) => {
      const weights = checkpoint.components.get(name);
      return weights ? [[name, weights] as const] : [];
    }),
  );
  const { parts: [part] } = await partsOf(checkpoint, { ...own, vae }, components);
  if (!part) {
    throw new FormatError(`Cannot use "${checkpoint.path}" as the first stage: it holds none`);
  }
  const channels = (vae ?? own.taesd)?.latentChannels;
  if (unet && channels !== unet.outChannels) {
    throw new FormatError(
      `Cannot use "${checkpoint.path}" as the first stage: it has ${channels} latent channels, and the UNet predicts ${unet.outChannels}`,
    );
  }
  return part;
}

/** A part with other tensors. */
function withTensors(
  part: ConvertedPart,
  change: (tensor: TensorData) => TensorData,
): ConvertedPart {
  const pieces = part.pieces.map((piece) => ({ ...piece, tensors: piece.tensors.map(change) }));
  return { ...part, pieces };
}

const inType = (part: ConvertedPart, dtype: CastType) =>
  withTensors(part, (tensor) => cast(tensor, dtype));

/** Parts whose tensors tell when they are made, and their bytes in all. */
function withProgress(
  parts: readonly ConvertedPart[],
  { progress = () => {}, signal }: ConvertOptions,
): { readonly counted: readonly ConvertedPart[]; readonly bytes: number } {
  const size = ({ shape, dtype }: TensorData) => sizeOf(shape) * FILE_BYTES[dtype];
  const tensors = parts.flatMap(({ pieces }) => pieces.flatMap((piece) => piece.tensors));
  const bytes = tensors.reduce((sum, tensor) => sum + size(tensor), 0);
  let done = 0;
  const counted = parts.map((part) =>
    withTensors(part, (tensor) => ({
      ...tensor,
      async data() {
        signal?.throwIfAborted();
        const data = await bytesOf(tensor);
        done += data.length;
        progress(done, bytes, part.name);
        return data;
      },
    }))
  );
  return { counted, bytes };
}
