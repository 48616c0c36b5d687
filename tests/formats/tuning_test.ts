/** Files of tuned tables: what is written is read, and what is wrong is said. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { FileError, FormatError } from "../../lib/base/errors.ts";
import { mismatch, readTuning, type Tuning, writeTuning } from "../../lib/formats/tuning.ts";
import { inFolder, names } from "../folders.ts";

const TUNING: Tuning = {
  adapter: "an adapter",
  driver: "65541:0, Deno 2.9.6",
  kernels: "0123456789abcdef",
  choices: new Map([["matmul 1×64×64×64 panels16", "tiles"], ["attention 1×2×3 head 8", "x"]]),
};

Deno.test("writeTuning makes its folders and writes what readTuning reads, leaving nothing else", async () => {
  await inFolder(async (folder) => {
    const path = join(folder, "ldm", "tune", "adapter.json");
    await writeTuning(path, TUNING);
    await writeTuning(path, TUNING);
    assert.deepEqual(await readTuning(path), {
      ...TUNING,
      choices: new Map([...TUNING.choices].reverse()),
    });
    assert.deepEqual(names(join(folder, "ldm", "tune")), ["adapter.json"]);
  });
});

Deno.test("writeTuning says where it cannot write, and the old table stays", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(join(folder, "file"), "");
    await assert.rejects(writeTuning(join(folder, "file", "a.json"), TUNING), FileError);
    assert.deepEqual(names(folder), ["file"]);
  });
});

Deno.test("readTuning returns undefined where there is no file", async () => {
  await inFolder(async (folder) => {
    assert.equal(await readTuning(join(folder, "none.json")), undefined);
  });
});

const BAD: Readonly<Record<string, string>> = {
  "an empty file": "",
  "half a table": `{"format": "ldm tuning 1", "adapter": "a"`,
  "a list": "[]",
  "null": "null",
  "another format": `{"format": "ldm tuning 2"}`,
  "no adapter": `{"format": "ldm tuning 1", "driver": "d", "kernels": "k", "choices": {}}`,
  "no choices": `{"format": "ldm tuning 1", "adapter": "a", "driver": "d", "kernels": "k"}`,
  "choices in a list":
    `{"format": "ldm tuning 1", "adapter": "a", "driver": "d", "kernels": "k", "choices": []}`,
  "a number for a name":
    `{"format": "ldm tuning 1", "adapter": "a", "driver": "d", "kernels": "k", "choices": {"c": 1}}`,
  "a file as large as no table is": " ".repeat(2 ** 20 + 1),
};

for (const [what, text] of Object.entries(BAD)) {
  Deno.test(`readTuning refuses ${what} in one sentence`, async () => {
    await inFolder(async (folder) => {
      const path = join(folder, "t.json");
      await Deno.writeTextFile(path, text);
      await assert.rejects(readTuning(path), (error: Error) => {
        assert.ok(error instanceof FormatError, `${error}`);
        assert.match(error.message, /^Cannot use the tuned table ".*t\.json": [^\n]+$/);
        return true;
      });
    });
  });
}

Deno.test("mismatch names what a table was measured with instead", () => {
  assert.equal(mismatch(TUNING, TUNING), undefined);
  for (const key of ["adapter", "driver", "kernels"] as const) {
    const why = mismatch({ ...TUNING, [key]: "other" }, TUNING);
    assert.match(why ?? "", /^it was measured with .*\(other\)$/);
  }
});
