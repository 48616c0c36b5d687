import { deepEqual, equal } from "node:assert/strict";
import { type Dataset, type Example, vocabularyOf, withDefaults } from "../../lib/train/dataset.ts";
import { said } from "./datasets.ts";

function datasetOf(...examples: Omit<Example, "picture">[]): Dataset & { closed: number } {
  const picture = () => Promise.reject(new Error("no picture was asked for"));
  return {
    path: "data",
    length: examples.length,
    closed: 0,
    example: (index) => Promise.resolve({ ...examples[index], picture }),
    [Symbol.dispose]() {
      this.closed++;
    },
  };
}

Deno.test("withDefaults names numbers, and gives a text where there is none", async () => {
  const numbers = [1, 2, 3, 4] as const;
  const dataset = datasetOf(
    { key: "a", label: "1", objects: [{ label: "0", numbers }, { label: "7", numbers }] },
    { key: "b", label: "fox", text: "a fox" },
    { key: "c" },
  );
  const complete = withDefaults(dataset, { labels: ["cat", "dog"], caption: "an animal" });
  deepEqual(await said(complete), [
    {
      key: "a",
      label: "dog",
      text: "an animal",
      objects: [{ label: "cat", numbers }, { label: "7", numbers }],
    },
    { key: "b", label: "fox", text: "a fox" },
    { key: "c", text: "an animal" },
  ]);
  deepEqual(await said(withDefaults(dataset, { labels: [], caption: "" })), await said(dataset));
  complete[Symbol.dispose]();
  equal(dataset.closed, 1);
});

Deno.test("vocabularyOf lists each name once, numbers by value before names", async () => {
  const numbers = [0, 0, 1, 1] as const;
  const dataset = datasetOf(
    { key: "a", label: "10", objects: [{ label: "dog", numbers }, { label: "cat", numbers }] },
    { key: "b", label: "9", objects: [{ label: "dog", numbers }] },
    { key: "c", label: "fox" },
    { key: "d" },
    { key: "e", label: "9" },
  );
  deepEqual(await vocabularyOf(dataset), { labels: ["9", "10", "fox"], objects: ["cat", "dog"] });
});
