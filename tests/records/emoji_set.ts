/** Emoji from an archive of WebP files, SET/CODE.webp, and an index of JSON lines with `hex` and `label`. */

import type { Picture } from "../../lib/base/picture.ts";
import { decodePicture } from "../../lib/formats/png.ts";
import { resample } from "../../lib/formats/resample.ts";
import { TarFile } from "../../lib/formats/tar.ts";
import { flatten } from "../../lib/train/images.ts";

/** Microsoft's Fluent emoji, drawn in 3D. */
const SET = "fluent-3d";

/** Those of some labels, in their order, as squares of `size` pixels on white. */
export async function readEmoji(
  archive: string,
  index: string,
  labels: readonly string[],
  size: number,
): Promise<Picture[]> {
  const lines = (await Deno.readTextFile(index)).trim().split("\n");
  const codes = new Map(lines.map((line) => {
    const { hex, label } = JSON.parse(line);
    return [label, hex];
  }));
  using tar = await TarFile.open(archive);
  const entries = new Map(tar.entries.map((entry) => [entry.name.replace(/^\.\//, ""), entry]));
  const pictures: Picture[] = [];
  for (const name of labels) {
    const path = `${SET}/${codes.get(name)}.webp`;
    const entry = entries.get(path);
    if (!entry) {
      throw new Error(`Cannot record: "${archive}" has no ${path}, or "${index}" no "${name}"`);
    }
    const whole = flatten(await decodePicture(tar.read(entry), path), 3);
    pictures.push(resample(whole, size, size, "bicubic"));
  }
  return pictures;
}
