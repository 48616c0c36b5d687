/**
 * Pictures as bytes: PNG written (8 bits, adaptive filters, text chunks) and read, other formats
 * read through the platform's decoder. PNG is W3C's "Portable Network Graphics (PNG)
 * Specification", section numbers below are its third edition's.
 */
import UPNG from "upng-js";
import { FormatError, UsageError } from "../base/errors.ts";

/**
 * Pixels, row by row from the top left, `channels` bytes each: grey, RGB or RGBA with alpha not
 * multiplied in.
 */
export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly channels: 1 | 3 | 4;
  readonly data: Uint8Array;
}

export interface PngOptions {
  /** Keyword and text, in order. Latin-1 goes to tEXt, everything else to iTXt, as Pillow does. */
  readonly text?: readonly (readonly [key: string, value: string])[];
}

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const COLOUR_TYPES: Readonly<Record<Picture["channels"], number>> = { 1: 0, 3: 2, 4: 6 };
/** Pixels of the largest picture that is read: 1 GiB as RGBA. */
const PIXEL_LIMIT = 1 << 28;

/**
 * A PNG file. Throws `UsageError` for a keyword or text that PNG cannot hold, `RangeError` when
 * `data` has not width × height × channels bytes.
 */
export async function encodePng(
  picture: Picture,
  options: PngOptions = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const { width, height, channels, data } = picture;
  if (!(width > 0 && height > 0) || data.length !== width * height * channels) {
    throw new RangeError(
      `A picture of ${width}×${height} pixels and ${channels} channels needs ${
        width * height * channels
      } bytes, not ${data.length}`,
    );
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, COLOUR_TYPES[channels], 0, 0, 0], 8);
  return concat([
    SIGNATURE,
    chunk("IHDR", header),
    ...(options.text ?? []).map(([key, value]) => textChunk(key, value)),
    chunk("IDAT", await through(filtered(picture), new CompressionStream("deflate"))),
    chunk("IEND", new Uint8Array(0)),
  ]);
}

/**
 * Scanlines, each after its filter's number (section 9). The filter is the one whose differences
 * have the least sum of magnitudes, as section 12.7 recommends.
 */
function filtered({ width, height, channels, data }: Picture): Uint8Array<ArrayBuffer> {
  const stride = width * channels;
  const out = new Uint8Array(height * (stride + 1));
  const tries = Array.from({ length: 5 }, () => new Uint8Array(stride));
  const nothing = new Uint8Array(stride);
  for (let y = 0; y < height; y++) {
    const row = data.subarray(y * stride, (y + 1) * stride);
    const above = y > 0 ? data.subarray((y - 1) * stride, y * stride) : nothing;
    const sums = applyFilters(row, above, channels, tries);
    const best = sums.indexOf(Math.min(...sums));
    out[y * (stride + 1)] = best;
    out.set(tries[best], y * (stride + 1) + 1);
  }
  return out;
}

/**
 * Fills `tries` with a row under each filter; returns the sums of magnitudes of the differences,
 * taken as signed bytes.
 */
function applyFilters(
  row: Uint8Array,
  above: Uint8Array,
  channels: number,
  tries: readonly Uint8Array[],
): number[] {
  const [none, sub, up, average, paeth] = tries;
  let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0;
  for (let i = 0; i < row.length; i++) {
    const x = row[i];
    const a = i < channels ? 0 : row[i - channels]; // left
    const b = above[i];
    const c = i < channels ? 0 : above[i - channels]; // above left
    const pa = Math.abs(b - c);
    const pb = Math.abs(a - c);
    const pc = Math.abs(a + b - 2 * c);
    const nearest = pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
    s0 += magnitude(none[i] = x);
    s1 += magnitude(sub[i] = x - a);
    s2 += magnitude(up[i] = x - b);
    s3 += magnitude(average[i] = x - ((a + b) >> 1));
    s4 += magnitude(paeth[i] = x - nearest);
  }
  return [s0, s1, s2, s3, s4];
}

/** Of the low byte, taken as signed. */
function magnitude(difference: number): number {
  return Math.abs((difference << 24) >> 24);
}

/** Sections 11.3.3.2 (tEXt) and 11.3.3.4 (iTXt). */
function textChunk(key: string, value: string): Uint8Array {
  const isKeyword = /^[\x20-\x7e\xa1-\xff]{1,79}$/.test(key) && !/^ | $| {2}/.test(key);
  if (!isKeyword) {
    throw new UsageError(
      `Cannot write the PNG text ${
        JSON.stringify(key)
      }: a keyword has 1 to 79 Latin-1 characters and no spaces at its ends or in pairs`,
    );
  }
  if (value.includes("\0")) {
    throw new UsageError(
      `Cannot write the PNG text ${JSON.stringify(key)}: the text holds a null character`,
    );
  }
  // deno-lint-ignore no-control-regex -- every Latin-1 character but null
  if (/^[\x01-\xff]*$/.test(value)) {
    return chunk("tEXt", concat([latin1(key), Uint8Array.of(0), latin1(value)]));
  }
  // uncompressed, no language, no translated keyword
  const text = new TextEncoder().encode(value);
  return chunk("iTXt", concat([latin1(key), new Uint8Array(5), text]));
}

