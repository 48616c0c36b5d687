/** Pictures that a model sees: their options and files. */

import type { Command } from "commander";
import type { Picture } from "../base/picture.ts";
import { fileError } from "../formats/files.ts";
import { decodePicture } from "../formats/png.ts";
import type { Recipe } from "../formats/recipe.ts";
import type { SecondPicture } from "../pipelines/beside.ts";

/** Paths. */
export interface SeenFiles {
  readonly image?: string;
  readonly mask?: string;
}

/** Adds the options of `SeenFiles`. */
export function addSeenOptions(command: Command): Command {
  return command
    .option("-i, --image <path>", "the picture that the model sees")
    .option(
      "--mask <path>",
      "as large as the picture: white is made anew (default: what is transparent in the picture)",
    );
}

/** What the files hold. */
export interface SeenPictures {
  readonly picture: Picture;
  readonly mask?: Picture;
}

/** Reads the files; `undefined` without a picture. Throws `FileError` and `FormatError`. */
export async function readSeen({ image, mask }: SeenFiles): Promise<SeenPictures | undefined> {
  if (image === undefined) return undefined;
  const picture = await pictureAt(image, "picture");
  return mask === undefined ? { picture } : { picture, mask: await pictureAt(mask, "mask") };
}

async function pictureAt(path: string, what: string): Promise<Picture> {
  const bytes = await Deno.readFile(path).catch((error) => {
    throw fileError(`read the ${what}`, path, error);
  });
  return await decodePicture(bytes, `"${path}"`);
}

/** What a recipe makes of the pictures. */
export function secondOf(
  source: NonNullable<Recipe["sees"]>,
  { picture, mask }: SeenPictures,
  keep: boolean | undefined,
): SecondPicture {
  return source === "mask" ? { source, picture, mask, keep } : { source, picture };
}
