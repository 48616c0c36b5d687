/**
 * A contact sheet: pictures in rows and columns on white, with labels over the columns and beside the rows where there are
 * some. Rows are chosen as AUTOMATIC1111's grid chooses them.
 */

import { drawText, GLYPH, textWidth, wrapLabel } from "./font.ts";
import type { Picture } from "./png.ts";
import { shrink, sizeWithin } from "./resize.ts";

/** What stands around the pictures. */
export interface SheetOptions {
  /** Columns; where left out the sheet is as near to square as its pictures allow. */
  readonly columns?: number | undefined;
  /** A label for each column. */
  readonly columnLabels?: readonly string[] | undefined;
  /** A label for each row. */
  readonly rowLabels?: readonly string[] | undefined;
  /** Over everything. */
  readonly title?: string | undefined;
}

/** Pixels of a side of the largest sheet; larger pictures are shrunk so that the sheet is at most this. */
export const SHEET_SIDE = 8192;
/** Lines of a label. */
const LINES = 5;
/** Characters in a line of a row's label, unless all are shorter. */
const ROW_LABEL = 24;

/** Columns and rows for `count` pictures: √count rows, rounded, and as many columns as they need. */
export function nearSquare(count: number): { columns: number; rows: number } {
  const rows = Math.max(1, Math.round(Math.sqrt(count)));
  return { columns: Math.max(1, Math.ceil(count / rows)), rows };
}

/** The size at which a picture stands in a sheet of `columns`×`rows` such pictures. */
export function cellSize(
  picture: { readonly width: number; readonly height: number },
  columns: number,
  rows: number,
): { width: number; height: number } {
  const side = (cells: number) => Math.max(1, Math.floor(SHEET_SIDE / cells));
  return sizeWithin(picture, side(columns), side(rows));
}

/**
 * The sheet, row by row from the top left; RGB. A picture smaller than the largest stands in the middle of its cell; where
 * there is none the cell is grey. Transparency is laid over white.
 */
export function sheet(
  pictures: readonly (Picture | undefined)[],
  options: SheetOptions = {},
): Picture {
  const columns = options.columns ?? nearSquare(pictures.length).columns;
  const rows = Math.max(1, Math.ceil(pictures.length / columns));
  const fitted = pictures.map((picture) => {
    if (picture === undefined) return undefined;
    const { width, height } = cellSize(picture, columns, rows);
    return shrink(picture, width, height);
  });
  const cell = {
    width: Math.max(1, ...fitted.map((picture) => picture?.width ?? 0)),
    height: Math.max(1, ...fitted.map((picture) => picture?.height ?? 0)),
  };
  const scale = Math.min(6, Math.max(1, Math.round(cell.width / 180)));
  const gap = Math.max(2, Math.round(Math.min(cell.width, cell.height) / 64));
  const line = GLYPH.height * scale;

  const rowLabels = (options.rowLabels ?? []).map((text) => wrapLabel(text, ROW_LABEL, LINES));
  const columnLabels = (options.columnLabels ?? []).map((text) =>
    wrapLabel(text, cell.width / (GLYPH.width * scale), LINES)
  );
  const body = columns * (cell.width + gap) - gap;
  const left = gap + widest(rowLabels.flat(), scale, gap);
  const title = options.title === undefined
    ? []
    : wrapLabel(options.title, body / (GLYPH.width * scale), LINES);
  const titled = gap + tallest([title], line, Math.floor(line / 2));
  const top = titled + tallest(columnLabels, line, gap);
  const rowHeight = Math.max(cell.height, tallest(rowLabels, line, 0));
  const width = left + body + gap;
  const height = top + rows * (rowHeight + gap);
  const out: Picture = {
    width,
    height,
    channels: 3,
    data: new Uint8Array(width * height * 3).fill(255),
  };

  drawLabel(out, title, { x: left, y: gap, width: body, height: 0, scale });
  for (const [i, label] of columnLabels.entries()) {
    const x = left + i * (cell.width + gap);
    drawLabel(out, label, { x, y: titled, width: cell.width, height: top - titled - gap, scale });
  }
  for (const [j, label] of rowLabels.entries()) {
    const y = top + j * (rowHeight + gap);
    drawLabel(out, label, { x: gap, y, width: left - 2 * gap, height: rowHeight, scale });
  }
  for (let i = 0; i < rows * columns; i++) {
    const x = left + (i % columns) * (cell.width + gap);
    const y = top + Math.floor(i / columns) * (rowHeight + gap) +
      Math.floor((rowHeight - cell.height) / 2);
    const picture = fitted[i];
    if (picture !== undefined) {
      paste(out, picture, {
        x: x + Math.floor((cell.width - picture.width) / 2),
        y: y + Math.floor((cell.height - picture.height) / 2),
      });
    } else if (i < pictures.length) grey(out, { x, y, ...cell });
  }
  return out;
}

/** Pixels that labels beside the rows take, the gap after them included; 0 where there are none. */
function widest(lines: readonly string[], scale: number, gap: number): number {
  return lines.length === 0
    ? 0
    : Math.max(...lines.map((text) => textWidth(text, scale))) + 2 * gap;
}

/** Pixels that the highest of some labels takes, with a gap; 0 where there are none. */
function tallest(labels: readonly (readonly string[])[], line: number, gap: number): number {
  const most = Math.max(0, ...labels.map(({ length }) => length));
  return most === 0 ? 0 : most * line + gap;
}

interface Box {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** Draws lines in the middle of a box. */
function drawLabel(
  out: Picture,
  lines: readonly string[],
  { x, y, width, height, scale }: Box & { readonly scale: number },
): void {
  const line = GLYPH.height * scale;
  const top = y + Math.max(0, Math.floor((height - lines.length * line) / 2));
  for (const [i, text] of lines.entries()) {
    const indent = Math.max(0, Math.floor((width - textWidth(text, scale)) / 2));
    drawText(out, text, x + indent, top + i * line, scale);
  }
}

function paste(out: Picture, { width, height, channels, data }: Picture, at: Pick<Box, "x" | "y">) {
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (y * width + x) * channels;
      const to = ((at.y + y) * out.width + at.x + x) * 3;
      const alpha = channels === 4 ? data[from + 3] / 255 : 1;
      for (let c = 0; c < 3; c++) {
        const value = data[channels === 1 ? from : from + c];
        out.data[to + c] = Math.round(value * alpha + 255 * (1 - alpha));
      }
    }
  }
}

function grey(out: Picture, { x, y, width, height }: Box): void {
  for (let row = y; row < y + height; row++) {
    out.data.fill(0xc0, (row * out.width + x) * 3, (row * out.width + x + width) * 3);
  }
}
