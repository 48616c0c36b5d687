/**
 * Pictures as bytes: PNG written (8 or 16 bits, adaptive filters, text chunks) and read, other formats
 * read through the platform's decoder. PNG is W3C's "Portable Network Graphics (PNG)
 * Specification", section numbers below are its third edition's.
 */
import UPNG from "upng-js";
import { counted } from "../base/counted.ts";
import { FormatError, UsageError } from "../base/errors.ts";
import { readBmp } from "./bmp.ts";
import type { Picture } from "../base/picture.ts";
import { fromBytes, fromLatin1, readExif } from "./exif.ts";

export type { Picture } from "../base/picture.ts";

/** As `Picture`, with 16 bits for each channel. */
export interface DeepPicture {
  /** Pixels. */
  readonly width: number;
  /** Pixels. */
  readonly height: number;
  /** Elements of a pixel. */
  readonly channels: 1 | 3 | 4;
  /** width × height × channels elements. */
  readonly data: Uint16Array;
}

/** Keyword and text of a text inside a picture. */
export type Text = readonly [key: string, value: string];

/** What a PNG file holds besides pixels. */
export interface PngOptions {
  /** In order. Latin-1 goes to tEXt, everything else to iTXt, as Pillow does. */
  readonly text?: readonly Text[];
}

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const COLOUR_TYPES: Readonly<Record<Picture["channels"], number>> = { 1: 0, 3: 2, 4: 6 };
/** Pixels of the largest picture that is read: 1 GiB as RGBA. */
const PIXEL_LIMIT = 1 << 28;

/** 0 … 1 as 16 bits, rounded and clamped. */
export function toDeep(
  { width, height, data }: { width: number; height: number; data: Float32Array },
): DeepPicture {
  const deep = Uint16Array.from(data, (x) => Math.round(Math.min(1, Math.max(0, x)) * 65535));
  return { width, height, channels: 3, data: deep };
}

/**
 * A PNG file. Throws `UsageError` for a keyword or text that PNG cannot hold, `RangeError` when
 * `data` has not width × height × channels elements.
 */
export async function encodePng(
  picture: Picture | DeepPicture,
  options: PngOptions = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const { width, height, channels, data } = picture;
  if (!(width > 0 && height > 0) || data.length !== width * height * channels) {
    throw new RangeError(
      `A picture of ${width}×${height} pixels and ${channels} channels needs ${
        width * height * channels
      } values, not ${data.length}`,
    );
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8 * data.BYTES_PER_ELEMENT, COLOUR_TYPES[channels], 0, 0, 0], 8);
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
function filtered(picture: Picture | DeepPicture): Uint8Array<ArrayBuffer> {
  const { width, height, channels } = picture;
  const data = picture.data instanceof Uint16Array ? bigEndian(picture.data) : picture.data;
  const pixel = channels * picture.data.BYTES_PER_ELEMENT;
  const stride = width * pixel;
  const out = new Uint8Array(height * (stride + 1));
  const tries = Array.from({ length: 5 }, () => new Uint8Array(stride));
  const nothing = new Uint8Array(stride);
  for (let y = 0; y < height; y++) {
    const row = data.subarray(y * stride, (y + 1) * stride);
    const above = y > 0 ? data.subarray((y - 1) * stride, y * stride) : nothing;
    const sums = applyFilters(row, above, pixel, tries);
    const best = sums.indexOf(Math.min(...sums));
    out[y * (stride + 1)] = best;
    out.set(tries[best], y * (stride + 1) + 1);
  }
  return out;
}

function bigEndian(values: Uint16Array): Uint8Array {
  const view = new DataView(new ArrayBuffer(values.length * 2));
  for (let i = 0; i < values.length; i++) view.setUint16(2 * i, values[i]);
  return new Uint8Array(view.buffer);
}

/**
 * Fills `tries` with a row under each filter; returns the sums of magnitudes of the differences,
 * taken as signed bytes. A pixel has `pixel` bytes.
 */
function applyFilters(
  row: Uint8Array,
  above: Uint8Array,
  pixel: number,
  tries: readonly Uint8Array[],
): number[] {
  const [none, sub, up, average, paeth] = tries;
  let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0;
  for (let i = 0; i < row.length; i++) {
    const x = row[i];
    const a = i < pixel ? 0 : row[i - pixel]; // left
    const b = above[i];
    const c = i < pixel ? 0 : above[i - pixel]; // above left
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
  // Latin-1 that reads as UTF-8 would be taken for it: several programs write UTF-8 into tEXt
  if (isLatin1(value) && fromBytes(latin1(value)) === value) {
    return chunk("tEXt", concat([latin1(key), Uint8Array.of(0), latin1(value)]));
  }
  // uncompressed, no language, no translated keyword
  const text = new TextEncoder().encode(value);
  return chunk("iTXt", concat([latin1(key), new Uint8Array(5), text]));
}

function isLatin1(text: string): boolean {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 0xff) return false;
  return true;
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

/** Throws `RangeError` where more than `most` bytes come out. */
async function through(
  data: Uint8Array<ArrayBuffer>,
  stream: CompressionStream | DecompressionStream,
  most = Infinity,
): Promise<Uint8Array<ArrayBuffer>> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of new Blob([data]).stream().pipeThrough(stream)) {
    length += part.length;
    if (length > most) throw new RangeError(`More than ${most} bytes`);
    parts.push(part);
  }
  return concat(parts);
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

