/** Every example of the README, and of mod.ts, is run: what it names lies in the working folder, as tiny models and pictures. */

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import project from "../deno.json" with { type: "json" };
import { parsePromptFile } from "../lib/formats/prompt_file.ts";
import { FIXTURES, shell } from "./cli/ldm.ts";
import { inFolder, names } from "./folders.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Name in an example → what lies there, in fixtures/. */
const STAND_INS: Readonly<Record<string, string>> = {
  "fixtures": ".",
  "v1-5-pruned-emaonly.safetensors": "tiny/sd1.safetensors",
  "sd_xl_base_1.0.safetensors": "tiny/sdxl.safetensors",
  "photo.jpg": "pictures/fox.png",
  "old.png": "pictures/made/tiny.png",
  "foxes.txt": "prompts/foxes.txt",
  "photos": "pictures",
};

/** What takes long, and what is run in its place; doctor and tune have tests of their own. */
const SHORTCUTS: readonly (readonly [written: string, run: string])[] = [
  ["--sweep steps=10,20,30 --sweep cfg-scale=4:9:1", "--sweep steps=1,2 --sweep cfg-scale=1"],
  ["-W 1024 -H 768 --steps 30", "-W 64 -H 48 --steps 2"],
  // the second picture of the same prompt is drawn by the same command but for how it starts
  ['ldm.js "a red fox in the snow" -m v1-5-pruned-emaonly.safetensors', "ldm.js --version"],
  ["...old?.recipe, seed", "...old?.recipe, width: 32, height: 32, steps: 2, seed"],
  [
    "--set f=8 --set size=256 --set batch=4",
    "--set f=2 --set size=16 --set batch=1 --set autoencoder.width=8 --set autoencoder.groups=4 " +
    "--set autoencoder.layers=1 --set discriminator.weight=0 --set steps=1 --set sample.every=0",
  ],
  ["--set steps=20000", "--set steps=2"],
  // these have tests of their own
  ["-i photo.png --mask mask.png", "--help"],
  ["--set conditioner=text -o photos-model", "--set conditioner=text -o m --print-config"],
  [
    "v1-5-pruned-emaonly.safetensors -o style",
    "v1-5-pruned-emaonly.safetensors -o s --print-config",
  ],
  ["ldm doctor\n", "ldm doctor --help\n"],
  ["ldm tune v1-5-pruned-emaonly.safetensors", "ldm tune --help"],
  ["ldm bench -m v1-5-pruned-emaonly.safetensors", "ldm bench --help"],
  ["--strength 0.6 -m", "--strength 0.6 --steps 4 -W 32 -H 32 -m"],
];

/** Commands of other programs do nothing, but their tasks must exist; `ldm` may also be written as it is run from sources. */
const OTHERS = `
apt-get() { :; }
npm() { :; }
deno() {
  case "$1" in
    task) case " ${Object.keys(project.tasks).join(" ")} " in *" $2 "*) ;; *) return 9 ;; esac ;;
    run) until [[ "$1" == *.[tj]s ]]; do shift; done; shift; ldm "$@" ;;
    *) return 9 ;;
  esac
}
set -euo pipefail
`;

/** The fenced examples of a text in some language. */
function examples(text: string, language: string): string[] {
  const blocks = text.matchAll(/^```(\w+)[^\n]*\n([^]*?)^```$/gm);
  return [...blocks].filter(([, name]) => name === language).map(([, , code]) => code);
}

/** Runs `work` where the files that examples name are. */
async function amongFiles(work: (folder: string) => Promise<void>): Promise<void> {
  await inFolder(async (folder) => {
    for (const [name, target] of Object.entries(STAND_INS)) {
      await Deno.symlink(join(FIXTURES, target), join(folder, name));
    }
    await work(folder);
  });
}

/** Names of what an example made. */
function made(folder: string): string[] {
  return names(folder).filter((name) => !Object.hasOwn(STAND_INS, name));
}

const README = SHORTCUTS.reduce((text, [written, run]) => {
  ok(text.includes(written), `the README has no more "${written}"`);
  return text.replaceAll(written, run);
}, await Deno.readTextFile(join(ROOT, "README.md")));

