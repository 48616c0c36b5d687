/**
 * Data sets: pictures with what is known of each, in one form, wherever they come from. Convention: examples have a fixed
 * order, the same on every machine; shuffling is the reader's.
 */

import { FileError, FormatError } from "../base/errors.ts";
import type { Annotation } from "../formats/annotations.ts";
import type { Decode } from "../formats/decoder.ts";
import type { Picture } from "../base/picture.ts";

/** A picture, not yet decoded, and what is said of it. */
export interface Example extends Omit<Annotation, "map"> {
  /** Names it within its data set: a path, or a number. */
  readonly key: string;
  /**
   * Decodes the picture, new each time, by `decode` where it is a file's. Throws `FileError` and `FormatError`, naming the
   * file.
   */
  picture(decode?: Decode): Promise<Picture>;
  /** The same of the map of what lies where, where there is one. */
  map?(decode?: Decode): Promise<Picture>;
}

export interface Dataset extends Disposable {
  /** Where it lies. */
  readonly path: string;
  readonly length: number;
  /** Example `index` in the fixed order. Throws `FileError` and `FormatError`, naming the file. */
  example(index: number): Promise<Example>;
}

/** Told of each thing that cannot be used, in a sentence; the work goes on without it. */
export type Report = (sentence: string) => void;

/** What a data set leaves to be said. */
export interface Defaults {
  /** Names of the classes 0, 1, …, of pictures and of objects; a number without one stays. */
  readonly labels: readonly string[];
  /** The text of pictures that have none; empty: none. */
  readonly caption: string;
}

/** A data set with names for its numbers and a text where it has none. */
export function withDefaults(dataset: Dataset, { labels, caption }: Defaults): Dataset {
  const nameOf = (label: string) => /^\d+$/.test(label) ? labels[Number(label)] ?? label : label;
  return {
    path: dataset.path,
    length: dataset.length,
    async example(index) {
      const example = await dataset.example(index);
      const { text = caption, label, objects } = example;
      return {
        ...example,
        ...(text === "" ? {} : { text }),
        ...(label === undefined ? {} : { label: nameOf(label) }),
        ...(objects === undefined
          ? {}
          : { objects: objects.map((box) => ({ ...box, label: nameOf(box.label) })) }),
      };
    },
    [Symbol.dispose]: () => dataset[Symbol.dispose](),
  };
}

/** What a data set calls things, in order: numbers by value, then names by code point. */
export interface Vocabulary {
  /** Of whole pictures. */
  readonly labels: readonly string[];
  /** Of objects in them. */
  readonly objects: readonly string[];
}

/**
 * Reads what is said of every picture, and no picture. Examples that cannot be read are left out: whoever reads the
 * pictures will report them.
 */
export async function vocabularyOf(dataset: Dataset): Promise<Vocabulary> {
  const labels = new Set<string>();
  const objects = new Set<string>();
  for (let i = 0; i < dataset.length; i++) {
    try {
      const example = await dataset.example(i);
      if (example.label !== undefined) labels.add(example.label);
      for (const { label } of example.objects ?? []) objects.add(label);
    } catch (error) {
      if (!(error instanceof FileError || error instanceof FormatError)) throw error;
    }
  }
  return { labels: sorted(labels), objects: sorted(objects) };
}

function sorted(names: ReadonlySet<string>): string[] {
  const rank = (name: string) => /^\d+$/.test(name) ? Number(name) : Infinity;
  return [...names].sort((a, b) => {
    const [i, j] = [rank(a), rank(b)];
    return i !== j ? i - j : a < b ? -1 : 1;
  });
}
