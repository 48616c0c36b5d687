/**
 * JPEG files: written by the platform's encoder with the comment put in by us, and their texts read. Segments are those of
 * ITU-T T.81, annex B; where EXIF stands in them is CIPA DC-008.
 */

import { counted } from "../base/counted.ts";
import { FormatError, UsageError } from "../base/errors.ts";
import { fromBytes, fromLatin1, readExif, writeExif } from "./exif.ts";
import type { Picture, Text } from "./png.ts";

/** How a JPEG file is written. */
export interface JpegOptions {
  /** 1 … 100. */
  readonly quality: number;
  /** Goes to EXIF's UserComment. */
  readonly comment?: string;
}

const [SOI, EOI, SOS, APP0, APP1, COM] = [0xd8, 0xd9, 0xda, 0xe0, 0xe1, 0xfe];
/** Bytes that follow a segment's marker, its two of length included. */
const MOST = 0xffff;

/** A JPEG file. Throws `UsageError` for a comment that is too long for one segment. */
export async function encodeJpeg(
  { width, height, channels, data }: Picture,
  { quality, comment }: JpegOptions,
): Promise<Uint8Array<ArrayBuffer>> {
  const segment = comment === undefined ? new Uint8Array(0) : commentSegment(comment);
  const rgba = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) rgba[4 * i + c] = data[channels * i + (channels === 1 ? 0 : c)];
  }
  const canvas = new OffscreenCanvas(width, height);
  const bitmap = await createImageBitmap(new ImageData(rgba, width, height));
  canvas.getContext("bitmaprenderer")!.transferFromImageBitmap(bitmap);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: quality / 100 });
  const jpeg = new Uint8Array(await blob.arrayBuffer());
  // JFIF wants its APP0 first
  const at = jpeg[3] === APP0 ? 4 + ((jpeg[4] << 8) | jpeg[5]) : 2;
  const out = new Uint8Array(jpeg.length + segment.length);
  out.set(jpeg.subarray(0, at));
  out.set(segment, at);
  out.set(jpeg.subarray(at), at + segment.length);
  return out;
}

function commentSegment(comment: string): Uint8Array {
  const exif = writeExif(comment);
  const length = 2 + 6 + exif.length;
  if (length > MOST) {
    throw new UsageError(
      `Cannot write the settings into a JPEG: they take ${exif.length} bytes, and at most ${
        MOST - 8
      } fit; write a PNG, or use --no-metadata`,
    );
  }
  const segment = new Uint8Array(2 + length);
  segment.set([0xff, APP1, length >> 8, length & 0xff]);
  segment.set(Array.from("Exif\0\0", (c) => c.charCodeAt(0)), 4);
  segment.set(exif, 10);
  return segment;
}

export function isJpeg(bytes: Uint8Array): boolean {
  return bytes[0] === 0xff && bytes[1] === SOI && bytes[2] === 0xff;
}

/** Texts of EXIF, and comments as "Comment". Throws `FormatError`, naming `name`, where the file ends too early. */
export function readJpegText(bytes: Uint8Array, name = "the picture"): Text[] {
  const texts: Text[] = [];
  for (let at = 2; at < bytes.length;) {
    if (bytes[at] !== 0xff) {
      throw new FormatError(`Cannot read ${name}: it is damaged at byte ${at} (no JPEG marker)`);
    }
    const marker = bytes[at + 1];
    if (marker === 0xff) at += 1; // filling
    else if (marker === SOS || marker === EOI) return texts;
    else {
      const end = at + 2 + ((bytes[at + 2] << 8) | bytes[at + 3]);
      if (!(end <= bytes.length) || end < at + 4) break;
      const data = bytes.subarray(at + 4, end);
      if (marker === APP1 && fromLatin1(data.subarray(0, 6)) === "Exif\0\0") {
        texts.push(...readExif(data));
      }
      if (marker === COM) texts.push(["Comment", fromBytes(data).replace(/\0+$/, "")]);
      at = end;
    }
  }
  throw new FormatError(`Cannot read ${name}: it is truncated at ${counted(bytes.length, "byte")}`);
}
