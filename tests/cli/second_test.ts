import { deepEqual, equal, match, ok } from "node:assert/strict";
import { join } from "node:path";
import { decodePicture, encodePng, type Picture, readPngText } from "../../lib/formats/png.ts";
import { inFolder } from "../folders.ts";
import { inpaintingFolder } from "../inpainting.ts";
import { FIXTURES, ldm, type Outcome } from "./ldm.ts";

function done(outcome: Outcome): Outcome {
  equal(outcome.code, 0, outcome.stderr);
  return outcome;
}

async function pictureAt(...path: readonly string[]): Promise<Picture> {
  return await decodePicture(await Deno.readFile(join(...path)));
}

/** Grey stripes, or what `value` says. */
function made(width: number, height: number, value = (x: number, y: number) => (x * 5 + y) % 251) {
  const data = Uint8Array.from(
    { length: width * height },
    (_, i) => value(i % width, Math.floor(i / width)),
  );
  return encodePng({ width, height, channels: 1, data });
}

Deno.test("ldm inpaint makes what is white in the mask anew, keeps the rest to the bit, and can be run again", () =>
  inFolder(async (cwd) => {
    const model = await inpaintingFolder(cwd);
    const quick = ["-m", model, "--steps", "2", "-s", "3", "-q"];
    // no multiples of the first stage's factor
    await Deno.writeFile(join(cwd, "photo.png"), await made(37, 30));
    const isHole = (x: number, y: number) => x >= 9 && x < 25 && y >= 8;
    const mask = await made(37, 30, (x, y) => isHole(x, y) ? 255 : 0);
    await Deno.writeFile(join(cwd, "mask.png"), mask);
    const ask = ["inpaint", "-i", "photo.png", "--mask", "mask.png", "a", "fox", ...quick];
    done(await ldm([...ask, "-n", "blurry", "-o", "kept.png"], { cwd }));
    done(await ldm([...ask, "-n", "blurry", "-o", "whole.png", "--no-keep"], { cwd }));
    const told = done(await ldm(["inspect", model], { cwd }));
    match(told.stdout, /^it fills holes in pictures: `ldm inpaint` with a picture and a mask$/m);
    const [photo, kept, whole] = await Promise.all(
      ["photo.png", "kept.png", "whole.png"].map((name) => pictureAt(cwd, name)),
    );
    deepEqual([kept.width, kept.height, kept.channels], [37, 30, 3]);
    for (const [i, value] of kept.data.entries()) {
      const pixel = Math.floor(i / 3);
      const isAnew = isHole(pixel % 37, Math.floor(pixel / 37));
      equal(value, isAnew ? whole.data[i] : photo.data[i], `number ${i}`);
    }
    const differs = whole.data.reduce((n, v, i) => n + (v === photo.data[i] ? 0 : 1), 0);
    ok(differs > whole.data.length / 2);

    const texts = await readPngText(await Deno.readFile(join(cwd, "whole.png")));
    equal(texts.length, 1); // no graph
    const said = /Size: 37x30, .*Second picture: mask, Image: photo.png, Mask: mask.png, Keep: Fal/;
    match(texts[0][1], said);
    for (const name of ["kept", "whole"]) {
      const again = done(
        await ldm(["rerun", `${name}.png`, "-o", "again.png", "--overwrite"], { cwd }),
      );
      equal(again.stdout, "again.png\n");
      deepEqual(await pictureAt(cwd, "again.png"), await pictureAt(cwd, `${name}.png`));
    }
  }));

const SD1 = `${FIXTURES}/tiny/sd1`;

Deno.test("ldm img2img changes a picture of any size, remembers how, and sweeps strengths", () =>
  inFolder(async (cwd) => {
    await Deno.writeFile(join(cwd, "photo.png"), await made(37, 30));
    const ask = [
      "img2img",
      "-i",
      "photo.png",
      "a",
      "fox",
      "-m",
      SD1,
      "--steps",
      "4",
      "-s",
      "3",
      "-q",
    ];
    done(await ldm([...ask, "-o", "own.png", "--strength", "0.5"], { cwd }));
    done(await ldm([...ask, "-o", "wide.png", "-W", "74"], { cwd }));
    const [own, wide] = await Promise.all(["own.png", "wide.png"].map((n) => pictureAt(cwd, n)));
    deepEqual([own.width, own.height, wide.width, wide.height], [37, 30, 74, 60]);
    const texts = new Map(await readPngText(await Deno.readFile(join(cwd, "own.png"))));
    match(
      texts.get("parameters") ?? "",
      /Denoising strength: 0.5, .*Second picture: start, Image: ph/,
    );
    const graph = JSON.parse(texts.get("prompt") ?? "");
    deepEqual([graph[3].inputs.steps, graph[3].inputs.denoise], [2, 0.5]);
    const again = ["rerun", "own.png", "-m", SD1, "-o", "again.png", "-q"];
    done(await ldm(again, { cwd }));
    deepEqual(await pictureAt(cwd, "again.png"), own);
    await Deno.rename(join(cwd, "photo.png"), join(cwd, "other.png"));
    const { code, stderr } = await ldm(again, { cwd });
    equal(code, 2);
    match(
      stderr,
      /^ldm: Cannot make "own.png" again: the picture that it was made of is .* -i PATH /,
    );
    const sweep = ["--sweep", "strength=0.5:1:0.5", "-o", "swept/"];
    ask[2] = "other.png";
    done(await ldm([...ask, ...sweep], { cwd }));
    deepEqual(await pictureAt(cwd, "swept", "0-3.png"), own);
  }));

