/** What a checkpoint is made of: named tensors in open files, and who gathers them. */

import { dirname, join } from "node:path";
import { FormatError } from "../base/errors.ts";
import type { TokenizerFiles } from "../base/tokenizer_files.ts";
import { type Shape, show } from "../base/shape.ts";
import { applied, needOf, transposeInto } from "./changes.ts";
import { type Change, type ComponentName, isIgnored, namingOf, toDiffusers } from "./keys.ts";
import { AGAIN, field, isFile, readJson, readText } from "./reading.ts";
import { FILE_BYTES, type FileDType, SafetensorsFile } from "./safetensors.ts";
import { readTokenizer, tokenizerIn } from "./tokenizer_folder.ts";

/** What is known of a tensor before it is read. */
export interface WeightInfo {
  /** The diffusers name; "unknown:" and the key in the file where no rule gives one. */
  readonly name: string;
  /** Type of its values in the file. */
  readonly dtype: FileDType;
  /** After splitting, squeezing and transposing. */
  readonly shape: Shape;
  /** The key in the file, for messages. */
  readonly source: string;
}

/**
 * The tensors of one component, in the order of the file. Disposing the last component of a file
 * closes it.
 */
export interface Weights extends AsyncDisposable {
  /** What there is, by name. */
  readonly infos: ReadonlyMap<string, WeightInfo>;
  /**
   * One tensor, row-major, in `into` (its beginning) where that is given and large enough. Throws
   * `FormatError` for a name that `infos` lacks and when the file has become shorter.
   */
  read(
    name: string,
    into?: Uint8Array<ArrayBuffer>,
  ): Promise<{ readonly dtype: FileDType; readonly data: Uint8Array<ArrayBuffer> }>;
}

/** An open checkpoint. Dispose of it to close its files. */
export interface Checkpoint extends AsyncDisposable {
  /** As it was opened. */
  readonly path: string;
  /** A diffusers folder, one file, or a folder or file of one component. */
  readonly kind: "folder" | "file" | "component";
  /** The parts of the model that it holds. */
  readonly components: ReadonlyMap<ComponentName, Weights>;
  /**
   * Parsed JSON: "model_index", "scheduler", "tokenizer…", and the config.json of each component
   * ("taesd" for a TAESD).
   */
  readonly configs: ReadonlyMap<string, unknown>;
  /** The `__metadata__` of a single file. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Keys skipped on purpose: moving averages, schedule buffers, position ids. */
  readonly ignored: readonly string[];
  /** Keys that belong to no component. */
  readonly unexpected: readonly string[];
  /**
   * config.json of a component as it was written: whether a number is 1 or 1.0, which transformers tells apart, is lost in
   * `configs`. `undefined` where it has no folder.
   */
  configText(component: ComponentName): Promise<string | undefined>;
  /** The tokenizer of a folder, or of a file that was made of one here; `undefined` where it carries none. */
  tokenizerFiles(component: "tokenizer" | "tokenizer_2"): Promise<TokenizerFiles | undefined>;
}

/** An error about a whole checkpoint. */
export function refuse(path: string, what: string): FormatError {
  return new FormatError(`Cannot open the checkpoint "${path}": ${what}`);
}

/** What a component's config is called. */
export function nameOfConfig(component: ComponentName): string {
  return component.startsWith("taesd") ? "taesd" : component;
}

/** A tensor in a file. */
export interface Place {
  readonly file: SafetensorsFile;
  readonly key: string;
}

/** The part of it that makes one tensor of the model. */
interface Origin extends Place {
  readonly from: number;
  readonly to: number;
  readonly transpose: boolean;
}

class FileWeights implements Weights {
  readonly infos: ReadonlyMap<string, WeightInfo>;
  readonly #origins: ReadonlyMap<string, Origin>;
  readonly #release: () => void;

  constructor(
    infos: ReadonlyMap<string, WeightInfo>,
    origins: ReadonlyMap<string, Origin>,
    release: () => void,
  ) {
    this.infos = infos;
    this.#origins = origins;
    this.#release = release;
  }

  async read(name: string, into?: Uint8Array<ArrayBuffer>) {
    const info = this.infos.get(name);
    const origin = this.#origins.get(name);
    if (!info || !origin) throw new FormatError(`Cannot read "${name}": the checkpoint has none`);
    const { file, key, from, to, transpose } = origin;
    const { dtype, shape } = info;
    if (!transpose) return { dtype, data: await file.readRange(key, from, to, into) };
    const source = await file.readRange(key, from, to);
    const data = into && into.length >= source.length
      ? into.subarray(0, source.length)
      : new Uint8Array(source.length);
    transposeInto(data, source, shape, FILE_BYTES[dtype]);
    return { dtype, data };
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#release();
    return Promise.resolve();
  }
}

