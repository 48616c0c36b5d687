import { deepEqual, ok, throws } from "node:assert/strict";
import { readBmp } from "../../lib/formats/bmp.ts";
import { decodePicture } from "../../lib/formats/png.ts";
import { goldenBytes } from "./data_golden.ts";

Deno.test("decodePicture reads JPEG and WebP as Pillow does, up to the rounding of their decoders", async () => {
  for (const [name, most] of [["jpeg", 4], ["webp", 6], ["lossless", 0]] as const) {
    const { width, height, channels, data } = await decodePicture(
      await goldenBytes(`file.${name}`),
      name,
    );
    deepEqual([width, height, channels], [53, 37, 3]);
    const reference = await goldenBytes(`decoded.${name}`);
    const worst = data.reduce((max, value, i) => Math.max(max, Math.abs(value - reference[i])), 0);
    ok(worst <= most, `${name}: ${worst}`);
  }
});

Deno.test("decodePicture reads grey JPEG as RGB, and the alpha of WebP", async () => {
  const clear = await decodePicture(await goldenBytes("file.clear"));
  deepEqual([clear.width, clear.height, clear.channels], [7, 5, 4]);
  deepEqual(clear.data, await goldenBytes("decoded.clear"));
  const grey = await decodePicture(await goldenBytes("file.grey"));
  const reference = await goldenBytes("decoded.grey");
  deepEqual([grey.width, grey.height, grey.channels], [53, 37, 3]);
  ok(grey.data.every((value, i) => Math.abs(value - reference[Math.floor(i / 3)]) <= 4));
});

Deno.test("readBmp refuses what the platform does not write", () => {
  const file = new Uint8Array(70);
  const view = new DataView(file.buffer);
  view.setUint32(10, 54, true);
  view.setInt32(18, 2, true);
  view.setInt32(22, 2, true);
  view.setUint16(28, 24, true);
  deepEqual(readBmp(file).data, new Uint8Array(12));
  view.setUint16(28, 16, true);
  throws(() => readBmp(file), /^RangeError: Cannot read a bitmap of 16 bits, 2×2$/);
  view.setUint16(28, 24, true);
  throws(() => readBmp(file.subarray(0, 69)), /^RangeError/);
});
