/** `ldm tune` and `--tuned` as a user meets them. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { inFolder, names } from "../folders.ts";
import { FIXTURES, ldm, start } from "./ldm.ts";

const MODEL = join(FIXTURES, "tiny", "sd1");
/** A model of few operators. */
const QUICK = ["tune", join(FIXTURES, "tiny", "vae_f2"), "-W", "8", "-H", "8", "--rounds", "1"];
const PICTURE = [
  "x",
  "-m",
  MODEL,
  "-W",
  "64",
  "-H",
  "64",
  "--steps",
  "1",
  "-s",
  "7",
  "--no-metadata",
  "-o",
  "-",
];

/** A cache folder for tables alone: the runtime's and the driver's caches stay where they are. */
function cacheIn(folder: string): Record<string, string> {
  const cache = Deno.env.get("XDG_CACHE_HOME") ?? join(Deno.env.get("HOME") ?? folder, ".cache");
  return {
    XDG_CACHE_HOME: folder,
    DENO_DIR: Deno.env.get("DENO_DIR") ?? join(cache, "deno"),
    MESA_SHADER_CACHE_DIR: Deno.env.get("MESA_SHADER_CACHE_DIR") ?? cache,
  };
}

Deno.test("tune keeps a table that --tuned uses, and only --tuned", async () => {
  await inFolder(async (folder) => {
    const env = cacheIn(folder);
    const tuned = await ldm(QUICK, { env });
    assert.equal(tuned.code, 0, tuned.stderr);
    const lines = tuned.stdout.trim().split("\n");
    assert.ok(lines.every((line) => /^\w+ .+: .*\*[^,]+ [\d.e+-]+ ms/.test(line)), tuned.stdout);
    const tables = join(folder, "ldm", "tune");
    const [file, ...others] = names(tables);
    assert.deepEqual(others, []);
    const path = join(tables, file);
    const table = JSON.parse(await Deno.readTextFile(path));
    assert.equal(Object.keys(table.choices).length, lines.length);

    const usual = await ldm(PICTURE, { env });
    const withTable = await ldm([...PICTURE, "--tuned"], { env });
    assert.deepEqual([withTable.code, withTable.stderr.includes("warning")], [0, false]);
    await Deno.writeTextFile(path, JSON.stringify({ ...table, kernels: "of another version" }));
    const outdated = await ldm([...PICTURE, "--tuned"], { env });
    assert.match(outdated.stderr, /^warning: The tuned table ".*" is not used: .*\n/);
    assert.deepEqual(outdated.bytes, usual.bytes);
    await Deno.writeTextFile(path, "half a ta");
    const broken = await ldm([...PICTURE, "--tuned"], { env });
    assert.match(broken.stderr, /^warning: Cannot use the tuned table ".*": it is not JSON.*\n/);
    assert.deepEqual(broken.bytes, usual.bytes);
  });
});

Deno.test("tune that is interrupted leaves no table", async () => {
  await inFolder(async (folder) => {
    const process = start(QUICK, folder, cacheIn(folder));
    const reader = process.stdout.getReader();
    assert.equal((await reader.read()).done, false); // the first finding
    process.kill("SIGINT");
    assert.equal((await process.status).success, false);
    await reader.cancel();
    assert.deepEqual(names(folder), []);
  });
});

Deno.test("tune refuses two checkpoints and sizes that are none", async () => {
  const two = await ldm(["tune", MODEL, MODEL]);
  assert.deepEqual([two.code, two.stdout], [2, ""]);
  assert.match(two.stderr, /too many arguments/);
  assert.equal((await ldm(["tune", "--width", "0"])).code, 2);
});
