/** The import law of the architecture, as a table, and what each part of the tree may mention. */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

/** Folder of lib/ → the folders it may import from, besides itself; `types` of a folder are its types alone. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  base: [],
  graph: ["base"],
  nn: ["base", "graph"],
  models: ["base", "graph", "nn"],
  diffusion: ["base"],
  text: ["base", "fixtures"],
  formats: ["base"],
  kernels: ["base", "graph", "wgsl"],
  gpu: ["base", "graph", "kernels"],
  engine: ["base", "graph", "nn", "models", "formats", "gpu", "types of kernels"],
  pipelines: ["base", "engine", "diffusion", "text"],
  train: ["base", "engine", "graph", "nn", "models", "diffusion", "text", "formats", "gpu"],
};
/** What stands above the law's table: the command line, the two entries and the maker of executables. */
const ABOVE: ReadonlySet<string> = new Set(["cli", "mod.ts", "cli.ts", "build"]);

/** npm package → the one folder that may import it; the others are for tests. */
const PACKAGES: Readonly<Record<string, string>> = {
  "@huggingface/tokenizers": "text",
  "smol-toml": "formats",
  "upng-js": "formats",
  commander: "cli",
  "csv-parse/sync": "base",
};

/** Folders that compute and touch nothing else: no modules of the platform either. */
const PURE: ReadonlySet<string> = new Set([
  "base",
  "graph",
  "nn",
  "models",
  "diffusion",
  "kernels",
]);

