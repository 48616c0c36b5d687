// deno-lint-ignore-file no-control-regex -- control sequences are what is tested

import { deepEqual, equal, ok } from "node:assert/strict";
import { decodePicture, encodePng } from "../../lib/formats/png.ts";
import {
  iterm2Picture,
  kittyPicture,
  kittyPlaceholders,
  PLACEHOLDER_ROWS,
  throughTmux,
} from "../../lib/formats/terminal_picture.ts";
import { decodeKitty } from "./terminals.ts";

/** A picture that does not compress: several chunks. */
const noise = {
  width: 64,
  height: 48,
  channels: 3 as const,
  data: Uint8Array.from({ length: 64 * 48 * 3 }, (_, i) => (i * i * 2654435761) >>> 24),
};
const png = await encodePng(noise);

Deno.test("kittyPicture hands a PNG over in chunks that the protocol allows", async () => {
  const sequences = kittyPicture(png);
  ok(sequences.length > 2);
  const { keys, file } = decodeKitty(sequences);
  deepEqual(file, png);
  deepEqual((await decodePicture(file)).data, noise.data);
  keys.delete("m");
  deepEqual(Object.fromEntries(keys), { a: "T", f: "100", q: "2" });
  equal(kittyPicture(new Uint8Array(9)).length, 1);
});

Deno.test("kittyPlaceholders shows a picture as text that names its rows", () => {
  const { sequences, text } = kittyPlaceholders(png, { columns: 3, rows: 2 }, 0x123456);
  const { keys, file } = decodeKitty(sequences);
  deepEqual(file, png);
  deepEqual([keys.get("U"), keys.get("i"), keys.get("c"), keys.get("r")], [
    "1",
    `${0x123456}`,
    "3",
    "2",
  ]);
  const cell = "\u{10eeee}";
  const row = (mark: string) => `\x1b[38;2;18;52;86m${cell}${mark}\u0305${cell}${cell}\x1b[39m\n`;
  equal(text, row("\u0305") + row("\u030d"));
  const high = kittyPlaceholders(png, { columns: 1, rows: PLACEHOLDER_ROWS }, 1);
  equal(high.text.split("\n").length, PLACEHOLDER_ROWS + 1);
});

Deno.test("iterm2Picture holds the file, whole or in parts", () => {
  const [whole, ...others] = iterm2Picture(png);
  equal(others.length, 0);
  const [, about, data] = /^\x1b\]1337;File=([^:]*):([^\x07]*)\x07$/.exec(whole) ?? [];
  equal(about, `inline=1;size=${png.length};preserveAspectRatio=1`);
  deepEqual(Uint8Array.fromBase64(data), png);

  const parts = iterm2Picture(png, true);
  equal(
    parts[0],
    `\x1b]1337;MultipartFile=inline=1;size=${png.length};preserveAspectRatio=1\x07`,
  );
  equal(parts.at(-1), "\x1b]1337;FileEnd\x07");
  const pieces = parts.slice(1, -1).map((part) => /^\x1b\]1337;FilePart=(.*)\x07$/.exec(part)?.[1]);
  deepEqual(Uint8Array.fromBase64(pieces.join("")), png);
});

Deno.test("throughTmux doubles escapes and wraps the sequence", () => {
  equal(throughTmux("\x1b_Ga=T;\x1b\\"), "\x1bPtmux;\x1b\x1b_Ga=T;\x1b\x1b\\\x1b\\");
});
