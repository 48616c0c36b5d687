import { deepEqual, rejects } from "node:assert/strict";
import { join } from "node:path";
import { fileError } from "../../lib/formats/files.ts";
import { requirePlace, writeFolder } from "../../lib/formats/whole_folder.ts";
import { inFolder, names } from "../folders.ts";

const write = (path: string, text: string) => Deno.writeTextFile(path, text);

Deno.test("writeFolder puts a folder in its place whole, also in that of another, and makes those above", () =>
  inFolder(async (at) => {
    const path = join(at, "deep", "folder");
    await writeFolder(path, (folder) => write(join(folder, "a"), "1"));
    await Deno.symlink("folder", join(at, "deep", "link"));
    await writeFolder(join(at, "deep", "link"), (folder) => write(join(folder, "b"), "2"));
    deepEqual(names(path), ["b"]);
    deepEqual(names(join(at, "deep")), ["folder", "link"]);
  }));

Deno.test("writeFolder leaves what was there where it fails, and names the folder that was wanted", () =>
  inFolder(async (at) => {
    const path = join(at, "folder");
    await writeFolder(path, (folder) => write(join(folder, "a"), "1"));
    const work = writeFolder(path, async (folder) => {
      const inside = join(folder, "none", "b");
      await write(inside, "2").catch((error) => {
        throw fileError("write", inside, error);
      });
    });
    await rejects(work, {
      name: "FileError",
      message: `Cannot write "${path}/none/b": there is no such file or folder`,
    });
    deepEqual([names(at), names(path)], [["folder"], ["a"]]);
  }));

Deno.test("requirePlace lets an empty folder and a free name be", () =>
  inFolder(async (at) => {
    const options = { form: "folder", overwrite: false, isOurs: () => false } as const;
    await requirePlace(at, options);
    await requirePlace(join(at, "free"), options);
    await write(join(at, "mine"), "");
    await rejects(requirePlace(at, options), /it exists already/);
    await rejects(requirePlace(at, { ...options, overwrite: true }), /it holds "mine"/);
  }));
