import { deepEqual, equal, match } from "node:assert/strict";
import { join } from "node:path";
import { inFolder } from "../folders.ts";
import { FIXTURES, ldm } from "./ldm.ts";

const NO_GPU = { VK_ICD_FILENAMES: "/nowhere.json", VK_DRIVER_FILES: "/nowhere.json" };

/** What the command says with --json. */
async function told(...args: readonly string[]) {
  const { code, stdout, stderr } = await ldm(["tokens", ...args, "--json"], { env: NO_GPU });
  equal(code, 0, stderr);
  return { ...JSON.parse(stdout), stderr };
}

Deno.test("ldm tokens shows parts, steps, chunks, tokens and weights, without a GPU", async () => {
  const prompt = "a (red:1.3) hogwartsy fox BREAK [day:night:4] AND rain :0.5";
  const { code, stdout, stderr } = await ldm(["tokens", prompt], { env: NO_GPU });
  deepEqual([code, stderr], [0, ""]);
  equal(
    stdout,
    `part 1 of 2, weight 1
steps 1 to 4: a (red:1.3) hogwartsy fox BREAK day
chunk 1 of 2: 6 tokens
    320  a
    736  red                  1.3
  12075  hog-
  43535  wart-
   2126  sy
   3240  fox
chunk 2 of 2: 1 token
    575  day
steps 5 to 20: a (red:1.3) hogwartsy fox BREAK night
chunk 1 of 2: 6 tokens
    320  a
    736  red                  1.3
  12075  hog-
  43535  wart-
   2126  sy
   3240  fox
chunk 2 of 2: 1 token
    930  night
part 2 of 2, weight 0.5
steps 1 to 20: rain
chunk 1 of 1: 1 token
   2443  rain
`,
  );
});

Deno.test("ldm tokens reads the tokenizer of a checkpoint and tells what is cut", async () => {
  const long = "a fox ".repeat(40) + "(end)";
  const { parts: [{ weight, spans: [span] }] } = await told(
    long,
    "-m",
    `${FIXTURES}/tiny/sd2`,
    "--weighting",
    "none",
  );
  deepEqual([weight, span.from, span.until, span.chunks.length], [1, 1, 20, 1]);
  deepEqual(span.chunks[0].slice(0, 3), [
    { id: 320, text: "a", weight: 1 },
    { id: 898, text: "fo-", weight: 1 },
    { id: 343, text: "x", weight: 1 },
  ]);
  match(span.cut, /^(a fox )+\( end \)$/);
});

Deno.test("ldm tokens makes choices by the seed, with wildcards and styles of files", async () => {
  await inFolder(async (folder) => {
    await Deno.mkdir(join(folder, "words", "cold"), { recursive: true });
    await Deno.writeTextFile(join(folder, "words", "cold", "colour.txt"), "# two\nblue\nwhite\n");
    await Deno.writeTextFile(join(folder, "styles.csv"), 'name,prompt\nphoto,"{prompt}, photo"\n');
    const files = ["--wildcards", join(folder, "words"), "--styles", join(folder, "styles.csv")];
    const ask = (seed: number) =>
      told("a __colour__ {fox|cat|dog} __nope__", ...files, "--style", "photo", "-s", `${seed}`);
    const first = await ask(1);
    match(first.prompt, /^a (blue|white) (fox|cat|dog) __nope__, photo$/);
    match(first.stderr, /^warning: ".*words" has no wildcard "nope"; it stays in the prompt\n$/);
    equal((await ask(1)).prompt, first.prompt);
    const said = (await told("{a|b}", "--weighting", "none")).prompt;
    equal(said, "{a|b}");
  });
});

Deno.test("ldm tokens refuses what it cannot use in one sentence", async () => {
  await inFolder(async (folder) => {
    const refusals: [args: string[], code: number, message: RegExp][] = [
      [["a ${x}"], 2, /variable "x" has no value/],
      [["a", "--style", "x"], 2, /Cannot use --style without --styles/],
      [["a", "--wildcards", folder], 1, /it holds no \.txt files/],
      [["a", "--wildcards", join(folder, "no")], 1, /Cannot list the folder/],
      [["a", "--styles", join(folder, "no.csv"), "--style", "x"], 1, /Cannot read ".*no\.csv"/],
      [["a", "--weighting", "b"], 2, /one of a1111, comfy, none was needed/],
      [[], 2, /missing required argument/],
    ];
    const outcomes = await Promise.all(refusals.map(([args]) => ldm(["tokens", ...args])));
    outcomes.forEach(({ code, stderr, stdout }, i) => {
      deepEqual([code, stdout], [refusals[i][1], ""], stderr);
      match(stderr, /^ldm: [^\n]+\n$/);
      match(stderr, refusals[i][2]);
    });
  });
});
