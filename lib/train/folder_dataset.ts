/**
 * A folder of pictures. What is said of each stands in a `metadata.jsonl` or `metadata.csv` (Hugging Face's imagefolder),
 * else in a `.txt` or `.caption` beside it; where all pictures lie in folders of it, the first folder's name is their
 * class. The map of `fox.jpg` is what the metadata name, else `fox.map.png` beside it.
 */

import { dirname, join } from "node:path";
import {
  type Annotation,
  type Annotations,
  oneLine,
  parseCsvAnnotations,
  parseJsonLines,
} from "../formats/annotations.ts";
import { fileError } from "../formats/files.ts";
import { decodePicture } from "../formats/png.ts";
import type { Dataset, Example, Report } from "./dataset.ts";

const PICTURE = /\.(png|jpe?g|webp|gif|bmp)$/i;
const MAP = /\.map\.(png|jpe?g|webp|gif|bmp)$/i;
const CAPTION = /\.(txt|caption)$/i;

/** Readers of metadata by file name. */
const METADATA: Readonly<Record<string, (text: string) => Annotations>> = {
  "metadata.jsonl": parseJsonLines,
  "metadata.csv": parseCsvAnnotations,
};

interface Item {
  /** From the data set's folder, with slashes. */
  readonly file: string;
  readonly said: Omit<Annotation, "map">;
  readonly captionFile?: string;
  /** Likewise. */
  readonly map?: string;
}

/** Opens a folder; what is listed and not there, or there and not listed, goes to `report`. Throws `FileError`. */
export async function openFolder(path: string, report: Report): Promise<Dataset> {
  const files = (await Array.fromAsync(filesIn(path))).sort();
  const metadata = files.filter((file) => Object.hasOwn(METADATA, lastOf(file)));
  const items = metadata.length > 0 ? await listed(path, files, metadata, report) : unlisted(files);
  return {
    path,
    length: items.length,
    async example(index) {
      const { file, said, captionFile, map } = items[index];
      const decoded = (file: string): Example["picture"] => async (decode = decodePicture) => {
        const where = join(path, file);
        const bytes = await Deno.readFile(where).catch((error) => {
          throw fileError("read the picture", where, error);
        });
        return await decode(bytes, `"${where}"`);
      };
      const text = captionFile === undefined
        ? undefined
        : oneLine(await textOf(join(path, captionFile), "read the caption"));
      return {
        key: file,
        ...said,
        ...(text ? { text } : {}),
        picture: decoded(file),
        ...(map === undefined ? {} : { map: decoded(map) }),
      };
    },
    [Symbol.dispose]() {},
  };
}

/** Files in a folder and in those inside, from the folder, with slashes; hidden ones are left out. */
async function* filesIn(path: string, within = ""): AsyncGenerator<string> {
  try {
    for await (const { name, isDirectory } of Deno.readDir(join(path, within))) {
      if (name.startsWith(".")) continue;
      if (isDirectory) yield* filesIn(path, `${within}${name}/`);
      else yield within + name;
    }
  } catch (error) {
    throw fileError("read the data set", join(path, within), error);
  }
}

async function textOf(path: string, doing: string): Promise<string> {
  return await Deno.readTextFile(path).catch((error) => {
    throw fileError(doing, path, error);
  });
}

const lastOf = (file: string) => file.slice(file.lastIndexOf("/") + 1);
/** Pictures, and the maps of some of them by the stems of both: what would be one of no picture is a picture itself. */
function picturesIn(files: readonly string[]) {
  const all = files.filter((file) => PICTURE.test(file));
  const stems = new Set(all.map(stemOf));
  const mapped = (file: string) => file.replace(MAP, "");
  const isMap = (file: string) => MAP.test(file) && stems.has(mapped(file));
  return {
    pictures: all.filter((file) => !isMap(file)),
    maps: new Map(all.filter(isMap).map((file) => [mapped(file), file])),
  };
}

const stemOf = (file: string) => file.replace(/\.[^./]*$/, "");

/** What metadata name, in the order of the pictures' paths. */
async function listed(
  path: string,
  files: readonly string[],
  metadata: readonly string[],
  report: Report,
): Promise<Item[]> {
  const { pictures, maps } = picturesIn(files);
  const there = new Set(pictures);
  const named = new Set<string>();
  const items: Item[] = [];
  for (const name of metadata) {
    const where = join(path, name);
    const parse = METADATA[lastOf(name)];
    const annotations = parse(await textOf(where, "read the metadata"));
    for (const { line, message } of annotations.bad) {
      report(`Left out line ${line} of "${where}": ${message}`);
    }
    for (const { file, map: own, ...said } of annotations.files) {
      const from = (file: string) => join(dirname(name), file).replaceAll("\\", "/");
      const full = from(file);
      const map = own === undefined ? maps.get(stemOf(full)) : from(own);
      if (map !== undefined) named.add(map);
      if (there.has(full)) items.push({ file: full, said, ...(map === undefined ? {} : { map }) });
      else report(`Left out "${file}", which "${where}" names: there is no such picture`);
    }
  }
  const own = new Set(items.map(({ file }) => file));
  const rest = pictures.filter((file) => !own.has(file) && !named.has(file)).length;
  if (rest > 0) {
    report(
      `Left out ${rest} of ${own.size + rest} pictures in "${path}": the metadata do not name them`,
    );
  }
  return items.sort((a, b) => a.file < b.file ? -1 : a.file > b.file ? 1 : 0);
}

function unlisted(files: readonly string[]): Item[] {
  const captions = new Map(
    files.filter((file) => CAPTION.test(file)).map((file) => [stemOf(file), file]),
  );
  const { pictures, maps } = picturesIn(files);
  const inClasses = pictures.every((file) => file.includes("/"));
  return pictures.map((file) => {
    const captionFile = captions.get(stemOf(file));
    const map = maps.get(stemOf(file));
    return {
      file,
      said: inClasses ? { label: file.slice(0, file.indexOf("/")) } : {},
      ...(captionFile === undefined ? {} : { captionFile }),
      ...(map === undefined ? {} : { map }),
    };
  });
}
