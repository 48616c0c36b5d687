import { deepEqual, equal, match, notDeepEqual } from "node:assert/strict";
import { join } from "node:path";
import { decodePicture, readPngText } from "../../lib/formats/png.ts";
import { inFolder, names } from "../folders.ts";
import { FIXTURES, ldm, type Outcome } from "./ldm.ts";

/** A denoiser of seconds, told classes and boxes; the rate is such that two steps let these have a say. */
const SMALL = [
  ...["run.steps=2", "size=32", "batch=2", "ema=0", "lr=0.3", "conditioner=class,boxes"],
  ...["unet.width=8", "unet.groups=4", "unet.layers=1", "unet.heads=2", "unet.multipliers=1,2"],
  ...["unet.attention=0", "unet.context=8", "boxes.vocabulary=64", "boxes.objects=4"],
  ...["boxes.width=8", "boxes.heads=2", "boxes.layers=1", "sample.every=0", "save_every=0"],
  `first_stage=${join(FIXTURES, "tiny/sd1/vae")}`,
].flatMap((setting) => ["--set", setting]);

async function done(args: readonly string[], cwd: string): Promise<Outcome> {
  const outcome = await ldm(args, { cwd });
  equal(outcome.code, 0, `${args.join(" ")}: ${outcome.stderr}`);
  return outcome;
}

/** Pictures with a class and a box each. */
async function makeData(folder: string): Promise<void> {
  await Deno.mkdir(folder);
  const lines: string[] = [];
  for (const label of ["fox", "pizza", "rocket"]) {
    const name = `${label}.png`;
    await Deno.copyFile(join(FIXTURES, "pictures", name), join(folder, name));
    const objects = [{ bbox: [0.1, 0.1, 0.5, 0.6], label }];
    lines.push(JSON.stringify({ file_name: name, label, objects }));
  }
  await Deno.writeTextFile(join(folder, "metadata.jsonl"), lines.join("\n"));
}

Deno.test("ldm asks a trained model for classes and boxes", async (t) =>
  await inFolder(async (cwd) => {
    const at = (name: string) => join(cwd, name);
    const pixels = async (name: string) =>
      (await decodePicture(await Deno.readFile(at(name)))).data;
    const texts = async (name: string) => new Map(await readPngText(await Deno.readFile(at(name))));
    const quick = ["-m", "run", "--steps", "2", "-s", "3", "-q"];
    const draw = (...args: readonly string[]) => done([...args, ...quick], cwd);
    await makeData(at("data"));
    await done(["train", "diffusion", "--data", "data", "-o", "run", ...SMALL], cwd);
    const asked = ["--class", "fox", "--box", "fox@0.1,0.2,0.5,0.9", "--box", "rocket@0,0,1,0.3"];

    await t.step("on the command line, which the picture remembers", async () => {
      await draw(...asked, "-o", "{prompt}.png", "--draw-boxes");
      deepEqual(names(cwd).filter((name) => name.endsWith("png")), ["fox.boxes.png", "fox.png"]);
      const [copy, picture] = [await pixels("fox.boxes.png"), await pixels("fox.png")];
      equal(copy.length, picture.length);
      notDeepEqual(copy, picture);
      const said = await texts("fox.png");
      deepEqual([...said.keys()], ["parameters"]);
      match(
        said.get("parameters") ?? "",
        /, Class: fox, Boxes: "fox@0\.1,0\.2,0\.5,0\.9; rocket@0,0,1,0\.3", /,
      );
    });

    await t.step("in a prompt file, before what the command line says", async () => {
      const boxes = [{ label: "fox", box: [0.1, 0.2, 0.5, 0.9] }, "rocket@0,0,1,0.3"];
      await Deno.writeTextFile(at("boxes.json"), JSON.stringify({ boxes }));
      const lines = [
        JSON.stringify({ label: "fox", boxes }),
        "--class fox --box fox@0.1,0.2,0.5,0.9 --box rocket@0,0,1,0.3",
        '{"class": "pizza"}',
        '{"box": "fox@0.1,0.2,0.5,0.9"}',
      ];
      await Deno.writeTextFile(at("lines.txt"), lines.join("\n"));
      const others = ["--class", "fox", "--boxes", "boxes.json", "-o", "{index}.png"];
      await done(["batch", "lines.txt", ...others, ...quick], cwd);
      const picture = await pixels("fox.png");
      for (const name of ["0.png", "1.png"]) deepEqual(await pixels(name), picture, name);
      for (const name of ["2.png", "3.png"]) notDeepEqual(await pixels(name), picture, name);
    });

    await t.step("again, as the picture says or otherwise", async () => {
      const again = ["rerun", "fox.png", "-m", "run", "-q"];
      const { stderr } = await done([...again, "-o", "again.png"], cwd);
      equal(stderr, "");
      deepEqual(await pixels("again.png"), await pixels("fox.png"));
      deepEqual(await texts("again.png"), await texts("fox.png"));
      await done([...again, "--class", "pizza", "--draw-boxes", "-o", "other.png"], cwd);
      deepEqual(await pixels("other.png"), await pixels("2.png"));
      equal((await pixels("other.boxes.png")).length, (await pixels("other.png")).length);
    });

    await t.step("in a sweep", async () => {
      await draw(...asked.slice(2), "--sweep", "class=fox,pizza", "-o", "sweep{index}.png");
      deepEqual(await pixels("sweep0.png"), await pixels("fox.png"));
      deepEqual(await pixels("sweep1.png"), await pixels("2.png"));
      match(await Deno.readTextFile(at("grid.csv")), /^class,seed,[^\n]*\nfox,3,sweep0\.png,/);
    });

    await t.step("and says in a sentence what it cannot do", async () => {
      const cases: [args: string[], code: number, sentence: RegExp][] = [
        [
          ["--class", "foxx"],
          2,
          /of class "foxx": the model has no such class; did you mean "fox"\?$/,
        ],
        [["--box", "dog@0,0,1,1"], 2, /"dog".* no such class; it knows fox, pizza, rocket$/],
        [
          ["--box", "fox"],
          2,
          /^ldm: Cannot use --box "fox": label@left,top,right,bottom was needed/,
        ],
        [["--boxes", "none.json"], 1, /^ldm: Cannot read "none\.json": there is no such file/],
        [["--class", "fox", "--draw-boxes"], 2, /Cannot use --draw-boxes without boxes/],
        [[...asked, "--draw-boxes", "-o", "-"], 2, /Cannot use --draw-boxes with -o -/],
        [
          [...asked, "-m", join(FIXTURES, "tiny/sd1")],
          2,
          /of class "fox" with ".*": it knows no classes$/,
        ],
      ];
      for (const [args, code, sentence] of cases) {
        const outcome = await ldm([...quick, ...args], { cwd });
        match(outcome.stderr.trimEnd(), sentence, args.join(" "));
        equal(outcome.code, code, args.join(" "));
      }
    });
  }));
