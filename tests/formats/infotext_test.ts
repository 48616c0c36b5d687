import { deepEqual, equal, ok } from "node:assert/strict";
import { readInfotext, writeInfotext } from "../../lib/formats/infotext.ts";
import { parseGenerationParameters } from "./a1111_reader.ts";
import { pick, seeded } from "./made.ts";

/** Enough entries for a line of parameters. */
const ENTRIES = { Steps: 20, Sampler: "DPM++ 2M", Size: "512x768" } as const;

Deno.test("writeInfotext gives AUTOMATIC1111's three parts", () => {
  const text = writeInfotext({
    prompt: "a red fox",
    negativePrompt: "blurry",
    entries: { ...ENTRIES, "Clip skip": undefined },
  });
  equal(text, "a red fox\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M, Size: 512x768");
});

Deno.test("writeInfotext leaves out an empty negative prompt and strips an empty prompt's line", () => {
  const text = writeInfotext({ prompt: "", negativePrompt: "", entries: ENTRIES });
  equal(text, "Steps: 20, Sampler: DPM++ 2M, Size: 512x768");
});

Deno.test("writeInfotext quotes what readers would cut, and only that", () => {
  const model = (name: string) =>
    writeInfotext({ prompt: "", negativePrompt: "", entries: { ...ENTRIES, Model: name } })
      .split("512x768, ")[1];
  equal(model("a b-c_d"), "Model: a b-c_d");
  equal(model("a, b"), 'Model: "a, b"');
  equal(model('é: "x"\n'), 'Model: "é: \\"x\\"\\n"');
  equal(model("a: b"), 'Model: "a: b"'); // as AUTOMATIC1111 does, though its reader would not mind
  equal(model('"x"'), 'Model: "\\"x\\""');
  equal(model(" x"), 'Model: " x"');
});

Deno.test("writeInfotext writes a prompt that readers would change a second time", () => {
  const write = (prompt: string, negativePrompt = "") =>
    writeInfotext({ prompt, negativePrompt, entries: ENTRIES });
  ok(!write("a fox,\nred").includes("Exact"));
  ok(write("a fox ").endsWith(', Exact prompt: "a fox "'));
  ok(
    write("a\nNegative prompt: b").endsWith(
      ', Exact prompt: "a\\nNegative prompt: b", ' +
        'Exact negative prompt: ""',
    ),
  );
  for (const prompt of ["\n\na", "a\r", "a  \nb", "Negative prompt: x", 'a "b", c: d, ']) {
    for (const negative of ["", prompt]) {
      const read = readInfotext(write(prompt, negative));
      deepEqual([read.prompt, read.negativePrompt], [prompt, negative]);
      deepEqual([...read.entries.keys()], Object.keys(ENTRIES));
    }
  }
});

/** Pieces of which texts are made that readers may stumble over. */
const PIECES = [
  "fox",
  "a",
  "Steps",
  "Negative prompt:",
  ": ",
  ":",
  ",",
  ", ",
  '"',
  "\\",
  "\n",
  " ",
  "\t",
  "-",
  "/",
  "_",
  "é",
  "狐",
  "\u{1f98a}",
  "512x512",
  "0.5",
  "(red:1.2)",
  "[a|b]",
  "<lora:x:1>",
  "'",
  "\u2028",
  "{}",
  "\\n",
  '\\"',
  "Ünïcode key",
];

Deno.test("infotext written of random prompts and values reads the same by AUTOMATIC1111's reader and ours", () => {
  const random = seeded(11);
  const text = (most: number) =>
    Array.from({ length: random() % most }, () => pick(random, PIECES)).join("");
  for (let i = 0; i < 500; i++) {
    const values = { "Model": text(6), "VAE": text(4), "Lora hashes": text(8) };
    const [prompt, negativePrompt] = [text(12), text(8)];
    const written = writeInfotext({ prompt, negativePrompt, entries: { ...ENTRIES, ...values } });
    const [ours, theirs] = [readInfotext(written), parseGenerationParameters(written)];
    const about = JSON.stringify({ i, prompt, negativePrompt, values });
    equal(ours.prompt, prompt, about);
    equal(ours.negativePrompt, negativePrompt, about);
    equal(theirs["Exact prompt"] ?? theirs["Prompt"], prompt, about);
    equal(theirs["Exact negative prompt"] ?? theirs["Negative prompt"], negativePrompt, about);
    equal(theirs["Steps"], "20");
    deepEqual([theirs["Size-1"], theirs["Size-2"]], ["512", "768"]);
    for (const [key, value] of Object.entries(values)) {
      equal(ours.entries.get(key) ?? "", value, about);
      if (value !== "512x512") equal(theirs[key] ?? "", value, about);
    }
  }
});

Deno.test("readInfotext reads any text as AUTOMATIC1111's reader does", () => {
  const random = seeded(12);
  const keys = new Set(Object.keys(parseGenerationParameters("")));
  const sizeless = PIECES.filter((piece) => piece !== "512x512"); // which splits its key there
  for (let i = 0; i < 2000; i++) {
    const pieces = Array.from({ length: random() % 24 }, () => pick(random, sizeless)).join("");
    const text = random() % 2
      ? `${pieces}\nSteps: 1, Seed: 2, ${pieces.replaceAll("\n", " ")}`
      : pieces;
    const [ours, theirs] = [readInfotext(text), parseGenerationParameters(text)];
    deepEqual(
      [ours.prompt, ours.negativePrompt],
      [theirs["Prompt"], theirs["Negative prompt"]],
      JSON.stringify(text),
    );
    for (const [key, value] of Object.entries(theirs)) {
      if (keys.has(key) || /-[12]$/.test(key)) continue;
      equal(ours.entries.get(key), value, JSON.stringify({ key, text }));
    }
  }
});

Deno.test("readInfotext takes no longer for a long line without colons than its length", () => {
  const text = `a\n${"word ".repeat(200_000)}`;
  equal(readInfotext(text).prompt.length, text.trim().length);
});
