import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { crc32, deflateSync, inflateSync } from "node:zlib";
import UPNG from "upng-js";
import {
  decodePicture,
  encodePng,
  type Picture,
  readPngText,
  toDeep,
} from "../../lib/formats/png.ts";
import { failure } from "./made.ts";

/** What is used of upng-js, which ships no types. */
const upng = UPNG as {
  decode(
    file: ArrayBuffer,
  ): { width: number; height: number; depth: number; data: Uint8Array };
  toRGBA8(decoded: unknown): ArrayBuffer[];
};

/** Smooth colour with a little noise: every filter wins on some row. */
function picture(width: number, height: number, channels: 1 | 3 | 4): Picture {
  let state = 7;
  const data = Uint8Array.from({ length: width * height * channels }, (_, i) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    const pixel = Math.floor(i / channels);
    const [x, y] = [pixel % width, Math.floor(pixel / width)];
    if (y % 5 === 0) return state >>> 24;
    return 128 + 100 * Math.sin(x / 9 + (i % channels)) * Math.cos(y / 7) + (state >>> 30);
  });
  return { width, height, channels, data };
}

function rgbaOf({ width, height, channels, data }: Picture): Uint8Array {
  const out = new Uint8Array(width * height * 4).fill(255);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) out[4 * i + c] = data[channels * i + (channels === 1 ? 0 : c)];
    if (channels === 4) out[4 * i + 3] = data[4 * i + 3];
  }
  return out;
}

/** A PNG made here from its parts, independently of the encoder. */
function pngOf(header: readonly number[], chunks: readonly (readonly [string, Uint8Array])[]) {
  const chunk = (type: string, data: Uint8Array) => {
    const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
    const out = Buffer.alloc(body.length + 8);
    out.writeUInt32BE(data.length, 0);
    body.copy(out, 4);
    out.writeUInt32BE(crc32(body), body.length + 4);
    return out;
  };
  return new Uint8Array(Buffer.concat([
    Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]),
    chunk("IHDR", Uint8Array.from(header)),
    ...chunks.map(([type, data]) => chunk(type, data)),
    chunk("IEND", new Uint8Array(0)),
  ]));
}

const SIZES = [[1, 1], [1, 9], [9, 1], [7, 5], [64, 64], [129, 37]] as const;

Deno.test("encodePng then upng-js gives back the same pixels, for 1, 3 and 4 channels and awkward sizes", async () => {
  for (const [width, height] of SIZES) {
    for (const channels of [1, 3, 4] as const) {
      const made = picture(width, height, channels);
      const decoded = upng.decode((await encodePng(made)).buffer);
      assert.deepEqual([decoded.width, decoded.height], [width, height]);
      assert.deepEqual(
        new Uint8Array(upng.toRGBA8(decoded)[0]),
        rgbaOf(made),
        `${width}×${height}`,
      );
    }
  }
});

Deno.test("decodePicture gives back what encodePng wrote, with alpha only where it is used", async () => {
  for (const [width, height] of SIZES) {
    for (const channels of [1, 3, 4] as const) {
      const made = picture(width, height, channels);
      const back = await decodePicture(await encodePng(made));
      const rgba = rgbaOf(made);
      assert.equal(back.channels, channels === 4 ? 4 : 3);
      assert.deepEqual(rgbaOf(back), rgba);
    }
  }
  const opaque = { ...picture(4, 4, 4), data: new Uint8Array(64).fill(255) };
  assert.equal((await decodePicture(await encodePng(opaque))).channels, 3);
});

Deno.test("encodePng writes 16 bits that upng-js gives back, for 1, 3 and 4 channels", async () => {
  for (const [width, height] of SIZES) {
    for (const channels of [1, 3, 4] as const) {
      const { data } = picture(width, height, channels);
      const deep = Uint16Array.from(data, (byte, i) => (byte << 8) ^ (i * 77 & 0xff));
      const decoded = upng.decode(
        (await encodePng({ width, height, channels, data: deep })).buffer,
      );
      assert.equal(decoded.depth, 16);
      const view = new DataView(decoded.data.buffer, decoded.data.byteOffset);
      const values = deep.map((_, i) => view.getUint16(2 * i));
      assert.deepEqual(values, deep, `${width}×${height}, ${channels} channels`);
    }
  }
});

Deno.test("toDeep rounds and clamps", () => {
  const data = Float32Array.of(0, 1, -0.1, 1.5, 0.5, 1 / 65535);
  assert.deepEqual([...toDeep({ width: 2, height: 1, data }).data], [0, 65535, 0, 65535, 32768, 1]);
});

Deno.test("encodePng chooses among all five filters and packs a smooth picture smaller than unfiltered", async () => {
  const made = picture(200, 200, 3);
  const png = Buffer.from(await encodePng(made));
  const at = png.indexOf("IDAT");
  const scanlines = inflateSync(png.subarray(at + 4, at + 4 + png.readUInt32BE(at - 4)));
  const filters = new Set<number>();
  for (let y = 0; y < 200; y++) filters.add(scanlines[y * 601]);
  assert.ok(filters.size >= 3, `filters used: ${[...filters]}`);
  assert.ok(png.length < deflateSync(made.data).length * 0.8);
});

