import { deepEqual, equal, match, ok } from "node:assert/strict";
import { join } from "node:path";
import { readPromptOptions, recipesOf } from "../../lib/cli/prompting.ts";
import { inFolder } from "../folders.ts";

const plain = await readPromptOptions({}, (message) => {
  throw new Error(message);
});

Deno.test("recipesOf leaves a recipe without choices whole, and adds no negative prompt", () => {
  const recipe = { prompt: "a (fox:1.2)", steps: 4, batchCount: 3 };
  deepEqual(recipesOf(recipe, plain, "a1111"), [recipe]);
  deepEqual(recipesOf({ prompt: "{a|b}" }, plain, "none"), [{ prompt: "{a|b}" }]);
});

Deno.test("recipesOf makes the choices of each picture of a batch from its own seed", () => {
  const recipe = { prompt: "{a|b|c|d|e|f|g|h}", negativePrompt: "{i}", seed: 7, batchCount: 3 };
  const all = recipesOf(recipe, plain, "a1111");
  deepEqual(all.map(({ seed, batchIndex }) => [seed, batchIndex]), [[7, 0], [7, 1], [7, 2]]);
  all.forEach((each, i) => {
    match(each.prompt ?? "", /^[a-h]$/);
    equal(each.negativePrompt, "i");
    const [alone] = recipesOf({ ...recipe, seed: 7 + i, batchCount: 1 }, plain, "comfy");
    equal(alone.prompt, each.prompt);
  });
  ok(new Set(all.map(({ prompt }) => prompt)).size > 1);
});

Deno.test("recipesOf keeps pictures of one generator in their batch, and draws a seed where none is given", () => {
  const recipe = { prompt: "{a|b}", batchCount: 3, batchSeeds: "one" } as const;
  const all = recipesOf(recipe, plain, "comfy");
  deepEqual(all.map(({ batchIndex, batchCount }) => [batchIndex, batchCount]), [[0, 3], [1, 3], [
    2,
    3,
  ]]);
  ok(all.every(({ seed }) => seed !== undefined && seed >= 0 && seed === all[0].seed));
  const [third] = recipesOf({ ...all[2], prompt: "{a|b}" }, plain, "comfy");
  deepEqual(third, all[2]);
});

Deno.test("readPromptOptions reads wildcards of nested folders and warns once of a missing one", async () => {
  await inFolder(async (folder) => {
    await Deno.mkdir(join(folder, "deep"));
    await Deno.writeTextFile(join(folder, "deep", "hat.txt"), "bowler\n");
    await Deno.writeTextFile(join(folder, "readme.md"), "no\n");
    const warnings: string[] = [];
    const prompting = await readPromptOptions(
      { wildcards: folder },
      (message) => warnings.push(message),
    );
    const recipe = { prompt: "__hat__ __deep/*__ __readme__ __readme__", seed: 1 };
    const [{ prompt }] = recipesOf(recipe, prompting, "a1111");
    equal(prompt, "bowler bowler __readme__ __readme__");
    equal(warnings.length, 1);
    match(warnings[0], /has no wildcard "readme"/);
  });
});
