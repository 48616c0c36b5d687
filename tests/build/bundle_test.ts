/** The one JavaScript file of `deno task bundle`: what is in it, and that the command line works from it alone. */

import { deepEqual, equal, match, ok } from "node:assert/strict";
import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ENVIRONMENT, PERMISSIONS } from "../../lib/build/permissions.ts";
import { inFolder } from "../folders.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const decoder = new TextDecoder();

/** What the bundle holds besides lib/, the shaders and packages. */
const OTHER_FILES = [
  "cli.ts",
  "deno.json",
  "fixtures/clip/merges.txt",
  "fixtures/configs/sd15.json",
  "fixtures/configs/sd2_inpainting.json",
  "fixtures/configs/sdxl.json",
];
/** pako is upng-js's. */
const PACKAGES = [
  "@huggingface/tokenizers",
  "commander",
  "csv-parse",
  "pako",
  "smol-toml",
  "upng-js",
];
/** Bytes. CLIP's merges are 0.5 MB of them, packages 0.4 MB. */
const SIZE_LIMIT = 3e6;

/** Tests of the command line that run once more with the bundle, each of another part of the program. */
const SUITE: Readonly<Record<string, readonly string[]>> = {
  "cli/usage_test.ts": ["ldm --help and --version answer on stdout"],
  "cli/doctor_test.ts": ["ldm doctor tells the adapter and finds every known answer right"],
  "cli/inspect_test.ts": [
    "ldm inspect tells what a checkpoint is and holds, without a GPU",
    "ldm inspect tells a picture's size and text",
  ],
  "cli/tokens_test.ts": [
    "ldm tokens makes choices by the seed, with wildcards and styles of files",
  ],
  "cli/txt2img_test.ts": [
    "ldm saves pictures with their parameters, prints their paths and never overwrites",
  ],
  "cli/batch_test.ts": ["ldm batch in four shards at once makes every picture once"],
  "cli/rerun_test.ts": [
    "ldm writes JPEGs that say what they were made with, and makes them again",
  ],
  "cli/first_stage_test.ts": ["ldm encode --json tells where the latents are and their shape"],
  "faults/cli_test.ts": [
    "ldm refuses a truncated checkpoint",
    "ldm says what to install where there is no adapter",
    "ldm tells that nobody reads its output",
    "ldm leaves nothing half-written when it is interrupted while it samples",
  ],
};

/** Runs Deno in the project's folder; returns all it said. */
async function deno(args: readonly string[], env: Record<string, string> = {}): Promise<string> {
  const all = { NO_COLOR: "1", ...env };
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...args],
    cwd: ROOT,
    env: all,
  }).output();
  const said = decoder.decode(stdout) + decoder.decode(stderr);
  equal(code, 0, said);
  return said;
}

/** Makes the bundle; returns its path. */
async function bundle(): Promise<string> {
  await deno(["task", "bundle"]);
  return join(ROOT, "ldm.js");
}

Deno.test("deno task bundle puts everything the program needs into ldm.js, and nothing else", async () => {
  const text = await Deno.readTextFile(await bundle());
  // each file stands under its path
  const paths = [...new Set([...text.matchAll(/^ *\/\/ (\S+\.\w+)$/gm)].map(([, path]) => path))];
  const packages = paths.flatMap((path) => /\/npm\/[^/]+\/(.+?)\/\d+\.\d/.exec(path)?.[1] ?? []);
  deepEqual([...new Set(packages)].sort(), PACKAGES);
  const files = paths.filter((path) => !path.startsWith("../"));
  ok(files.filter((path) => path.startsWith("lib/")).length > 60);
  deepEqual(files.filter((path) => path.startsWith("lib/build/")), []);
  const shaders = [...Deno.readDirSync(join(ROOT, "wgsl"))].map(({ name }) => `wgsl/${name}`)
    .filter((path) => path.endsWith(".wgsl"));
  deepEqual(
    files.filter((path) => !path.startsWith("lib/")).sort(),
    [...OTHER_FILES, ...shaders].sort(),
  );
  for (const path of [...shaders, "fixtures/clip/merges.txt"]) {
    const lines = (await Deno.readTextFile(join(ROOT, path))).split("\n");
    const plain = lines.filter((line) => /^[\x20-\x7e]+$/.test(line) && !/["'`\\$]/.test(line));
    const longest = plain.reduce((a, b) => b.length > a.length ? b : a);
    ok(text.includes(longest), `${path}: ${longest}`);
  }
  ok(text.length < SIZE_LIMIT, `ldm.js has ${text.length} characters`);
});

Deno.test("ENVIRONMENT holds every variable that the program asks for, and none that it does not know", async () => {
  const text = await Deno.readTextFile(await bundle());
  const asked = new Set<string>();
  for (const [, within] of text.matchAll(/Deno\.env\.(?:get|set|has|delete)\(([^;]*?)\)/g)) {
    for (const [, name] of within.matchAll(/"([A-Z][A-Z0-9_]+)"/g)) asked.add(name);
  }
  for (const [, name] of text.matchAll(/\bprocess\d*\.env\.([A-Z][A-Z0-9_]*)/g)) asked.add(name);
  ok(asked.size >= 9, [...asked].join(" "));
  deepEqual([...asked].filter((name) => !ENVIRONMENT.includes(name)), []);
  // some are asked for by way of a table
  const isKnown = (name: string) => asked.has(name) || text.includes(`"${name}"`);
  deepEqual(ENVIRONMENT.filter((name) => !isKnown(name)), []);
});

Deno.test("the command line's tests pass with the bundle alone, under the executable's permissions", () =>
  inFolder(async (folder) => {
    const elsewhere = join(folder, "ldm.js");
    await copyFile(await bundle(), elsewhere);
    const names = Object.values(SUITE).flat();
    const filter = `/^(${names.map((name) => RegExp.escape(name)).join("|")})$/`;
    const files = Object.keys(SUITE).map((path) => `tests/${path}`);
    const args = ["test", "-A", "--no-check", "--filter", filter, ...files];
    const said = await deno(args, { LDM_CLI: elsewhere });
    for (const name of names) ok(said.includes(`${name} ... ok`), `${name} did not run:\n${said}`);
  }));

Deno.test("the folder fixtures/model/emoji beside ldm.js is the model where no other is named", () =>
  inFolder(async (folder) => {
    const script = join(folder, "ldm.js");
    await copyFile(await bundle(), script);
    const args = ["run", ...PERMISSIONS, script, "a fox"];
    const alone = await new Deno.Command(Deno.execPath(), { args, cwd: folder }).output();
    equal(alone.code, 2);
    match(decoder.decode(alone.stderr), /^ldm: There is no model built in here: -m PATH names/);

    const models = join(folder, "fixtures/model");
    await Deno.mkdir(models, { recursive: true });
    await Deno.symlink(join(ROOT, "fixtures/tiny/sd1"), join(models, "emoji"));
    const made = async (name: string, ...args: string[]) => {
      const path = join(folder, name);
      await deno(["run", ...PERMISSIONS, script, ...args, "-o", path]);
      return await Deno.readFile(path);
    };
    const fox = ["a fox", "-W", "32", "-H", "32", "--steps", "1", "-s", "7"];
    const first = await made("first.png", ...fox);
    ok(decoder.decode(first).includes("Model: emoji"));
    deepEqual(await made("named.png", ...fox, "-m", "emoji"), first);
    deepEqual(await made("again.png", "rerun", join(folder, "first.png")), first);
  }));
