// deno-lint-ignore-file no-control-regex -- control sequences are what is tested

import { equal, ok } from "node:assert/strict";
import type { Picture } from "../../lib/formats/png.ts";
import { sixel } from "../../lib/formats/sixel.ts";
import { psnr } from "../pictures.ts";

/** What a terminal makes of sixels, by the VT340's manual: RGB, and how many colours were defined. */
function decode(sequence: string): Picture & { colours: number } {
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

function picture(width: number, height: number, at: (x: number, y: number) => number[]): Picture {
  const pixels = Array.from({ length: width * height }, (_, i) => at(i % width, ~~(i / width)));
  return { width, height, channels: 3, data: Uint8Array.from(pixels.flat()) };
}

Deno.test("sixel gives few colours exactly, at sizes that are no multiple of six", () => {
  const colours = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255], [51, 102, 204]];
  for (const [width, height] of [[1, 1], [5, 6], [7, 13], [200, 8]]) {
    const source = picture(width, height, (x, y) => colours[(x * x + 3 * y) % 5]);
    const drawn = decode(sixel(source));
    equal(psnr(drawn.data, source.data), Infinity, `${width}×${height}`);
  }
});

Deno.test("sixel draws a photograph's colours by dithering", () => {
  const source = picture(96, 60, (x, y) => [x * 2.6, y * 4.2, 255 - x - y]);
  const many = decode(sixel(source));
  ok(many.colours <= 256 && many.colours > 128, `${many.colours} colours`);
  ok(psnr(many.data, source.data) > 30, `${psnr(many.data, source.data)} dB`);
  const few = decode(sixel(source, 16));
  ok(few.colours <= 16);
});

Deno.test("sixel shows a grey that it has no colour for as a mixture of the same brightness", () => {
  const source = picture(120, 60, (x) => Array(3).fill(x < 48 ? 0 : x < 72 ? 100 : 255));
  const drawn = decode(sixel(source, 2));
  equal(drawn.colours, 2);
  const inside = drawn.data.filter((_, i) =>
    Math.floor(i / 3) % 120 >= 50 && Math.floor(i / 3) % 120 < 70
  );
  const mean = inside.reduce((sum, value) => sum + value, 0) / inside.length;
  ok(Math.abs(mean - 100) < 3, `${mean}`);
});

Deno.test("sixel writes long runs in few characters", () => {
  const plain = picture(500, 60, () => [10, 200, 30]);
  ok(sixel(plain).length < 200, `${sixel(plain).length} characters`);
});

Deno.test("sixel takes grey and transparent pictures", () => {
  const grey = sixel({ width: 2, height: 1, channels: 1, data: Uint8Array.of(0, 255) });
  equal(decode(grey).data.join(), "0,0,0,255,255,255");
  const clear = Uint8Array.of(255, 255, 255, 0, 255, 0, 0, 255);
  equal(
    decode(sixel({ width: 2, height: 1, channels: 4, data: clear })).data.join(),
    "0,0,0,255,0,0",
  );
});
