import { deepEqual, equal, ok } from "node:assert/strict";
import { drawText, GLYPH, textWidth, wrapLabel } from "../../lib/formats/font.ts";
import type { Picture } from "../../lib/formats/png.ts";
import { cellSize, nearSquare, sheet, SHEET_SIDE } from "../../lib/formats/sheet.ts";

function plain(width: number, height: number, colour: readonly number[]): Picture {
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => colour[i % 3]);
  return { width, height, channels: 3, data };
}

/** A picture as text, a character a pixel: "#" is black, "." white. */
function drawing({ width, data }: Picture): string[] {
  const marks = Array.from({ length: data.length / 3 }, (_, i) => data[i * 3] < 128 ? "#" : ".");
  return (marks.join("").match(new RegExp(`.{${width}}`, "g")) ?? []).slice();
}

/** Where pixels of a colour are: [left, top, right, bottom], the last two exclusive. */
function extent({ width, data }: Picture, colour: readonly number[]): number[] {
  const found = [Infinity, Infinity, 0, 0];
  for (let i = 0; i < data.length / 3; i++) {
    if (!colour.every((value, c) => data[i * 3 + c] === value)) continue;
    const [x, y] = [i % width, Math.floor(i / width)];
    found[0] = Math.min(found[0], x);
    found[1] = Math.min(found[1], y);
    found[2] = Math.max(found[2], x + 1);
    found[3] = Math.max(found[3], y + 1);
  }
  return found;
}

Deno.test("drawText draws letters, accents and other scripts, and marks what it has no glyph for", () => {
  const out = plain(6, 13, [255, 255, 255]);
  drawText(out, "A", 0, 0);
  deepEqual(drawing(out).slice(2, 11), [
    "..#...",
    ".#.#..",
    "#...#.",
    "#...#.",
    "#...#.",
    "#####.",
    "#...#.",
    "#...#.",
    "#...#.",
  ]);
  const drawn = (text: string) => {
    const picture = plain(6, 13, [255, 255, 255]);
    drawText(picture, text, 0, 0);
    return drawing(picture).join("\n");
  };
  const different = new Set(["e", "é", "Ж", "Ω", "ß", "–", "猫"].map(drawn));
  equal(different.size, 7);
  equal(drawn("e\u0301"), drawn("é"));
  equal(drawn("猫"), drawn("\ufffd"));
  ok(drawn("猫").includes("#"));
});

Deno.test("drawText scales, and leaves out what is outside", () => {
  const out = plain(12, 26, [255, 255, 255]);
  drawText(out, "A", 0, 0, 2);
  const [small, large] = [plain(6, 13, [255, 255, 255]), drawing(out)];
  drawText(small, "A", 0, 0);
  const doubled = drawing(small).flatMap((row) => {
    const wide = [...row].map((mark) => mark + mark).join("");
    return [wide, wide];
  });
  deepEqual(large, doubled);
  drawText(out, "A long text", -3, 20, 2); // does not throw
  equal(textWidth("A fox", 2), 5 * 2 * GLYPH.width);
});

Deno.test("wrapLabel breaks at spaces, in long words, and ends what is too long in an ellipsis", () => {
  deepEqual(wrapLabel("a red fox in the snow", 9, 9), ["a red fox", "in the", "snow"]);
  deepEqual(wrapLabel("dpmpp_2m_sde x", 5, 9), ["dpmpp", "_2m_s", "de x"]);
  deepEqual(wrapLabel("a red fox in the snow", 9, 2), ["a red fox", "in the…"]);
  deepEqual(wrapLabel(" a \n\t b ", 9, 2), ["a b"]);
  deepEqual(wrapLabel("", 9, 2), []);
  deepEqual(wrapLabel("abc", 0.5, 9), ["a", "b", "c"]);
});

Deno.test("nearSquare chooses rows and columns as AUTOMATIC1111 does", () => {
  const shapes = [1, 2, 3, 4, 5, 6, 7, 9, 12].map((n) => {
    const { columns, rows } = nearSquare(n);
    return `${columns}×${rows}`;
  });
  deepEqual(shapes, ["1×1", "2×1", "2×2", "2×2", "3×2", "3×2", "3×3", "3×3", "4×3"]);
});

Deno.test("sheet lays pictures out in rows, smaller ones in the middle, a grey cell for one that failed", () => {
  const red = [255, 0, 0], blue = [0, 0, 255];
  const out = sheet([plain(20, 10, red), plain(10, 4, blue), undefined]);
  // two columns of 20, two rows of 10, gaps of 2 around and between
  deepEqual([out.width, out.height], [2 + 20 + 2 + 20 + 2, 2 + 10 + 2 + 10 + 2]);
  deepEqual(extent(out, red), [2, 2, 22, 12]);
  deepEqual(extent(out, blue), [24 + 5, 2 + 3, 24 + 15, 2 + 7]);
  deepEqual(extent(out, [0xc0, 0xc0, 0xc0]), [2, 14, 22, 24]);
});

Deno.test("sheet writes labels over columns, beside rows, and a title over all", () => {
  const cells = [[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0], [0, 250, 250], [250, 0, 250]]
    .map((colour) => plain(60, 40, colour));
  const out = sheet(cells, {
    columns: 3,
    columnLabels: ["Steps: 10", "Steps: 20", "Steps: 30"],
    rowLabels: ["CFG: 4", "CFG: 9"],
    title: "Seed: 3",
  });
  const black = extent(out, [0, 0, 0]);
  const [left, top] = extent(out, [250, 0, 0]);
  const [, , right, bottom] = extent(out, [250, 0, 250]);
  ok(black[0] < left && black[1] < top, "labels stand left of and over the pictures");
  deepEqual([right + 2, bottom + 2], [out.width, out.height]);
  // the row labels are as wide as their letters, the column labels a line high, the title a line and a half
  equal(left, 2 + "CFG: 4".length * GLYPH.width + 4);
  equal(top, 2 + GLYPH.height + Math.floor(GLYPH.height / 2) + GLYPH.height + 2);
  const inside = { ...out, data: out.data.map((v) => v === 0 ? 0 : 255) };
  ok(drawing(inside).slice(2, 2 + GLYPH.height).some((row) => row.includes("#")), "a title");
});

Deno.test("sheet shrinks pictures that would make it too large", () => {
  deepEqual(cellSize({ width: 4096, height: 2048 }, 4, 2), { width: SHEET_SIDE / 4, height: 1024 });
  const out = sheet([plain(SHEET_SIDE, 8, [1, 2, 3]), plain(SHEET_SIDE, 8, [1, 2, 3])], {
    columns: 2,
  });
  ok(out.width < SHEET_SIDE + 10 && out.height === 8);
});
