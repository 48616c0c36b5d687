import { deepEqual, equal, match } from "node:assert/strict";
import { join } from "node:path";
import { FIXTURES, IS_SANDBOXED, ldm, shell, start } from "../cli/ldm.ts";
import { inFolder, names } from "../folders.ts";

const SD1 = `${FIXTURES}/tiny/sd1`;
const QUICK = ["--steps", "1", "-W", "32", "-H", "32", "-s", "1"];

/** Asserts exit code 1, one sentence that matches, nothing on stdout. */
function assertFailure(
  { code, stdout, stderr }: { code: number; stdout: string; stderr: string },
  said: RegExp,
): void {
  equal(code, 1, stderr);
  equal(stdout, "");
  match(stderr.trimEnd().split("\n").at(-1) ?? "", /^ldm: /);
  match(stderr, said);
}

Deno.test("ldm tells that a checkpoint is not there", async () => {
  assertFailure(await ldm(["a fox", "-m", "nowhere.safetensors"]), /there is no such file/);
});

Deno.test("ldm refuses a pickle by name", () =>
  inFolder(async (cwd) => {
    await Deno.writeFile(join(cwd, "model.ckpt"), Uint8Array.of(0x80, 2, 0x7d, 0x71, 0, 0x2e));
    const outcome = await ldm(["a fox", "-m", "model.ckpt"], { cwd });
    assertFailure(outcome, /"model\.ckpt".*pickle/);
  }));

Deno.test("ldm refuses a folder without configs", () =>
  inFolder(async (cwd) => {
    await Deno.mkdir(join(cwd, "empty"));
    assertFailure(await ldm(["a fox", "-m", "empty"], { cwd }), /"empty"/);
  }));

Deno.test("ldm refuses a truncated checkpoint", () =>
  inFolder(async (cwd) => {
    const bytes = await Deno.readFile(`${FIXTURES}/tiny/sd1.safetensors`);
    await Deno.writeFile(join(cwd, "half.safetensors"), bytes.subarray(0, bytes.length >> 1));
    assertFailure(await ldm(["a fox", "-m", "half.safetensors"], { cwd }), /half\.safetensors/);
  }));

Deno.test("ldm says what to install where there is no adapter", async () => {
  const env = { VK_ICD_FILENAMES: "/nowhere.json", VK_DRIVER_FILES: "/nowhere.json" };
  for (const args of [["a fox", "-m", SD1], ["doctor"]]) {
    assertFailure(await ldm(args, { env }), /apt-get install -y mesa-vulkan-drivers/);
  }
});

Deno.test("ldm does not start work whose result cannot be saved", () =>
  inFolder(async (cwd) => {
    await Deno.writeTextFile(join(cwd, "file"), "");
    for (const place of ["file/x.png", "/proc/nowhere/x.png", "file/sub/"]) {
      assertFailure(await ldm(["a fox", "-m", SD1, "-o", place], { cwd }), /^ldm: Cannot write/);
    }
    deepEqual(names(cwd), ["file"]);
  }));

Deno.test("ldm tells that the disk is full", async () => {
  const said = IS_SANDBOXED
    ? /^ldm: Cannot write [^\n]+ all access to "\/dev\/full"/
    : /disk is full/;
  assertFailure(await ldm(["a fox", "-m", SD1, ...QUICK, "-q", "-o", "/dev/full"]), said);
  const script = `ldm "a fox" -m "${SD1}" ${QUICK.join(" ")} -q -o - > /dev/full`;
  assertFailure(await shell(script), /Cannot write to "stdout": the disk is full/);
});

Deno.test("ldm tells that nobody reads its output", async () => {
  const script = `ldm inspect "${SD1}" | true; exit \${PIPESTATUS[0]}`;
  const json = `ldm "a fox" -m "${SD1}" ${
    QUICK.join(" ")
  } -q --json -o /dev/null | head -n 1 > /dev/null
    exit \${PIPESTATUS[0]}`;
  for (const each of [script, json]) {
    assertFailure(await shell(each), /its reader has closed the pipe/);
  }
});

Deno.test("ldm leaves nothing half-written when it is interrupted while it samples", () =>
  inFolder(async (cwd) => {
    const args = ["a fox", "-m", SD1, "--steps", "900", "-W", "64", "-H", "64", "--json", "-q"];
    const process = start(args, cwd);
    for await (const text of process.stdout.pipeThrough(new TextDecoderStream())) {
      if (!text.includes('"event":"step"')) continue;
      process.kill("SIGINT");
      break;
    }
    const { code, signal } = await process.status;
    deepEqual([code, signal], [130, "SIGINT"]);
    deepEqual(names(cwd), []);
  }));

Deno.test("ldm decode and encode refuse what is not theirs", () =>
  inFolder(async (cwd) => {
    await Deno.writeTextFile(join(cwd, "x.png"), "not a picture");
    const first = ["-m", SD1];
    assertFailure(await ldm(["encode", "x.png", ...first], { cwd }), /"x\.png"/);
    assertFailure(await ldm(["decode", "x.png", ...first], { cwd }), /x\.png/);
    assertFailure(await ldm(["decode", "nothing.safetensors", ...first], { cwd }), /nothing/);
    deepEqual(names(cwd), ["x.png"]);
  }));
