import { deepEqual, match, notEqual, ok } from "node:assert/strict";
import { openDecoder } from "../../lib/formats/decoder.ts";
import { decodePicture, encodePng } from "../../lib/formats/png.ts";
import { goldenBytes } from "./data_golden.ts";
import { failure } from "./made.ts";

const FILES = ["jpeg", "webp", "lossless", "clear", "grey"];

async function pictures(): Promise<Uint8Array<ArrayBuffer>[]> {
  const data = Uint8Array.from({ length: 4 * 6 }, (_, i) => i * 10);
  return [
    ...await Promise.all(FILES.map((name) => goldenBytes(`file.${name}`))),
    await encodePng({ width: 3, height: 2, channels: 4, data }),
    await encodePng({ width: 4, height: 2, channels: 3, data }),
    await encodePng({ width: 6, height: 4, channels: 1, data }),
  ];
}

Deno.test("a decoder gives the pixels of decodePicture, whatever is asked at once, with threads and without", async () => {
  const files = await pictures();
  const expected = await Promise.all(files.map((bytes) => decodePicture(bytes)));
  for (const threads of [0, 1, 3]) {
    using decoder = openDecoder(threads);
    const decoded = await Promise.all(files.map((bytes) => decoder.decode(bytes, "x")));
    deepEqual(decoded, expected);
  }
});

Deno.test("a decoder decodes while its thread of origin is busy", async () => {
  const [bytes] = await pictures();
  using decoder = openDecoder(1);
  await decoder.decode(bytes, "x"); // the thread has begun
  const platform = globalThis.createImageBitmap;
  globalThis.createImageBitmap = () => Promise.reject(new Error("decoded here"));
  try {
    notEqual((await decoder.decode(bytes, "x")).width, 0);
  } finally {
    globalThis.createImageBitmap = platform;
  }
});

Deno.test("a decoder says what is wrong with a file as decodePicture does, and goes on", async () => {
  const [bytes] = await pictures();
  using decoder = openDecoder(1);
  const bad = new TextEncoder().encode("no picture");
  match(
    await failure(decoder.decode(bad, "x"), "FormatError"),
    /^Cannot read x: it is not a sound/,
  );
  const empty = decoder.decode(new Uint8Array(0), "x");
  match(await failure(empty, "FormatError"), /^Cannot read x: it is empty/);
  ok((await decoder.decode(bytes, "x")).width > 0);
});

Deno.test("a decoder keeps the alpha of grey PNG, which bitmaps cannot hold", async () => {
  const file = await goldenBytes("file.grey_alpha");
  using decoder = openDecoder(1);
  const { channels, data } = await decoder.decode(file, "x");
  deepEqual(channels, 4);
  deepEqual(data, await goldenBytes("decoded.grey_alpha"));
});
