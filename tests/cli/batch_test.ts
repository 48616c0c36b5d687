import { deepEqual, equal, match, ok } from "node:assert/strict";
import { join } from "node:path";
import { torchCpu } from "../../lib/base/random.ts";
import { decodePicture, readPngText } from "../../lib/formats/png.ts";
import { inFolder, names } from "../folders.ts";
import { COMMAND, FIXTURES, ldm, shell, start } from "./ldm.ts";

const SD1 = `${FIXTURES}/tiny/sd1`;
const QUICK = ["-m", SD1, "--steps", "1", "-W", "32", "-H", "32"];

/** Pictures in a folder, sorted by the number that their names begin with. */
function pictures(folder: string): string[] {
  return names(folder).filter((name) => name.endsWith(".png"))
    .sort((a, b) => parseInt(a) - parseInt(b));
}

/** The entries of a journal. */
async function entries(path: string) {
  const lines = (await Deno.readTextFile(path)).trimEnd().split("\n");
  return lines.slice(1).map((line) => JSON.parse(line));
}

/** What the picture of a path was made with. */
async function parameters(path: string): Promise<string> {
  return new Map(await readPngText(await Deno.readFile(path))).get("parameters") ?? "";
}

/** A line of each form, with what is said elsewhere left out. */
const FORMS = `# foxes
a red fox
--prompt "a grey fox" --seed 2 --steps 2
a fox --n blurry --w 48 --d 3

{"prompt": "a json fox", "seed": 4, "cfg_scale": 1, "output": "sub/{seed}.png"}
"a dream of a fox" -S5 -H48
a blue fox
`;

Deno.test("ldm batch makes a picture of every line, a line's own settings before the command's", () =>
  inFolder(async (cwd) => {
    await Deno.writeTextFile(join(cwd, "foxes.txt"), FORMS);
    const args = ["batch", "foxes.txt", ...QUICK, "-s", "9", "-o", "out/"];
    const first = await ldm(args, { cwd });
    equal(first.code, 0, first.stderr);
    const out = join(cwd, "out");
    deepEqual(pictures(out), ["0-9.png", "1-2.png", "2-3.png", "4-5.png", "5-9.png"]);
    deepEqual(names(join(out, "sub")), ["4.png"]);
    // equal shapes follow one another; without guidance it is another one
    deepEqual(
      first.stdout.trimEnd().split("\n"),
      ["0-9.png", "1-2.png", "5-9.png", "2-3.png", "sub/4.png", "4-5.png"].map((n) => `out/${n}`),
    );
    match(await parameters(join(out, "0-9.png")), /^a red fox\nSteps: 1,.* Size: 32x32,/);
    match(await parameters(join(out, "1-2.png")), /^a grey fox\nSteps: 2,/);
    match(
      await parameters(join(out, "2-3.png")),
      /^a fox\nNegative prompt: blurry\nSteps: 1,.* Seed: 3, Size: 48x32/,
    );
    match(await parameters(join(out, "4-5.png")), /^a dream of a fox\n.* Seed: 5, Size: 32x48,/);

    const journal = await entries(join(out, "foxes.journal.jsonl"));
    deepEqual(
      journal.map(({ item, line, status, paths, seed }) => [item, line, status, paths, seed]),
      [
        [0, 2, "done", ["0-9.png"], 9],
        [1, 3, "done", ["1-2.png"], 2],
        [5, 8, "done", ["5-9.png"], 9],
        [2, 4, "done", ["2-3.png"], 3],
        [3, 6, "done", ["sub/4.png"], 4],
        [4, 7, "done", ["4-5.png"], 5],
      ],
    );

    // alone, each is the same picture
    const alone = ["a blue fox", ...QUICK, "-s", "9", "-q", "-o", "alone.png"];
    await ldm(alone, { cwd });
    deepEqual(
      await Deno.readFile(join(cwd, "alone.png")),
      await Deno.readFile(join(out, "5-9.png")),
    );

    // what is done is not done again, what is gone and what is new is; nothing is read for nothing
    const env = { VK_ICD_FILENAMES: "/nowhere.json", VK_DRIVER_FILES: "/nowhere.json" };
    const again = await ldm(args, { cwd, env });
    deepEqual([again.code, again.stdout], [0, ""], again.stderr);
    match(again.stderr, /6 of 6 are done already/);
    await Deno.remove(join(out, "1-2.png"));
    await Deno.writeTextFile(join(cwd, "foxes.txt"), `a new fox\n${FORMS}`);
    const third = await ldm(args, { cwd });
    equal(third.code, 0, third.stderr);
    deepEqual(third.stdout.trimEnd().split("\n"), ["out/0-9-1.png", "out/1-2.png"]);
  }));