function latin1(text: string): Uint8Array {
  return Uint8Array.from(text, (c) => c.charCodeAt(0));
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** Annex D. */
function crc32(data: Uint8Array): number {
  let crc = -1;
  for (let i = 0; i < data.length; i++) crc = CRC_TABLE[(crc ^ data[i]) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

function chunk(type: string, data: Uint8Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(data.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  out.set(latin1(type), 4);
  out.set(data, 8);
  view.setUint32(data.length + 8, crc32(out.subarray(4, data.length + 8)));
  return out;
}

function concat(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

async function through(
  data: Uint8Array<ArrayBuffer>,
  stream: CompressionStream | DecompressionStream,
): Promise<Uint8Array<ArrayBuffer>> {
  const source = new Blob([data]).stream();
  return new Uint8Array(await new Response(source.pipeThrough(stream)).arrayBuffer());
}

// ---- reading

/** What upng-js gives of a file; it ships no types. */
interface Decoded {
  readonly width: number;
  readonly height: number;
}
const upng = UPNG as {
  decode(file: ArrayBuffer): Decoded;
  toRGBA8(decoded: Decoded): ArrayBuffer[];
};

export function isPng(bytes: Uint8Array): boolean {
  return SIGNATURE.every((byte, i) => bytes[i] === byte);
}

/**
 * A picture from a file's bytes: PNG, or JPEG, WebP, GIF, BMP or ICO as the platform reads them
 * (turned as their EXIF says). Four channels only where a pixel is not opaque. Throws
 * `FormatError`, naming `name`, for everything else.
 */
export async function decodePicture(
  bytes: Uint8Array<ArrayBuffer>,
  name = "the picture",
): Promise<Picture> {
  if (bytes.length === 0) throw unreadable(name, "it is empty (0 bytes)");
  const file = isPng(bytes) ? bytes : await toPng(bytes, name);
  const header = pngChunks(file, name)[0].data;
  const view = new DataView(header.buffer, header.byteOffset, header.length);
  const [width, height] = [view.getUint32(0), view.getUint32(4)];
  if (width === 0 || height === 0 || width * height > PIXEL_LIMIT) {
    throw unreadable(
      name,
      `it would have ${width}×${height} pixels, at most ${PIXEL_LIMIT} are read`,
    );
  }
  let rgba: Uint8Array<ArrayBuffer>;
  try {
    rgba = new Uint8Array(upng.toRGBA8(upng.decode(file.slice().buffer))[0]);
  } catch {
    throw unreadable(name, "its pixels are damaged");
  }
  for (let i = 3; i < rgba.length; i += 4) {
    if (rgba[i] !== 255) return { width, height, channels: 4, data: rgba };
  }
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return { width, height, channels: 3, data: rgb };
}

/** The platform gives no pixels of an `ImageBitmap`, but writes it as PNG. */
async function toPng(
  bytes: Uint8Array<ArrayBuffer>,
  name: string,
): Promise<Uint8Array<ArrayBuffer>> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes]));
  } catch {
    throw unreadable(name, "it is not a sound PNG, JPEG, WebP, GIF or BMP picture");
  }
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("bitmaprenderer")!.transferFromImageBitmap(bitmap);
  const blob = await canvas.convertToBlob({ type: "image/png" });
  return new Uint8Array(await blob.arrayBuffer());
}

/**
 * The texts of a PNG (tEXt, zTXt, iTXt), in the order of the file. Throws `FormatError`, naming
 * `name`, for a file that is no PNG or is damaged.
 */
export async function readPngText(
  bytes: Uint8Array<ArrayBuffer>,
  name = "the picture",
): Promise<[key: string, value: string][]> {
  if (!isPng(bytes)) throw unreadable(name, "it is not a PNG picture");
  const texts: [string, string][] = [];
  for (const { type, data } of pngChunks(bytes, name)) {
    if (type !== "tEXt" && type !== "zTXt" && type !== "iTXt") continue;
    let at = data.indexOf(0);
    if (at < 0) throw unreadable(name, `its ${type} chunk has no keyword`);
    const key = fromLatin1(data.subarray(0, at++));
    let isCompressed = type === "zTXt";
    if (type === "zTXt") at += 1; // method
    if (type === "iTXt") {
      isCompressed = data[at] === 1;
      at = data.indexOf(0, at + 2) + 1; // flag, method, language
      at = data.indexOf(0, at) + 1; // translated keyword
    }
    let text = data.subarray(at);
    if (isCompressed) {
      text = await through(text.slice(), new DecompressionStream("deflate")).catch(() => {
        throw unreadable(name, `its ${type} chunk "${key}" is damaged`);
      });
    }
    texts.push([key, type === "iTXt" ? new TextDecoder().decode(text) : fromLatin1(text)]);
  }
  return texts;
}

function fromLatin1(data: Uint8Array): string {
  let text = "";
  for (const byte of data) text += String.fromCharCode(byte);
  return text;
}

interface Chunk {
  readonly type: string;
  readonly data: Uint8Array;
}

/**
 * All chunks of a file with the signature, IHDR first, checked for length and checksum up to IEND.
 */
function pngChunks(bytes: Uint8Array, name: string): [Chunk, ...Chunk[]] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const chunks: Chunk[] = [];
  let at = SIGNATURE.length;
  while (chunks.at(-1)?.type !== "IEND") {
    const end = at + 12 <= bytes.length ? at + 12 + view.getUint32(at) : Infinity;
    if (end > bytes.length) throw unreadable(name, `it is truncated at ${bytes.length} bytes`);
    const type = fromLatin1(bytes.subarray(at + 4, at + 8));
    if (crc32(bytes.subarray(at + 4, end - 4)) !== view.getUint32(end - 4)) {
      throw unreadable(name, `its ${type} chunk at byte ${at} is damaged (wrong checksum)`);
    }
    chunks.push({ type, data: bytes.subarray(at + 8, end - 4) });
    at = end;
  }
  const [first, ...rest] = chunks;
  if (first.type !== "IHDR" || first.data.length !== 13) {
    throw unreadable(name, "it has no header (IHDR)");
  }
  return [first, ...rest];
}

function unreadable(name: string, what: string): FormatError {
  return new FormatError(`Cannot read ${name}: ${what}`);
}
