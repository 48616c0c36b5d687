import { deepEqual, equal, throws } from "node:assert/strict";
import { parseSweep, sweepCells } from "../../lib/cli/sweep.ts";

const texts = (sweep: string) => parseSweep(sweep).settings.map(({ text }) => text).join(" ");

Deno.test("parseSweep reads lists and ranges with both ends", () => {
  equal(texts("steps=10,20,30"), "10 20 30");
  equal(texts("cfg-scale=4:9:1"), "4 5 6 7 8 9");
  equal(texts("seed=1:4"), "1 2 3 4");
  equal(texts("seed=4:1"), "4 3 2 1");
  equal(texts("cfg=1:2:0.25"), "1 1.25 1.5 1.75 2");
  equal(texts("eta=0:0.3:0.1, 1"), "0 0.1 0.2 0.3 1");
  equal(texts("cfg-scale=9:4:-2"), "9 7 5");
  equal(texts("steps=7:7"), "7");
  equal(texts("--sampler=euler_a, DPM++ 2M"), "euler_a DPM++ 2M");
  equal(parseSweep("cfg_scale=7").name, "cfg-scale");
});

Deno.test("parseSweep changes a recipe, a value at a time", () => {
  const recipe = { prompt: "a cat, a small cat", negativePrompt: "cat hair", steps: 5 };
  const changed = (sweep: string) => parseSweep(sweep).settings.map(({ change }) => change(recipe));
  deepEqual(changed("steps=10,20"), [{ ...recipe, steps: 10 }, { ...recipe, steps: 20 }]);
  deepEqual(changed("size=64x32"), [{ ...recipe, width: 64, height: 32 }]);
  deepEqual(changed("n=x")[0].negativePrompt, "x");
  deepEqual(changed("class=fox,dog").map(({ label }) => label), ["fox", "dog"]);
  const boxes = changed('box="a@0,0,1,1; b@0,0,0.5,1","a@0,0,1,0.5"').map(({ boxes }) => boxes);
  const a = { label: "a", left: 0, top: 0, right: 1, bottom: 1 };
  deepEqual(boxes, [[a, { ...a, label: "b", right: 0.5 }], [{ ...a, bottom: 0.5 }]]);
  const prompts = changed('prompt=cat,"dog, asleep",$&');
  deepEqual(prompts.map(({ prompt }) => prompt), [
    "a cat, a small cat",
    "a dog, asleep, a small dog, asleep",
    "a $&, a small $&",
  ]);
  equal(prompts[1].negativePrompt, "dog, asleep hair");
  throws(() => changed("prompt=fox,dog"), /it does not hold "fox", the first value/);
});

Deno.test("parseSweep labels values with AUTOMATIC1111's words, prompts with themselves", () => {
  const labels = (sweep: string) => parseSweep(sweep).settings.map(({ label }) => label);
  deepEqual(labels("cfg-scale=4"), ["CFG Scale: 4"]);
  deepEqual(labels("sampler=euler"), ["Sampler: euler"]);
  deepEqual(labels("prompt=cat,dog"), ["cat", "dog"]);
});

Deno.test("parseSweep refuses what makes no sense, before anything is made", () => {
  const mistakes: readonly (readonly [string, RegExp])[] = [
    ["steps", /a name, =, and values were needed/],
    ["colour=red", /only steps, cfg-scale, .* can be swept/],
    ["toString=1", /can be swept/],
    ["steps=", /values were needed after =/],
    ["steps=ten", /--sweep steps "ten": a whole number of at least 1/],
    ["steps=10,", /--sweep steps "": a whole number/],
    ["steps=1:9:0", /1:9:0 has no end/],
    ["steps=1:9:-1", /1:9:-1 has no end/],
    ["steps=1:2:0.5", /--sweep steps "1.5": a whole number/],
    ["seed=0:4294967295", /more than 1000 values/],
    ["seed=-1", /--sweep seed "-1"/],
    ["size=64", /pixels as in 512x768 were needed/],
    ["boxes=dog", /--sweep boxes: number 1 is "dog", and label@left/],
    ["sampler=eulr", /did you mean "euler"/],
    ['prompt="cat', /a quote is not closed/],
  ];
  for (const [sweep, said] of mistakes) throws(() => parseSweep(sweep), said, sweep);
});

Deno.test("sweepCells combines every value with every other, page by page, row by row", () => {
  const places = (...sweeps: string[]) =>
    [...sweepCells(sweeps.map(parseSweep))].map(({ page, row, column, settings }) =>
      `${page}${row}${column} ${settings.map(({ text }) => text).join("/")}`
    );
  deepEqual(places("steps=1,2"), ["000 1", "001 2"]);
  deepEqual(places("steps=1,2", "seed=7:9"), [
    "000 1/7",
    "001 2/7",
    "010 1/8",
    "011 2/8",
    "020 1/9",
    "021 2/9",
  ]);
  const four = places("steps=1", "cfg=2", "seed=3,4", "eta=0,1");
  deepEqual(four, ["000 1/2/3/0", "100 1/2/3/1", "200 1/2/4/0", "300 1/2/4/1"]);
});
