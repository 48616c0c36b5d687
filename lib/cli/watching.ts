/** What can be watched beside the usual news: `--show` and `--grid`. */

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
import { type ReportOptions, type SaveOptions } from "./options.ts";
import { openShow, showListener } from "./show.ts";

export interface WatchOptions extends GridOptions {
  readonly show?: true;
}

/** Adds the options of `WatchOptions`. */
export function addWatchOptions(command: Command): Command {
  return command
    .option("--show", "draw the pictures in the terminal, if it can: kitty, iTerm2, sixel")
    .option("--grid [path]", "a contact sheet of all pictures (default: grid.png beside them)");
}

/** Throws `UsageError` for options that make no sense. */
export function checkWatch(options: WatchOptions): void {
  checkGrid(options);
}

export interface Watch {
  /** Hear of everything after the usual listeners. */
  readonly listeners: readonly Listener[];
  /** To be called when everything is done. */
  finish(): Promise<void>;
}

/** Opens what pictures of a run are watched by; `pictures` is how many there will be, if that is known. */
export async function openWatch(
  options: WatchOptions & SaveOptions & ReportOptions & { readonly metadata: boolean },
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
