import { deepEqual, equal, match, rejects } from "node:assert/strict";
import { join } from "node:path";
import { FileError, UsageError } from "../../lib/base/errors.ts";
import { compile, type CompileOptions } from "../../lib/build/compile.ts";
import { ENVIRONMENT } from "../../lib/build/permissions.ts";
import { inFolder } from "../folders.ts";

/** An executable that is certainly there; what `deno compile` adds to it is the same as to denort. */
const SOME_ELF = "/bin/true";

/** What `deno compile` writes behind the runtime part, as far as it is looked at here. */
interface Metadata {
  readonly permissions: Readonly<Record<string, unknown>>;
  readonly entrypoint_key: string;
}

/** Runs `work` with a project of one file, and DENORT_BIN as given. */
async function inProject(
  denort: string,
  work: (root: string) => Promise<void>,
): Promise<void> {
  const before = Deno.env.get("DENORT_BIN");
  Deno.env.set("DENORT_BIN", denort);
  try {
    await inFolder(async (root) => {
      await Deno.writeTextFile(join(root, "ldm.js"), `console.log("script inside");\n`);
      await work(root);
    });
  } finally {
    if (before === undefined) Deno.env.delete("DENORT_BIN");
    else Deno.env.set("DENORT_BIN", before);
  }
}

/** The text of an executable that `compile` made. */
async function compiled(root: string, options: CompileOptions = {}): Promise<string> {
  return new TextDecoder("latin1").decode(await Deno.readFile(await compile(root, options)));
}

function metadataIn(text: string): Metadata {
  const json = /\{"argv":.*?"app_name":"ldm"[^}]*\}/s.exec(text)?.[0];
  return JSON.parse(json ?? "null");
}

Deno.test("compile puts the script into an executable that may read and write files and no more", () =>
  inProject(SOME_ELF, async (root) => {
    const text = await compiled(root);
    match(text, /script inside/);
    const { permissions, entrypoint_key } = metadataIn(text);
    match(entrypoint_key, /ldm\.js$/);
    const { allow_read, allow_write, allow_env, deny_import, prompt, ...others } = permissions;
    const everything: string[] = [];
    deepEqual([allow_read, allow_write, deny_import], [everything, everything, everything]);
    deepEqual([allow_env, prompt], [ENVIRONMENT, false]);
    const { allow_import: _, ...rest } = others;
    for (const [name, value] of Object.entries(rest)) equal(value, null, name);
    equal(Object.keys(rest).includes("allow_net"), true);
    const { mode } = await Deno.stat(join(root, "ldm"));
    equal((mode ?? 0) & 0o111, 0o111);
  }));

Deno.test("compile puts the built-in model beside the script where there is one", () =>
  inProject(SOME_ELF, async (root) => {
    const weights = "weights of the built-in model";
    await Deno.mkdir(join(root, "fixtures/model"), { recursive: true });
    await Deno.writeTextFile(join(root, "fixtures/model/model.safetensors"), weights);
    await Deno.writeTextFile(join(root, "fixtures/other.txt"), "another file");
    const text = await compiled(root, { output: join(root, "out") });
    equal(text.includes(weights), true);
    equal(text.includes("another file"), false);
  }));

Deno.test("compile names the platforms there are", () =>
  inProject(SOME_ELF, async (root) => {
    await rejects(compile(root, { target: "wasm32" }), (error) => {
      match(String(error), /for "wasm32": one of x86_64-unknown-linux-gnu, /);
      return error instanceof UsageError;
    });
  }));

Deno.test("compile says what is missing in one sentence, and leaves nothing behind", () =>
  inProject("/nowhere/denort", async (root) => {
    const sentence = (said: RegExp) => (error: unknown) => {
      match(String(error), said);
      match(String(error), /^[^\n]+$/);
      return error instanceof FileError;
    };
    await rejects(
      compile(root),
      sentence(/DENORT_BIN is "\/nowhere\/denort", which is not denort/),
    );
    Deno.env.set("DENORT_BIN", join(root, "ldm.js"));
    await rejects(compile(root), sentence(/which is not denort; name a denort \d/));
    Deno.env.set("DENORT_BIN", SOME_ELF);
    await rejects(compile(root, { output: "/proc/nowhere/ldm" }), sentence(/Cannot write/));
    deepEqual([...Deno.readDirSync(root)].map(({ name }) => name), ["ldm.js"]);
    await rejects(compile(join(root, "no")), sentence(/ldm\.js": there is no such file/));
  }));

Deno.test("compile names DENORT_BIN where the runtime part cannot be fetched", () =>
  inProject("", async (root) => {
    Deno.env.delete("DENORT_BIN");
    // an empty cache and a proxy that nobody listens at: as without a network
    const names = ["DENO_DIR", "HTTPS_PROXY", "https_proxy"];
    const before = names.map((name) => [name, Deno.env.get(name)] as const);
    Deno.env.set("DENO_DIR", join(root, "cache"));
    for (const name of names.slice(1)) Deno.env.set(name, "http://127.0.0.1:9");
    try {
      await rejects(compile(root), (error) => {
        match(
          String(error),
          /cannot be fetched from dl\.deno\.land; name a denort \S+ for \S+ .* in DENORT_BIN$/,
        );
        return error instanceof FileError;
      });
    } finally {
      for (const [name, value] of before) {
        if (value === undefined) Deno.env.delete(name);
        else Deno.env.set(name, value);
      }
    }
  }));
