/**
 * Pictures as latents of a first stage. Each is encoded once; where there is a file they are kept in it, so that the next
 * epoch and the next run read them back, to the bit.
 *
 * The file is a fingerprint of the first stage and then records of one size: digest of the picture, digest of its latents,
 * latents. It only grows; what was being written when a run broke off is cut, and what its digest does not fit is encoded
 * again.
 */

import { join } from "node:path";
import type { LoadedFirstStage } from "../engine/load.ts";
import { toChannelsLast } from "../engine/stages.ts";
import { makeFolder } from "../formats/diffusers_folder.ts";
import { fileError } from "../formats/files.ts";
import type { DiffusionConfig } from "./config.ts";
import type { FittedPicture } from "./images.ts";

type Bytes = Uint8Array<ArrayBuffer>;
type Numbers = Float32Array<ArrayBuffer>;

/** A picture, −1 … 1. */
export type LatentInput = Pick<FittedPicture, "data" | "width" | "height" | "channels">;

export interface LatentOptions {
  /** Pixels of a side of every picture. */
  readonly size: number;
  /** Where latents are kept; `undefined` keeps none. */
  readonly path: string | undefined;
  /** Called before pictures are encoded. */
  readonly makeRoom: () => void;
}

/** Bytes of a digest (SHA-256, cut). */
const DIGEST = 16;

async function digestOf(data: Numbers): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", data)).slice(0, DIGEST);
}

const hex = (bytes: Bytes) => bytes.toHex();

/** The first stage as training uses it. Dispose of it to close its file; the first stage is the caller's. */
export class LatentSource implements Disposable {
  readonly #stage: LoadedFirstStage;
  readonly #makeRoom: () => void;
  readonly #file: LatentFile | undefined;

  private constructor(
    stage: LoadedFirstStage,
    makeRoom: () => void,
    file: LatentFile | undefined,
  ) {
    this.#stage = stage;
    this.#makeRoom = makeRoom;
    this.#file = file;
  }

  /**
   * Encodes one picture, so that what this takes is on the device from now on. Throws `FileError` where the file cannot be
   * used, and what the first stage throws.
   */
  static async open(
    stage: LoadedFirstStage,
    { size, path, makeRoom }: LatentOptions,
  ): Promise<LatentSource> {
    const ramp = Float32Array.from({ length: size * size * 3 }, (_, i) => (i % 257) / 128 - 1);
    const picture = { data: ramp, width: size, height: size, channels: 3 } as const;
    const [known] = await encoded(stage, [picture]);
    const file = path === undefined
      ? undefined
      : await LatentFile.open(path, await digestOf(known), known.length);
    return new LatentSource(stage, makeRoom, file);
  }

  /**
   * Latents of each picture in the denoiser's scale, [h, w, c]. Throws `FileError`, and what the first stage throws.
   */
  async of(pictures: readonly LatentInput[]): Promise<Numbers[]> {
    const file = this.#file;
    if (!file) return await this.fresh(pictures);
    const keys = await Promise.all(pictures.map(({ data }) => digestOf(data)));
    const known = new Map<string, Numbers>();
    const missing = new Map<string, { readonly key: Bytes; readonly picture: LatentInput }>();
    for (const [i, key] of keys.entries()) {
      const kept = await file.read(key);
      if (kept) known.set(hex(key), kept);
      else missing.set(hex(key), { key, picture: pictures[i] });
    }
    const made = await this.fresh([...missing.values()].map(({ picture }) => picture));
    for (const [i, [name, { key }]] of [...missing].entries()) {
      await file.append(key, made[i]);
      known.set(name, made[i]);
    }
    return keys.map((key) => known.get(hex(key)) ?? new Float32Array());
  }

  /** The same, of pictures that will not come again. */
  async fresh(pictures: readonly LatentInput[]): Promise<Numbers[]> {
    if (pictures.length === 0) return [];
    this.#makeRoom();
    return await encoded(this.#stage, pictures);
  }

  [Symbol.dispose](): void {
    this.#file?.[Symbol.dispose]();
  }
}

async function encoded(
  stage: LoadedFirstStage,
  pictures: readonly LatentInput[],
): Promise<Numbers[]> {
  const floats = pictures.map(({ data, width, height, channels }) => {
    const repeat = 3 / channels; // grey is three equal colours
    const colours = new Float32Array(width * height * 3);
    for (let i = 0; i < colours.length; i++) colours[i] = (data[Math.floor(i / repeat)] + 1) / 2;
    return { data: colours, width, height };
  });
  const all = await stage.encodeAll(floats);
  return all.map(({ data, channels, height, width }) =>
    toChannelsLast(data, channels, height * width)
  );
}

class LatentFile implements Disposable {
  readonly #path: string;
  readonly #file: Deno.FsFile;
  readonly #numbers: number;
  /** Digest of a picture → its record. */
  readonly #records = new Map<string, number>();
  #count = 0;

