import { deepEqual, equal, match, ok } from "node:assert/strict";
import { join } from "node:path";
import { decodePicture, readPngText } from "../../lib/formats/png.ts";
import { inFolder, names } from "../folders.ts";
import { FIXTURES, ldm } from "./ldm.ts";

const SD1 = `${FIXTURES}/tiny/sd1`;
const QUICK = ["-m", SD1, "--steps", "2", "-W", "32", "-H", "48"];

Deno.test("ldm saves pictures with their parameters, prints their paths and never overwrites", () =>
  inFolder(async (cwd) => {
    const first = await ldm(
      ["a", "red fox", "-n", "blurry, dark", ...QUICK, "-s", "5", "-b", "2"],
      {
        cwd,
      },
    );
    equal(first.code, 0, first.stderr);
    equal(first.stdout, "0-5.png\n1-6.png\n");
    const bytes = await Deno.readFile(join(cwd, "1-6.png"));
    const { width, height } = await decodePicture(bytes);
    deepEqual([width, height], [32, 48]);
    const [[key, text], [other, graph], ...others] = await readPngText(bytes);
    deepEqual([key, other, others], ["parameters", "prompt", []]);
    equal(JSON.parse(graph)["3"].inputs.seed, 6);
    const [prompt, negative, parameters] = text.split("\n");
    deepEqual([prompt, negative], ["a red fox", "Negative prompt: blurry, dark"]);
    match(
      parameters,
      /^Steps: 2, Sampler: DPM\+\+ 2M, Schedule type: Karras, CFG scale: 7, Seed: 6, Size: 32x48, Model: sd1, RNG: CPU, Weighting: a1111, Rounding: round, Dtype: f16, Version: ldm [\d.]+$/,
    );

    const second = await ldm(["a red fox", ...QUICK, "-s", "5", "-q"], { cwd });
    deepEqual([second.stdout, second.stderr], ["0-5-1.png\n", ""]);
    const third = await ldm(["a red fox", ...QUICK, "-s", "5", "-q", "--overwrite"], { cwd });
    equal(third.stdout, "0-5.png\n");
    deepEqual(names(cwd), ["0-5-1.png", "0-5.png", "1-6.png"]);
  }));

Deno.test("ldm gives the same bytes for the same request, to a file, to stdout and in a batch", () =>
  inFolder(async (cwd) => {
    const request = ["a fox", ...QUICK, "--no-metadata", "-q"];
    const file = await ldm([...request, "-s", "9", "-o", "new/folder/x.png"], { cwd });
    equal(file.stdout, "new/folder/x.png\n");
    const bytes = await Deno.readFile(join(cwd, "new/folder/x.png"));
    deepEqual(await readPngText(bytes), []);
    const stdout = await ldm([...request, "-s", "9", "-o", "-"], { cwd });
    deepEqual(stdout.bytes, bytes);
    await ldm([...request, "-s", "8", "-b", "2", "-o", "{seed}.png"], { cwd });
    deepEqual(await Deno.readFile(join(cwd, "9.png")), bytes);
    const other = await Deno.readFile(join(cwd, "8.png"));
    ok(other.length !== bytes.length || other.some((byte, i) => byte !== bytes[i]));
  }));

Deno.test("ldm --json tells everything in one object a line", () =>
  inFolder(async (cwd) => {
    const { code, stdout, stderr } = await ldm(["a fox", ...QUICK, "--json", "-b", "2", "-q"], {
      cwd,
    });
    deepEqual([code, stderr], [0, ""]);
    const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    const one = ["step", "step", "saved"];
    deepEqual(events.map(({ event }) => event), ["load", "plan", ...one, ...one, "done"]);
    const [load, plan, step, , saved] = events;
    equal(load.family, "sd1");
    deepEqual([plan.width, plan.height, plan.steps, plan.sampler], [32, 48, 2, "dpmpp_2m"]);
    deepEqual([step.image, step.index, step.of], [0, 0, 2]);
    // a seed was drawn, told, and used
    deepEqual(plan.seeds, [plan.seeds[0], plan.seeds[0] + 1]);
    equal(saved.path, `0-${plan.seeds[0]}.png`);
    deepEqual(names(cwd), [saved.path, events.at(-2).path].sort());
    equal(events.at(-1).images, 2);
  }));

