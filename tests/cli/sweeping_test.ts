import { deepEqual, equal, match, ok } from "node:assert/strict";
import { join } from "node:path";
import { decodePicture, type Picture, readPngText } from "../../lib/formats/png.ts";
import { inFolder, names } from "../folders.ts";
import { FIXTURES, ldm } from "./ldm.ts";

const QUICK = ["a cat", "-m", `${FIXTURES}/tiny/sd1`, "--steps", "2", "-W", "32", "-H", "48"];

async function pictureAt(...path: string[]): Promise<Picture> {
  return await decodePicture(await Deno.readFile(join(...path)));
}

/** A part of a picture. */
function cut({ width, data }: Picture, x: number, y: number, w: number, h: number): Picture {
  const rows = Array.from({ length: h }, (_, j) => {
    const at = ((y + j) * width + x) * 3;
    return [...data.subarray(at, at + w * 3)];
  });
  return { width: w, height: h, channels: 3, data: Uint8Array.from(rows.flat()) };
}

const isBlank = ({ data }: Picture) => data.every((value) => value === 255);

Deno.test("ldm --sweep makes every combination, a labelled sheet with parameters, and a table", () =>
  inFolder(async (cwd) => {
    const sweep = ["--sweep", "steps=1,2,3", "--sweep", 'prompt=cat,"dog, asleep"'];
    const { code, stdout, stderr } = await ldm([...QUICK, "-s", "7", ...sweep, "-o", "out/"], {
      cwd,
    });
    equal(code, 0, stderr);
    const singles = [0, 1, 2, 3, 4, 5].map((i) => `out/${i}-7.png`);
    deepEqual(stdout.trim().split("\n"), [...singles, "out/grid.png", "out/grid.csv"]);
    match(stderr, /^6 pictures: 3 of steps × 2 of prompt$/m);
    match(stderr, /^picture 6 of 6, seed 7: 3 steps/m);

    const bytes = await Deno.readFile(join(cwd, "out/grid.png"));
    const [[key, text]] = await readPngText(bytes);
    equal(key, "parameters");
    match(text, /Script: X\/Y\/Z plot, X Type: Steps, X Values: "1, 2, 3", Y Type: Prompt S\/R, /);
    match(text, /Y Values: "cat, \\"dog, asleep\\"", Version: ldm/);
    const grid = await decodePicture(bytes);
    // cells end at the right and the lower edge, 2 pixels from it and from one another
    const [left, top] = [grid.width - 3 * 34, grid.height - 2 * 50];
    for (const [i, path] of singles.entries()) {
      const [x, y] = [left + (i % 3) * 34, top + Math.floor(i / 3) * 50];
      deepEqual(cut(grid, x, y, 32, 48), await pictureAt(cwd, path), path);
    }
    for (const i of [0, 1, 2]) ok(!isBlank(cut(grid, left + i * 34, 0, 32, top)), `column ${i}`);
    for (const j of [0, 1]) ok(!isBlank(cut(grid, 0, top + j * 50, left, 48)), `row ${j}`);
    ok(isBlank(cut(grid, 0, 0, left, top)), "the corner");

    const table = (await Deno.readTextFile(join(cwd, "out/grid.csv"))).trimEnd().split("\n");
    equal(table[0], "steps,prompt,seed,path,seconds,error");
    match(table[1], /^1,cat,7,out\/0-7\.png,[\d.]+,$/);
    match(table[6], /^3,"dog, asleep",7,out\/5-7\.png,[\d.]+,$/);
    equal(table.length, 7);
  }));

Deno.test("ldm --sweep goes on after a combination that cannot be made, over several sheets", () =>
  inFolder(async (cwd) => {
    const axes = ["width=32,33", "cfg=1", "eta=0,1"].flatMap((axis) => ["--sweep", axis]);
    const request = [...QUICK, "--sampler", "ddim", "-s", "3", ...axes, "--json", "-o", "x.png"];
    const { code, stdout, stderr } = await ldm(request, { cwd });
    equal(code, 1);
    match(stderr, /^ldm: Width: 33, CFG Scale: 1, Eta: 0: Cannot make a picture of 33×48 pixels/m);
    deepEqual(names(cwd), ["grid-1.png", "grid.csv", "grid.png", "x-1.png", "x.png"]);
    const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    const ends = events.filter(({ event }) => ["saved", "error", "sheet", "table"].includes(event));
    deepEqual(ends.map(({ event, cell, path }) => [event, cell ?? path]), [
      ["saved", 0],
      ["error", 1],
      ["sheet", "grid.png"],
      ["saved", 2],
      ["error", 3],
      ["sheet", "grid-1.png"],
      ["table", "grid.csv"],
    ]);
    const { images, failed } = events.at(-1);
    deepEqual([events.at(-1).event, images, failed], ["done", 2, 2]);
    const table = await Deno.readTextFile(join(cwd, "grid.csv"));
    match(table, /^33,1,1,3,,[\d.]+,"?Cannot make a picture of 33×48 pixels/m);
  }));

Deno.test("ldm --grid lays the pictures of a run out near to square, with the first one's parameters", () =>
  inFolder(async (cwd) => {
    const request = [...QUICK, "-s", "5", "-b", "3", "-q", "-o", "p/{seed}.png"];
    const { code, stdout } = await ldm([...request, "--grid", "sheets/all.png"], { cwd });
    equal(code, 0);
    deepEqual(stdout.split("\n"), ["p/5.png", "p/6.png", "p/7.png", "sheets/all.png", ""]);
    const bytes = await Deno.readFile(join(cwd, "sheets/all.png"));
    const sheet = await decodePicture(bytes);
    deepEqual([sheet.width, sheet.height], [2 + 34 * 2, 2 + 50 * 2]);
    deepEqual(cut(sheet, 36, 2, 32, 48), await pictureAt(cwd, "p/6.png"));
    deepEqual(cut(sheet, 2, 52, 32, 48), await pictureAt(cwd, "p/7.png"));
    deepEqual(
      await readPngText(bytes),
      await readPngText(await Deno.readFile(join(cwd, "p/5.png"))),
    );
  }));
