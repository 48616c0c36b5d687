import { deepEqual, equal, rejects } from "node:assert/strict";
import { join } from "node:path";
import { FileError, UsageError } from "../../lib/base/errors.ts";
import { besides, openOutput, saveBytes } from "../../lib/cli/output.ts";
import { inFolder } from "../folders.ts";

const CONTENT = Uint8Array.of(1, 2, 3);
const OPTIONS = { extension: ".png", name: "{index}-{seed}.png", overwrite: false };

/** Saves results of some fields under a pattern; returns the names, relative to the folder. */
async function save(
  folder: string,
  pattern: string,
  fields: readonly { seed: number; prompt?: string }[],
  overwrite = false,
): Promise<string[]> {
  const output = await openOutput(join(folder, pattern), { ...OPTIONS, overwrite });
  const names: string[] = [];
  for (const [index, each] of fields.entries()) {
    const path = await output.next({ index, ...each });
    await saveBytes(path, CONTENT);
    names.push(path.slice(folder.length + 1));
  }
  return names;
}

const TWO = [{ seed: 7, prompt: "a red fox" }, { seed: 8, prompt: "a red fox" }];

Deno.test("openOutput fills in index, seed and prompt", () =>
  inFolder(async (folder) => {
    deepEqual(await save(folder, "{index}-{seed} {prompt}.png", TWO), [
      "0-7 a_red_fox.png",
      "1-8 a_red_fox.png",
    ]);
  }));

Deno.test("openOutput counts with %d from the first number that is free", () =>
  inFolder(async (folder) => {
    await Deno.writeFile(join(folder, "p001.png"), CONTENT);
    deepEqual(await save(folder, "p%03d.png", TWO), ["p000.png", "p002.png"]);
    deepEqual(await save(folder, "%d%%.png", TWO), ["0%.png", "1%.png"]);
  }));

Deno.test("openOutput takes the next free name instead of overwriting", () =>
  inFolder(async (folder) => {
    await Deno.writeTextFile(join(folder, "fox.png"), "old");
    deepEqual(await save(folder, "fox.png", TWO), ["fox-1.png", "fox-2.png"]);
    equal(await Deno.readTextFile(join(folder, "fox.png")), "old");
  }));

Deno.test("openOutput overwrites when asked, but never its own results", () =>
  inFolder(async (folder) => {
    await Deno.writeTextFile(join(folder, "fox.png"), "old");
    deepEqual(await save(folder, "fox.png", TWO, true), ["fox.png", "fox-1.png"]);
    deepEqual(await Deno.readFile(join(folder, "fox.png")), CONTENT);
  }));

Deno.test("openOutput makes folders, and puts the usual name into them", () =>
  inFolder(async (folder) => {
    deepEqual(await save(folder, "a/b/", TWO.slice(1)), ["a/b/0-8.png"]);
    deepEqual(await save(folder, "c", TWO.slice(1)), ["c/0-8.png"]);
    deepEqual(await save(folder, "{seed}/x.png", TWO), ["7/x.png", "8/x.png"]);
  }));

Deno.test("openOutput keeps prompts inside the folder and within a name's length", () =>
  inFolder(async (folder) => {
    const prompt = "../../é 狐" + "x".repeat(300);
    const [name] = await save(folder, "{prompt}.png", [{ seed: 1, prompt }]);
    equal(name, `é_狐${"x".repeat(57)}.png`);
    deepEqual(await save(folder, "{prompt}.png", [{ seed: 1, prompt: "?!" }]), ["untitled.png"]);
  }));

Deno.test("openOutput leaves the temporary file of a process that works there alone", () =>
  inFolder(async (folder) => {
    await Deno.writeFile(join(folder, "other.tmp"), CONTENT);
    await openOutput(join(folder, "x.png"), { ...OPTIONS, temporary: "other.tmp" });
    deepEqual(await Deno.readFile(join(folder, "other.tmp")), CONTENT);
  }));

Deno.test("openOutput leaves no file behind when only asked for a name", () =>
  inFolder(async (folder) => {
    const output = await openOutput(join(folder, "x.png"), OPTIONS);
    await output.next({ index: 0 });
    deepEqual([...Deno.readDirSync(folder)], []);
  }));

Deno.test("openOutput refuses patterns that make no sense", () =>
  inFolder(async (folder) => {
    for (const pattern of ["x.jpg", "{name}.png", "{}.png"]) {
      await rejects(openOutput(join(folder, pattern), OPTIONS), UsageError);
    }
    await rejects(openOutput("", OPTIONS), UsageError);
  }));

Deno.test("openOutput refuses a place that cannot be written before any work is done", () =>
  inFolder(async (folder) => {
    await Deno.writeTextFile(join(folder, "file"), "");
    await rejects(openOutput(join(folder, "file/x.png"), OPTIONS), FileError);
    await rejects(openOutput("/proc/nowhere/x.png", OPTIONS), FileError);
    await Deno.mkdir(join(folder, "x.png"));
    const output = await openOutput(join(folder, "{prompt}.png"), OPTIONS);
    await rejects(output.next({ index: 0, prompt: "x" }), FileError);
  }));

Deno.test("saveBytes tells that a disk is full", async () => {
  const output = await openOutput("/dev/full", OPTIONS);
  await rejects(saveBytes(await output.next({ index: 0 }), CONTENT), /disk is full/);
});

Deno.test("besides gives the name of a result beside its source", () => {
  equal(besides("/photos/a.b.jpg", ".safetensors"), "a.b.safetensors");
});

Deno.test("save gives every result of several outputs on one folder a name of its own", () =>
  inFolder(async (folder) => {
    const outputs = await Promise.all(
      Array.from({ length: 4 }, () => openOutput(join(folder, "fox.png"), OPTIONS)),
    );
    const saves = outputs.flatMap((output, i) =>
      Array.from({ length: 5 }, (_, j) => output.save({ index: 0 }, Uint8Array.of(i, j)))
    );
    const paths = await Promise.all(saves);
    equal(new Set(paths).size, 20);
    for (const [k, path] of paths.entries()) {
      deepEqual([...await Deno.readFile(path)], [Math.floor(k / 5), k % 5]);
    }
    equal([...Deno.readDirSync(folder)].length, 20);
  }));

Deno.test("save replaces what an earlier attempt left, and knows its own bytes", () =>
  inFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    await Deno.writeFile(at("0.png"), CONTENT);
    await Deno.writeFile(at("1.png"), Uint8Array.of(9));
    const output = await openOutput(at("{index}.png"), OPTIONS);
    equal(await output.save({ index: 1 }, CONTENT, { mayExist: true }), at("1-1.png"));
    equal(await output.save({ index: 0 }, CONTENT, { mayExist: true }), at("0.png"));
    equal(await output.save({ index: 0 }, CONTENT, { mayExist: true }), at("0-1.png"));
    equal(await output.save({ index: 5 }, CONTENT, { path: at("1.png") }), at("1.png"));
    deepEqual(await Deno.readFile(at("1.png")), CONTENT);
  }));

Deno.test("keep leaves a name alone, even where files are overwritten", () =>
  inFolder(async (folder) => {
    const path = join(folder, "fox.png");
    await Deno.writeFile(path, Uint8Array.of(9));
    const output = await openOutput(path, { ...OPTIONS, overwrite: true });
    output.keep(path);
    equal(await output.save({ index: 0 }, CONTENT), join(folder, "fox-1.png"));
    deepEqual([...await Deno.readFile(path)], [9]);
  }));
