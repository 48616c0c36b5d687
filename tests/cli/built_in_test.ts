import { deepEqual, equal, ok } from "node:assert/strict";
import { join } from "node:path";
import { decodePicture } from "../../lib/formats/png.ts";
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

Deno.test("the built-in model draws the emoji that it is asked for, whatever the seed", () =>
  inFolder(async (cwd) => {
    const picture = async (path: string) => (await decodePicture(await Deno.readFile(path))).data;
    const fox = await picture(join(FIXTURES, "pictures/fox.png"));
    const psnrTo = async (path: string) => {
      const made = await picture(join(cwd, path));
      equal(made.length, fox.length);
      const error = made.reduce((sum, value, i) => sum + (value - fox[i]) ** 2, 0) / made.length;
      return 10 * Math.log10(255 ** 2 / error);
    };
    await Deno.writeTextFile(join(cwd, "p.txt"), "a fox\nan emoji of a fox\na pizza\n");
    const { code, stderr } = await ldm(["batch", "p.txt", "-o", "%d.png", "-s", "5"], { cwd });
    equal(code, 0, stderr);
    const [one, another, pizza] = await Promise.all(["0.png", "1.png", "2.png"].map(psnrTo));
    ok(one > 16 && another > 16, `${one} dB, ${another} dB`);
    ok(pizza < 14, `${pizza} dB`);
  }));
