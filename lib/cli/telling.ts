/** What trained models are told beside a prompt: the class of a picture, and boxes of what lies where. */

import type { Command } from "commander";
import { UsageError } from "../base/errors.ts";
import type { Picture } from "../base/picture.ts";
import { parseBox, parseBoxes } from "../formats/boxes.ts";
import { drawBoxes } from "../formats/draw_boxes.ts";
import { fileError, writeWhole } from "../formats/files.ts";
import { encodePng } from "../formats/png.ts";
import type { Recipe } from "../formats/recipe.ts";
import type { Listener } from "./listening.ts";

export interface ToldOptions {
  readonly class?: string;
  readonly box?: readonly string[];
  /** A file. */
  readonly boxes?: string;
  readonly drawBoxes?: true;
}

/** Adds the options of `ToldOptions`. */
export function addToldOptions(command: Command): Command {
  return command
    .option("--class <name>", "what the picture is of, for models that know classes")
    .option(
      "--box <label@left,top,right,bottom>",
      "what lies where, in fractions of the picture, for models that read boxes; may be repeated",
      (box: string, boxes: readonly string[] = []) => [...boxes, box],
    )
    .option("--boxes <file>", "boxes as JSON")
    .option("--draw-boxes", "also a copy of the picture with the boxes drawn into it");
}

/** Class and boxes as a recipe has them. Throws `UsageError`, `FileError` and `FormatError`. */
export async function readTold(
  { label, box = [], boxes: path, drawBoxes }: {
    readonly label: string | undefined;
    readonly box: readonly string[] | undefined;
    /** A file. */
    readonly boxes: string | undefined;
    readonly drawBoxes: true | undefined;
  },
): Promise<Pick<Recipe, "label" | "boxes">> {
  const boxes = box.map((text) => parseBox(text));
  if (path !== undefined) boxes.push(...parseBoxes(await readText(path), JSON.stringify(path)));
  if (drawBoxes && boxes.length === 0) {
    throw new UsageError("Cannot use --draw-boxes without boxes: give some with --box or --boxes");
  }
  return {
    ...(label !== undefined && { label }),
    ...(boxes.length > 0 && { boxes }),
  };
}

/** Writes a copy of every picture with its boxes beside it, as `NAME.boxes.png`. */
export function boxDrawer(): Listener {
  const pictures = new Map<number, Picture>();
  return async (event) => {
    if (event.kind === "image") pictures.set(event.index, event.image);
    if (event.kind !== "saved") return;
    const picture = pictures.get(event.index);
    pictures.delete(event.index);
    if (!picture) return;
    const path = event.path.replace(/\.\w+$/, "") + ".boxes.png";
    await writeWhole(path, await encodePng(drawBoxes(picture, event.settings.boxes ?? [])));
  };
}

async function readText(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    throw fileError("read", path, error);
  }
}