/** Ten lines that cannot be followed, each in its own way, and what is said of them. */
const BAD: readonly (readonly [line: string, said: string])[] = [
  ['{"prompt": "a fox"', "its JSON cannot be read"],
  ['{"steps": 3}', "it has no prompt"],
  ['{"prompt": "a fox", "enable_hr": true}', '"enable_hr", which there is not'],
  ["--prompt a fox's tail --steps 3", "a quote is not closed"],
  ["--prompt a fox --seed 4294967296", "a whole number from -1 to 4294967295 was needed"],
  ["a fox --s many", 'it sets s to "many"'],
  ["a fox --ar 16:9", '"ar", which there is not'],
  ['{"prompt": "a fox", "sampler_name": "eulr"}', 'did you mean "euler"?'],
  ["a fox --w 33", "the width must be a multiple of 4"],
  ["a fox --w 2048 --h 2048", "a picture of 2048×2048 pixels with"],
];

Deno.test("ldm batch tells every bad line with its number, does the others and ends with 1", () =>
  inFolder(async (cwd) => {
    const text = BAD.map(([line], i) => `a fox, ${i}\n${line}\n`).join("");
    await Deno.writeTextFile(join(cwd, "p.txt"), text);
    const args = ["batch", "p.txt", ...QUICK, "-s", "1", "-o", "{index}.png"];
    const { code, stdout, stderr } = await ldm(args, { cwd });
    equal(code, 1, stderr);
    const good = BAD.map((_, i) => `${2 * i}.png`);
    deepEqual(pictures(cwd), good);
    deepEqual(stdout.trimEnd().split("\n"), good);
    for (const [i, [line, said]] of BAD.entries()) {
      const told = stderr.split("\n").filter((each) => each.includes(` line ${2 * i + 2} of `));
      equal(told.length, 1, `${line}: ${stderr}`);
      ok(told[0].startsWith("ldm: ") && told[0].includes(said), told[0]);
    }
    match(stderr, /^10 done, 10 failed/m);

    const json = await ldm([...args, "--json", "-q"], { cwd });
    equal(json.code, 1);
    const events = json.stdout.trimEnd().split("\n").map((each) => JSON.parse(each));
    const errors = events.filter(({ event }) => event === "error");
    deepEqual(
      errors.map(({ line }) => line).sort((a, b) => a - b),
      BAD.map((_, i) => 2 * i + 2),
    );
    deepEqual(events.filter(({ event }) => event === "skipped").map(({ line }) => line).length, 10);
    const { done, failed, skipped } = events.at(-1);
    deepEqual([done, failed, skipped], [0, 10, 10]);
  }));

Deno.test("ldm reads prompts from stdin, one a line, and one picture goes to stdout", () =>
  inFolder(async (cwd) => {
    const quick = QUICK.map((word) => `"${word}"`).join(" ");
    const { code, bytes, stderr } = await shell(`echo "a cat" | ldm - ${quick} -s 1 -q -o -`, {
      cwd,
    });
    equal(code, 0, stderr);
    const { width } = await decodePicture(bytes);
    equal(width, 32);
    const several = `printf 'a cat\\na dog' | ldm txt2img - ${quick}`;
    const refused = await shell(`${several} -o -`, { cwd });
    deepEqual([refused.code, refused.stdout], [2, ""]);
    match(refused.stderr, /several pictures to stdout/);
    // no journal: who says a prompt twice wants two pictures
    const twice = await shell(`${several} -s 1 -q && ${several} -s 1 -q`, { cwd });
    equal(twice.stdout, "0-1.png\n1-1.png\n0-1-1.png\n1-1-1.png\n", twice.stderr);
    const kept = `printf 'a cat\\na dog' | ldm batch - ${quick} -q --json -o kept/`;
    const { stdout } = await shell(`${kept} && ${kept}`, { cwd });
    const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    const ends = events.filter(({ event }) => event === "done");
    deepEqual(ends.map(({ done, skipped }) => [done, skipped]), [[2, 0], [0, 2]]);
    const of = (line: number) => events.filter((each) => each.line === line);
    deepEqual(of(2).map(({ event }) => event), ["plan", "step", "saved", "item", "skipped"]);
    const nothing = await shell(`printf '# no prompt\\n' | ldm - ${quick}`, { cwd });
    deepEqual([nothing.code, nothing.stdout], [1, ""]);
    match(nothing.stderr, /^ldm: Cannot make pictures of "stdin": it has no prompts\n$/);
  }));