Deno.test("encodePng writes texts that readPngText gives back: Latin-1 as tEXt, everything else as iTXt", async () => {
  const text: [string, string][] = [
    ["parameters", "a fox, née\nNegative prompt: cat\nSteps: 20, Sampler: Euler a"],
    ["prompt", `{"3":{"class_type":"KSampler"}}`],
    ["unicode", "狐 \u{1f98a} “fox”"],
    ["empty", ""],
    ["parameters", "twice"],
  ];
  const png = await encodePng(picture(3, 3, 3), { text });
  assert.deepEqual(await readPngText(png), text);
  const raw = Buffer.from(png).toString("latin1");
  assert.deepEqual(raw.match(/tEXt|iTXt/g), [
    "tEXt",
    "tEXt",
    "iTXt",
    "tEXt",
    "tEXt",
  ]);
  assert.deepEqual(rgbaOf(await decodePicture(png)), rgbaOf(picture(3, 3, 3)));
});

Deno.test("encodePng refuses keywords and texts that PNG cannot hold, and data of another size", async () => {
  const made = picture(2, 2, 3);
  for (const key of ["", "x".repeat(80), " a", "a ", "a  b", "ключ", "a\nb"]) {
    await failure(encodePng(made, { text: [[key, "x"]] }), "UsageError");
  }
  await failure(encodePng(made, { text: [["a", "x\0y"]] }), "UsageError");
  await assert.rejects(encodePng({ ...made, width: 3 }), RangeError);
  await assert.rejects(encodePng({ ...made, width: 0, data: new Uint8Array(0) }), RangeError);
});

Deno.test("readPngText reads compressed texts", async () => {
  const idat = ["IDAT", new Uint8Array(deflateSync(Uint8Array.of(0, 128)))] as const;
  const z = Buffer.concat([
    Buffer.from("Comment\0\0", "latin1"),
    deflateSync(Buffer.from("né", "latin1")),
  ]);
  const i = Buffer.concat([
    Buffer.from("Title\0\x01\0de\0Titel\0", "latin1"),
    deflateSync(Buffer.from("Füchse 狐")),
  ]);
  const png = pngOf([0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0], [["zTXt", z], ["iTXt", i], idat]);
  assert.deepEqual(await readPngText(png), [["Comment", "né"], ["Title", "Füchse 狐"]]);
  assert.deepEqual(await decodePicture(png), {
    width: 1,
    height: 1,
    channels: 3,
    data: Uint8Array.of(128, 128, 128),
  });
});

Deno.test("decodePicture reads palettes with transparency, 16 bits and single bits", async () => {
  const pixels = (bytes: number[]) =>
    ["IDAT", new Uint8Array(deflateSync(Uint8Array.from(bytes)))] as const;
  const palette = pngOf([0, 0, 0, 2, 0, 0, 0, 1, 8, 3, 0, 0, 0], [
    ["PLTE", Uint8Array.of(1, 2, 3, 40, 50, 60)],
    ["tRNS", Uint8Array.of(255, 7)],
    pixels([0, 0, 1]),
  ]);
  assert.deepEqual((await decodePicture(palette)).data, Uint8Array.of(1, 2, 3, 255, 40, 50, 60, 7));
  const deep = pngOf([0, 0, 0, 1, 0, 0, 0, 1, 16, 2, 0, 0, 0], [
    pixels([0, 10, 0, 20, 99, 30, 255]),
  ]);
  assert.deepEqual((await decodePicture(deep)).data, Uint8Array.of(10, 20, 30));
  const bits = pngOf([0, 0, 0, 2, 0, 0, 0, 1, 1, 0, 0, 0, 0], [pixels([0, 0b01000000])]);
  assert.deepEqual((await decodePicture(bits)).data, Uint8Array.of(0, 0, 0, 255, 255, 255));
});

Deno.test("decodePicture reads JPEG through the platform", async () => {
  const made = picture(48, 32, 3);
  made.data.set(made.data.map((_, i) => 60 + 2 * (Math.floor(i / 3) % 48) + 20 * (i % 3)));
  const bitmap = await createImageBitmap(new Blob([await encodePng(made)]));
  const canvas = new OffscreenCanvas(48, 32);
  canvas.getContext("bitmaprenderer")!.transferFromImageBitmap(bitmap);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  const jpeg = new Uint8Array(await blob.arrayBuffer());
  assert.deepEqual([...jpeg.subarray(0, 2)], [0xff, 0xd8]);
  const back = await decodePicture(jpeg);
  assert.deepEqual([back.width, back.height, back.channels], [48, 32, 3]);
  const worst = made.data.reduce((most, v, i) => Math.max(most, Math.abs(v - back.data[i])), 0);
  assert.ok(worst <= 12, `JPEG at quality 0.95 differs by ${worst}`);
});