  private constructor(path: string, file: Deno.FsFile, numbers: number) {
    this.#path = path;
    this.#file = file;
    this.#numbers = numbers;
  }

  static async open(path: string, fingerprint: Bytes, numbers: number): Promise<LatentFile> {
    try {
      const file = await Deno.open(path, { read: true, write: true, create: true });
      const made = new LatentFile(path, file, numbers);
      try {
        await made.#begin(fingerprint);
      } catch (error) {
        file.close();
        throw error;
      }
      return made;
    } catch (error) {
      throw fileError("keep latents in", path, error);
    }
  }

  get #recordBytes(): number {
    return 2 * DIGEST + 4 * this.#numbers;
  }

  #offsetOf(record: number): number {
    return DIGEST + record * this.#recordBytes;
  }

  /** Reads what is there, or begins anew where another first stage or size made it. */
  async #begin(fingerprint: Bytes): Promise<void> {
    const { size } = await this.#file.stat();
    const found = await this.#readAt(0, DIGEST);
    if (found === undefined || hex(found) !== hex(fingerprint)) {
      await this.#file.truncate(0);
      await this.#writeAt(0, fingerprint);
      return;
    }
    this.#count = Math.floor((size - DIGEST) / this.#recordBytes);
    for (let record = 0; record < this.#count; record++) {
      const key = await this.#readAt(this.#offsetOf(record), DIGEST);
      if (key) this.#records.set(hex(key), record);
    }
    await this.#file.truncate(this.#offsetOf(this.#count));
  }

  async read(key: Bytes): Promise<Numbers | undefined> {
    const record = this.#records.get(hex(key));
    if (record === undefined) return undefined;
    try {
      const bytes = await this.#readAt(this.#offsetOf(record) + DIGEST, this.#recordBytes - DIGEST);
      if (!bytes) return undefined;
      const latents = new Float32Array(bytes.slice(DIGEST).buffer);
      return hex(await digestOf(latents)) === hex(bytes.subarray(0, DIGEST)) ? latents : undefined;
    } catch (error) {
      throw fileError("read latents from", this.#path, error);
    }
  }

  async append(key: Bytes, latents: Numbers): Promise<void> {
    const record = new Uint8Array(this.#recordBytes);
    record.set(key);
    record.set(await digestOf(latents), DIGEST);
    record.set(new Uint8Array(latents.buffer, latents.byteOffset, latents.byteLength), 2 * DIGEST);
    try {
      await this.#writeAt(this.#offsetOf(this.#count), record);
    } catch (error) {
      throw fileError("keep latents in", this.#path, error);
    }
    this.#records.set(hex(key), this.#count);
    this.#count += 1;
  }

  /** `undefined` where the file ends before. */
  async #readAt(offset: number, length: number): Promise<Bytes | undefined> {
    await this.#file.seek(offset, Deno.SeekMode.Start);
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length;) {
      const n = await this.#file.read(bytes.subarray(at));
      if (n === null) return undefined;
      at += n;
    }
    return bytes;
  }

  async #writeAt(offset: number, bytes: Bytes): Promise<void> {
    await this.#file.seek(offset, Deno.SeekMode.Start);
    for (let at = 0; at < bytes.length;) at += await this.#file.write(bytes.subarray(at));
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

/** The latents of a run's pictures, kept in its folder where settings say so. */
export async function openLatents(
  stage: LoadedFirstStage,
  { run: { folder }, data: { size, crop } }: Pick<DiffusionConfig, "run" | "data">,
  isCached: boolean,
  makeRoom: () => void,
): Promise<LatentSource> {
  const isKept = isCached && crop === "centre"; // crops of chance never come again
  if (isKept) await makeFolder(folder);
  const path = isKept ? join(folder, "latents.bin") : undefined;
  return await LatentSource.open(stage, { size, path, makeRoom });
}
