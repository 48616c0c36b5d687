/**
 * Examples ready for a model, one after another without end, read and decoded ahead of whoever takes them. What cannot be
 * read is reported once and left out.
 */

import type { LabelledBox } from "../base/box.ts";
import { counted } from "../base/counted.ts";
import { FileError, FormatError } from "../base/errors.ts";
import { torchCpu } from "../base/random.ts";
import { type BoxOrder, placeBox } from "../formats/boxes.ts";
import type { Picture } from "../base/picture.ts";
import { type Decode, openDecoder } from "../formats/decoder.ts";
import type { Dataset, Example, Report } from "./dataset.ts";
import {
  coverMap,
  coverPicture,
  cutBoxes,
  cutPicture,
  type FittedPicture,
  type Fitting,
} from "./images.ts";
import { after, BEGINNING, permutation, type Position, seedOf } from "./order.ts";

export interface ExampleOptions extends Fitting {
  readonly seed: number;
  /** Where to begin; `next` of the last example taken goes on after it. */
  readonly position?: Position | undefined;
  /** What the numbers of the data set's boxes are. */
  readonly boxOrder?: BoxOrder | undefined;
  /** How many examples are read before they are asked for. */
  readonly ahead?: number | undefined;
  /** Threads that decode pictures, so that this goes on while the device is waited for; 0: none. */
  readonly threads?: number | undefined;
  /** The most bytes of resized pictures that are kept, so that they need not be decoded again. */
  readonly keepBytes?: number | undefined;
  /** Whether maps are read, too; false where absent. */
  readonly maps?: boolean | undefined;
  readonly report?: Report | undefined;
}

export interface ReadyExample {
  readonly key: string;
  /** In the data set's order. */
  readonly index: number;
  readonly text?: string;
  readonly label?: string;
  /** Of the part of the picture that is shown. */
  readonly objects: readonly LabelledBox[];
  readonly picture: FittedPicture;
  /** The same part of its map, RGB. */
  readonly map?: FittedPicture;
  /** The size of the picture as it was decoded. */
  readonly original: { readonly width: number; readonly height: number };
  /** Where to begin to go on after this example. */
  readonly next: Position;
}

const AHEAD = 8;
const THREADS = 2;
const KEEP_BYTES = 256 << 20;

/** What a decoded picture leaves. */
interface Cover {
  readonly picture: Picture;
  readonly map: Picture | undefined;
  readonly original: ReadyExample["original"];
}

type Outcome =
  | { readonly example: ReadyExample }
  | { readonly index: number; readonly next: Position; readonly error: unknown };

/**
 * The examples of a data set in the order of their seed, without end. The same seed and position give the same examples,
 * however many are read ahead. Throws `FormatError` where not one example of a whole epoch can be read.
 */
export async function* examples(
  dataset: Dataset,
  options: ExampleOptions,
): AsyncGenerator<ReadyExample, never, undefined> {
  const { ahead = AHEAD, report = () => {}, position = BEGINNING } = options;
  if (position.index >= dataset.length) {
    throw new FormatError(
      `Cannot go on at example ${
        position.index + 1
      } of "${dataset.path}": it has ${dataset.length} now; ` +
        `resume with the data that the run began with`,
    );
  }
  using decoder = openDecoder(options.threads ?? THREADS);
  const load = loader(dataset, options, decoder.decode);
  const places = placesFrom(position, dataset.length, options.seed);
  const pending: Promise<Outcome>[] = [];
  const reported = new Set<number>();
  for (let failures = 0;;) {
    while (pending.length <= ahead) pending.push(load(places.next().value));
    const outcome = await pending.shift();
    if (outcome !== undefined && "example" in outcome) {
      failures = 0;
      yield outcome.example;
    } else if (outcome !== undefined) {
      const { error, index } = outcome;
      if (!(error instanceof FileError || error instanceof FormatError)) throw error;
      if (!reported.has(index)) report(`${error.message}; it is left out`);
      reported.add(index);
      if (++failures >= dataset.length) {
        throw new FormatError(
          `Cannot train with "${dataset.path}": of ${
            counted(dataset.length, "picture")
          } none can be read; the last says: ${error.message}`,
        );
      }
    }
  }
}

interface Place {
  readonly position: Position;
  readonly index: number;
}

function* placesFrom(begin: Position, length: number, seed: number): Generator<Place, never> {
  let order = permutation(length, seedOf(seed, begin.epoch));
  for (let position = begin;;) {
    yield { position, index: order[position.index] };
    const next = after(position, length);
    if (next.epoch !== position.epoch) order = permutation(length, seedOf(seed, next.epoch));
    position = next;
  }
}

/** Loads examples; never rejects. */
function loader(
  dataset: Dataset,
  options: ExampleOptions,
  decode: Decode,
): (place: Place) => Promise<Outcome> {
  const { seed, boxOrder = "xywh" } = options;
  const cover = rememberer(options, decode);
  return async ({ position, index }) => {
    const next = after(position, dataset.length);
    try {
      const example = await dataset.example(index);
      const { picture: covering, map: covered, original } = await cover(example, index);
      const { picture: _, map: __, objects: marked = [], ...said } = example;
      const boxes = marked.map((box) => placed(said.key, () => placeBox(box, original, boxOrder)));
      const cut = (cover: Picture, fitting: Fitting) => {
        const random = torchCpu(seedOf(seed, position.epoch, position.index, 1));
        return cutPicture(cover, fitting, () => random.uniform(1)[0]);
      };
      const picture = cut(covering, options);
      const map = covered && { map: cut(covered, { ...options, channels: 3 }) };
      const objects = cutBoxes(boxes, picture);
      return { example: { ...said, index, objects, picture, ...map, original, next } };
    } catch (error) {
      return { index, next, error };
    }
  };
}

function placed<T>(key: string, place: () => T): T {
  try {
    return place();
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    throw new FormatError(`Cannot use "${key}": ${error.message}`);
  }
}

/** Decodes and resizes, and keeps what it made as long as there is room. */
function rememberer(
  options: ExampleOptions,
  decode: Decode,
): (example: Example, index: number) => Promise<Cover> {
  const kept = new Map<number, Cover>();
  let room = options.keepBytes ?? KEEP_BYTES;
  return async (example, index) => {
    const old = kept.get(index);
    if (old) return old;
    const { width, height, ...decoded } = await example.picture(decode);
    const original = { width, height };
    const picture = coverPicture({ ...original, ...decoded }, options);
    const map = options.maps && example.map
      ? coverMap(await example.map(decode), picture)
      : undefined;
    const made = { picture, map, original };
    const bytes = picture.data.length + (map?.data.length ?? 0);
    if (bytes <= room && !kept.has(index)) {
      room -= bytes;
      kept.set(index, made);
    }
    return made;
  };
}
