import { deepEqual, equal, match, notDeepEqual, ok } from "node:assert/strict";
import { dirname, join } from "node:path";
import { decodePicture, encodePng, readPngText, type Text } from "../../lib/formats/png.ts";
import { readTexts } from "../../lib/formats/remember.ts";
import { inFolder } from "../folders.ts";
import { parseGenerationParameters } from "../formats/a1111_reader.ts";
import { FIXTURES, ldm, type Outcome } from "./ldm.ts";

const SD1 = `${FIXTURES}/tiny/sd1`;
const FILE = `${FIXTURES}/tiny/sd1.safetensors`;
const QUICK = ["--steps", "2", "-W", "32", "-H", "48", "-q"];

async function pixels(path: string): Promise<Uint8Array> {
  return (await decodePicture(await Deno.readFile(path))).data;
}

function done(outcome: Outcome): Outcome {
  equal(outcome.code, 0, outcome.stderr);
  return outcome;
}

Deno.test("ldm rerun makes a picture of ldm again, pixel for pixel and text for text", () =>
  inFolder(async (cwd) => {
    const at = (name: string) => join(cwd, name);
    const requests = [
      ["a (red:1.3) fox, [night|day]\n", "-n", "bad, (worse)", "-s", "7", "--sampler", "euler_a"],
      ["Negative prompt: 狐 ", "-s", "8", "--rng", "cuda", "--match", "comfyui", "-b", "2"],
    ];
    requests[0].push("--match", "a1111", "--dtype", "f32", "--cfg-scale", "3.25");
    requests[1].push("--clip-skip", "2", "--guidance-rescale", "0.5");
    for (const [i, request] of requests.entries()) {
      done(await ldm([...request, ...QUICK, "-m", SD1, "-o", `${i}-{index}.png`], { cwd }));
    }
    // the second of a batch whose noise is one stream
    for (const name of ["0-0", "1-1"]) {
      const { stdout, stderr } = done(
        await ldm(["rerun", `${name}.png`, "-m", SD1, "-q", "-o", "again.png", "--overwrite"], {
          cwd,
        }),
      );
      deepEqual([stdout, stderr], ["again.png\n", ""], name);
      deepEqual(await pixels(at("again.png")), await pixels(at(`${name}.png`)), name);
      deepEqual(
        await readPngText(await Deno.readFile(at("again.png"))),
        await readPngText(await Deno.readFile(at(`${name}.png`))),
      );
    }
    notDeepEqual(await pixels(at("1-0.png")), await pixels(at("1-1.png")));
  }));

Deno.test("ldm rerun finds the checkpoint beside the picture and takes overrides", () =>
  inFolder(async (cwd) => {
    await Deno.mkdir(join(cwd, "pictures"));
    const model = join(cwd, "pictures", "tiny, model.safetensors");
    await Deno.copyFile(FILE, model);
    done(
      await ldm(["fox", ...QUICK, "-m", model, "-s", "3", "-o", "pictures/a.png", "--model-hash"], {
        cwd,
      }),
    );
    const again = done(await ldm(["rerun", "pictures/a.png", "-q", "-o", "b.png"], { cwd }));
    equal(again.stderr, "");
    deepEqual(await pixels(join(cwd, "b.png")), await pixels(join(cwd, "pictures", "a.png")));

    const { stdout } = done(
      await ldm([
        "rerun",
        "b.png",
        "-m",
        SD1,
        "--steps",
        "1",
        "-p",
        "wolf",
        "-W",
        "64",
        "-s",
        "4",
        "--json",
        "-q",
      ], { cwd }),
    );
    const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    const { prompt, steps, width, height, seeds } = events.find(({ event }) => event === "plan");
    deepEqual([prompt, steps, width, height, seeds], ["wolf", 1, 64, 48, [4]]);

    const lost = await ldm(["rerun", "b.png"], { cwd });
    equal(lost.code, 2);
    match(
      lost.stderr,
      /^ldm: Cannot make "b\.png" again: the checkpoint "tiny, model" is neither beside it nor[^\n]*-m PATH/,
    );
    const bytes = await Deno.readFile(model);
    bytes[bytes.length - 1] ^= 1;
    await Deno.writeFile(join(cwd, "other.safetensors"), bytes);
    const other = done(await ldm(["rerun", "b.png", "-m", "other.safetensors", "-q"], { cwd }));
    match(
      other.stderr,
      /^warning: "other\.safetensors" is another checkpoint than the picture's: its hash is [0-9a-f]{10}, not [0-9a-f]{10}\n$/,
    );
  }));

