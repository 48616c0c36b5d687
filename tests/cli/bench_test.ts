/** `ldm bench`: its parts, and the shape of what it tells. Nothing here depends on how fast anything is. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { UsageError } from "../../lib/base/errors.ts";
import { bench } from "../../lib/cli/bench.ts";
import { FEW, namesOfCases, USUAL } from "../../lib/cli/bench/cases.ts";
import { sectionMarkdown } from "../../lib/cli/bench/report.ts";
import { architectureAt, workOf } from "../../lib/cli/bench/stages.ts";
import { takeTurns } from "../../lib/cli/bench/turns.ts";
import { inFolder, names } from "../folders.ts";
import { FIXTURES, ldm } from "./ldm.ts";

const MODEL = join(FIXTURES, "tiny", "sd1");
/** One small operator, once. */
const SMALL = ["bench", "-r", "1", "-f", "2×1280"];

Deno.test("takeTurns lets contenders alternate and reports medians by piece of work", async () => {
  const order: string[] = [];
  const contender = (name: string, walls: readonly number[], most?: number) => {
    const left = [...walls];
    return {
      name,
      ...(most !== undefined && { most }),
      turn: () => {
        order.push(name);
        return Promise.resolve({ work: { wall: left.shift() ?? NaN } });
      },
    };
  };
  const seconds = await takeTurns([contender("a", [3, 1, 2]), contender("b", [5, 4], 2)], 3);
  assert.equal(order.join(""), "ababa");
  assert.deepEqual(seconds.get("a")?.get("work"), { median: 2, best: 1, turns: 3 });
  assert.deepEqual(seconds.get("b")?.get("work"), { median: 4, best: 4, turns: 2 });
});

Deno.test("sectionMarkdown aligns columns and leaves unknown figures empty", () => {
  const rows = [{ name: "a", s: 1.2345 }, { name: "bb", s: undefined, n: 12 }];
  assert.equal(
    sectionMarkdown({ title: "T", notes: ["A note."], rows }),
    `## T

| name |    s |  n |
| ---- | ---: | -: |
| a    | 1.23 |    |
| bb   |      | 12 |

A note.
`,
  );
});

Deno.test("sectionMarkdown makes a paragraph of each note", () => {
  const text = sectionMarkdown({ title: "T", notes: ["One.", "Two."], rows: [{ a: "x" }] });
  assert.match(text, /\n\| x \|\n\nOne\.\n\nTwo\.\n$/);
});

Deno.test("what stands for all operators is among them", () => {
  const all = namesOfCases();
  assert.equal(new Set(all).size, all.length);
  for (const name of [...USUAL, ...FEW]) assert.ok(all.includes(name), name);
});

Deno.test("workOf counts the multiplications and additions of a text encoder", async () => {
  const { clip } = workOf(await architectureAt(MODEL), { width: 64, height: 64 });
  const [layers, width, inner, tokens] = [2, 32, 128, 77];
  const products = tokens * width * (4 * width + 2 * inner);
  const attention = 2 * tokens * tokens * width;
  assert.equal(clip * 1e9, layers * 2 * (products + attention));
});

Deno.test("ldm bench --quick times the few among those that a filter names", async () => {
  const { code, stdout, stderr } = await ldm(["bench", "--quick", "-f", "product", "-q"]);
  assert.equal(code, 0, stderr);
  assert.deepEqual(stdout.match(/product [^ ]+/g), ["product 1024×640×640"]);
});

Deno.test("ldm bench prints tables and keeps them in a file", () =>
  inFolder(async (cwd) => {
    const { code, stdout, stderr } = await ldm([...SMALL, "-o", "made/x.md"], { cwd });
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^# ldm \S+ on \S.*\n\n\d{4}-.*, driver .*\n\n## Products\n\n\| kernel /);
    assert.equal(stdout.match(/Deno/g)?.length, 1);
    assert.match(stdout, /^\| product 2×1280×1280 \| +[^|]+ \| +[\d.]+ \| +[\d.]+ \|/m);
    assert.match(stderr, /^took .*; written to made\/x\.md\n$/);
    assert.equal((await Deno.readTextFile(join(cwd, "made/x.md"))).trim(), stdout.trim());
  }));

Deno.test("ldm bench tells sections as NDJSON, a checkpoint's stages first", () =>
  inFolder(async (cwd) => {
    const model = ["-m", MODEL, "-W", "16", "-H", "24"];
    const { code, stdout, stderr } = await ldm(
      [...SMALL, ...model, "--json", "-q", "-o", "x.json"],
      { cwd },
    );
    assert.deepEqual([code, stderr], [0, ""]);
    const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    const told = events.map(({ event, title }) => title ?? event);
    assert.deepEqual(told, ["load", "bench", "Stages at 16×24", "Products", "done"]);
    const [, about, { event: _, ...stages }] = events;
    for (const key of ["device", "driver", "processor", "date", "version", "runtime"]) {
      assert.ok(about[key].length > 0, key);
    }
    const rows: readonly Record<string, unknown>[] = stages.rows;
    assert.deepEqual(rows.map(({ stage }) => stage), [
      "text encoder, one prompt",
      "denoiser, one latent",
      "denoiser, guided (two)",
      "decoder",
    ]);
    for (const row of rows) {
      for (const key of ["ms", "best", "CPU", "first"]) assert.ok(Number(row[key]) > 0, key);
    }
    assert.ok(rows.every((row) => Number(row["GFLOP/s"]) > 0));
    assert.match(
      stages.notes[1],
      /guided steps a second; a picture of 20 steps takes [\d.]+ s of these\.$/,
    );
    assert.deepEqual(names(cwd), ["x.json"]);
    const file = JSON.parse(await Deno.readTextFile(join(cwd, "x.json")));
    assert.deepEqual(file.sections[0], stages);
    assert.equal(file.device, about.device);
  }));

Deno.test("ldm bench says that an operator does not fit, and times the others", async () => {
  const { code, stdout } = await ldm([
    "bench",
    "-q",
    "-r",
    "1",
    "-f",
    "77×",
    "--memory-budget",
    "2",
  ]);
  assert.equal(code, 0);
  assert.match(stdout, /^\| product 77×3072×768 \| does not fit \|$/m);
});

Deno.test("ldm bench refuses what makes no sense before it works", async () => {
  const cases: readonly [readonly string[], RegExp][] = [
    [["-W", "64"], /Cannot use --width without --model/],
    [["--quick", "--all"], /--quick or --all/],
    [["-f", "nothing"], /no operator's name contains it; "product /],
    [["-o", "x.txt"], /must end in \.md or \.json/],
    [["-m", MODEL, "-W", "30"], /the width must be a multiple of 4/],
  ];
  for (const [args, sentence] of cases) {
    await assert.rejects(
      bench(args),
      (error) => error instanceof UsageError && sentence.test(error.message),
    );
  }
});
