/** `--grid`: contact sheets of a run's pictures, saved with the parameters of the first. */

import { extname, join } from "node:path";
import { UsageError } from "../base/errors.ts";
import { encodePictureFile } from "../formats/picture_file.ts";
import type { Picture } from "../formats/png.ts";
import { cellSize, sheet, type SheetOptions } from "../formats/sheet.ts";
import { shrink } from "../formats/resize.ts";
import type { Settings } from "../pipelines/events.ts";
import type { Listener } from "./listening.ts";
import { graphOf, infotextOf, type Makers } from "./metadata.ts";
import type { ReportOptions, SaveOptions } from "./options.ts";
import { openOutput, type Output } from "./output.ts";
import type { Progress } from "./progress.ts";
import type { Show } from "./show.ts";
import { printJson, printLine } from "./terminal.ts";

/** Options of `--grid`. */
export interface GridOptions {
  /** A path, or true for the usual one. */
  readonly grid?: string | true;
}

/** The name of a sheet where no other is asked for. */
const USUAL_GRID = "grid.png";

/** Throws `UsageError` where --grid has taken something for its path that is none: a prompt, say. */
export function checkGrid({ grid }: GridOptions): void {
  if (typeof grid !== "string" || /[\\/]$/.test(grid) || extname(grid) === ".png") return;
  throw new UsageError(
    `Cannot use --grid ${JSON.stringify(grid)}: a name that ends in .png was needed, or none; ` +
      "a prompt goes before it",
  );
}

/** Pictures for a sheet, and what the first was made with. */
export interface Collection {
  readonly pictures: (Picture | undefined)[];
  first?: { readonly settings: Settings; readonly index: number; readonly seed: number };
}

/**
 * Collects pictures, already as small as a sheet of so many columns and rows needs them; where these are not known beforehand
 * pictures stay as they are until the end.
 */
export function collecting(
  collection: Collection,
  { columns, rows } = { columns: 1, rows: 1 },
): Listener {
  return (event) => {
    if (event.kind !== "image") return;
    const { image, settings, index, seed } = event;
    collection.first ??= { settings, index, seed };
    const { width, height } = cellSize(image, columns, rows);
    collection.pictures.push(shrink(image, width, height));
  };
}

/** Where sheets go. */
export interface Sheets {
  /**
   * Lays pictures out, saves the sheet, tells and shows it; returns its path. `entries` are added to the parameters of the
   * first picture.
   */
  save(
    collection: Collection,
    layout?: SheetOptions,
    entries?: Readonly<Record<string, string>>,
  ): Promise<string>;
}

export interface SheetPlace {
  /** Where the pictures go: sheets go beside them, if nowhere else. */
  readonly output: Output;
  /** What makes the pictures, for the parameters; `undefined` leaves them out. */
  readonly makers: Makers | undefined;
  readonly progress: Progress;
  readonly show?: Show | undefined;
}

/** Opens the place where sheets go. Throws `UsageError` and `FileError` where nothing can be written there. */
export async function openSheets(
  options: GridOptions & SaveOptions & ReportOptions,
  { output, makers, progress, show }: SheetPlace,
): Promise<Sheets> {
  checkGrid(options);
  const { grid = true, overwrite, json } = options;
  const usual = join(output.folder ?? ".", USUAL_GRID);
  const place = await openOutput(grid === true ? usual : grid, {
    extension: ".png",
    name: USUAL_GRID,
    overwrite: overwrite === true,
  });
  return {
    async save({ pictures, first }, layout, entries = {}) {
      const picture = sheet(pictures, layout);
      const bytes = await encodePictureFile(picture, {
        format: "png",
        ...(first && makers && {
          infotext: infotextOf(first.settings, first, makers, entries),
          ...graphOf(first.settings, first, makers),
        }),
      });
      const path = await place.save({ index: 0, ...(first && { seed: first.seed }) }, bytes);
      progress.clear();
      if (json) await printJson({ event: "sheet", path, pictures: pictures.length });
      else if (options.output !== "-") await printLine(path);
      await show?.(picture);
      return path;
    },
  };
}