/** Gathers a checkpoint's components; closes what it opened unless it comes to `finish`. */
export class Builder implements Disposable {
  readonly path: string;
  kind: Checkpoint["kind"] = "component";
  readonly configs = new Map<string, unknown>();
  readonly metadata = new Map<string, string>();
  readonly ignored: string[] = [];
  readonly unexpected: string[] = [];
  readonly folders = new Map<string, string>();
  readonly #components = new Map<ComponentName, Weights>();
  readonly #files = new DisposableStack();
  /** How many components still read a file. */
  readonly #users = new Map<SafetensorsFile, number>();

  constructor(path: string) {
    this.path = path;
  }

  get isEmpty(): boolean {
    return this.#components.size === 0;
  }

  async open(path: string): Promise<SafetensorsFile> {
    return this.#files.use(await SafetensorsFile.open(path));
  }

  /**
   * The files that an index names, which lie next to it; every tensor that it promises must be
   * where it says.
   */
  async openShards(indexPath: string): Promise<SafetensorsFile[]> {
    const wrong = (what: string) =>
      new FormatError(`Cannot read the shard index "${indexPath}": ${what}`);
    const map = field(await readJson(indexPath), "weight_map");
    if (typeof map !== "object" || map === null || Object.keys(map).length === 0) {
      throw wrong("it has no weight_map from tensors to files");
    }
    const files = new Map<string, SafetensorsFile>();
    for (const [name, shard] of Object.entries(map)) {
      if (typeof shard !== "string" || !/^[^\\/]+\.safetensors$/.test(shard)) {
        throw wrong(
          `it puts "${name}" into ${JSON.stringify(shard)}, no .safetensors file next to it`,
        );
      }
      let file = files.get(shard);
      if (!file) {
        const path = join(dirname(indexPath), shard);
        if (!await isFile(path)) throw wrong(`its shard "${shard}" is missing; ${AGAIN}`);
        file = await this.open(path);
        files.set(shard, file);
      }
      if (!file.tensors.has(name)) {
        throw wrong(`it promises "${name}" in "${shard}", which has no such tensor; ${AGAIN}`);
      }
    }
    return [...files.values()];
  }

  /**
   * All tensors of some files but the ignored ones. Throws `FormatError` when two files hold one
   * name.
   */
  useful(files: readonly SafetensorsFile[]): Map<string, Place> {
    const keys = new Map<string, Place>();
    for (const file of files) {
      for (const key of file.tensors.keys()) {
        const other = keys.get(key);
        if (other) {
          throw refuse(this.path, `"${key}" is in "${other.file.path}" and in "${file.path}"`);
        }
        if (isIgnored(key)) this.ignored.push(key);
        else keys.set(key, { file, key });
      }
    }
    return keys;
  }

  /** Adds a component. The names of `places` are those in the file, less the component's prefix. */
  add(component: ComponentName, places: ReadonlyMap<string, Place>): void {
    const naming = namingOf(component, new Set(places.keys()));
    const { relations, unknown } = toDiffusers(naming, [...places.keys()]);
    const infos = new Map<string, WeightInfo>();
    const origins = new Map<string, Origin>();
    const put = (name: string, { file, key }: Place, change?: Change) => {
      const { dtype, shape, start, end } = file.entry(key);
      const part = applied(change, shape, end - start);
      if (!part) {
        throw refuse(file.path, `"${key}" has shape ${show(shape)}, it needs ${needOf(change)}`);
      }
      const twice = infos.get(name);
      if (twice) throw refuse(file.path, `"${twice.source}" and "${key}" both are "${name}"`);
      infos.set(name, { name, dtype, shape: part.shape, source: key });
      origins.set(name, {
        file,
        key,
        from: part.from,
        to: part.to,
        transpose: change === "transpose",
      });
    };
    for (const { original, diffusers, change } of relations) {
      put(diffusers, places.get(original)!, change);
    }
    for (const key of unknown) put(`unknown:${key}`, places.get(key)!);

    const files = new Set(places.values().map(({ file }) => file));
    for (const file of files) this.#users.set(file, (this.#users.get(file) ?? 0) + 1);
    const users = this.#users;
    const release = () => {
      for (const file of files) {
        users.set(file, users.get(file)! - 1);
        if (users.get(file) === 0) file.close();
      }
      files.clear(); // a second disposal does nothing
    };
    this.#components.set(component, new FileWeights(infos, origins, release));
  }

  /** Hands the open files over to the checkpoint. */
  finish(): Checkpoint {
    const files = this.#files.move();
    const { path, kind, configs, metadata, ignored, unexpected, folders } = this;
    return {
      path,
      kind,
      components: this.#components,
      configs,
      metadata,
      ignored,
      unexpected,
      async configText(component) {
        const folder = folders.get(nameOfConfig(component));
        return folder === undefined ? undefined : await readText(join(folder, "config.json"));
      },
      async tokenizerFiles(component) {
        const folder = folders.get(component);
        return folder === undefined
          ? tokenizerIn(metadata, component, path)
          : await readTokenizer(folder);
      },
      [Symbol.asyncDispose]() {
        files.dispose();
        return Promise.resolve();
      },
    };
  }

  [Symbol.dispose](): void {
    this.#files.dispose();
  }
}
