import { deepEqual, equal, match, notDeepEqual } from "node:assert/strict";
import { join } from "node:path";
import { encodePng } from "../../lib/formats/png.ts";
import { inFolder } from "../folders.ts";
import { FIXTURES, ldm } from "./ldm.ts";

const MODEL = [
  "-m",
  join(FIXTURES, "tiny", "sd1"),
  "-W",
  "32",
  "-H",
  "32",
  "--steps",
  "2",
  "-s",
  "7",
];
const LORAS = join(FIXTURES, "lora");

Deno.test("ldm folds LoRAs in that options and prompts ask for, and pictures remember them", async () => {
  await inFolder(async (folder) => {
    const draw = async (name: string, ...args: readonly string[]) => {
      const path = join(folder, name);
      const { code, stderr } = await ldm([...args, ...MODEL, "-o", path]);
      equal(code, 0, stderr);
      return await Deno.readFile(path);
    };
    const file = join(LORAS, "kohya.safetensors");
    const bare = await draw("bare.png", "a fox", "--no-metadata");
    const whole = await draw("whole.png", "a fox", "--lora", file, "--no-metadata");
    notDeepEqual(whole, bare);
    const tag = "a fox<lora:kohya:0.5>";
    const half = await draw("half.png", tag, "--lora-dir", FIXTURES, "--no-metadata");
    notDeepEqual(half, bare);
    notDeepEqual(half, whole);
    const remembered = await draw("again.png", "a fox", "--lora", `${file}:0.5`);
    const { stdout } = await ldm(["inspect", join(folder, "again.png")]);
    match(stdout, /a fox <lora:kohya:0\.5>/);
    const path = join(folder, "rerun.png");
    const { code, stderr } = await ldm([
      ...["rerun", join(folder, "again.png"), "-m", join(FIXTURES, "tiny", "sd1")],
      ...["--lora-dir", LORAS, "-o", path],
    ]);
    equal(code, 0, stderr);
    deepEqual(await Deno.readFile(path), remembered);
  });
});

Deno.test("ldm batch changes LoRAs from prompt to prompt, text encoders' states with them", async () => {
  await inFolder(async (folder) => {
    const prompts = ["a fox", "a fox <lora:kohya:0.5>", "a fox <lora:kohya>", "a fox "];
    await Deno.writeTextFile(join(folder, "prompts.txt"), prompts.join("\n"));
    const args = ["batch", "prompts.txt", ...MODEL, "-o", "{index}.png", "--no-metadata"];
    const { code, stderr } = await ldm([...args, "--lora-dir", LORAS], { cwd: folder });
    equal(code, 0, stderr);
    const alone = join(folder, "alone.png");
    await ldm([prompts[2], ...MODEL, "-o", alone, "--no-metadata", "--lora-dir", LORAS]);
    const pictures = await Promise.all(
      prompts.map((_, i) => Deno.readFile(join(folder, `${i}.png`))),
    );
    deepEqual(pictures[3], pictures[0]);
    deepEqual(pictures[2], await Deno.readFile(alone));
    notDeepEqual(pictures[1], pictures[2]);
    notDeepEqual(pictures[1], pictures[0]);
  });
});

Deno.test("ldm rerun folds in the LoRAs of other programs' pictures, and tells which it does not find", async () => {
  await inFolder(async (folder) => {
    const at = (name: string) => join(folder, name);
    const settings = "Steps: 2, Sampler: Euler, CFG scale: 7, Seed: 7, Size: 32x32, " +
      'Lora hashes: "kohya: 0123456789ab", RNG: CPU, Version: v1.10.1';
    const blank = {
      width: 32,
      height: 32,
      channels: 3 as const,
      data: new Uint8Array(32 * 32 * 3),
    };
    const tags = "<lora:kohya:0.5> <lora:nobody:1>";
    const text: [string, string][] = [["parameters", `a fox ${tags}\n${settings}`]];
    await Deno.writeFile(at("theirs.png"), await encodePng(blank, { text }));
    const own = ["-m", join(FIXTURES, "tiny", "sd1"), "-q", "--lora-dir", LORAS];
    const again = await ldm(["rerun", at("theirs.png"), ...own, "-o", at("again.png")]);
    equal(again.code, 0, again.stderr);
    equal(
      again.stderr,
      `warning: cannot match the LoRA "nobody", which is not in "${LORAS}"; --lora-dir names its folder\n`,
    );
    const size = ["-W", "32", "-H", "32", "--steps", "2", "-s", "7", "--sampler", "euler"];
    const how = ["--match", "a1111", "--rng", "cpu", "--cfg-scale", "7"];
    const asked = ["a fox <lora:kohya:0.5>", ...size, ...how];
    const made = await ldm([...asked, ...own, "-o", at("made.png")]);
    equal(made.code, 0, made.stderr);
    deepEqual(await Deno.readFile(at("again.png")), await Deno.readFile(at("made.png")));
  });
});

Deno.test("ldm refuses LoRAs that it cannot find or use, in a sentence", async () => {
  const cases: readonly [readonly string[], number, RegExp][] = [
    [
      ["a <lora:nobody:1>"],
      1,
      /Cannot find the LoRA "nobody" of the prompt: there is no "nobody.safetensors"/,
    ],
    [["a", "--lora", ":x"], 1, /Cannot read ":x"/],
    [["a", "--lora", ""], 2, /Cannot use --lora "": a file was needed/],
  ];
  for (const [args, expected, message] of cases) {
    await inFolder(async (folder) => {
      const { code, stderr } = await ldm([...args, ...MODEL, "-o", folder, "--lora-dir", LORAS]);
      equal(code, expected, stderr);
      match(stderr, message);
    });
  }
});