Deno.test("ldm draws no bar where stderr is no terminal, and tells timings when asked", () =>
  inFolder(async (cwd) => {
    const { stderr } = await ldm(["a fox", ...QUICK, "-s", "1", "-v"], { cwd });
    ok(!stderr.includes("\r") && !stderr.includes("\x1b"), JSON.stringify(stderr));
    match(stderr, /^32×48, 2 steps of dpmpp_2m karras, cfg 7, seed 1$/m);
    match(stderr, /^device: /m);
    match(stderr, /^loaded unet: [\d.]+ kB in [\d.]+ s$/m);
    const number = String.raw`(\d+) MiB`;
    for (const part of ["text_encoder", "unet", "decoder"]) {
      const line = new RegExp(
        `^memory of ${part}: ${number} of weights \\+ ${number} of activations = ${number}$`,
        "m",
      );
      match(stderr, line);
    }
    const [, planned] = /^memory planned: at most (\d+) MiB; parts stay while/m.exec(stderr) ?? [];
    const [, used] = /^GPU memory: at most (\d+) MiB$/m.exec(stderr) ?? [];
    ok(Number(planned) > 0);
    equal(used, planned);
  }));

Deno.test("ldm lets parts take turns under a budget, tells so, and makes the same pictures", () =>
  inFolder(async (cwd) => {
    const request = ["a fox", ...QUICK, "-s", "1", "-b", "2", "-v", "--no-metadata"];
    const roomy = await ldm([...request, "-o", "roomy%d.png"], { cwd });
    const [, planned] = /^memory planned: at most (\d+) MiB; parts stay/m.exec(roomy.stderr) ?? [];
    // one MiB less, and each picture has a denoiser of its own; another, and the weights take turns
    const budget = String(Number(planned) - 2);
    const tight = await ldm([...request, "-o", "tight%d.png", "--memory-budget", budget], { cwd });
    match(tight.stderr, /^memory planned: at most \d+ MiB; parts take turns on the device$/m);
    equal(tight.stderr.match(/^loaded unet: /mg)?.length, 2);
    for (const i of [0, 1]) {
      const read = (name: string) => Deno.readFile(join(cwd, `${name}${i}.png`));
      deepEqual(await read("tight"), await read("roomy"));
    }
  }));

Deno.test("ldm --json -v tells which parts it read and what they take", () =>
  inFolder(async (cwd) => {
    const { stdout } = await ldm(["a fox", ...QUICK, "--json", "-v"], { cwd });
    const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    const parts = events.filter(({ event }) => event === "part");
    deepEqual(parts.map(({ part }) => part), ["text_encoder", "unet", "decoder"]);
    const [load, plan] = events;
    equal(load.bytes, parts.reduce((sum, { bytes }) => sum + bytes, 0));
    deepEqual(plan.memory.stages.map(({ part }: { part: string }) => part), [
      "text_encoder",
      "unet",
      "decoder",
    ]);
    equal(plan.memory.turns, false);
  }));

Deno.test("ldm reads a long prompt whole", () =>
  inFolder(async (cwd) => {
    const prompt = `${"fox ".repeat(75)}unread`;
    const { code, stderr } = await ldm([prompt, ...QUICK, "-q", "-o", "x.png"], { cwd });
    equal(code, 0);
    equal(stderr, "");
  }));

Deno.test("ldm takes a tokenizer folder in place of the checkpoint's", () =>
  inFolder(async (cwd) => {
    const request = ["a fox", ...QUICK, "-q", "--no-metadata", "-s", "1"];
    await ldm([...request, "-o", "own.png"], { cwd });
    await ldm([...request, "-o", "same.png", "--tokenizer", `${SD1}/tokenizer`], { cwd });
    deepEqual(
      await Deno.readFile(join(cwd, "same.png")),
      await Deno.readFile(join(cwd, "own.png")),
    );
    const none = await ldm([...request, "--tokenizer", "."], { cwd });
    equal(none.code, 1);
    match(none.stderr, /needs vocab\.json and merges\.txt/);
  }));

