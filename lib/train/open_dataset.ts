/** A data set of any kind, told by what lies at its path. */

import { FormatError } from "../base/errors.ts";
import { fileError } from "../formats/files.ts";
import type { Dataset, Report } from "./dataset.ts";
import { openFolder } from "./folder_dataset.ts";
import { hasIdx, openIdx } from "./idx_dataset.ts";
import { openWebDataset } from "./web_dataset.ts";

/**
 * Opens what lies at a path: a folder of pictures (in folders of it too) with captions or metadata, a `.tar` or a folder
 * of them (WebDataset), or IDX files (or their folder). Throws `FileError` where there is nothing, `FormatError` where
 * there is no picture.
 */
export async function openDataset(path: string, report: Report = () => {}): Promise<Dataset> {
  const names = await namesAt(path);
  const dataset = await openerFor(path, names)(path, report);
  if (dataset.length > 0) return dataset;
  dataset[Symbol.dispose]();
  throw new FormatError(
    `Cannot train with "${path}": it holds no pictures; a folder of PNG, JPEG or WebP pictures, WebDataset .tar files ` +
      `or IDX files were needed`,
  );
}

type Opener = (path: string, report: Report) => Promise<Dataset>;

/** `names`: of a folder's files; undefined for a file. */
function openerFor(path: string, names: readonly string[] | undefined): Opener {
  const files = names ?? [path];
  if (hasIdx(files)) return openIdx;
  if (files.some((name) => /\.tar$/i.test(name))) return openWebDataset;
  if (names) return openFolder;
  throw new FormatError(
    `Cannot train with "${path}": it is a file, and a folder of pictures, a WebDataset .tar or IDX files were needed`,
  );
}

async function namesAt(path: string): Promise<string[] | undefined> {
  try {
    const { isDirectory } = await Deno.stat(path);
    return isDirectory ? await Array.fromAsync(Deno.readDir(path), ({ name }) => name) : undefined;
  } catch (error) {
    throw fileError("read the data set", path, error);
  }
}
