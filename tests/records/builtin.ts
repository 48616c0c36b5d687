/** What is to be built in: emoji of living things and food from their names, in the latents of TAESD. */

import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Picture } from "../../lib/base/picture.ts";
import { readEmoji } from "./emoji_set.ts";
import { drawn, nearestOwn, type Recipe, trained, writeDataset, writeSheet } from "./record.ts";

const TAESD = fileURLToPath(new URL("../../fixtures/taesd", import.meta.url));
/** Pixels of a side: what TAESD still gives back well. */
const SIZE = 128;

/** What a caption says → the index's label. */
const NAMES: Readonly<Record<string, string>> = {
  "apple": "red apple",
  "orange": "tangerine",
  "cat": "cat face",
  "dog": "dog face",
  "rabbit": "rabbit face",
  "tiger": "tiger face",
  "cow": "cow face",
  "pig": "pig face",
  "whale": "spouting whale",
  ...Object.fromEntries(
    [
      ...["banana", "lemon", "strawberry", "cherries", "watermelon", "pineapple", "carrot"],
      ...["avocado", "mushroom", "pizza", "hamburger", "doughnut", "rose", "tulip", "sunflower"],
      ...["cactus", "palm tree", "fox", "bear", "panda", "lion", "frog", "penguin", "owl"],
      ...["turtle", "octopus", "butterfly"],
    ].map((name) => [name, name]),
  ),
};

/** Ways to ask for it. */
function captionsOf(name: string): string[] {
  const one = name === "cherries" ? name : `${/^[aeiou]/.test(name) ? "an" : "a"} ${name}`;
  return [name, one, `an emoji of ${one}`, `a picture of ${one}`];
}

export const builtin: Recipe = {
  needs: ["ARCHIVE.tar", "INDEX.jsonl"],
  run: async function* (device, folder, [archive, index]) {
    const originals = await readEmoji(archive, index, Object.values(NAMES), SIZE);
    const names = Object.keys(NAMES);
    const data = join(folder, "data");
    await writeDataset(
      data,
      originals.flatMap((picture, i) =>
        captionsOf(names[i]).map((text) => ({ picture, said: { text } }))
      ),
    );
    const stage = join(folder, "taesd");
    await Deno.mkdir(stage, { recursive: true });
    for (const half of ["encoder", "decoder"]) {
      const file = `taesd_${half}.safetensors`;
      await Deno.copyFile(join(TAESD, file), join(stage, file));
    }
    const model = join(folder, "emoji");
    const set = [`first_stage=${stage}`];
    yield await trained("diffusion", "builtin", { data, folder: model, set });
    const made: Picture[] = await drawn(
      device,
      model,
      names.map((name, i) => ({ prompt: captionsOf(name)[1], seed: i })),
    );
    yield {
      what: `names that gave back their picture, of ${names.length}`,
      value: nearestOwn(originals, made),
      least: 0.9 * names.length,
    };
    await writeSheet(join(folder, "emoji.png"), made, { columns: 9 });
  },
};