Deno.test("ldm draws the first prompt of stdin before it knows the last, with numbers that go on", () =>
  inFolder(async (cwd) => {
    const [program, ...args] = [...COMMAND, "-", ...QUICK, "-s", "1", "-q"];
    const streams = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
    const process = new Deno.Command(program, { args, cwd, ...streams }).spawn();
    const prompts = process.stdin.getWriter();
    const say = (text: string) => prompts.write(new TextEncoder().encode(text));
    await say("# class, prompt\n\na cat\r\na d");
    const paths = process.stdout.pipeThrough(new TextDecoderStream()).getReader();
    deepEqual((await paths.read()).value, "0-1.png\n");
    await say("og\nprompt, seed\n--steps many\nlast");
    await prompts.close();
    let rest = "";
    for (let read = await paths.read(); !read.done; read = await paths.read()) rest += read.value;
    equal(rest, "1-1.png\n2-1.png\n4-1.png\n");
    equal((await process.status).code, 1);
    match(
      await new Response(process.stderr).text(),
      /^ldm: line 6 of stdin: it sets steps to "many"/,
    );
    match(await parameters(join(cwd, "1-1.png")), /^a dog\n/);
    match(await parameters(join(cwd, "2-1.png")), /^prompt, seed\n/);
  }));

/** Prompts, one of them twice, with seeds given and drawn. */
function prompts(count: number): string {
  const lines = Array.from({ length: count }, (_, i) => {
    const seed = i % 4 === 3 ? "" : ` --d ${i}`;
    return `fox ${i === 7 ? 6 : i}${seed}`;
  });
  return lines.join("\n");
}

/** Asserts that a folder holds exactly one whole picture of each prompt, and that its journals say so. */
async function assertDone(folder: string, count: number): Promise<void> {
  const found = pictures(folder);
  deepEqual(found.map((name) => parseInt(name)), Array.from({ length: count }, (_, i) => i));
  for (const name of found) {
    const text = await parameters(join(folder, name));
    const [, item, seed] = /^(\d+)-(\d+)\.png$/.exec(name) ?? [];
    match(text, new RegExp(`^fox ${item === "7" ? 6 : item}\n.* Seed: ${seed},`));
    await decodePicture(await Deno.readFile(join(folder, name)));
  }
  const others = names(folder).filter((name) => !name.endsWith(".png"));
  ok(others.every((name) => name.endsWith(".journal.jsonl")), others.join());
  const all = await Promise.all(others.map((name) => entries(join(folder, name))));
  const paths = all.flat().map(({ status, paths }) => {
    equal(status, "done");
    return paths;
  });
  deepEqual(paths.flat().sort((a, b) => parseInt(a) - parseInt(b)), found);
}

Deno.test("ldm batch that is killed at any moment and started again makes every picture once", () =>
  inFolder(async (cwd) => {
    const count = 200;
    await Deno.writeTextFile(join(cwd, "p.txt"), prompts(count));
    const small = ["-W", "16", "-H", "16", "--cfg-scale", "1"];
    const args = ["batch", "p.txt", ...QUICK, ...small, "-o", "out/"];
    const random = torchCpu(20260101); // where the test fails, it fails again
    const upTo = (most: number) => random.integers(0, most, 1)[0];
    let kills = 0;
    for (;;) {
      const process = start(args, cwd);
      const lines = process.stdout.pipeThrough(new TextDecoderStream());
      let left = 1 + upTo(80); // pictures, and then some milliseconds
      for await (const text of lines) {
        left -= text.split("\n").length - 1;
        if (left > 0) continue;
        await new Promise((resolve) => setTimeout(resolve, upTo(50)));
        process.kill("SIGKILL");
        break;
      }
      const { code, signal } = await process.status;
      if (signal !== "SIGKILL") {
        equal(code, 0);
        break;
      }
      kills += 1;
    }
    ok(kills >= 3, `it was killed ${kills} times`);
    await assertDone(join(cwd, "out"), count);
    // killed after a picture was saved and in the middle of writing that down
    const journal = join(cwd, "out", "p.journal.jsonl");
    const text = await Deno.readTextFile(journal);
    const last = text.lastIndexOf("\n", text.length - 2);
    await Deno.writeTextFile(journal, text.slice(0, last + 10));
    const { stdout } = await ldm(args, { cwd });
    equal(stdout.trimEnd().split("\n").length, 1);
    await assertDone(join(cwd, "out"), count);
  }));

