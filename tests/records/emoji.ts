/**
 * Sixteen emoji and their names: an autoencoder that gives them back, and in its latent space a denoiser that makes of each
 * name its own picture.
 */

import { join } from "node:path";
import type { Picture } from "../../lib/base/picture.ts";
import { readEmoji } from "./emoji_set.ts";
import {
  drawn,
  type Figure,
  meanOf,
  nearestOwn,
  psnr,
  type Recipe,
  reconstructed,
  trained,
  writeDataset,
  writeSheet,
} from "./record.ts";

const NAMES = [
  ...["fox", "panda", "frog", "tropical fish", "octopus", "butterfly", "rose", "sunflower"],
  ...["mushroom", "strawberry", "pizza", "rocket", "sailboat", "snowman", "balloon", "guitar"],
] as const;
/** Pixels of a side. */
const SIZE = 32;

export const emoji: Recipe = {
  needs: ["ARCHIVE.tar", "INDEX.jsonl"],
  run: async function* (device, folder, [archive, index]) {
    const originals = await readEmoji(archive, index, NAMES, SIZE);
    const data = join(folder, "data");
    await writeDataset(
      data,
      originals.map((picture, i) => ({ picture, said: { text: NAMES[i] } })),
    );

    const first = join(folder, "first");
    yield await trained("autoencoder", "emoji_first", { data, folder: first });
    const again = await reconstructed(device, join(first, "vae"), originals);
    const fidelity = originals.map((picture, i) => psnr(picture, again[i]));
    yield { what: "PSNR of reconstructions, mean, dB", value: meanOf(fidelity), least: 32 };
    yield { what: "PSNR of reconstructions, least, dB", value: Math.min(...fidelity) };

    const model = join(folder, "model");
    const set = [`first_stage=${join(first, "vae")}`];
    yield await trained("diffusion", "emoji", { data, folder: model, set });
    const made = await drawn(
      device,
      model,
      NAMES.map((prompt, i) => ({ prompt, seed: i, steps: 20 })),
    );
    yield* judged(originals, made);
    await writeSheet(join(folder, "emoji.png"), [...originals, ...again, ...made], {
      columns: originals.length,
      rowLabels: ["original", "autoencoder", "from its name"],
    });
  },
};

/** Whose picture each one is: the original that it is nearest to. */
function* judged(originals: readonly Picture[], made: readonly Picture[]): Generator<Figure> {
  const { length } = originals;
  yield {
    what: `names that gave back their picture, of ${length}`,
    value: nearestOwn(originals, made),
    least: length,
  };
  const fidelity = originals.map((picture, i) => psnr(picture, made[i]));
  yield { what: "PSNR of pictures from names, mean, dB", value: meanOf(fidelity) };
  yield { what: "PSNR of pictures from names, least, dB", value: Math.min(...fidelity) };
}
