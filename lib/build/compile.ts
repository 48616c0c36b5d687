/**
 * Makes the executable `ldm` of the one JavaScript file that `deno task bundle` makes and the tests run: that file, the
 * built-in model where there is one, and Deno's runtime part, denort. Options: --target, --output.
 */

import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { FileError, UsageError } from "../base/errors.ts";
import { printLine, writeStderr } from "../cli/terminal.ts";
import { fileError } from "../formats/files.ts";
import { PERMISSIONS } from "./permissions.ts";

/** The platforms that Deno has a runtime part for. */
export const TARGETS: readonly string[] = [
  "x86_64-unknown-linux-gnu",
  "aarch64-unknown-linux-gnu",
  "x86_64-pc-windows-msvc",
  "aarch64-pc-windows-msvc",
  "x86_64-apple-darwin",
  "aarch64-apple-darwin",
];

/** The JavaScript file, as it lies in the project's folder. */
export const SCRIPT = "ldm.js";
/** The built-in model; it keeps its place beside the JavaScript file inside the executable too. */
export const BUILT_IN_MODEL = "fixtures/model";

export interface CompileOptions {
  /** One of `TARGETS`; this platform where it is left out. */
  readonly target?: string;
  /** Path of the executable; Windows adds .exe. */
  readonly output?: string;
}

/**
 * Makes the executable of the files in the folder `root`, in a few seconds. Returns its path. Throws `UsageError` for an
 * unknown platform, `FileError` where the JavaScript file or the runtime part is missing or nothing can be written.
 */
export async function compile(root: string, options: CompileOptions = {}): Promise<string> {
  const target = options.target ?? Deno.build.target;
  if (!TARGETS.includes(target)) {
    throw new UsageError(
      `Cannot make an executable for "${target}": one of ${TARGETS.join(", ")} was needed`,
    );
  }
  const script = join(root, SCRIPT);
  await Deno.stat(script).catch((error) => {
    throw fileError("make an executable of", script, error);
  });
  const path = withEnding(options.output ?? join(root, "ldm"), target);
  const model = join(root, BUILT_IN_MODEL);
  const args = [
    ...["compile", "--no-check", "--no-config", "--no-lock", ...PERMISSIONS],
    ...["--app-name", "ldm", "--target", target, "--output", path],
    ...await isThere(model) ? ["--include", model] : [],
    script,
  ];
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    env: { NO_COLOR: "1" },
  }).output();
  if (code !== 0) throw refusal(target, path, new TextDecoder().decode(stderr));
  return path;
}

/** Deno adds .exe by itself where the name lacks it. */
function withEnding(path: string, target: string): string {
  return target.includes("windows") && !path.endsWith(".exe") ? `${path}.exe` : path;
}

async function isThere(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

/** What `deno compile` said, as a sentence. */
function refusal(target: string, path: string, said: string): FileError {
  const version = Deno.version.deno;
  const named = Deno.env.get("DENORT_BIN");
  const remedy =
    `name a denort ${version} for ${target} (from denort-${target}.zip of Deno's release v${version}) in DENORT_BIN`;
  const making = `Cannot make an executable for ${target}`;
  if (/Could not find denort|Invalid object/.test(said)) {
    return new FileError(`${making}: DENORT_BIN is "${named}", which is not denort; ${remedy}`);
  }
  if (/dl\.deno\.land/.test(said)) {
    return new FileError(
      `${making}: its runtime part, denort, cannot be fetched from dl.deno.land; ${remedy}`,
    );
  }
  const causes = said.split("\n").filter((line) => /^(error:|\s+\d+: )/.test(line))
    .map((line) => line.replace(/^error: |^\s+\d+: /, "").trim());
  return new FileError(`Cannot write "${path}": ${causes.join(": ") || said.trim()}`);
}

async function main(): Promise<number> {
  try {
    const { values } = parseArgs({
      options: { target: { type: "string" }, output: { type: "string", short: "o" } },
    });
    const path = await compile(fileURLToPath(new URL("../..", import.meta.url)), values);
    const { size } = await Deno.stat(path);
    await printLine(`${path} (${(size / 1e6).toFixed(1)} MB)`);
    return 0;
  } catch (error) {
    const isUsage = error instanceof UsageError || error instanceof TypeError; // parseArgs throws the latter
    writeStderr(`compile: ${error instanceof Error ? error.message : error}\n`);
    return isUsage ? 2 : 1;
  }
}

if (import.meta.main) Deno.exit(await main());