Deno.test("ldm writes JPEGs that say what they were made with, and makes them again", () =>
  inFolder(async (cwd) => {
    done(
      await ldm(["狐", ...QUICK, "-m", SD1, "-s", "3", "-o", "a.jpg", "--quality", "80"], { cwd }),
    );
    const bytes = await Deno.readFile(join(cwd, "a.jpg"));
    deepEqual([...bytes.subarray(0, 3)], [0xff, 0xd8, 0xff]);
    const [[key, text], ...others] = await readTexts(bytes);
    deepEqual([key, others], ["UserComment", []]);
    equal(parseGenerationParameters(text)["Prompt"], "狐");
    done(await ldm(["rerun", "a.jpg", "-m", SD1, "-q", "-o", "b.png"], { cwd }));
    const again = await readPngText(await Deno.readFile(join(cwd, "b.png")));
    deepEqual(again[0], ["parameters", text]);
    const webp = await ldm(["fox", ...QUICK, "-m", SD1, "-o", "a.webp"], { cwd });
    equal(webp.code, 2);
    match(webp.stderr, /^ldm: Cannot write "a\.webp": [^\n]*\.png, \.jpg or \.jpeg[^\n]*\n$/);
  }));

Deno.test("ldm --bits 16 writes PNGs of 16 bits whose upper bytes are the picture", () =>
  inFolder(async (cwd) => {
    const request = ["fox", ...QUICK, "-m", SD1, "-s", "3"];
    done(await ldm([...request, "-o", "deep.png", "--bits", "16"], { cwd }));
    done(await ldm([...request, "-o", "plain.png"], { cwd }));
    const deep = await Deno.readFile(join(cwd, "deep.png"));
    equal(deep[24], 16);
    const [a, b] = [await pixels(join(cwd, "deep.png")), await pixels(join(cwd, "plain.png"))];
    ok(a.every((byte, i) => Math.abs(byte - b[i]) <= 1));
    const jpeg = await ldm([...request, "-o", "x.jpg", "--bits", "16"], { cwd });
    equal(jpeg.code, 2);
    match(jpeg.stderr, /^ldm: Cannot [^\n]*16 bits[^\n]*\n$/);
    done(await ldm(["rerun", "deep.png", "-m", SD1, "-q", "-o", "x.jpg"], { cwd })); // nobody asks for 16 bits of it
  }));

/** What other programs write into a picture of 32×48 pixels, and what cannot be matched of it. */
const FOREIGN: Readonly<Record<string, { texts: readonly Text[]; said: RegExp }>> = {
  a1111: {
    texts: [[
      "parameters",
      "a (red:1.2) fox, née\nNegative prompt: bad\nSteps: 2, Sampler: Euler a, " +
      "Schedule type: Automatic, CFG scale: 7, Seed: 5, Size: 32x48, Model: x, Hires upscale: 2, Version: v1.10.1",
    ]],
    said: /^warning: cannot match Hires upscale: 2\n$/,
  },
  comfyui: {
    texts: [[
      "prompt",
      JSON.stringify({
        3: {
          class_type: "KSampler",
          inputs: {
            seed: 2 ** 40 + 5,
            steps: 2,
            cfg: 8,
            sampler_name: "dpmpp_2m",
            scheduler: "karras",
            denoise: 1,
            model: [4, 0],
            positive: [6, 0],
            negative: [7, 0],
            latent_image: [5, 0],
          },
        },
        4: { class_type: "CheckpointLoaderSimple", inputs: { ckpt_name: "x.safetensors" } },
        5: { class_type: "EmptyLatentImage", inputs: { width: 32, height: 48, batch_size: 1 } },
        6: { class_type: "CLIPTextEncode", inputs: { text: "a fox, 狐", clip: [4, 1] } },
        7: { class_type: "CLIPTextEncode", inputs: { text: "", clip: [4, 1] } },
        8: { class_type: "VAEDecode", inputs: { samples: [3, 0], vae: [4, 2] } },
      }),
    ]],
    said: /^$/,
  },
  invokeai: {
    texts: [[
      "invokeai_metadata",
      JSON.stringify({
        generation_mode: "txt2img",
        positive_prompt: "a fox",
        negative_prompt: "",
        width: 32,
        height: 48,
        seed: 5,
        rand_device: "cpu",
        cfg_scale: 7.5,
        steps: 2,
        scheduler: "euler_k",
        clip_skip: 0,
        model: { name: "x" },
        loras: [1],
      }),
    ]],
    said: /^warning: cannot match loras: \[1\]\n$/,
  },
  sdcpp: {
    texts: [[
      "parameters",
      "a fox\nSteps: 2, CFG scale: 7.000000, Guidance: 3.500000, Eta: 0.000000, Seed: 5, " +
      "Size: 32x48, Model: x.safetensors, RNG: cuda, Sampler: euler_a discrete, Version: stable-diffusion.cpp",
    ]],
    said: /^$/,
  },
  fooocus: {
    texts: [[
      "parameters",
      JSON.stringify({
        version: "Fooocus v2.5.5",
        prompt: "a fox",
        negative_prompt: "",
        resolution: "(32, 48)",
        steps: 2,
        guidance_scale: 4,
        base_model: "x",
        sampler: "seeds_2",
        scheduler: "karras",
        seed: "5",
      }),
    ]],
    said:
      /^warning: cannot match the sampler "seeds_2" of Fooocus; the checkpoint's own is used\n$/,
  },
  kohya: {
    texts: [["prompt", "a fox"], ["seed", "5"], ["sampler", "ddim"], ["steps", "2"], [
      "scale",
      "7.5",
    ]],
    said: /^$/,
  },
};

