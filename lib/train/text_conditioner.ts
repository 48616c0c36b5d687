/** Text as a denoiser's condition: a transformer like CLIP's that is trained with it, or a CLIP that stays as it is. */

import { FormatError } from "../base/errors.ts";
import { architectureOf } from "../engine/architecture.ts";
import { Part } from "../engine/part.ts";
import { clipManifest, runClip, type TextEncoder } from "../engine/stages.ts";
import { compare, requireMatch } from "../engine/weights.ts";
import { type Checkpoint, openCheckpoint, requireComponent } from "../formats/checkpoint.ts";
import type { Device } from "../gpu/device.ts";
import { type ClipConfig, clipText } from "../models/clip.ts";
import { clipOutput } from "../models/family.ts";
import { clipJson } from "../models/diffusers_json.ts";
import { paramsOf } from "../nn/params.ts";
import { type ClipTokenizer, folderTokenizer, type TokenizerFiles } from "../text/tokenizer.ts";
import { clipTokenizerFiles } from "../text/tokenizer_files.ts";
import { END } from "../text/vocabulary.ts";
import type { Conditioner } from "./conditioner.ts";
import type { DiffusionConfig } from "./config.ts";

/** Scope of its parameters, and name of its folder. */
export const TEXT_ENCODER = "text_encoder";

/** The transformer of settings, for CLIP's vocabulary; its activation and norms are ViT-L/14's. */
export function textConfigOf(
  { text }: Pick<DiffusionConfig, "text">,
  tokenizer: ClipTokenizer,
): ClipConfig {
  return {
    vocabulary: 1 + Math.max(tokenizer.start, tokenizer.end, tokenizer.padding),
    positions: text.length,
    width: text.width,
    layers: text.layers,
    heads: text.heads,
    intermediate: 4 * text.width,
    activation: "quick_gelu",
    eps: 1e-5,
    projection: undefined,
    eosTokenId: tokenizer.end,
  };
}

/** The tokenizer of files, or CLIP's vocabulary, or its beginning, for prompts as long as settings say. */
export function textTokenizerOf(
  { text }: Pick<DiffusionConfig, "text">,
  given: TokenizerFiles | undefined,
): { readonly tokenizer: ClipTokenizer; readonly files: TokenizerFiles } {
  const files = given ?? clipTokenizerFiles(text.length, END, text.vocabulary);
  return { tokenizer: folderTokenizer(files), files };
}

/** A transformer in the training graph, whose input is "tokens". */
export function textConditioner(config: ClipConfig, tokenizer: ClipTokenizer): Conditioner {
  const { length } = tokenizer;
  return {
    tokens: length,
    context(graph, n) {
      const tokens = graph.input("tokens", [n, length], "i32");
      const output = { skip: 0, finalNorm: true };
      return clipText(paramsOf(graph, TEXT_ENCODER), config, tokens, output).hidden;
    },
    inputs(told) {
      const tokens = new Int32Array(told.length * length);
      told.forEach((each, i) => tokens.set(tokenizer.tokenize(each?.text ?? "").ids, i * length));
      return Promise.resolve({ tokens });
    },
  };
}

/** Texts whose states are kept: 250 MiB of ViT-L/14's. */
const MOST_KEPT = 1024;

/** The text encoder of a checkpoint, unchanged. Dispose of it to free its weights and close its files. */
export class FrozenText implements Conditioner, Disposable {
  readonly tokens: number;
  /** Of a token's states. */
  readonly width: number;
  readonly checkpoint: Checkpoint;
  /** Its tokenizer's files, and config.json of the encoder where it has none of its own. */
  readonly files: TokenizerFiles;
  readonly json: Readonly<Record<string, unknown>>;
  readonly #part: Part;
  readonly #encoder: TextEncoder;
  readonly #tokenizer: ClipTokenizer;
  /** The latest used last. */
  readonly #kept = new Map<string, Float32Array>();

  private constructor(
    checkpoint: Checkpoint,
    part: Part,
    encoder: TextEncoder,
    tokenizer: ClipTokenizer,
    files: TokenizerFiles,
  ) {
    this.checkpoint = checkpoint;
    this.files = files;
    this.json = clipJson(encoder.config, tokenizer);
    this.#part = part;
    this.#encoder = encoder;
    this.#tokenizer = tokenizer;
    this.tokens = tokenizer.length;
    this.width = encoder.config.width;
  }

  /** Throws `FileError` and `FormatError`, where the checkpoint has no text encoder or two. */
  static async open(device: Device, path: string): Promise<FrozenText> {
    using unwind = new DisposableStack();
    const checkpoint = await openCheckpoint(path);
    unwind.defer(() => void checkpoint[Symbol.asyncDispose]());
    const weights = requireComponent(checkpoint, TEXT_ENCODER);
    const { family = "sd1", textEncoders } = await architectureOf(checkpoint);
    const config = textEncoders.get(TEXT_ENCODER);
    if (!config || textEncoders.size > 1) {
      throw new FormatError(
        `Cannot train with the text encoders of "${path}": it has ${textEncoders.size}, and one was needed`,
      );
    }
    const manifest = clipManifest(TEXT_ENCODER, config);
    requireMatch(compare(weights.infos, manifest, TEXT_ENCODER), TEXT_ENCODER, path);
    const part = unwind.adopt(
      new Part(device, {
        name: TEXT_ENCODER,
        component: TEXT_ENCODER,
        weights,
        manifest,
        path,
        dtype: "f32",
      }),
      (loaded) => loaded.unload(),
    );
    await part.load(() => {});
    const padding = family === "sd2" ? "!" : END;
    const files = await checkpoint.tokenizerFiles("tokenizer") ??
      clipTokenizerFiles(config.positions, padding);
    const tokenizer = folderTokenizer(files);
    const output = clipOutput(family, config, 1);
    const made = new FrozenText(
      checkpoint,
      part,
      { name: TEXT_ENCODER, config, output },
      tokenizer,
      files,
    );
    unwind.move();
    return made;
  }

  context: Conditioner["context"] = (graph, n) =>
    graph.input("states", [n, this.tokens, this.width]);

  inputs: Conditioner["inputs"] = async (told) => {
    const size = this.tokens * this.width;
    const states = new Float32Array(told.length * size);
    for (const [i, each] of told.entries()) {
      states.set(await this.#statesOf(each?.text ?? ""), i * size);
    }
    return { states };
  };

  async #statesOf(text: string): Promise<Float32Array> {
    const known = this.#kept.get(text);
    this.#kept.delete(text);
    const states = known ??
      (await runClip(this.#part.programs, this.#encoder, [this.#tokenizer.tokenize(text).ids]))
        .hidden[0];
    this.#kept.set(text, states);
    const [oldest] = this.#kept.keys();
    if (this.#kept.size > MOST_KEPT) this.#kept.delete(oldest);
    return states;
  }

  [Symbol.dispose](): void {
    this.#part.unload();
    void this.checkpoint[Symbol.asyncDispose](); // closing is synchronous behind its asynchronous face
  }
}