/** Bits of each channel of a PNG, as its header says; `undefined` for anything else. */
export function pngDepth(bytes: Uint8Array): number | undefined {
  return isPng(bytes) ? bytes[24] : undefined; // signature, length and type, width, height
}

/** What a pixel of a file is made of. */
export interface PixelForm {
  readonly colours: "grey" | "grey with alpha" | "RGB" | "RGBA" | "a palette";
  /** Bits of each channel. */
  readonly bits: number;
}

/** By the colour type in a PNG's header, section 11.2.1. */
const PNG_COLOURS: ReadonlyMap<number, PixelForm["colours"]> = new Map([
  [0, "grey"],
  [2, "RGB"],
  [3, "a palette"],
  [4, "grey with alpha"],
  [6, "RGBA"],
]);

/** What a PNG's header says of its pixels; `undefined` for anything else. */
export function pngForm(bytes: Uint8Array): PixelForm | undefined {
  const [bits, colours] = [pngDepth(bytes), PNG_COLOURS.get(bytes[25])];
  return bits === undefined || colours === undefined ? undefined : { bits, colours };
}

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
  const picture = isPng(bytes) ? decodePng(bytes, name) : await decodeOther(bytes, name);
  return withoutAlpha(picture);
}

function decodePng(bytes: Uint8Array<ArrayBuffer>, name: string): Picture {
  const header = pngChunks(bytes, name)[0].data;
  const view = new DataView(header.buffer, header.byteOffset, header.length);
  const [width, height] = [view.getUint32(0), view.getUint32(4)];
  checkSize(width, height, name);
  try {
    const data = new Uint8Array(upng.toRGBA8(upng.decode(bytes.slice().buffer))[0]);
    return { width, height, channels: 4, data };
  } catch {
    throw unreadable(name, "its pixels are damaged");
  }
}

function checkSize(width: number, height: number, name: string): void {
  if (width > 0 && height > 0 && width * height <= PIXEL_LIMIT) return;
  throw unreadable(
    name,
    `it would have ${width}×${height} pixels, at most ${PIXEL_LIMIT} are read`,
  );
}

/** RGB where every pixel is opaque. */
export function withoutAlpha(picture: Picture): Picture {
  const { width, height, channels, data } = picture;
  if (channels !== 4) return picture;
  for (let i = 3; i < data.length; i += 4) {
    if (data[i] !== 255) return picture;
  }
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = data[from];
    rgb[to + 1] = data[from + 1];
    rgb[to + 2] = data[from + 2];
  }
  return { width, height, channels: 3, data: rgb };
}

/** The platform gives no pixels of an `ImageBitmap`, but writes it as BMP: several times as fast as as PNG. */
async function decodeOther(bytes: Uint8Array<ArrayBuffer>, name: string): Promise<Picture> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes]));
  } catch {
    throw unreadable(name, "it is not a sound PNG, JPEG, WebP, GIF or BMP picture");
  }
  checkSize(bitmap.width, bitmap.height, name);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("bitmaprenderer")!.transferFromImageBitmap(bitmap);
  const blob = await canvas.convertToBlob({ type: "image/bmp" });
  return readBmp(new Uint8Array(await blob.arrayBuffer()));
}

/** Bytes that a compressed text may have: a small file must not fill the memory. */
const TEXT_LIMIT = 1 << 26;

/**
 * The texts of a PNG (tEXt, zTXt, iTXt, and those in eXIf), in the order of the file. Throws
 * `FormatError`, naming `name`, for a file that is no PNG or is damaged.
 */
export async function readPngText(
  bytes: Uint8Array<ArrayBuffer>,
  name = "the picture",
): Promise<Text[]> {
  if (!isPng(bytes)) throw unreadable(name, "it is not a PNG picture");
  const texts: Text[] = [];
  for (const { type, data } of pngChunks(bytes, name)) {
    if (type === "eXIf") texts.push(...readExif(data));
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
      text = await through(text.slice(), new DecompressionStream("deflate"), TEXT_LIMIT).catch(
        () => {
          throw unreadable(name, `its ${type} chunk "${key}" is damaged or too long`);
        },
      );
    }
    texts.push([key, fromBytes(text)]);
  }
  return texts;
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
    if (end > bytes.length) {
      throw unreadable(name, `it is truncated at ${counted(bytes.length, "byte")}`);
    }
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
