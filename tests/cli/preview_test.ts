import { deepEqual, equal, match, ok } from "node:assert/strict";
import { join } from "node:path";
import { fieldsOf } from "../../lib/cli/events.ts";
import { decodePicture } from "../../lib/formats/png.ts";
import { inFolder, names } from "../folders.ts";
import { FIXTURES, ldm } from "./ldm.ts";

const SD1 = `${FIXTURES}/tiny/sd1`;
const QUICK = ["a fox", "-m", SD1, "--steps", "5", "-W", "32", "-H", "48", "-s", "5"];

Deno.test("ldm --preview replaces a file every few steps, and the picture stays the same", () =>
  inFolder(async (cwd) => {
    await ldm([...QUICK, "-q", "-o", "without.png"], { cwd });
    const preview = ["--preview", "new.png", "--preview-every", "2", "--json", "-b", "2"];
    const { code, stdout } = await ldm([...QUICK, ...preview, "-o", "with.png"], { cwd });
    equal(code, 0);
    const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    const previews = events.filter(({ event }) => event === "preview");
    deepEqual(
      previews.map(({ path, image, index, of }) => [path, image, index, of]),
      [0, 1].flatMap((image) => [1, 3, 4].map((index) => ["new.png", image, index, 5])),
    );
    const { width, height } = await decodePicture(await Deno.readFile(join(cwd, "new.png")));
    deepEqual([width, height], [32, 48]);
    deepEqual(names(cwd), ["new.png", "with-1.png", "with.png", "without.png"]);
    const read = (name: string) => Deno.readFile(join(cwd, name));
    deepEqual(await read("with.png"), await read("without.png"));
  }));

Deno.test("ldm --preview-taesd makes previews with a TAESD, and refuses what is none", () =>
  inFolder(async (cwd) => {
    const preview = ["--preview", "p.png", "--preview-taesd"];
    const taesd = await ldm([
      ...QUICK,
      "-q",
      ...preview,
      `${FIXTURES}/taesd/taesd_decoder.safetensors`,
    ], { cwd });
    equal(taesd.code, 0, taesd.stderr);
    // this model's latents are of 4×4 pixels, TAESD makes 8×8 of each
    const { width, height } = await decodePicture(await Deno.readFile(join(cwd, "p.png")));
    deepEqual([width, height], [64, 96]);
    const none = await ldm([...QUICK, "-q", ...preview, `${SD1}/unet`], { cwd });
    deepEqual([none.code, none.stdout], [1, ""]);
    match(none.stderr, /^ldm: Cannot [^\n]*unet"[^\n]*\n$/);
  }));

Deno.test("ldm --preview makes its folder, and refuses before the picture where it cannot", () =>
  inFolder(async (cwd) => {
    const made = await ldm([...QUICK, "-q", "--preview", "no/such/p.png"], { cwd });
    deepEqual([made.code, made.stderr, names(join(cwd, "no/such"))], [0, "", ["p.png"]]);
    const refused = await ldm([...QUICK, "-q", "--preview", "0-5.png/p.png", "-s", "6"], { cwd });
    deepEqual([refused.code, refused.stdout], [1, ""]);
    match(refused.stderr, /^ldm: Cannot write "0-5\.png\/p\.png"[^\n]*\n$/);
  }));

Deno.test("ldm goes on without previews where they cannot be saved, and says so once", () =>
  inFolder(async (cwd) => {
    await Deno.mkdir(join(cwd, "folder.png"));
    const preview = ["--preview", "folder.png", "--preview-every", "1"];
    const { code, stdout, stderr } = await ldm([...QUICK, ...preview, "-q"], { cwd });
    deepEqual([code, stdout], [0, "0-5.png\n"]);
    match(stderr, /^warning: There are no more previews: Cannot write "folder\.png"[^\n]*\n$/);
  }));

Deno.test("every event of --json has the fields that are documented, and no others", () =>
  inFolder(async (cwd) => {
    const all = ["--preview", "p.png", "--grid", "--json", "-v", "-b", "2"];
    const sweep = ["--sweep", "cfg=1,2", "--sweep", "width=32,33", "--json"];
    await Deno.writeTextFile(join(cwd, "list.txt"), "a fox\na cat --steps many\na cat --steps 0\n");
    const batch = ["batch", "list.txt", ...QUICK.slice(1), "--json"];
    for (const args of [[...QUICK, ...all], [...QUICK, ...sweep], batch, batch]) {
      const { stdout } = await ldm(args, { cwd });
      for (const line of stdout.trimEnd().split("\n")) {
        const event = JSON.parse(line);
        const { always, sometimes } = fieldsOf(event.event);
        const has = Object.keys(event);
        deepEqual(always.filter((name) => !has.includes(name)), [], line);
        deepEqual(has.filter((name) => ![...always, ...sometimes].includes(name)), [], line);
      }
    }
    const help = await ldm(["help", "json"]);
    equal(help.code, 0);
    ok(help.stdout.includes("\npreview: --preview: the file is replaced\n  path "), help.stdout);
  }));