Deno.test("ldm refuses a size that does not fit the checkpoint, and a budget that does not fit the work", () =>
  inFolder(async (cwd) => {
    const size = await ldm(["a fox", "-m", SD1, "-W", "65"], { cwd });
    deepEqual([size.code, size.stdout], [2, ""]);
    const details = await ldm(["a fox", "-m", SD1, "-W", "65", "-v"], { cwd });
    ok(!details.stderr.includes("loaded"), "weights were read before the size was checked");
    match(
      size.stderr,
      /^ldm: Cannot make a picture of 65×64 pixels: the width must be a multiple of 4; 64 and 68 are near\n$/,
    );
    const many = await ldm(["a fox", "-m", SD1, "-W", "100000"], { cwd });
    equal(many.code, 2);
    equal(
      many.stderr,
      "ldm: Cannot make a picture of 100000×64 pixels: 16384 are the most of a side\n",
    );
    const large = await ldm(["a fox", "-m", SD1, "-W", "2048", "-H", "2048"], { cwd });
    equal(large.code, 1);
    match(
      large.stderr,
      /^ldm: Cannot make a picture of 2048×2048 pixels with "[^"]*": a step of it is more than one command of this device can do; 1024×1024 is possible\n$/,
    );
    const budget = await ldm(["a fox", "-m", SD1, "--memory-budget", "1"], { cwd });
    deepEqual([budget.code, budget.stdout], [1, ""]);
    match(budget.stderr, /^ldm: Cannot [^\n]*1 MiB[^\n]*--memory-budget[^\n]*\n$/);
    deepEqual(names(cwd), []);
  }));

Deno.test("ldm puts styles around prompts, makes choices for each picture and writes down what was chosen", () =>
  inFolder(async (cwd) => {
    await Deno.mkdir(join(cwd, "w"));
    await Deno.writeTextFile(join(cwd, "w", "hat.txt"), "bowler\ntop hat\nfedora\n");
    await Deno.writeTextFile(
      join(cwd, "styles.csv"),
      'name,prompt,negative_prompt\nsnow,"{prompt}, in snow",blurry\n',
    );
    const prompting = ["--wildcards", "w", "--styles", "styles.csv", "--style", "snow"];
    const prompt = "a {red|grey|blue|white} fox with a __hat__";
    const small = ["-m", SD1, "--steps", "1", "-W", "32", "-H", "32", "-q"];
    const args = [prompt, ...prompting, ...small];
    const { code, stdout, stderr } = await ldm([...args, "-s", "5", "-b", "4"], { cwd });
    equal(code, 0, stderr);
    equal(stdout, "0-5.png\n1-6.png\n2-7.png\n3-8.png\n");
    const prompts: string[] = [];
    for (const name of stdout.trimEnd().split("\n")) {
      const [[, text]] = await readPngText(await Deno.readFile(join(cwd, name)));
      const [said, negative] = text.split("\n");
      match(said, /^a (red|grey|blue|white) fox with a (bowler|top hat|fedora), in snow$/);
      equal(negative, "Negative prompt: blurry");
      prompts.push(said);
    }
    ok(new Set(prompts).size > 1, prompts.join("\n"));
    // a picture of the batch is the same by itself, and the same as of the prompt that was chosen
    const alone = await ldm([...args, "-s", "7", "-o", "alone.png"], { cwd });
    equal(alone.code, 0, alone.stderr);
    await ldm([prompts[2], "-n", "blurry", ...small, "-s", "7", "-o", "plain.png"], { cwd });
    const third = (await decodePicture(await Deno.readFile(join(cwd, "2-7.png")))).data;
    for (const name of ["alone.png", "plain.png"]) {
      deepEqual((await decodePicture(await Deno.readFile(join(cwd, name)))).data, third, name);
    }
  }));