interface Mention {
  readonly what: RegExp;
  /** Where it may stand. */
  readonly only?: readonly string[];
  /** Where it may not. */
  readonly never?: readonly string[];
  /** Whether comments count. */
  readonly comments: boolean;
}
const MENTIONS: readonly Mention[] = [
  {
    what: /\bconsole\b|\bDeno\.(args|stdin|stdout|stderr|exit)\b/,
    only: ["cli", "cli.ts", "build"],
    comments: false,
  },
  {
    // what the executable may not do
    what:
      /\bDeno\.(Command|connect\w*|dlopen|hostname|listen\w*|serve|systemMemoryInfo)\b|\bfetch\(/,
    only: ["build"],
    comments: false,
  },
  { what: /\bGPU[A-Z]\w*/, only: ["gpu", "engine", "train", "cli"], comments: false },
  { what: /diffusion/i, never: ["gpu"], comments: true },
];

/** Path from the root, with slashes → text. */
type Sources = ReadonlyMap<string, string>;

interface Import {
  readonly specifier: string;
  readonly typesOnly: boolean;
}

/** A source without its comments; strings are kept. */
function withoutComments(source: string): string {
  const token =
    /"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\[^]|[^`\\])*`|\/\/[^\n]*|\/\*[^]*?\*\//g;
  return source.replace(token, (text) => text.startsWith("/") ? " " : text);
}

const NAMES_TYPES = /^\s*type\b|^\s*\{(\s*type\s[^,{}]*,?)+\s*\}\s*$/;

function importsOf(source: string): Import[] {
  const code = withoutComments(source);
  const from = [...code.matchAll(/\b(?:import|export)\b([^;"'`()=]*?)\bfrom\s*["']([^"']+)["']/g)]
    .map(([, names, specifier]) => ({ specifier, typesOnly: NAMES_TYPES.test(names) }));
  const others = [...code.matchAll(/\bimport\s*\(?\s*["']([^"']+)["']/g)]
    .map(([, specifier]) => ({ specifier, typesOnly: false }));
  return [...from, ...others];
}

/** The folder of lib/ that a file is in; else its top folder or, at the top, its own name. */
function folderOf(path: string): string {
  const [top, next] = path.split("/");
  return top === "lib" ? next : top;
}

const resolve = (specifier: string, from: string) =>
  new URL(specifier, `file:///${from}`).pathname.slice(1);

/** Every sentence that can be said against the imports of a tree. */
function* importFaults(sources: Sources): Generator<string> {
  for (const [path, source] of sources) {
    const folder = folderOf(path);
    const allowed = ALLOWED[folder];
    if (!allowed && !ABOVE.has(folder)) yield `${path} is in a folder that the law does not know`;
    for (const { specifier, typesOnly } of importsOf(source)) {
      const bad = `${path} imports ${specifier}`;
      if (specifier.startsWith(".")) {
        const target = resolve(specifier, path);
        const to = folderOf(target);
        const isFree = ABOVE.has(folder) &&
          (target.startsWith("lib/") || ["fixtures", "deno.json"].includes(to));
        const isTyped = typesOnly && allowed?.includes(`types of ${to}`);
        if (to === folder || allowed?.includes(to) || isTyped || isFree) continue;
        yield `${bad}: ${folder} may not import ${to}`;
      } else if (specifier.startsWith("node:")) {
        if (PURE.has(folder)) yield `${bad}: ${folder} is pure`;
      } else if (PACKAGES[specifier] !== folder) {
        yield `${bad}: ${PACKAGES[specifier] ?? "no folder"} may import this package`;
      }
    }
  }
}

/** Files that import each other in a circle, types included. */
function* cycles(sources: Sources): Generator<string> {
  const done = new Set<string>();
  const walk = function* (path: string, trail: readonly string[]): Generator<string> {
    const begin = trail.indexOf(path);
    if (begin >= 0) yield `${[...trail.slice(begin), path].join(" → ")} is a circle`;
    if (begin >= 0 || done.has(path)) return;
    for (const { specifier } of importsOf(sources.get(path) ?? "")) {
      if (specifier.startsWith(".")) yield* walk(resolve(specifier, path), [...trail, path]);
    }
    done.add(path);
  };
  for (const path of sources.keys()) yield* walk(path, []);
}

function* mentionFaults(sources: Sources): Generator<string> {
  for (const [path, source] of sources) {
    const folder = folderOf(path);
    for (const { what, only, never, comments } of MENTIONS) {
      if (only?.includes(folder) || (never && !never.includes(folder))) continue;
      const found = what.exec(comments ? source : withoutComments(source));
      if (found) yield `${path} mentions ${found[0]}`;
    }
  }
}

/** Imported files of a folder, e.g. shaders, that do not exist, and existing ones that nobody imports. */
function* strayFaults(sources: Sources, folder: string, existing: readonly string[]) {
  const imported = new Set<string>();
  for (const [path, source] of sources) {
    for (const { specifier } of importsOf(source)) {
      const target = specifier.startsWith(".") ? resolve(specifier, path) : "";
      if (folderOf(target) === folder) imported.add(target);
    }
  }
  for (const path of existing) if (!imported.has(path)) yield `nobody imports ${path}`;
  for (const path of imported) if (!existing.includes(path)) yield `${path} does not exist`;
}

/** Imports every shader, but uses none. */
const ALL_SHADERS = "lib/kernels/sources.ts";
const ROOT = fileURLToPath(new URL("..", import.meta.url));

async function filesIn(folder: string, ending: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(`${ROOT}${folder}`)) {
    const path = `${folder}/${name}`;
    if (isDirectory) found.push(...await filesIn(path, ending));
    else if (name.endsWith(ending)) found.push(path);
  }
  return found.sort();
}

async function readSources(): Promise<Sources> {
  const paths = ["mod.ts", "cli.ts", ...await filesIn("lib", ".ts")];
  const texts = await Promise.all(paths.map((path) => Deno.readTextFile(`${ROOT}${path}`)));
  return new Map(paths.map((path, i) => [path, texts[i]]));
}

const sources = await readSources();

Deno.test("the import law holds for every file", () => {
  assert.ok(sources.size > 30, `${sources.size} files were found`);
  assert.deepEqual([...importFaults(sources)], []);
});

Deno.test("no files import each other in a circle", () => {
  assert.deepEqual([...cycles(sources)], []);
});

Deno.test("console, arguments and devices are mentioned where they belong", () => {
  assert.deepEqual([...mentionFaults(sources)], []);
});

Deno.test("every shader is some kernel's", async () => {
  const kernels = new Map([...sources].filter(([path]) => path !== ALL_SHADERS));
  assert.deepEqual([...strayFaults(kernels, "wgsl", await filesIn("wgsl", ".wgsl"))], []);
});

Deno.test("the law of the architecture test sees what breaks it", () => {
  const broken = new Map([
    ["lib/base/a.ts", `import { b } from "../graph/b.ts";`],
    ["lib/graph/b.ts", `import {\n  type A,\n  // from "../nn/never.ts"\n} from "../base/a.ts";`],
    ["lib/nn/c.ts", `export * from "../graph/b.ts"; import source from "../../wgsl/x.wgsl";`],
    ["lib/engine/d.ts", `import { type K, type L } from "../kernels/k.ts";`],
    ["lib/engine/e.ts", `import { type K, l } from "../kernels/k.ts";`],
    ["lib/gpu/f.ts", `import type { D } from "../diffusion/d.ts"; let x: GPUDevice;`],
    ["lib/models/g.ts", `const x = await import("node:fs"); let y: GPUBuffer;`],
    ["lib/formats/h.ts", `import "commander"; import "npm:x"; console.log("// no comment");`],
    ["lib/odd/i.ts", ""],
    ["lib/cli/j.ts", `await new Deno.Command("x").output();`],
    ["cli.ts", `import { main } from "./lib/cli/main.ts"; import "./tests/x.ts"; Deno.args;`],
    ["lib/cli/main.ts", `import "commander"; import { b } from "../graph/b.ts"; console.log(b);`],
  ]);
  assert.deepEqual([...importFaults(broken)], [
    "lib/base/a.ts imports ../graph/b.ts: base may not import graph",
    "lib/nn/c.ts imports ../../wgsl/x.wgsl: nn may not import wgsl",
    "lib/engine/e.ts imports ../kernels/k.ts: engine may not import kernels",
    "lib/gpu/f.ts imports ../diffusion/d.ts: gpu may not import diffusion",
    "lib/models/g.ts imports node:fs: models is pure",
    "lib/formats/h.ts imports commander: cli may import this package",
    "lib/formats/h.ts imports npm:x: no folder may import this package",
    "lib/odd/i.ts is in a folder that the law does not know",
    "cli.ts imports ./tests/x.ts: cli.ts may not import tests",
  ]);
  assert.deepEqual([...cycles(broken)], [
    "lib/base/a.ts → lib/graph/b.ts → lib/base/a.ts is a circle",
  ]);
  assert.deepEqual([...mentionFaults(broken)], [
    "lib/gpu/f.ts mentions diffusion",
    "lib/models/g.ts mentions GPUBuffer",
    "lib/formats/h.ts mentions console",
    "lib/cli/j.ts mentions Deno.Command",
  ]);
  assert.deepEqual([...strayFaults(broken, "wgsl", ["wgsl/y.wgsl"])], [
    "nobody imports wgsl/y.wgsl",
    "wgsl/x.wgsl does not exist",
  ]);
});
