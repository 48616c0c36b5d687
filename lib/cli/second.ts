/** Pictures that pictures are made of: their options and files, and what a model makes of them. */

import type { Command } from "commander";
import { FileError, FormatError } from "../base/errors.ts";
import type { Picture } from "../base/picture.ts";
import type { Model } from "../engine/model.ts";
import { fileError } from "../formats/files.ts";
import { decodePicture } from "../formats/png.ts";
import { defined, type Recipe } from "../formats/recipe.ts";
import type { SecondPicture } from "../pipelines/beside.ts";
import { decimal } from "./options.ts";

/** The part of a recipe that names them. */
export type SeenFiles = Pick<Recipe, "image" | "mask">;

/** Adds the options of `SeenFiles`. */
export function addSeenOptions(command: Command): Command {
  return addImageOption(command).option(
    "--mask <path>",
    "as large as the picture: white is made anew (default: what is transparent in the picture)",
  );
}

/** Adds the option of the picture alone. */
export function addImageOption(command: Command): Command {
  return command.option("-i, --image <path>", "the picture that it is made of");
}

/** Adds `--strength`. */
export function addStrengthOption(command: Command, usual: string): Command {
  return command.option(
    "--strength <x>",
    `how much may change, from 0 to 1 (default: ${usual})`,
    decimal("--strength", 0, 1),
  );
}

/** Adds `--mask-blur`. */
export function addMaskBlurOption(command: Command): Command {
  return command.option(
    "--mask-blur <pixels>",
    "blends the new into the old over so many pixels around the edge of the mask (default: 0)",
    decimal("--mask-blur", 0),
  );
}

/** Adds all of them, for commands in which something else says what is made of a picture. */
export function addSecondOptions(command: Command): Command {
  return addMaskBlurOption(
    addStrengthOption(addSeenOptions(command), "what was said, else 0.75, with a mask 1"),
  );
}

/** What the files hold. */
interface SeenPictures {
  readonly picture: Picture;
  readonly mask?: Picture;
}

/** Reads second pictures; those that were read last are kept. */
export class SecondReader {
  #known: { readonly key: string; readonly pictures: SeenPictures } | undefined;

  /** Reads the files that a recipe names, if it does. Throws `FormatError`, also where they cannot be read. */
  async read({ image, mask }: SeenFiles): Promise<SeenPictures | undefined> {
    if (image === undefined) return undefined;
    const key = JSON.stringify([image, mask]);
    if (this.#known?.key !== key) {
      const picture = await pictureAt(image, "picture");
      const both = mask === undefined ? {} : { mask: await pictureAt(mask, "mask") };
      this.#known = { key, pictures: { picture, ...both } };
    }
    return this.#known.pictures;
  }

  /** What a recipe makes of the pictures that it names. Throws `FormatError`. */
  async of(recipe: Recipe, model: Pick<Model, "beside">): Promise<SecondPicture | undefined> {
    const pictures = await this.read(recipe);
    return pictures && secondOf(recipe, pictures, model);
  }
}

/** A file that cannot be read concerns those alone who ask for it: it is no `FileError`, which ends a batch. */
async function pictureAt(path: string, what: string): Promise<Picture> {
  const bytes = await Deno.readFile(path).catch((error) => {
    const told = fileError(`read the ${what}`, path, error);
    throw told instanceof FileError ? new FormatError(told.message, { cause: error }) : told;
  });
  return await decodePicture(bytes, `"${path}"`);
}

/** What a recipe makes of the pictures; where it does not say, what the model is for, or a mask. */
function secondOf(
  { sees, keep, maskBlur, mask: maskPath }: Recipe,
  { picture, mask }: SeenPictures,
  { beside }: Pick<Model, "beside">,
): SecondPicture {
  const source = sees ?? beside?.source ?? (maskPath === undefined ? "start" : "mask");
  return source === "mask"
    ? { source, picture, ...defined({ mask, keep, blur: maskBlur }) }
    : { source, picture };
}