Deno.test("ldm batch in four shards at once makes every picture once", () =>
  inFolder(async (cwd) => {
    const count = 24;
    await Deno.writeTextFile(join(cwd, "p.txt"), prompts(count));
    const args = ["batch", "p.txt", ...QUICK, "-q", "-o", "out/"];
    const shards = [1, 2, 3, 4].map((i) => ldm([...args, "--shard", `${i}/4`], { cwd }));
    for (const { code, stderr } of await Promise.all(shards)) equal(code, 0, stderr);
    await assertDone(join(cwd, "out"), count);
    // with another number of shards, what all of them did is known
    const env = { JOB_COMPLETION_INDEX: "1" };
    const again = await ldm([...args, "--shard", "auto/3", "--json"], { cwd, env });
    const events = again.stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    deepEqual([events.at(-1).skipped, events.at(-1).done], [8, 0]);
  }));

Deno.test("ldm batch is told apart by its journal when two processes do the same", () =>
  inFolder(async (cwd) => {
    await Deno.writeTextFile(join(cwd, "p.txt"), prompts(40));
    const args = ["batch", "p.txt", ...QUICK];
    const first = start(args, cwd);
    const reader = first.stdout.getReader();
    await reader.read();
    const second = await ldm(args, { cwd });
    first.kill("SIGINT");
    while (!(await reader.read()).done);
    deepEqual([second.code, second.stdout], [1, ""]);
    match(second.stderr, /^ldm: Cannot open the journal [^\n]*another process works on the same/);
    const { code, signal } = await first.status;
    deepEqual([code, signal], [130, "SIGINT"]);
    ok(pictures(cwd).length < 40);
  }));

Deno.test("ldm batch stops where nothing more can be saved", () =>
  inFolder(async (cwd) => {
    await Deno.writeTextFile(join(cwd, "p.txt"), prompts(40));
    const quick = QUICK.map((word) => `"${word}"`).join(" ");
    const closed = `ldm batch p.txt ${quick} -q -o closed/ | head -n 1; exit \${PIPESTATUS[0]}`;
    const { code, stderr } = await shell(closed, { cwd });
    equal(code, 1);
    match(stderr, /^ldm: Cannot write to stdout: its reader has closed the pipe\n$/);
    const made = pictures(join(cwd, "closed")).length;
    ok(made >= 1 && made < 10, `${made} pictures`);
    const missing = await ldm(["batch", "none.txt", "-m", SD1], { cwd });
    deepEqual([missing.code, missing.stdout], [1, ""]);
    match(missing.stderr, /^ldm: Cannot read "none.txt": there is no such file or folder\n$/);
  }));

/** A small file system of its own in a folder; false where this process may not make one. */
async function mounted(folder: string, size: string): Promise<boolean> {
  const args = ["-t", "tmpfs", "-o", `size=${size}`, "ldm", folder];
  const { success } = await new Deno.Command("mount", { args }).output().catch(() => ({
    success: false,
  }));
  return success;
}

async function run(command: string, ...args: string[]): Promise<void> {
  const { code } = await new Deno.Command(command, { args }).output();
  equal(code, 0, [command, ...args].join(" "));
}

const probe = await Deno.makeTempDir();
const CAN_MOUNT = await mounted(probe, "4k");
if (CAN_MOUNT) await run("umount", probe);
await Deno.remove(probe);

Deno.test({
  name: "ldm batch stops where the disk is full or read-only, and goes on when it no longer is",
  ignore: !CAN_MOUNT,
  fn: () =>
    inFolder(async (cwd) => {
      const count = 8;
      await Deno.writeTextFile(join(cwd, "p.txt"), prompts(count));
      const out = join(cwd, "out");
      await Deno.mkdir(out);
      ok(await mounted(out, "200k"));
      try {
        await Deno.writeFile(join(out, "filler"), new Uint8Array(180 << 10));
        const args = ["batch", "p.txt", ...QUICK, "-q", "-o", "out/"];
        const full = await ldm(args, { cwd });
        equal(full.code, 1, full.stderr);
        match(full.stderr, /^ldm: Cannot write [^\n]*: the disk is full[^\n]*\n$/);
        ok(pictures(out).length < count);
        deepEqual(names(out).filter((name) => name.endsWith(".tmp")), []);
        await run("mount", "-o", "remount,ro", out);
        const fixed = await ldm(args, { cwd });
        deepEqual([fixed.code, fixed.stdout], [1, ""]);
        match(fixed.stderr, /^ldm: Cannot write [^\n]*: the file system is read-only\n$/);
        await run("mount", "-o", "remount,rw", out);
        await Deno.remove(join(out, "filler"));
        const rest = await ldm(args, { cwd });
        equal(rest.code, 0, rest.stderr);
        await assertDone(out, count);
      } finally {
        await run("umount", out);
      }
    }),
});