Deno.test("ldm rerun makes pictures after the settings of every other program, and says what it cannot match", () =>
  inFolder(async (cwd) => {
    const blank = {
      width: 32,
      height: 48,
      channels: 3 as const,
      data: new Uint8Array(32 * 48 * 3),
    };
    for (const [tool, { texts, said }] of Object.entries(FOREIGN)) {
      await Deno.writeFile(join(cwd, `${tool}.png`), await encodePng(blank, { text: texts }));
      const { stdout, stderr } = done(
        await ldm(["rerun", `${tool}.png`, "-m", SD1, "-q", "--json", "-o", `${tool}-again.png`], {
          cwd,
        }),
      );
      match(stderr, said, tool);
      const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
      const plan = events.find(({ event }) => event === "plan");
      deepEqual([plan.width, plan.height, plan.steps, plan.seeds], [32, 48, 2, [5]], tool);
      const png = await Deno.readFile(join(cwd, `${tool}-again.png`));
      ok((await decodePicture(png)).data.some((byte) => byte !== 0));
    }
  }));

Deno.test("ldm rerun --help gives the picture's settings as the defaults", async () => {
  const { stdout } = await ldm(["rerun", "--help"]);
  const help = stdout.replaceAll(/\s+/g, " ");
  const usual = new Map<string, string | undefined>(
    help.split(/(?= --[a-z])/).map((text) => [
      text.match(/--[a-z-]+/)?.[0] ?? "",
      text.match(/\(default: ([^)]*)\)/)?.[1],
    ]),
  );
  for (
    const name of [
      ...["--prompt", "--negative-prompt", "--seed", "--steps", "--width", "--strength", "--model"],
      ...["--mask", "--class", "--boxes", "--dtype", "--bits", "--weighting", "--batch-count"],
    ]
  ) equal(usual.get(name), "the picture's", name);
  equal(usual.get("--quality"), "95");
});

Deno.test("ldm rerun refuses a picture that says nothing, with one sentence", () =>
  inFolder(async (cwd) => {
    await Deno.copyFile(join(dirname(SD1), "..", "pictures", "fox.png"), join(cwd, "fox.png"));
    const mute = await ldm(["rerun", "fox.png", "-m", SD1], { cwd });
    deepEqual([mute.code, mute.stdout], [1, ""]);
    match(
      mute.stderr,
      /^ldm: Cannot make "fox\.png" again: nothing in it says how it was made[^\n]*\n$/,
    );
    const none = await ldm(["rerun", "nothing.png"], { cwd });
    deepEqual([none.code, none.stderr], [
      1,
      'ldm: Cannot read the picture "nothing.png": there is no such file or folder\n',
    ]);
  }));
