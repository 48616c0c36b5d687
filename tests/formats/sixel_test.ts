import { equal, ok } from "node:assert/strict";
import type { Picture } from "../../lib/formats/png.ts";
import { sixel } from "../../lib/formats/sixel.ts";
import { psnr } from "../pictures.ts";
import { decodeSixel } from "./terminals.ts";

function picture(width: number, height: number, at: (x: number, y: number) => number[]): Picture {
  const pixels = Array.from({ length: width * height }, (_, i) => at(i % width, ~~(i / width)));
  return { width, height, channels: 3, data: Uint8Array.from(pixels.flat()) };
}

Deno.test("sixel gives few colours exactly, at sizes that are no multiple of six", () => {
  const colours = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255], [51, 102, 204]];
  for (const [width, height] of [[1, 1], [5, 6], [7, 13], [200, 8]]) {
    const source = picture(width, height, (x, y) => colours[(x * x + 3 * y) % 5]);
    const drawn = decodeSixel(sixel(source));
    equal(psnr(drawn.data, source.data), Infinity, `${width}×${height}`);
  }
});

Deno.test("sixel draws a photograph's colours by dithering", () => {
  const source = picture(96, 60, (x, y) => [x * 2.6, y * 4.2, 255 - x - y]);
  const many = decodeSixel(sixel(source));
  ok(many.colours <= 256 && many.colours > 128, `${many.colours} colours`);
  ok(psnr(many.data, source.data) > 30, `${psnr(many.data, source.data)} dB`);
  const few = decodeSixel(sixel(source, 16));
  ok(few.colours <= 16);
});

Deno.test("sixel shows a grey that it has no colour for as a mixture of the same brightness", () => {
  const source = picture(120, 60, (x) => Array(3).fill(x < 48 ? 0 : x < 72 ? 100 : 255));
  const drawn = decodeSixel(sixel(source, 2));
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
  equal(decodeSixel(grey).data.join(), "0,0,0,255,255,255");
  const clear = Uint8Array.of(255, 255, 255, 0, 255, 0, 0, 255);
  equal(
    decodeSixel(sixel({ width: 2, height: 1, channels: 4, data: clear })).data.join(),
    "0,0,0,255,0,0",
  );
});
