/** Makes the pictures of a sweep: single ones as always, labelled sheets of them, and a table of what is where. */

import { basename, dirname, extname, join } from "node:path";
import type { Command } from "commander";
import { counted } from "../base/counted.ts";
import { DeviceError, FileError, UsageError } from "../base/errors.ts";
import type { Recipe } from "../formats/recipe.ts";
import type { SheetOptions } from "../formats/sheet.ts";
import {
  checkQuality,
  type DrawingOptions,
  drawOne,
  fileOptions,
  outputOf,
  withDrawing,
} from "./drawing.ts";
import { checkGrid, collecting, type Collection, openSheets } from "./grid.ts";
import { modelPath, seconds } from "./loading.ts";
import { progressOptions } from "./options.ts";
import { openOutput } from "./output.ts";
import { progressTo } from "./progress.ts";
import { openShow } from "./show.ts";
import { type Axis, type Cell, parseSweep, sweepCells } from "./sweep.ts";
import { checkDrawBoxes } from "./telling.ts";
import { printJson, printLine, writeStderr } from "./terminal.ts";

/** Adds `--sweep`. */
export function addSweepOption(command: Command): Command {
  return command.option(
    "--sweep <name=values>",
    "a picture for each value: steps=10,20,30 or cfg-scale=4:9:1; twice: each with each, in a grid",
    (sweep: string, before: readonly string[] = []) => [...before, sweep],
  );
}

/** Makes the pictures of a recipe, or of what a command's `--sweep` makes of it; returns the exit code. */
export async function drawSwept(
  options: DrawingOptions,
  recipe: Recipe,
  command: Command,
): Promise<number> {
  const { sweep = [] } = command.opts<{ readonly sweep?: readonly string[] }>();
  checkGrid(options);
  return sweep.length > 0
    ? await drawSweep(options, recipe, sweep)
    : await drawOne(options, recipe);
}

/** What came of a cell. */
interface Row {
  readonly cell: Cell;
  readonly seed: number;
  readonly path: string;
  readonly seconds: number;
  /** Why there is no picture; "" where there is one. */
  readonly fault: string;
}

/**
 * Makes a picture for each combination of `sweeps`; returns the exit code. One that cannot be made is told and leaves its
 * place empty. Throws what stops all of them, and `UsageError` before any work where the sweeps make no sense.
 */
export async function drawSweep(
  { show: isShown, grid, ...options }: DrawingOptions,
  recipe: Recipe,
  sweeps: readonly string[],
): Promise<number> {
  const begin = performance.now();
  const seed = seedOf(recipe);
  const axes = axesOf(sweeps, seed, recipe.batchCount ?? 1);
  const cells = [...sweepCells(axes)];
  const recipes = cells.map(({ settings }) =>
    settings.reduce<Recipe>((some, { change }) => change(some), { ...recipe, seed, batchCount: 1 })
  );
  if (options.output === "-") {
    throw new UsageError("Cannot write the pictures of a sweep to stdout: -o - takes one");
  }
  checkDrawBoxes(options, recipes);
  checkQuality(options);
  const file = await fileOptions(options, modelPath(options));
  const sheetOptions = { ...options, ...(grid !== undefined && { grid }) };
  checkGrid(sheetOptions);
  const output = await outputOf(options);
  const progress = progressTo(progressOptions(options));
  const show = isShown && await openShow(progress);
  const sheets = await openSheets(sheetOptions, { output, makers: file.makers, progress, show });
  progress.say(`${counted(cells.length, "picture")}: ${axes.map(describe).join(" × ")}`);

  /** Tells of a cell of which nothing comes. */
  const tellFault = async ({ settings }: Cell, cell: number, message: string) => {
    progress.clear();
    writeStderr(`ldm: ${settings.map(({ label }) => label).join(", ")}: ${message}\n`);
    if (options.json) await printJson({ event: "error", cell, message });
  };
  const rows: Row[] = [];
  const paths: string[] = [];
  let page: Collection = { pictures: [] };
  await withDrawing(options, async (draw) => {
    for (const [i, cell] of cells.entries()) {
      const start = performance.now();
      const made = { seed: recipes[i].seed ?? seed, path: "" };
      let fault = "";
      try {
        await draw(recipes[i], {
          firstIndex: i,
          about: { cell: i },
          listeners: [collecting(page, sizeOf(axes)), (event) => {
            if (event.kind === "saved") made.path = event.path;
          }],
        });
      } catch (error) {
        if (error instanceof DeviceError || error instanceof FileError) throw error;
        fault = (error instanceof Error ? error.message : String(error)).replaceAll(/\s+/g, " ");
        page.pictures.push(undefined);
        await tellFault(cell, i, fault);
      }
      rows.push({ cell, ...made, seconds: seconds(performance.now() - start), fault });
      if (cell.page === cells[i + 1]?.page) continue;
      paths.push(await sheets.save(page, layoutOf(axes, cell), entriesOf(axes)));
      page = { pictures: [] };
    }
  }, { pictures: cells.length, output, file, several: true, progress });
  await saveTable(tableOf(axes, rows), paths[0], options);
  const failed = rows.filter(({ fault }) => fault !== "").length;
  if (options.json) {
    const images = rows.length - failed;
    await printJson({ event: "done", images, failed, seconds: seconds(performance.now() - begin) });
  }
  return failed > 0 ? 1 : 0;
}

