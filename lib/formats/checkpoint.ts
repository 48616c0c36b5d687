/**
 * A checkpoint, however it is stored, as named tensors under the names that diffusers gives them: a diffusers folder, one
 * file with the original names of Stable Diffusion 1, 2 or XL, or a single component.
 */
import type { FileDType } from "./safetensors.ts";
import type { Shape } from "../base/shape.ts";

export type ComponentName =
  | "text_encoder"
  | "text_encoder_2"
  | "unet"
  | "vae"
  | "taesd_encoder"
  | "taesd_decoder";

/** What is known of a tensor before it is read. */
export interface WeightInfo {
  /** The diffusers name; "unknown:" and the key in the file where no rule gives one. */
  readonly name: string;
  readonly dtype: FileDType;
  /** After splitting, squeezing and transposing. */
  readonly shape: Shape;
  /** The key in the file, for messages. */
  readonly source: string;
}

/** The tensors of one component. Disposing the last component of a file closes it. */
export interface Weights extends AsyncDisposable {
  readonly infos: ReadonlyMap<string, WeightInfo>;
  /**
   * One tensor, row-major, in `into` where that is given and large enough. Throws `FormatError` for a name that `infos` lacks
   * and when the file has become shorter.
   */
  read(
    name: string,
    into?: Uint8Array<ArrayBuffer>,
  ): Promise<{ readonly dtype: FileDType; readonly data: Uint8Array<ArrayBuffer> }>;
}

/** The files of a CLIP tokenizer, read. */
export interface TokenizerFiles {
  /** vocab.json */
  readonly vocab: string;
  /** merges.txt */
  readonly merges: string;
  /** tokenizer_config.json, parsed. */
  readonly config?: unknown;
  /** special_tokens_map.json, parsed. */
  readonly specialTokens?: unknown;
}

export interface Checkpoint extends AsyncDisposable {
  readonly path: string;
  readonly kind: "folder" | "file" | "component";
  readonly components: ReadonlyMap<ComponentName, Weights>;
  /** Parsed JSON: "model_index", "scheduler", "tokenizer…", and the config.json of each component ("taesd" for a TAESD). */
  readonly configs: ReadonlyMap<string, unknown>;
  /** The `__metadata__` of a single file. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Keys skipped on purpose: moving averages, schedule buffers, position ids. */
  readonly ignored: readonly string[];
  /** Keys that belong to no component. */
  readonly unexpected: readonly string[];
  /** The tokenizer of a folder; `undefined` where it carries none. */
  tokenizerFiles(component: "tokenizer" | "tokenizer_2"): Promise<TokenizerFiles | undefined>;
}
