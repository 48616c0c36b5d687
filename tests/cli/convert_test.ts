import { deepEqual, equal, match } from "node:assert/strict";
import { join } from "node:path";
import { inFolder, names } from "../folders.ts";
import { FIXTURES, ldm } from "./ldm.ts";

const SD1 = join(FIXTURES, "tiny", "sd1");

Deno.test("ldm convert writes a file and a folder that give the same picture as what they were made of", () =>
  inFolder(async (cwd) => {
    const { code, stdout, stderr } = await ldm(["convert", SD1, "sd1.safetensors"], { cwd });
    deepEqual([code, stdout], [0, "sd1.safetensors\n"]);
    match(stderr, /^text_encoder, unet, vae: 786 kB in /m);
    const back = await ldm(["convert", "sd1.safetensors", "sd1"], { cwd });
    deepEqual([back.code, back.stdout], [0, "sd1\n"]);
    const draw = async (model: string) => {
      const small = ["-W", "32", "-H", "32", "--steps", "2", "-s", "7", "--no-metadata"];
      const drawn = await ldm(["a fox", "-m", model, ...small, "-o", "-"], { cwd });
      equal(drawn.code, 0, drawn.stderr);
      return drawn.bytes;
    };
    const own = await draw(SD1);
    for (const model of ["sd1", "sd1.safetensors"]) deepEqual(await draw(model), own, model);
    deepEqual(names(cwd), ["sd1", "sd1.safetensors"]);
  }));

Deno.test("ldm convert --json tells what was saved and what was left out", () =>
  inFolder(async (cwd) => {
    const source = join(FIXTURES, "tiny", "sdxl.safetensors");
    const args = ["convert", source, "x", "--to", "folder", "--dtype", "bf16", "--json"];
    const { code, stdout, stderr } = await ldm(args, { cwd });
    equal(code, 0, stderr);
    const [saved, done] = stdout.trim().split("\n").map((line) => JSON.parse(line));
    const { event, path, form, parts, bytes, dropped } = saved;
    deepEqual([event, path, form, bytes], ["saved", "x", "folder", 558838]);
    deepEqual(parts, ["text_encoder", "text_encoder_2", "unet", "vae"]);
    equal(dropped.length, 3);
    equal(done.event, "done");
    match(stderr, /^left out 3 tensors that no model needs, "/m);
  }));

Deno.test("ldm convert refuses with one sentence", () =>
  inFolder(async (cwd) => {
    await Deno.writeTextFile(join(cwd, "there"), "");
    const cases: readonly (readonly [readonly string[], number, RegExp])[] = [
      [[SD1], 2, /missing required argument 'out'/],
      [[SD1, "x", "--dtype", "f8"], 2, /--dtype "f8": one of f16, f32, bf16 was needed/],
      [[SD1, "x.safetensors", "--tokenizer", SD1], 2, /only a folder has a place for one/],
      [[SD1, "x.ckpt"], 2, /Cannot write "x\.ckpt": a name that ends in \.safetensors/],
      [[SD1, "-"], 2, /Cannot write a checkpoint to stdout: name a file or a folder/],
      [["nothing", "x"], 1, /Cannot open the checkpoint "nothing": there is no such file/],
      [[join(FIXTURES, "lora", "kohya.safetensors"), "x"], 1, /it is a LoRA/],
      [[SD1, "there"], 1, /Cannot write "there": it is a file, a folder was needed/],
      [[SD1, SD1, "--overwrite"], 1, /that is the same place/],
    ];
    for (const [args, expected, said] of cases) {
      const { code, stdout, stderr } = await ldm(["convert", ...args], { cwd });
      deepEqual([code, stdout], [expected, ""], args.join(" "));
      match(stderr, /^ldm: [^\n]+\n$/);
      match(stderr, said);
    }
    deepEqual(names(cwd), ["there"]);
  }));
