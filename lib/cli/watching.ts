/** What can be watched beside the usual news: `--preview`, `--show` and `--grid`. */

import type { Command } from "commander";
import { nearSquare } from "../formats/sheet.ts";
import {
  checkGrid,
  collecting,
  type Collection,
  type GridOptions,
  openSheets,
  type SheetPlace,
} from "./grid.ts";
import type { Listener } from "./listening.ts";
import { integer, type ReportOptions, type SaveOptions } from "./options.ts";
import { checkPreview, type PreviewOptions, USUAL_EVERY } from "./preview.ts";
import { openShow, showListener } from "./show.ts";

export interface WatchOptions extends GridOptions, PreviewOptions {
  readonly show?: true;
}

/** Adds the options of `WatchOptions`. */
export function addWatchOptions(command: Command): Command {
  return command
    .option("--show", "draw the pictures in the terminal, if it can: kitty, iTerm2, sixel")
    .option("--grid [path]", "a contact sheet of all pictures (default: grid.png beside them)")
    .option("--preview <path>", "while a picture is made, the guess of it, as PNG")
    .option(
      "--preview-every <n>",
      `steps between previews (default: ${USUAL_EVERY})`,
      integer("--preview-every", 1),
    )
    .option("--preview-taesd <path>", "previews by a TAESD, sharper than without");
}

/** Throws `UsageError` for options that make no sense. */
export function checkWatch(options: WatchOptions): void {
  checkGrid(options);
  checkPreview(options);
}

export interface Watch {
  /** Hear of everything after the usual listeners. */
  readonly listeners: readonly Listener[];
  /** To be called when everything is done. */
  finish(): Promise<void>;
}

/** Opens what pictures of a run are watched by; `pictures` is how many there will be, if that is known. */
export async function openWatch(
  options: WatchOptions & SaveOptions & ReportOptions,
  place: Omit<SheetPlace, "show">,
  pictures?: number,
): Promise<Watch> {
  const show = options.show && await openShow(place.progress);
  if (options.grid === undefined) {
    return { listeners: show ? [showListener(show)] : [], finish: () => Promise.resolve() };
  }
  const sheets = await openSheets(options, { ...place, show });
  const collection: Collection = { pictures: [] };
  const room = pictures === undefined ? undefined : nearSquare(pictures);
  return {
    listeners: [collecting(collection, room)],
    async finish() {
      if (collection.pictures.length > 0) await sheets.save(collection);
    },
  };
}
