import { deepEqual, equal, match } from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { vocabularyOf } from "../../lib/train/dataset.ts";
import { openDataset } from "../../lib/train/open_dataset.ts";
import { temporaryFolder } from "../folders.ts";
import { failure } from "../formats/made.ts";
import { greyOf, plainPng, said, tarOf, writeFiles } from "./datasets.ts";

Deno.test("openDataset reads a folder with captions beside the pictures, in the order of the names", async () => {
  await using folder = await temporaryFolder();
  await writeFiles(folder, {
    "b.png": await plainPng(20),
    "b.txt": "a cat\n on a\r\nmat \n",
    "a.PNG": await plainPng(10),
    "a.caption": "a dog",
    "c/d.webp": await plainPng(30), // what it is decides how it is read, not its name
    "c/d.txt": "",
    "notes.md": "no picture",
    ".hidden.png": "no picture",
  });
  using dataset = await openDataset(folder.path);
  equal(dataset.length, 3);
  deepEqual(await said(dataset), [
    { key: "a.PNG", text: "a dog" },
    { key: "b.png", text: "a cat on a mat" },
    { key: "c/d.webp" },
  ]);
  deepEqual([await greyOf(dataset, 0), await greyOf(dataset, 2)], [10, 30]);
});

Deno.test("openDataset takes the names of folders for classes where every picture is in one", async () => {
  await using folder = await temporaryFolder();
  const png = await plainPng(1);
  await writeFiles(folder, { "fox/1.png": png, "fox/2.png": png, "a dog/more/3.png": png });
  using dataset = await openDataset(folder.path);
  deepEqual((await said(dataset)).map(({ key, label }) => [key, label]), [
    ["a dog/more/3.png", "a dog"],
    ["fox/1.png", "fox"],
    ["fox/2.png", "fox"],
  ]);
  deepEqual(await vocabularyOf(dataset), { labels: ["a dog", "fox"], objects: [] });
});

Deno.test("openDataset follows metadata.jsonl, reports what it cannot use, and sorts by picture", async () => {
  await using folder = await temporaryFolder();
  const png = await plainPng(1);
  const objects = [{ bbox: [1, 1, 2, 2], label: "dog" }];
  await writeFiles(folder, {
    "train/metadata.jsonl": [
      { file_name: "pictures/2.png", text: "two", label: 10, objects },
      { file_name: "1.png", text: "one", label: 9 },
      { file_name: "1.png", text: "one, again", label: 9 },
      { file_name: "gone.png" },
      { text: "lost" },
    ].map((line) => JSON.stringify(line)).join("\n"),
    "train/1.png": png,
    "train/1.txt": "not read",
    "train/pictures/2.png": png,
    "train/extra.png": png,
  });
  const reports: string[] = [];
  using dataset = await openDataset(folder.path, (sentence) => reports.push(sentence));
  deepEqual(await said(dataset), [
    { key: "train/1.png", text: "one", label: "9" },
    { key: "train/1.png", text: "one, again", label: "9" },
    {
      key: "train/pictures/2.png",
      text: "two",
      label: "10",
      objects: [{ label: "dog", numbers: [1, 1, 2, 2] }],
    },
  ]);
  deepEqual(await vocabularyOf(dataset), { labels: ["9", "10"], objects: ["dog"] });
  deepEqual(reports.map((text) => text.replaceAll(folder.path, "…")), [
    `Left out line 5 of "…/train/metadata.jsonl": it has no file_name`,
    `Left out "gone.png", which "…/train/metadata.jsonl" names: there is no such picture`,
    `Left out 1 of 3 pictures in "…": the metadata do not name them`,
  ]);
});

Deno.test("openDataset finds maps beside pictures, where metadata name them, and in archives", async () => {
  await using folder = await temporaryFolder();
  const png = (grey: number) => plainPng(grey);
  const line = (file_name: string, map?: string) => JSON.stringify({ file_name, map });
  await writeFiles(folder, {
    "beside/a.png": await png(1),
    "beside/a.map.png": await png(2),
    "beside/world.map.png": await png(3), // of no picture: one itself
    "named/metadata.jsonl": [line("a.png", "./maps/x.png"), line("b.png"), line("c.png")].join(
      "\n",
    ),
    "named/a.png": await png(1),
    "named/b.png": await png(2),
    "named/b.map.png": await png(3),
    "named/c.png": await png(4),
    "named/maps/x.png": await png(5),
    "archive.tar": tarOf({
      "0.map.png": await png(7),
      "0.png": await png(6),
      "1.png": await png(8),
      "1.json": JSON.stringify({ map: "elsewhere.png" }),
    }),
  });
  const greys = async (path: string) => {
    const reports: string[] = [];
    using dataset = await openDataset(folder.at(path), (text) => reports.push(text));
    deepEqual(reports, []);
    return await Promise.all(Array.from({ length: dataset.length }, async (_, i) => {
      const { picture, map } = await dataset.example(i);
      return [(await picture()).data[0], (await map?.())?.data[0]];
    }));
  };
  deepEqual(await greys("beside"), [[1, 2], [3, undefined]]);
  deepEqual(await greys("named"), [[1, 5], [2, 3], [4, undefined]]);
  deepEqual(await greys("archive.tar"), [[6, 7], [8, undefined]]);
});

