import { deepEqual, equal } from "node:assert/strict";
import { join } from "node:path";
import { inFolder } from "../folders.ts";
import { FIXTURES, ldm } from "./ldm.ts";

Deno.test("a file or folder that is called as the built-in model wins over it", () =>
  inFolder(async (cwd) => {
    const checkpoint = join(FIXTURES, "tiny/sd1");
    await Deno.symlink(checkpoint, join(cwd, "emoji"));
    const [own, there] = await Promise.all(
      ["emoji", checkpoint].map((name) => ldm(["inspect", name, "--json"], { cwd })),
    );
    equal(own.code, 0, own.stderr);
    const told = ({ stdout }: typeof own, path: string) => stdout.replaceAll(path, "PATH");
    deepEqual(told(own, "emoji"), told(there, checkpoint));
  }));
