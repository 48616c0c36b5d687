import { deepEqual, equal, match, notDeepEqual, ok, rejects } from "node:assert/strict";
import { FormatError } from "../../lib/base/errors.ts";
import type { Dataset } from "../../lib/train/dataset.ts";
import { type ExampleOptions, examples, type ReadyExample } from "../../lib/train/examples.ts";

const OPTIONS: ExampleOptions = {
  width: 2,
  height: 2,
  channels: 1,
  crop: "random",
  flip: true,
  filter: "bilinear",
  seed: 7,
};

interface Watched extends Dataset {
  /** Indices of the pictures that were decoded, in order. */
  readonly decoded: number[];
}

/** Pictures of 5×4 pixels with a box each; those in `bad` cannot be decoded. */
function datasetOf(length: number, bad: readonly number[] = []): Watched {
  const decoded: number[] = [];
  return {
    path: "data",
    length,
    decoded,
    example: (index) =>
      Promise.resolve({
        key: `picture ${index}`,
        text: `text ${index}`,
        label: String(index % 2),
        objects: [{ label: "dog", numbers: [0, 0, 5, 4] as const }],
        picture() {
          decoded.push(index);
          if (bad.includes(index)) return Promise.reject(new FormatError(`Cannot read ${index}`));
          const data = Uint8Array.from({ length: 20 }, (_, i) => index * 20 + i);
          return Promise.resolve({ width: 5, height: 4, channels: 1, data });
        },
      }),
    [Symbol.dispose]() {},
  };
}

async function take(
  dataset: Dataset,
  count: number,
  options: Partial<ExampleOptions> = {},
): Promise<ReadyExample[]> {
  const all: ReadyExample[] = [];
  if (count === 0) return all;
  for await (const example of examples(dataset, { ...OPTIONS, ...options })) {
    all.push(example);
    if (all.length === count) break;
  }
  return all;
}

Deno.test("examples take every picture once in an epoch, in another order in the next", async () => {
  const taken = await take(datasetOf(9), 27);
  const epochs = [0, 1, 2].map((e) => taken.slice(e * 9, e * 9 + 9).map(({ index }) => index));
  for (const epoch of epochs) deepEqual(epoch.toSorted(), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
  notDeepEqual(epochs[0], epochs[1]);
  notDeepEqual(epochs[1], epochs[2]);
  const [first] = taken;
  deepEqual(
    [first.key, first.text, first.label],
    [`picture ${first.index}`, `text ${first.index}`, String(first.index % 2)],
  );
  deepEqual(first.original, { width: 5, height: 4 });
  deepEqual(first.objects, [{ label: "dog", left: 0, top: 0, right: 1, bottom: 1 }]);
  equal(first.picture.data.length, 4);
});

Deno.test("examples go on exactly where they were, whatever is read ahead or kept", async () => {
  const all = await take(datasetOf(5, [3]), 16);
  for (const count of [1, 3, 4, 5, 11]) {
    const options = { position: all[count - 1].next, ahead: count % 3, keepBytes: 8 };
    deepEqual(await take(datasetOf(5, [3]), 16 - count, options), all.slice(count));
  }
  const cuts = new Set(all.map(({ picture }) => `${picture.cropLeft} ${picture.isFlipped}`));
  ok(cuts.size > 1, "chance cuts pictures differently");
  const other = await take(datasetOf(5, [3]), 16, { seed: 8 });
  notDeepEqual(other.map(({ index }) => index), all.map(({ index }) => index));
});

Deno.test("examples are decoded ahead, no further than asked, and kept while there is room", async () => {
  const dataset = datasetOf(6);
  await take(dataset, 2, { ahead: 3 });
  equal(dataset.decoded.length, 5); // the two that were taken and three more
  const kept = datasetOf(6);
  await take(kept, 18, { ahead: 0 });
  deepEqual(kept.decoded.toSorted(), [0, 1, 2, 3, 4, 5]);
  // a picture covers 2×2 pixels with 2×2
  const crowded = datasetOf(6);
  await take(crowded, 18, { ahead: 0, keepBytes: 4 * 4 + 3 });
  equal(crowded.decoded.length, 6 + 2 + 2);
});

Deno.test("examples report what cannot be read once, and go on without it", async () => {
  const reports: string[] = [];
  const taken = await take(datasetOf(4, [1, 2]), 6, { report: (text) => reports.push(text) });
  deepEqual(new Set(taken.map(({ index }) => index)), new Set([0, 3]));
  deepEqual(reports.toSorted(), ["Cannot read 1; it is left out", "Cannot read 2; it is left out"]);
});

Deno.test("examples fail where nothing can be read, or the position is not in the data", async () => {
  await rejects(
    take(datasetOf(3, [0, 1, 2]), 1),
    /^FormatError: Cannot train with "data": of 3 pictures none can be read; the last says: Cannot read \d$/,
  );
  await rejects(
    take(datasetOf(3), 1, { position: { epoch: 2, index: 3 } }),
    /^FormatError: Cannot go on at example 4 of "data": it has 3 now; /,
  );
});

Deno.test("examples pass on what is nobody's data's fault", async () => {
  const broken = { ...datasetOf(3), example: () => Promise.reject(new TypeError("a mistake")) };
  await rejects(take(broken, 1), /^TypeError: a mistake$/);
});

Deno.test("examples show of a map the part that they show of its picture, whatever its size", async () => {
  const dataset = datasetOf(6);
  const map = (factor: number) => () => {
    const [width, height] = [5 * factor, 4 * factor];
    const cell = (i: number) => Math.floor(i / width / factor) * 5 + Math.floor(i % width / factor);
    const data = Uint8Array.from({ length: width * height }, (_, i) => cell(i));
    return Promise.resolve({ width, height, channels: 1 as const, data });
  };
  const mapped: Dataset = {
    ...dataset,
    example: async (index) => ({ ...await dataset.example(index), map: map(1 + index % 2) }),
  };
  const options = { width: 3, height: 4, maps: true };
  const examples = await take(mapped, 12, options);
  for (const { index, picture, map } of examples) {
    deepEqual([map?.width, map?.height, map?.channels], [3, 4, 3]);
    const cells = [...map?.data ?? []].filter((_, i) => i % 3 === 0).map((v) => (v + 1) * 127.5);
    const shown = [...picture.data].map((v) => (v + 1) * 127.5 - index * 20);
    deepEqual(cells.map(Math.round), shown.map(Math.round));
  }
  ok(
    new Set(examples.map(({ picture: { cropLeft, isFlipped } }) => `${cropLeft} ${isFlipped}`))
      .size > 3,
  );
  equal((await take(mapped, 1, { ...options, maps: false }))[0].map, undefined);
});

Deno.test("examples report boxes that are not in their picture", async () => {
  const reports: string[] = [];
  const dataset = datasetOf(2);
  const wrong: Dataset = {
    ...dataset,
    async example(index) {
      const example = await dataset.example(index);
      const objects = [{ label: "dog", numbers: [0, 0, 50, 4] as const }];
      return index === 0 ? { ...example, objects } : example;
    },
  };
  const taken = await take(wrong, 2, { report: (text) => reports.push(text) });
  deepEqual(taken.map(({ index }) => index), [1, 1]);
  match(reports.join(), /^Cannot use "picture 0": the box \[0, 0, 50, 4\] .*; it is left out$/);
  await take(wrong, 2, { boxOrder: "xyxy", report: (text) => reports.push(text) });
  equal(reports.length, 2);
});