/** One seed for all, so that pictures differ by what is swept alone. */
function seedOf({ seed = -1, batchCount = 1 }: Recipe): number {
  const seeds = 2 ** 32 - batchCount + 1;
  return seed >= 0 ? seed : crypto.getRandomValues(new Uint32Array(1))[0] % seeds;
}

/** The axes that are asked for; several pictures of each are one more. */
function axesOf(sweeps: readonly string[], seed: number, batchCount: number): Axis[] {
  const counted = batchCount > 1 ? [`seed=${seed}:${seed + batchCount - 1}`] : [];
  const axes = [...sweeps, ...counted].map(parseSweep);
  for (const [i, { name }] of axes.entries()) {
    if (name === "prompt" || axes.findIndex((axis) => axis.name === name) === i) continue;
    throw new UsageError(
      name === "seed" && batchCount > 1
        ? "Cannot sweep seeds with -b, which counts them up too: one of both was needed"
        : `Cannot sweep ${name} twice: one list with all values was needed`,
    );
  }
  return axes;
}

function describe({ name, settings }: Axis): string {
  return `${settings.length} of ${name}`;
}

/** Columns and rows of each sheet. */
function sizeOf([columns, rows]: readonly Axis[]): { columns: number; rows: number } {
  return { columns: columns.settings.length, rows: rows?.settings.length ?? 1 };
}

/** The sheet that a cell is in. */
function layoutOf(axes: readonly Axis[], { settings }: Cell): SheetOptions {
  const [columns, rows] = axes;
  const title = settings.slice(2).map(({ label }) => label).join(", ");
  return {
    columns: columns.settings.length,
    columnLabels: columns.settings.map(({ label }) => label),
    ...(rows && { rowLabels: rows.settings.map(({ label }) => label) }),
    ...(title !== "" && { title }),
  };
}

/** As AUTOMATIC1111's X/Y/Z plot writes them. */
function entriesOf(axes: readonly Axis[]): Record<string, string> {
  const entries = axes.slice(0, 3).flatMap(({ label, settings }, i) => [
    [`${"XYZ"[i]} Type`, label],
    [`${"XYZ"[i]} Values`, settings.map(({ text }) => quoted(text)).join(", ")],
  ]);
  return { Script: "X/Y/Z plot", ...Object.fromEntries(entries) };
}

/** A row for each cell: its settings, its seed, its file, how long it took, and what went wrong. */
function tableOf(axes: readonly Axis[], rows: readonly Row[]): string {
  const isOwn = (i: number) => axes[i].name !== "seed"; // a column of its own already
  const lines = [
    [
      ...axes.map(({ name }) => name).filter((_, i) => isOwn(i)),
      "seed",
      "path",
      "seconds",
      "error",
    ],
    ...rows.map(({ cell, seed, path, seconds, fault }) => [
      ...cell.settings.map(({ text }) => text).filter((_, i) => isOwn(i)),
      String(seed),
      path,
      String(seconds),
      fault,
    ]),
  ];
  return lines.map((cells) => cells.map(quoted).join(",") + "\n").join("");
}

/** A cell of a table as text (RFC 4180). */
function quoted(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The table beside the first sheet, under its name. */
async function saveTable(
  text: string,
  sheet: string,
  { overwrite, json }: DrawingOptions,
): Promise<void> {
  const name = `${basename(sheet, extname(sheet))}.csv`;
  const output = await openOutput(join(dirname(sheet), name), {
    extension: ".csv",
    name,
    overwrite: overwrite === true,
  });
  const path = await output.save({ index: 0 }, new TextEncoder().encode(text));
  if (json) await printJson({ event: "table", path });
  else await printLine(path);
}
