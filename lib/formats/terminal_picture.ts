/**
 * Pictures as control sequences of terminals: kitty's graphics protocol, iTerm2's inline images, and the wrapping that lets
 * them pass through tmux. Each returned sequence stands by itself, so that others may come between. Sixels: sixel.ts.
 */

/** Room on a terminal in character cells. */
export interface Cells {
  readonly columns: number;
  readonly rows: number;
}

const ESC = "\x1b";
const ST = `${ESC}\\`;
/** base64 characters in one sequence, a multiple of 4: kitty's limit. */
const CHUNK = 4096;

/**
 * A PNG by kitty's protocol (https://sw.kovidgoyal.net/kitty/graphics-protocol/), drawn at the cursor, which is put behind
 * it. The terminal is asked not to answer.
 */
export function kittyPicture(png: Uint8Array<ArrayBuffer>): string[] {
  return kittyChunks(png, ["a=T"]);
}

/** Rows that placeholders can name: as many combining characters as are listed below. */
export const PLACEHOLDER_ROWS = 30;
/** The first of kitty's combining characters for row and column numbers (rowcolumn-diacritics.txt). */
// deno-fmt-ignore
const DIACRITICS = [
  0x305, 0x30d, 0x30e, 0x310, 0x312, 0x33d, 0x33e, 0x33f, 0x346, 0x34a, 0x34b, 0x34c, 0x350, 0x351, 0x352,
  0x357, 0x35b, 0x363, 0x364, 0x365, 0x366, 0x367, 0x368, 0x369, 0x36a, 0x36b, 0x36c, 0x36d, 0x36e, 0x36f,
];
const PLACEHOLDER = "\u{10eeee}";

/**
 * A PNG in two parts: sequences that hand it to the terminal, and text that shows it wherever it stands, so that tmux may
 * move and scroll it: in each cell a placeholder, in its colour the picture's `id` (1 … 2²⁴−1), in combining characters its
 * row and, for the first cell of a row, its column. At most `PLACEHOLDER_ROWS` rows.
 */
export function kittyPlaceholders(
  png: Uint8Array<ArrayBuffer>,
  { columns, rows }: Cells,
  id: number,
): { sequences: string[]; text: string } {
  const sequences = kittyChunks(png, ["a=T", "U=1", `i=${id}`, `c=${columns}`, `r=${rows}`]);
  const colour = [(id >> 16) & 255, (id >> 8) & 255, id & 255].join(";");
  const lines = DIACRITICS.slice(0, rows).map((row) => {
    const first = PLACEHOLDER + String.fromCodePoint(row, DIACRITICS[0]);
    return `${ESC}[38;2;${colour}m${first}${PLACEHOLDER.repeat(columns - 1)}${ESC}[39m\n`;
  });
  return { sequences, text: lines.join("") };
}

function kittyChunks(png: Uint8Array<ArrayBuffer>, keys: readonly string[]): string[] {
  const parts = pieces(png.toBase64(), CHUNK);
  return parts.map((part, i) => {
    const more = `m=${i + 1 < parts.length ? 1 : 0}`;
    const first = i === 0 ? [...keys, "f=100"] : [];
    return `${ESC}_G${[...first, "q=2", more].join(",")};${part}${ST}`;
  });
}

/**
 * A file as iTerm2 shows it (https://iterm2.com/documentation-images.html), at the cursor. In parts (iTerm2 3.5) it passes
 * through multiplexers that limit a sequence's length.
 */
export function iterm2Picture(file: Uint8Array<ArrayBuffer>, parts = false): string[] {
  const about = `inline=1;size=${file.length};preserveAspectRatio=1`;
  const data = file.toBase64();
  const osc = (text: string) => `${ESC}]1337;${text}\x07`;
  if (!parts) return [osc(`File=${about}:${data}`)];
  return [
    osc(`MultipartFile=${about}`),
    ...pieces(data, CHUNK).map((part) => osc(`FilePart=${part}`)),
    osc("FileEnd"),
  ];
}

function pieces(text: string, length: number): string[] {
  const count = Math.max(1, Math.ceil(text.length / length));
  return Array.from({ length: count }, (_, i) => text.slice(i * length, (i + 1) * length));
}

/** A sequence that tmux hands on to the terminal it runs in, where its option allow-passthrough is on. */
export function throughTmux(sequence: string): string {
  return `${ESC}Ptmux;${sequence.replaceAll(ESC, ESC + ESC)}${ST}`;
}
