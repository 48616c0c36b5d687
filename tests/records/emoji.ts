/**
 * Sixteen emoji and their names: an autoencoder that gives them back, and in its latent space a denoiser that makes of each
 * name its own picture.
 */

import { join } from "node:path";
import type { Picture } from "../../lib/base/picture.ts";
import { decodePicture } from "../../lib/formats/png.ts";
import { resample } from "../../lib/formats/resample.ts";
import { TarFile } from "../../lib/formats/tar.ts";
import { flatten } from "../../lib/train/images.ts";
import {
  drawn,
  type Figure,
  meanOf,
  psnr,
  type Recipe,
  reconstructed,
  squaredError,
  trained,
  writeDataset,
  writeSheet,
} from "./record.ts";

/** Code points; an index names them. */
const CODES = [
  ...["1f98a", "1f43c", "1f438", "1f420", "1f419", "1f98b", "1f339", "1f33b"],
  ...["1f344", "1f353", "1f355", "1f680", "26f5", "2603", "1f388", "1f3b8"],
] as const;
/** Microsoft's Fluent emoji, drawn in 3D. */
const SET = "fluent-3d";
/** Pixels of a side. */
const SIZE = 32;

interface Captioned {
  readonly caption: string;
  readonly picture: Picture;
}

export const emoji: Recipe = {
  needs: ["ARCHIVE.tar", "INDEX.jsonl"],
  run: async function* (device, folder, [archive, index]) {
    const all = await readEmoji(archive, index);
    const originals = all.map(({ picture }) => picture);
    const data = join(folder, "data");
    await writeDataset(
      data,
      all.map(({ picture, caption }) => ({ picture, said: { text: caption } })),
    );

    const first = join(folder, "first");
    const seconds = await trained("autoencoder", "emoji_first", { data, folder: first });
    yield { what: "training the autoencoder, s", value: seconds };
    const again = await reconstructed(device, join(first, "vae"), originals);
    const fidelity = originals.map((picture, i) => psnr(picture, again[i]));
    yield { what: "PSNR of reconstructions, mean, dB", value: meanOf(fidelity), least: 32 };
    yield { what: "PSNR of reconstructions, least, dB", value: Math.min(...fidelity) };

    const model = join(folder, "model");
    const set = [`first_stage=${join(first, "vae")}`];
    yield {
      what: "training the denoiser, s",
      value: await trained("diffusion", "emoji", { data, folder: model, set }),
    };
    const made = await drawn(
      device,
      model,
      all.map(({ caption: prompt }, i) => ({ prompt, seed: i, steps: 20, cfgScale: 1 })),
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
  const own = made.filter((picture, i) => {
    const distances = originals.map((original) => squaredError(original, picture));
    return distances.indexOf(Math.min(...distances)) === i;
  });
  const { length } = originals;
  yield {
    what: `names that gave back their picture, of ${length}`,
    value: own.length,
    least: length,
  };
  const fidelity = originals.map((picture, i) => psnr(picture, made[i]));
  yield { what: "PSNR of pictures from names, mean, dB", value: meanOf(fidelity) };
  yield { what: "PSNR of pictures from names, least, dB", value: Math.min(...fidelity) };
}

/** The sixteen from an archive of WebP files, SET/CODE.webp, and an index of JSON lines with `hex` and `label`. */
async function readEmoji(archive: string, index: string): Promise<Captioned[]> {
  const lines = (await Deno.readTextFile(index)).trim().split("\n");
  const labels = new Map(lines.map((line) => {
    const { hex, label } = JSON.parse(line);
    return [hex, label];
  }));
  using tar = await TarFile.open(archive);
  const all: Captioned[] = [];
  for (const code of CODES) {
    const name = `${SET}/${code}.webp`;
    const entry = tar.entries.find((entry) => entry.name === name);
    const caption = labels.get(code);
    if (!entry || caption === undefined) {
      throw new Error(`Cannot record: "${archive}" has no ${name}, or "${index}" no name for it`);
    }
    const whole = flatten(await decodePicture(tar.read(entry), name), 3);
    all.push({ caption, picture: resample(whole, SIZE, SIZE, "bicubic") });
  }
  return all;
}
