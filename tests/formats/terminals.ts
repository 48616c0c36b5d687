// deno-lint-ignore-file no-control-regex -- control sequences are what is read
/** What terminals make of the sequences that draw pictures, by their protocols' own documents. */

import { deepEqual, equal, ok } from "node:assert/strict";
import type { Picture } from "../../lib/formats/png.ts";

/** What a terminal makes of sixels, by the VT340's manual: RGB, and how many colours were defined. */
export function decodeSixel(sequence: string): Picture & { colours: number } {
  const [, body] = /^\x1bP0;1;0q([^\x1b]*)\x1b\\$/.exec(sequence) ?? [];
  ok(body !== undefined, "a device control string was needed");
  const [raster = "", width, height] = /^"1;1;(\d+);(\d+)/.exec(body) ?? [];
  const size = { width: Number(width), height: Number(height) };
  const data = new Uint8Array(size.width * size.height * 3);
  const painted = new Uint8Array(size.width * size.height);
  const registers = new Map<number, number[]>();
  let [colour, x, band] = [0, 0, 0];
  const token = /#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)([?-~])|([?-~])|([$-])/y;
  token.lastIndex = raster.length;
  while (token.lastIndex < body.length) {
    const found = token.exec(body);
    ok(found, "a character that is no sixel");
    const [, register, r, g, b, count, repeated, single, move] = found;
    if (register !== undefined) {
      colour = Number(register);
      if (r !== undefined) registers.set(colour, [r, g, b].map((v) => Math.round(+v * 2.55)));
    } else if (move !== undefined) {
      x = 0;
      if (move === "-") band += 6;
    } else {
      const bits = (repeated ?? single).charCodeAt(0) - 63;
      for (const end = x + Number(count ?? 1); x < end; x++) {
        for (let y = 0; y < 6; y++) {
          if ((bits & (1 << y)) === 0) continue;
          ok(x < size.width && band + y < size.height, "a pixel outside of the picture");
          const at = (band + y) * size.width + x;
          data.set(registers.get(colour) ?? [], at * 3);
          painted[at]++;
        }
      }
    }
  }
  ok(painted.every((times) => times === 1), "every pixel is painted once");
  return { ...size, channels: 3, data, colours: registers.size };
}

/** The keys and the data of kitty's sequences, as kitty puts them together. */
export function decodeKitty(sequences: readonly string[]) {
  const parts = sequences.map((sequence) => {
    const [, keys, data] = /^\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\$/.exec(sequence) ?? [];
    ok(keys !== undefined, JSON.stringify(sequence.slice(0, 40)));
    ok(data.length <= 4096);
    return {
      keys: new Map(keys.split(",").map((pair) => pair.split("=", 2) as [string, string])),
      data,
    };
  });
  for (const [i, { keys, data }] of parts.entries()) {
    const isLast = i === parts.length - 1;
    equal(keys.get("m"), isLast ? "0" : "1");
    ok(isLast || data.length % 4 === 0);
    if (i > 0) deepEqual([...keys.keys()].sort(), ["m", "q"]);
  }
  return {
    keys: parts[0].keys,
    file: Uint8Array.fromBase64(parts.map(({ data }) => data).join("")),
  };
}