/** A Kubernetes Job's command as a shell would have it. */
function commandOf(job: string): string {
  const words = (key: string) => new RegExp(`^ *${key}: \\[(.*)\\]$`, "m").exec(job)?.[1] ?? "";
  return `${words("command")}, ${words("args")}`.split(", ").join(" ");
}

Deno.test("the README's commands run, and jobs of clusters have nothing left to do after them", async () => {
  const commands = examples(README, "sh");
  ok(commands.length >= 5);
  const jobs = [...examples(README, "bash"), ...examples(README, "yaml").map(commandOf)];
  equal(jobs.length, 2);
  await amongFiles(async (cwd) => {
    const env = {
      XDG_CACHE_HOME: join(cwd, "cache"),
      ...{ SLURM_ARRAY_TASK_ID: "3", SLURM_ARRAY_TASK_COUNT: "8", SLURM_ARRAY_TASK_MIN: "1" },
      JOB_COMPLETION_INDEX: "2",
    };
    const run = async (block: string) => {
      const { code, stdout, stderr } = await shell(OTHERS + block, { cwd, env });
      equal(code, 0, `${block}\n${stderr}`);
      return stdout;
    };
    for (const block of commands) await run(block);
    const pictures = made(cwd).filter((name) => name.endsWith(".png"));
    deepEqual(pictures, ["again.png", "changed.png", "fox.png", "out.png", "photo.png"]);
    const foxes = names(join(cwd, "foxes"));
    const one = ["10.png", "7.png", "8.png", "9.png"];
    deepEqual(foxes.filter((name) => !/^\d+-/.test(name)), [...one, "foxes.journal.jsonl"]);
    equal(foxes.length, one.length + 1 + 3);
    equal(names(join(cwd, "sweep")).filter((name) => /^grid\.(png|csv)$/.test(name)).length, 2);
    for (const job of jobs) {
      ok(job.includes("ldm batch"));
      equal(await run(job), "");
    }
    deepEqual(names(join(cwd, "foxes")).filter((name) => name.endsWith(".png")).length, 7);
  });
});

Deno.test("every line of the README's prompt file is understood", () => {
  const [file, ...others] = examples(README, "text");
  deepEqual(others, []);
  const { items, bad } = parsePromptFile(file);
  deepEqual(bad, []);
  equal(items.length, 5);
  for (const { recipe } of items) match(recipe.prompt ?? "", /^a red fox/);
  for (const { recipe } of items.slice(1)) deepEqual([recipe.steps, recipe.seed], [30, 7]);
});

Deno.test("the examples of the library are right and run", async () => {
  const comment = (await Deno.readTextFile(join(ROOT, "mod.ts"))).replaceAll(/^ \* ?/gm, "");
  await amongFiles(async (cwd) => {
    await Deno.writeTextFile(join(cwd, "mod.ts"), `export * from "${join(ROOT, "mod.ts")}";\n`);
    const files: string[] = [];
    for (const example of [...examples(README, "ts"), ...examples(comment, "ts")]) {
      const file = `example${files.length}.ts`;
      await Deno.writeTextFile(join(cwd, file), example);
      files.push(file);
    }
    ok(files.length >= 2);
    const before = made(cwd);
    const config = ["--config", join(ROOT, "deno.json")];
    await deno(["check", ...config, ...files], cwd);
    for (const file of files) {
      await deno(["run", "-A", "--no-check", ...config, file], cwd);
      const pictures = made(cwd).filter((name) => !before.includes(name));
      ok(pictures.includes("fox.png") || pictures.join() === "fox-7.png,fox-8.png", file);
      for (const name of pictures) await Deno.remove(join(cwd, name));
    }
  });
});

/** Runs Deno in a folder; fails with what it said. */
async function deno(args: readonly string[], cwd: string): Promise<void> {
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...args],
    cwd,
    env: { NO_COLOR: "1" },
  }).output();
  equal(code, 0, `${args.join(" ")}\n${new TextDecoder().decode(stderr)}`);
}
