/**
 * Labels in pictures, in X.Org's public-domain bitmap font "fixed" of 6×13 pixels (fixtures/make/font.py): Latin, Greek
 * and Cyrillic script; what it has no glyph for is drawn as a question mark in a lozenge.
 */

import type { Picture } from "./png.ts";
import source from "./font.txt" with { type: "text" };

/** Pixels of a character. */
export const GLYPH = { width: 6, height: 13 } as const;

const REPLACEMENT = "\ufffd";

/** Character → its rows from the top, the leftmost pixel in the highest of 8 bits. */
const glyphs: ReadonlyMap<string, readonly number[]> = new Map(
  source.trim().split("\n").map((line) => {
    const [code, rows] = line.trim().split(":");
    const bytes = rows.match(/../g) ?? [];
    return [String.fromCodePoint(parseInt(code, 16)), bytes.map((byte) => parseInt(byte, 16))];
  }),
);

/** The characters that a label takes, one glyph each: composed, and every kind of white space a space. */
function characters(text: string): string[] {
  return [...text.normalize("NFC").replaceAll(/\s+/g, " ")];
}

/**
 * A label in lines of at most `columns` characters: broken at spaces, in a word where it is longer than a line. What more
 * than `most` lines would hold ends in an ellipsis.
 */
export function wrapLabel(text: string, columns: number, most: number): string[] {
  const width = Math.max(1, Math.floor(columns));
  const lines: string[] = [];
  let line: string[] = [];
  const flush = () => {
    if (line.length > 0) lines.push(line.join(""));
    line = [];
  };
  for (const word of characters(text.trim()).join("").split(" ")) {
    const rest = [...word];
    if (line.length > 0 && line.length + 1 + rest.length > width) flush();
    if (line.length > 0) line.push(" ");
    while (line.length + rest.length > width) {
      line.push(...rest.splice(0, width - line.length));
      flush();
    }
    line.push(...rest);
  }
  flush();
  if (lines.length <= most) return lines;
  const last = [...lines[most - 1]].slice(0, Math.max(0, width - 1)).join("").trimEnd();
  return [...lines.slice(0, most - 1), `${last}…`];
}

/** Pixels of a line of text. */
export function textWidth(text: string, scale: number): number {
  return characters(text).length * GLYPH.width * scale;
}

/** Draws a line of text in black, its top left corner at (x, y), each pixel of the font `scale` pixels wide; what is outside is left out. */
export function drawText(picture: Picture, text: string, x: number, y: number, scale = 1): void {
  for (const [i, character] of characters(text).entries()) {
    const rows = glyphs.get(character) ?? glyphs.get(REPLACEMENT) ?? [];
    const left = x + i * GLYPH.width * scale;
    for (const [row, bits] of rows.entries()) {
      for (let column = 0; column < GLYPH.width; column++) {
        if ((bits & (0x80 >> column)) === 0) continue;
        blacken(picture, left + column * scale, y + row * scale, scale);
      }
    }
  }
}

function blacken({ width, height, channels, data }: Picture, x: number, y: number, side: number) {
  for (let j = Math.max(0, y); j < Math.min(height, y + side); j++) {
    for (let i = Math.max(0, x); i < Math.min(width, x + side); i++) {
      data.fill(0, (j * width + i) * channels, (j * width + i) * channels + Math.min(3, channels));
    }
  }
}
