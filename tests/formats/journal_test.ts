import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { join } from "node:path";
import { FileError } from "../../lib/base/errors.ts";
import { Journal, type JournalEntry } from "../../lib/formats/journal.ts";
import { inFolder } from "../folders.ts";

function entry(key: string, more: Partial<JournalEntry> = {}): JournalEntry {
  return { key, item: 0, line: 1, status: "done", paths: [], seed: 7, ...more };
}

Deno.test("Journal tells how each request ended last, also after it is opened again", () =>
  inFolder(async (folder) => {
    const path = join(folder, "x.journal.jsonl");
    const failed = entry("a", { status: "failed", message: "no memory" });
    const done = entry("a", { paths: [join(folder, "sub", "0.png")] });
    let draw: number;
    {
      using journal = await Journal.open(path, "x.txt");
      equal(journal.isResumed, false);
      await journal.append(failed);
      deepEqual(journal.last("a"), failed);
      await journal.append(done);
      draw = journal.draw;
    }
    const lines = (await Deno.readTextFile(path)).trimEnd().split("\n");
    equal(lines.length, 3);
    deepEqual(JSON.parse(lines[2]).paths, [join("sub", "0.png")]); // the folder may move
    using journal = await Journal.open(path, "x.txt");
    deepEqual([journal.draw, journal.isResumed], [draw, true]);
    deepEqual(journal.last("a"), done);
    equal(journal.last("b"), undefined);
  }));

Deno.test("Journal takes a file that ends anywhere: what is whole counts, the rest is cut off", () =>
  inFolder(async (folder) => {
    const path = join(folder, "x.journal.jsonl");
    {
      using journal = await Journal.open(path, "x.txt");
      for (const key of ["a", "b"]) await journal.append(entry(key));
    }
    const whole = await Deno.readFile(path);
    for (let end = 0; end <= whole.length; end++) {
      await Deno.writeFile(path, whole.subarray(0, end));
      {
        using journal = await Journal.open(path, "x.txt");
        await journal.append(entry("c"));
      }
      const lines = whole.subarray(0, end).filter((byte) => byte === 10).length;
      using journal = await Journal.open(path, "x.txt");
      deepEqual(
        ["a", "b", "c"].map((key) => journal.last(key) !== undefined),
        [lines > 1, lines > 2, true],
        `cut at ${end}`,
      );
    }
  }));

Deno.test("Journal passes over lines that a disk has spoilt", () =>
  inFolder(async (folder) => {
    const path = join(folder, "x.journal.jsonl");
    {
      using journal = await Journal.open(path, "x.txt");
      await journal.append(entry("a"));
    }
    await Deno.writeTextFile(path, '\0\0\0\n{"key": 3}\n', { append: true });
    {
      using journal = await Journal.open(path, "x.txt");
      await journal.append(entry("b"));
    }
    using journal = await Journal.open(path, "x.txt");
    deepEqual(["a", "b"].map((key) => journal.last(key)?.key), ["a", "b"]);
  }));

Deno.test("Journal knows what the journals of others say, even while they are written", () =>
  inFolder(async (folder) => {
    const theirs = join(folder, "theirs.jsonl");
    using other = await Journal.open(theirs, "x.txt");
    await other.append(entry("a"));
    await Deno.writeTextFile(theirs, '{"key":"b"', { append: true });
    using journal = await Journal.open(join(folder, "mine.jsonl"), "x.txt", [theirs]);
    deepEqual(["a", "b"].map((key) => journal.last(key)?.key), ["a", undefined]);
  }));

Deno.test("Journal belongs to one process, and is no other file", () =>
  inFolder(async (folder) => {
    const path = join(folder, "x.journal.jsonl");
    using journal = await Journal.open(path, "x.txt");
    await rejects(Journal.open(path, "x.txt"), (error) => {
      match(String(error), /another process works on the same batch/);
      return error instanceof FileError;
    });
    await journal.append(entry("a"));
    await Deno.writeTextFile(join(folder, "notes"), "my notes\n");
    await rejects(Journal.open(join(folder, "notes"), "x.txt"), /it is something else/);
    equal(await Deno.readTextFile(join(folder, "notes")), "my notes\n");
    await rejects(Journal.open("/dev/full", "x.txt"), /it is something else/);
    await rejects(Journal.open(join(folder, "none", "x"), "x.txt"), FileError);
  }));
