import { deepEqual, equal, match } from "node:assert/strict";
import { inFolder, names } from "../folders.ts";
import { FIXTURES, ldm } from "./ldm.ts";

const SD1 = `${FIXTURES}/tiny/sd1`;
const PHOTO = `${FIXTURES}/pictures/fox.png`;
const FOXES = `${FIXTURES}/prompts/foxes.txt`;

/** Command lines that make no sense, and what is said of them. */
const MISTAKES: readonly (readonly [args: readonly string[], said: RegExp])[] = [
  [[], /a prompt or a command was needed/],
  [["-m", SD1], /a prompt was needed/],
  [["a fox", "-m", SD1, "--stepz", "3"], /unknown option '--stepz' \(Did you mean --steps\?\)/],
  [["a fox", "-m"], /argument missing/],
  [["a fox", "-m", SD1, "--steps", "0"], /--steps "0": a whole number of at least 1 was needed/],
  [["a fox", "-m", SD1, "--steps", "2.5"], /--steps "2.5"/],
  [["a fox", "-m", SD1, "-W", "wide"], /--width "wide"/],
  [["a fox", "-m", SD1, "--cfg-scale", "lots"], /--cfg-scale "lots": a number of at least 0/],
  [["a fox", "-m", SD1, "--cfg-scale", "0x7"], /--cfg-scale "0x7"/],
  [["a fox", "-m", SD1, "-s", "-2"], /--seed "-2": a whole number from -1 to 4294967295/],
  [["a fox", "-m", SD1, "-s", "4294967296"], /--seed "4294967296"/],
  [["a fox", "-m", SD1, "--rng", "gpu"], /--rng "gpu": one of cpu, cuda was needed/],
  [["a fox", "-m", SD1, "--vae-tiling", "yes"], /--vae-tiling "yes": one of auto, on, off/],
  [["a fox", "-m", SD1, "--dtype", "f8"], /--dtype "f8": one of f16, f32/],
  [["a fox", "-m", SD1, "--memory-budget", "0"], /--memory-budget "0"/],
  [["a fox", "-m", SD1, "--sampler", "eulr"], /did you mean "euler"\?/],
  [["a fox", "-m", SD1, "--schedule", "karas"], /did you mean "karras"\?/],
  [["a fox", "-m", SD1, "--vae", "a", "--taesd", "b"], /--vae and --taesd together/],
  [["a fox", "-m", SD1, "-o", "x.gif"], /its name must end in \.png, \.jpg or \.jpeg/],
  [["a fox", "-m", SD1, "-o", "x.png", "--quality", "80"], /only a \.jpg has a quality/],
  [["a fox", "-m", SD1, "--styles", "x.csv"], /--styles "x\.csv" without --style, which names/],
  [["a fox", "-m", SD1, "-o", "{size}.png"], /\{size\} means nothing/],
  [["a fox", "-m", SD1, "-o", "-", "--json"], /both write to stdout/],
  [["a fox", "-m", SD1, "-o", "-", "-b", "2"], /several pictures to stdout/],
  [["batch", "-m", SD1], /missing required argument 'file'/],
  [
    ["batch", "x.txt", "-m", SD1, "--shard", "3/2"],
    /--shard "3\/2": i\/n was needed with i from 1/,
  ],
  [["batch", "x.txt", "-m", SD1, "--shard", "auto"], /neither SLURM_ARRAY_TASK_ID nor JOB_COMP/],
  [["batch", FOXES, "-m", SD1, "-o", "-"], /several pictures to stdout: .* and 3 are asked for/],
  [
    ["batch", FOXES, "-m", SD1, "-o", "x.png", "--overwrite", "--shard", "1/2"],
    /put \{index\} into -o/,
  ],
  [["--grid", "a fox", "-m", SD1], /--grid "a fox": a name that ends in \.png was needed/],
  [["a fox", "-m", SD1, "--sweep", "colour=red"], /only steps, [^\n]* can be swept/],
  [["a fox", "-m", SD1, "--sweep", "prompt=cat,dog"], /it does not hold "cat"/],
  [["a fox", "-m", SD1, "--sweep", "seed=1,2", "-b", "2"], /Cannot sweep seeds with -b/],
  [["-", "-m", SD1, "--sweep", "steps=1,2"], /Cannot sweep prompts from stdin/],
  [["a fox", "-m", SD1, "--preview", "x.gif"], /its name must end in \.png/],
  [["a fox", "-m", SD1, "--preview-every", "2"], /--preview-every alone: --preview PATH/],
  [["encode", "-m", SD1], /missing required argument 'image'/],
  [["encode", "x.png", "-m", SD1, "-o", "-"], /Cannot write latents to stdout/],
  [
    ["encode", PHOTO, "-m", SD1, "-o", "{seed}.safetensors"],
    /\{seed\} means nothing, only %d does/,
  ],
  [["decode", "x", "y", "-m", SD1], /too many arguments\. Expected 1 argument but got 2; /],
  [["inspect"], /missing required argument 'path'/],
  [["inspect", "--deep", "x"], /unknown option '--deep'/],
];

Deno.test("ldm answers a command line that makes no sense with one sentence and exit code 2", () =>
  inFolder(async (cwd) => {
    for (const [args, said] of MISTAKES) {
      const { code, stdout, stderr } = await ldm(args, { cwd });
      equal(code, 2, `${args.join(" ")}: ${stderr}`);
      if (!args.includes("--json")) equal(stdout, "");
      match(stderr, /^ldm: [^\n]+\n$/, args.join(" "));
      match(stderr, said);
    }
    deepEqual(names(cwd), []);
  }));

Deno.test("ldm --json tells a mistake as an event too", async () => {
  const { code, stdout } = await ldm(["a fox", "--json", "--steps", "0"]);
  equal(code, 2);
  const { event, message, code: told } = JSON.parse(stdout);
  deepEqual([event, told], ["error", 2]);
  match(message, /--steps "0"/);
});

Deno.test("ldm --help and --version answer on stdout", async () => {
  for (const args of [["--help"], ["help"]]) {
    const { code, stdout, stderr } = await ldm(args);
    deepEqual([code, stderr], [0, ""]);
    for (const command of ["txt2img", "batch", "encode", "decode", "inspect", "doctor"]) {
      match(stdout, new RegExp(`^  ${command} `, "m"));
    }
  }
  for (const args of [["txt2img", "--help"], ["help", "txt2img"], ["a fox", "-h"]]) {
    const { code, stdout, stderr } = await ldm(args);
    deepEqual([code, stderr], [0, ""]);
    match(stdout, /^Usage: ldm txt2img \[options\] \[prompt\.\.\.\]\n/);
    match(stdout, /--negative-prompt/);
  }
  const { stdout } = await ldm(["--version"]);
  match(stdout, /^ldm \d+\.\d+\.\d+\n$/);
});
