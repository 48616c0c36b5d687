/**
 * WebDataset archives (webdataset/webdataset): tar files in which files of one sample have the same name up to the first
 * dot: `000.jpg` with `000.txt` (a caption), `000.cls` (a class) `000.json` (an annotation) and
 * `000.map.png` (a map of what lies where).
 */

import { join } from "node:path";
import { FormatError } from "../base/errors.ts";
import { type Annotation, annotationOf, oneLine } from "../formats/annotations.ts";
import { fileError } from "../formats/files.ts";
import { decodePicture } from "../formats/png.ts";
import { type TarEntry, TarFile } from "../formats/tar.ts";
import type { Dataset, Example, Report } from "./dataset.ts";

const MAP = /^map\.(png|jpe?g|webp|gif|bmp)$/;
const PICTURE = /(^|\.)(png|jpe?g|webp|gif|bmp)$/;

/** What a sample's file says, by the end of its name; later ones win. */
const READERS: readonly { readonly ending: RegExp; readonly read: (text: string) => Annotation }[] =
  [
    { ending: /(^|\.)json$/, read: (text) => annotationOf(JSON.parse(text)) },
    { ending: /(^|\.)(txt|caption)$/, read: (text) => ({ text: oneLine(text) }) },
    { ending: /(^|\.)cls$/, read: (text) => ({ label: text.trim() }) },
  ];

interface Sample {
  readonly archive: TarFile;
  readonly key: string;
  readonly picture?: TarEntry;
  readonly map?: TarEntry;
  /** In the order of `READERS`. */
  readonly said: readonly {
    readonly entry: TarEntry;
    readonly read: (text: string) => Annotation;
  }[];
}

/** Opens one archive, or all of a folder in the order of their names. Throws `FileError` and `FormatError`. */
export async function openWebDataset(path: string, report: Report): Promise<Dataset> {
  const archives: TarFile[] = [];
  const dispose = () => archives.forEach((archive) => archive[Symbol.dispose]());
  try {
    for (const file of await archivesAt(path)) archives.push(await TarFile.open(file));
  } catch (error) {
    dispose();
    throw error;
  }
  const all = archives.flatMap((archive) => samplesOf(archive));
  const samples = all.filter(({ picture }) => picture !== undefined);
  if (samples.length < all.length) {
    report(
      `Left out ${
        all.length - samples.length
      } of ${all.length} samples in "${path}": they have no picture`,
    );
  }
  return {
    path,
    length: samples.length,
    // deno-lint-ignore require-await -- what it throws must reject
    async example(index) {
      const { archive, key, picture, map, said } = samples[index];
      const bytesOf = (entry: TarEntry | undefined) =>
        entry ? archive.read(entry) : new Uint8Array(0);
      const texts = said.map(({ entry, read }) => {
        try {
          return read(new TextDecoder().decode(bytesOf(entry)));
        } catch (error) {
          const isJson = error instanceof SyntaxError;
          if (!(error instanceof FormatError || isJson)) throw error;
          throw new FormatError(
            `Cannot read "${entry.name}" in "${archive.path}": ${
              isJson ? "it is not JSON" : error.message
            }`,
          );
        }
      });
      const decoded =
        (entry: TarEntry | undefined): Example["picture"] => async (decode = decodePicture) =>
          await decode(bytesOf(entry), `"${entry?.name}" in "${archive.path}"`);
      const { map: _, ...all } = texts.reduce((all, one) => ({ ...all, ...one }), {});
      return { key, ...all, picture: decoded(picture), ...(map ? { map: decoded(map) } : {}) };
    },
    [Symbol.dispose]: dispose,
  };
}

async function archivesAt(path: string): Promise<string[]> {
  if (/\.tar$/i.test(path)) return [path];
  try {
    const names = await Array.fromAsync(Deno.readDir(path), ({ name }) => name);
    return names.filter((name) => /\.tar$/i.test(name)).sort().map((name) => join(path, name));
  } catch (error) {
    throw fileError("read the data set", path, error);
  }
}

/** In the order of the archive. */
function samplesOf(archive: TarFile): Sample[] {
  const groups = new Map<string, Map<string, TarEntry>>();
  for (const entry of archive.entries) {
    const [, key, ending] = /^((?:.*\/)?[^/.]+)\.([^/]+)$/.exec(entry.name) ?? [];
    if (key === undefined) continue;
    const group = groups.get(key) ?? new Map<string, TarEntry>();
    groups.set(key, group.set(ending.toLowerCase(), entry));
  }
  return [...groups].map(([key, group]) => {
    const files = [...group];
    const map = files.find(([ending]) => MAP.test(ending))?.[1];
    const picture = files.find(([ending, entry]) => PICTURE.test(ending) && entry !== map)?.[1];
    const said = READERS.flatMap(({ ending, read }) =>
      files.filter(([name]) => ending.test(name)).map(([, entry]) => ({ entry, read }))
    );
    return { archive, key, ...(picture ? { picture } : {}), ...(map ? { map } : {}), said };
  });
}
