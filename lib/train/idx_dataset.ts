/** MNIST's and Fashion-MNIST's files: grey pictures in one IDX file, their classes' numbers in another beside it. */

import { join } from "node:path";
import { counted } from "../base/counted.ts";
import { FormatError } from "../base/errors.ts";
import { show } from "../base/shape.ts";
import { fileError } from "../formats/files.ts";
import { type IdxData, readIdx } from "../formats/idx.ts";
import type { Dataset } from "./dataset.ts";

/** "train-images-idx3-ubyte.gz", "t10k-images.idx3-ubyte". */
const PICTURES = /images[-.]idx3-ubyte(\.gz)?$/;

/** Whether there are such pictures among some files. */
export function hasIdx(files: readonly string[]): boolean {
  return files.some((file) => PICTURES.test(file));
}

/**
 * Opens a file of pictures, or a folder's: those whose name begins with "train" where there are several. Throws
 * `FileError`, and `FormatError` where the files do not belong together.
 */
export async function openIdx(path: string): Promise<Dataset> {
  const source = PICTURES.test(path) ? path : await choose(path);
  const pictures = await read(source);
  const [count, height, width] = pictures.shape;
  if (pictures.shape.length !== 3 || height * width === 0) {
    throw new FormatError(
      `Cannot train with "${source}": it holds ${
        show(pictures.shape)
      }, and [pictures, height, width] was needed`,
    );
  }
  const labels = await labelsOf(source, count);
  return {
    path,
    length: count,
    example(index) {
      const data = pictures.data.slice(index * height * width, (index + 1) * height * width);
      return Promise.resolve({
        key: String(index),
        ...(labels ? { label: String(labels[index]) } : {}),
        picture: () => Promise.resolve({ width, height, channels: 1, data: data.slice() }),
      });
    },
    [Symbol.dispose]() {},
  };
}

async function choose(folder: string): Promise<string> {
  const names = (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name))
    .filter((name) => PICTURES.test(name)).sort();
  return join(folder, names.find((name) => name.startsWith("train")) ?? names[0]);
}

async function read(path: string): Promise<IdxData> {
  const bytes = await Deno.readFile(path).catch((error) => {
    throw fileError("read the data set", path, error);
  });
  return await readIdx(bytes, `"${path}"`);
}

/** Undefined where there is no such file, packed or not. */
async function labelsOf(source: string, count: number): Promise<Uint8Array | undefined> {
  const path = source.replace(/images([-.])idx3/, "labels$1idx1");
  const plain = path.replace(/\.gz$/, "");
  for (const candidate of [path, plain, `${plain}.gz`]) {
    const exists = await Deno.stat(candidate).then(() => true, () => false);
    if (!exists) continue;
    const { shape, data } = await read(candidate);
    if (shape.length === 1 && shape[0] === count) return data;
    throw new FormatError(
      `Cannot train with "${source}": it has ${
        counted(count, "picture")
      }, and "${candidate}" holds ${show(shape)} labels`,
    );
  }
  return undefined;
}
