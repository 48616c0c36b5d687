/**
 * A folder of pictures. What is said of each stands in a `metadata.jsonl` or `metadata.csv` (Hugging Face's imagefolder),
 * else in a `.txt` or `.caption` beside it; where all pictures lie in folders of it, the first folder's name is their
 * class.
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
import type { Dataset, Report } from "./dataset.ts";

const PICTURE = /\.(png|jpe?g|webp|gif|bmp)$/i;
const CAPTION = /\.(txt|caption)$/i;

/** Readers of metadata by file name. */
const METADATA: Readonly<Record<string, (text: string) => Annotations>> = {
  "metadata.jsonl": parseJsonLines,
  "metadata.csv": parseCsvAnnotations,
};

interface Item {
  /** From the data set's folder, with slashes. */
  readonly file: string;
  readonly said: Annotation;
  readonly captionFile?: string;
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
      const { file, said, captionFile } = items[index];
      const where = join(path, file);
      const text = captionFile === undefined
        ? undefined
        : oneLine(await textOf(join(path, captionFile), "read the caption"));
      return {
        key: file,
        ...said,
        ...(text ? { text } : {}),
        async picture(decode = decodePicture) {
          const bytes = await Deno.readFile(where).catch((error) => {
            throw fileError("read the picture", where, error);
          });
          return await decode(bytes, `"${where}"`);
        },
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
const stemOf = (file: string) => file.replace(/\.[^./]*$/, "");

/** What metadata name, in the order of the pictures' paths. */
async function listed(
  path: string,
  files: readonly string[],
  metadata: readonly string[],
  report: Report,
): Promise<Item[]> {
  const there = new Set(files.filter((file) => PICTURE.test(file)));
  const items: Item[] = [];
  for (const name of metadata) {
    const where = join(path, name);
    const parse = METADATA[lastOf(name)];
    const annotations = parse(await textOf(where, "read the metadata"));
    for (const { line, message } of annotations.bad) {
      report(`Left out line ${line} of "${where}": ${message}`);
    }
    for (const { file, ...said } of annotations.files) {
      const full = join(dirname(name), file).replaceAll("\\", "/");
      if (there.has(full)) items.push({ file: full, said });
      else report(`Left out "${file}", which "${where}" names: there is no such picture`);
    }
  }
  const rest = there.size - new Set(items.map(({ file }) => file)).size;
  if (rest > 0) {
    report(
      `Left out ${rest} of ${there.size} pictures in "${path}": the metadata do not name them`,
    );
  }
  return items.sort((a, b) => a.file < b.file ? -1 : a.file > b.file ? 1 : 0);
}

function unlisted(files: readonly string[]): Item[] {
  const captions = new Map(
    files.filter((file) => CAPTION.test(file)).map((file) => [stemOf(file), file]),
  );
  const pictures = files.filter((file) => PICTURE.test(file));
  const inClasses = pictures.every((file) => file.includes("/"));
  return pictures.map((file) => {
    const captionFile = captions.get(stemOf(file));
    return {
      file,
      said: inClasses ? { label: file.slice(0, file.indexOf("/")) } : {},
      ...(captionFile === undefined ? {} : { captionFile }),
    };
  });
}
