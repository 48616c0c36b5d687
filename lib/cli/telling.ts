/** What trained models are told beside a prompt: the class of a picture, and boxes of what lies where. */

import type { Command } from "commander";
import type { LabelledBox } from "../base/box.ts";
import { UsageError } from "../base/errors.ts";
import type { Picture } from "../base/picture.ts";
import { parseBox, parseBoxes } from "../formats/boxes.ts";
import { drawBoxes } from "../formats/draw_boxes.ts";
import { fileError, writeWhole } from "../formats/files.ts";
import { encodePng } from "../formats/png.ts";
import type { Recipe } from "../formats/recipe.ts";
import type { Listener } from "./listening.ts";

/** As they are typed. */
export interface ToldOptions {
  readonly class?: string;
  readonly box?: readonly LabelledBox[];
  /** A file. */
  readonly boxes?: string;
}

/** Adds the options of `ToldOptions`, and --draw-boxes. */
export function addToldOptions(command: Command): Command {
  return command
    .option("--class <name>", "what the picture is of, for models that know classes")
    .option(
      "--box <label@left,top,right,bottom>",
      "what lies where, in fractions of the picture, for models that read boxes; may be repeated",
      (box: string, boxes: readonly LabelledBox[] = []) => [...boxes, parseBox(box)],
    )
    .option("--boxes <file>", "boxes as JSON")
    .option("--draw-boxes", "also a copy of the picture with the boxes drawn into it");
}

/** Class and boxes as a recipe has them. Throws `FileError` and `FormatError`. */
export async function readTold(
  { class: label, box = [], boxes: path }: ToldOptions,
): Promise<Pick<Recipe, "label" | "boxes">> {
  const filed = path === undefined ? [] : parseBoxes(await readText(path), JSON.stringify(path));
  const boxes = [...box, ...filed];
  return { ...(label !== undefined && { label }), ...(boxes.length > 0 && { boxes }) };
}

/** Throws `UsageError` where --draw-boxes has nothing to draw, or no place for it. */
export function checkDrawBoxes(
  { drawBoxes, output }: { readonly drawBoxes?: true; readonly output?: string },
  recipes: readonly Recipe[],
): void {
  if (!drawBoxes) return;
  if (recipes.every(({ boxes = [] }) => boxes.length === 0)) {
    throw new UsageError("Cannot use --draw-boxes without boxes: give some with --box or --boxes");
  }
  if (output === "-") {
    throw new UsageError("Cannot use --draw-boxes with -o -: its copy is a second picture");
  }
}

/** Writes a copy of every picture that has boxes, with these drawn into it, beside it as `NAME.boxes.png`. */
export function boxDrawer(): Listener {
  const pictures = new Map<number, Picture>();
  return async (event) => {
    if (event.kind === "image") pictures.set(event.index, event.image);
    if (event.kind !== "saved") return;
    const picture = pictures.get(event.index);
    pictures.delete(event.index);
    const { boxes = [] } = event.settings;
    if (!picture || boxes.length === 0) return;
    const path = event.path.replace(/\.\w+$/, "") + ".boxes.png";
    await writeWhole(path, await encodePng(drawBoxes(picture, boxes)));
  };
}

async function readText(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    throw fileError("read", path, error);
  }
}