Deno.test("ldm inpaint fills holes by a model that sees none, and blends their edges where it is asked to", () =>
  inFolder(async (cwd) => {
    await Deno.writeFile(join(cwd, "photo.png"), await made(37, 30));
    const isHole = (x: number) => x < 16;
    await Deno.writeFile(join(cwd, "mask.png"), await made(37, 30, (x) => isHole(x) ? 255 : 0));
    const ask = ["inpaint", "-i", "photo.png", "--mask", "mask.png", "a", "fox", "-m", SD1, "-q"];
    const quick = ["--steps", "2", "-s", "3"];
    done(await ldm([...ask, ...quick, "-o", "hard.png"], { cwd }));
    done(await ldm([...ask, ...quick, "--mask-blur", "2", "-o", "soft.png"], { cwd }));
    const [photo, hard, soft] = await Promise.all(
      ["photo.png", "hard.png", "soft.png"].map((name) => pictureAt(cwd, name)),
    );
    let blended = 0;
    for (const [i, value] of hard.data.entries()) {
      const x = Math.floor(i / 3) % 37;
      if (!isHole(x)) equal(value, photo.data[i], `number ${i}`);
      if (x >= 21) equal(soft.data[i], photo.data[i], `number ${i}`);
      if (x < 11) equal(soft.data[i], value, `number ${i}`);
      if (soft.data[i] !== value) blended += 1;
    }
    ok(blended > 30);
    const [[, said]] = await readPngText(await Deno.readFile(join(cwd, "soft.png")));
    match(said, /Denoising strength: 1, .*Mask blur: 2, /);
    const { code, stderr } = await ldm([...ask, "--mask-blur", "2", "--no-keep"], { cwd });
    equal(code, 2);
    match(stderr, /blur the mask by 2 pixels where nothing is kept/);
  }));

Deno.test("ldm batch makes what a line says of pictures beside the file, once, and tells a line whose picture is missing", () =>
  inFolder(async (cwd) => {
    await Deno.mkdir(join(cwd, "jobs"));
    await Deno.writeFile(join(cwd, "jobs", "photo.png"), await made(16, 16));
    await Deno.writeFile(join(cwd, "jobs", "mask.png"), await made(16, 16, (x) => x < 8 ? 255 : 0));
    const lines = [
      { prompt: "a fox", init_images: ["photo.png"], denoising_strength: 0.5 },
      { prompt: "a fox", init_images: ["photo.png"], mask: "mask.png", denoising_strength: 1 },
      { prompt: "a fox", init_images: ["none.png"] },
      { prompt: "a fox", width: 16, height: 16, denoising_strength: 0 },
    ];
    const text = lines.map((line) => JSON.stringify(line)).join("\n");
    await Deno.writeTextFile(join(cwd, "jobs", "jobs.jsonl"), text);
    const ask = [
      "batch",
      "jobs/jobs.jsonl",
      "-m",
      SD1,
      "--steps",
      "2",
      "-s",
      "3",
      "-q",
      "-o",
      "out/",
    ];
    const first = await ldm(ask, { cwd });
    equal(first.code, 1);
    match(
      first.stderr,
      /^ldm: line 3 of jobs\/jobs.jsonl: Cannot read the picture "jobs\/none.png": th[^\n]+\n$/,
    );
    const sees = await Promise.all(
      first.stdout.trimEnd().split("\n").map(async (path) => {
        const said = new Map(await readPngText(await Deno.readFile(join(cwd, path))));
        return /Second picture: (\w+)/.exec(said.get("parameters") ?? "")?.[1];
      }),
    );
    deepEqual(sees.toSorted(), ["mask", "start", undefined]);
    equal((await ldm(ask, { cwd })).stdout, "");
  }));