Deno.test("openDataset follows metadata.csv", async () => {
  await using folder = await temporaryFolder();
  await writeFiles(folder, {
    "metadata.csv": `file_name,text\n1.png,"a ""red"" fox, asleep"\n`,
    "1.png": await plainPng(1),
  });
  using dataset = await openDataset(folder.path);
  deepEqual(await said(dataset), [{ key: "1.png", text: `a "red" fox, asleep` }]);
});

Deno.test("openDataset reads WebDataset archives: one, or all of a folder", async () => {
  await using folder = await temporaryFolder();
  await writeFiles(folder, {
    "b.tar": tarOf({ "x/0.9.jpg": await plainPng(30), "x/0.cls": "4", "x/1.txt": "no picture" }),
    "a.tar": tarOf({
      "0001.txt": "a\ncaption",
      "0000.json":
        `{"text": "from json", "label": "fox", "objects": {"bbox": [[0, 0, 1, 1]], "categories": [3]}}`,
      "0000.png": await plainPng(10),
      "0000.txt": "from txt",
      "0001.cls": " 12\n",
      "0001.seg.png": await plainPng(20),
    }),
  });
  const reports: string[] = [];
  using dataset = await openDataset(folder.path, (sentence) => reports.push(sentence));
  deepEqual(await said(dataset), [
    { key: "0001", text: "a caption", label: "12" },
    {
      key: "0000",
      text: "from txt",
      label: "fox",
      objects: [{ label: "3", numbers: [0, 0, 1, 1] }],
    },
    { key: "x/0", label: "4" },
  ]);
  deepEqual([await greyOf(dataset, 0), await greyOf(dataset, 1), await greyOf(dataset, 2)], [
    20,
    10,
    30,
  ]);
  match(reports.join(), /^Left out 1 of 4 samples in ".*": they have no picture$/);
  using one = await openDataset(folder.at("b.tar"));
  equal(one.length, 1);
});

Deno.test("openDataset reads IDX pictures and labels, packed or not, and prefers those for training", async () => {
  await using folder = await temporaryFolder();
  const pictures = (values: number[]) =>
    Uint8Array.of(0, 0, 8, 3, 0, 0, 0, values.length, 0, 0, 0, 1, 0, 0, 0, 1, ...values);
  const labels = (values: number[]) => Uint8Array.of(0, 0, 8, 1, 0, 0, 0, values.length, ...values);
  await writeFiles(folder, {
    "t10k-images-idx3-ubyte": pictures([7]),
    "train-images-idx3-ubyte.gz": new Uint8Array(gzipSync(pictures([50, 60]))),
    "train-labels-idx1-ubyte": labels([9, 3]),
  });
  using dataset = await openDataset(folder.path);
  deepEqual(await said(dataset), [{ key: "0", label: "9" }, { key: "1", label: "3" }]);
  deepEqual(await (await dataset.example(1)).picture(), {
    width: 1,
    height: 1,
    channels: 1,
    data: Uint8Array.of(60),
  });
  using test = await openDataset(folder.at("t10k-images-idx3-ubyte"));
  deepEqual(await said(test), [{ key: "0" }]);
  await writeFiles(folder, { "train-labels-idx1-ubyte": labels([9]) });
  match(
    await failure(openDataset(folder.path), "FormatError"),
    /it has 2 pictures, and ".*" holds \[1\] labels$/,
  );
});

Deno.test("openDataset says what is wrong with a path that holds no data", async () => {
  await using folder = await temporaryFolder();
  await writeFiles(folder, { "a.bin": "x", "empty/notes.txt": "x", "x.tar": "no tar" });
  match(await failure(openDataset(folder.at("none")), "FileError"), /there is no such file/);
  match(
    await failure(openDataset(folder.at("a.bin")), "FormatError"),
    /it is a file, and a folder/,
  );
  match(await failure(openDataset(folder.at("empty")), "FormatError"), /it holds no pictures; /);
  match(
    await failure(openDataset(folder.at("x.tar")), "FormatError"),
    /it is not a tar archive \(6 bytes\)$/,
  );
});

Deno.test("an example that cannot be read names its file", async () => {
  await using folder = await temporaryFolder();
  await writeFiles(folder, { "a.png": "", "b.png": "no picture", "c.png": await plainPng(1) });
  using dataset = await openDataset(folder.path);
  const picture = async (index: number) => await (await dataset.example(index)).picture();
  match(await failure(picture(0), "FormatError"), /^Cannot read ".*a\.png": it is empty/);
  match(await failure(picture(1), "FormatError"), /b\.png": it is not a sound PNG, JPEG/);
  await Deno.remove(folder.at("c.png"));
  match(await failure(picture(2), "FileError"), /c\.png": there is no such file/);
  const path = folder.at("bad.tar");
  await Deno.writeFile(path, tarOf({ "0.png": "x", "0.json": "{", "1.png": "", "1.json": "[]" }));
  using tar = await openDataset(path);
  match(
    await failure(tar.example(0), "FormatError"),
    /^Cannot read "0\.json" in ".*": it is not JSON$/,
  );
  match(
    await failure(tar.example(1), "FormatError"),
    /"1\.json" in ".*": it is not a JSON object$/,
  );
  deepEqual(await vocabularyOf(tar), { labels: [], objects: [] });
});