Deno.test("ldm inpaint and ldm upscale refuse what they cannot use in one sentence", () =>
  inFolder(async (cwd) => {
    const model = await inpaintingFolder(cwd);
    await Deno.writeFile(join(cwd, "photo.png"), await made(16, 8));
    await Deno.writeFile(join(cwd, "mask.png"), await made(8, 8, () => 255));
    await Deno.writeTextFile(join(cwd, "text.png"), "no picture");
    const MISTAKES: readonly (readonly [number, readonly string[], RegExp])[] = [
      [2, ["inpaint", "a fox", "-m", model], /^Nothing to fill: -i PATH names a picture/],
      [2, ["inpaint", "-i", "photo.png", "-W", "64"], /unknown option '-W'/],
      [2, ["img2img", "a fox", "-m", model], /^Nothing to change: -i PATH names a picture/],
      [
        2,
        ["img2img", "-i", "photo.png", "-m", model],
        /which fills holes in pictures: use `ldm in/,
      ],
      [2, ["img2img", "-i", "photo.png", "--strength", "1.1"], /^Cannot use --strength "1.1": a n/],
      [2, ["inpaint", "-i", "photo.png", "-m", model], /without a mask: nothing in the picture/],
      [
        2,
        ["inpaint", "-i", "photo.png", "--mask", "mask.png", "-m", model],
        /of 16×8 pixels with a mask of 8×8: they must be equally large/,
      ],
      [1, ["inpaint", "-i", "none.png", "-m", model], /Cannot read the picture "none\.png"/],
      [1, ["upscale", "text.png", "-m", model], /"text\.png"/],
      [2, ["upscale", "photo.png", "-m", model], /it fills holes in pictures; a model that makes/],
      [2, ["upscale"], /missing required argument 'image'/],
      [2, ["a fox", "-m", model], /from text alone .* which fills holes in pictures: use `ldm inp/],
      [
        2,
        ["a fox", "--map", "photo.png", "-m", `${FIXTURES}/tiny/sd1`],
        /Cannot make a picture of a map .*: it sees no second picture/,
      ],
    ];
    for (const [expected, args, said] of MISTAKES) {
      const { code, stderr } = await ldm([...args, "-q"], { cwd });
      equal(code, expected, `${args.join(" ")}: ${stderr}`);
      match(stderr, /^ldm: [^\n]+\n$/);
      match(stderr.slice("ldm: ".length), said);
    }
  }));

/** Trains a tiny model for a step. */
async function trained(cwd: string, source: string, data: string): Promise<void> {
  const set = Object.entries({
    "data.size": 16,
    "optimizer.batch": 1,
    "diffusion.first_stage": `${FIXTURES}/tiny/sd1/vae`,
    "diffusion.conditioner": '["concat"]',
    "concat.source": source,
    "concat.factor": 2,
    ...{ "unet.width": 8, "unet.groups": 4, "unet.layers": 1, "unet.heads": 2 },
    ...{ "unet.multipliers": "[1, 2]", "unet.attention": "[0]", "unet.context": 8 },
    ...{ "run.steps": 1, "run.save_every": 0, "sample.every": 0 },
  }).flatMap(([name, value]) => ["--set", `${name}=${value}`]);
  done(await ldm(["train", "diffusion", "--data", data, "-o", "run", ...set, "-q"], { cwd }));
}

Deno.test("ldm txt2img --map makes pictures of a map by a model that ldm train made of data with maps", () =>
  inFolder(async (cwd) => {
    await Deno.mkdir(join(cwd, "data"));
    await Deno.writeFile(join(cwd, "data", "a.png"), await made(16, 16));
    await Deno.writeFile(join(cwd, "data", "a.map.png"), await made(4, 4));
    await trained(cwd, "map", "data");
    await Deno.writeFile(join(cwd, "map.png"), await made(12, 8));
    const ask = ["--map", "map.png", "-m", "run", "--steps", "2", "-s", "1", "-q", "-o"];
    done(await ldm([...ask, "own.png"], { cwd }));
    done(await ldm([...ask, "wide.png", "-W", "40", "-H", "8"], { cwd }));
    const sizes = await Promise.all(["own.png", "wide.png"].map((name) => pictureAt(cwd, name)));
    deepEqual(sizes.map(({ width, height }) => [width, height]), [[12, 8], [40, 8]]);
    done(await ldm(["rerun", "wide.png", "-o", "again.png", "-q"], { cwd }));
    deepEqual(await pictureAt(cwd, "again.png"), sizes[1]);
  }));

Deno.test("ldm upscale makes pictures of any size larger by a model that ldm train made, and runs again", () =>
  inFolder(async (cwd) => {
    await trained(cwd, "low", join(FIXTURES, "pictures"));
    const index = JSON.parse(await Deno.readTextFile(join(cwd, "run", "model_index.json")));
    deepEqual(index.concat, { source: "low", factor: 2 });
    await Deno.writeFile(join(cwd, "small.png"), await made(9, 5));
    const ask = ["upscale", "small.png", "-m", "run", "--steps", "2", "-s", "1", "-q"];
    done(await ldm([...ask, "-o", "large.png"], { cwd }));
    const large = await pictureAt(cwd, "large.png");
    deepEqual([large.width, large.height], [18, 10]);
    await Deno.writeFile(join(cwd, "small.png"), await made(9, 5, () => 20));
    done(await ldm(["rerun", "large.png", "-o", "other.png", "-q"], { cwd }));
    const other = await pictureAt(cwd, "other.png");
    equal(other.width, 18);
    ok(other.data.some((value, i) => value !== large.data[i])); // it sees the small picture
    const { stderr } = await ldm(["rerun", "large.png", "-i", "none.png", "-q"], { cwd });
    match(stderr, /Cannot read the picture "none\.png"/);
  }));

Deno.test("ldm img2img --help says whose size a picture has where none is given", async () => {
  const { stdout } = await ldm(["img2img", "--help"]);
  match(stdout, /--width <n> +pixels \(default: the picture's\)/);
});
