/** The texts of WebP files: RIFF chunks as in Google's "WebP Container Specification". Writing is not in the platform. */

import { counted } from "../base/counted.ts";
import { FormatError } from "../base/errors.ts";
import { fromBytes, fromLatin1, readExif } from "./exif.ts";
import type { Text } from "./png.ts";

export function isWebp(bytes: Uint8Array): boolean {
  return fromLatin1(bytes.subarray(0, 4)) === "RIFF" &&
    fromLatin1(bytes.subarray(8, 12)) === "WEBP";
}

/** Texts of EXIF, and XMP as "XMP". Throws `FormatError`, naming `name`, where the file ends too early. */
export function readWebpText(bytes: Uint8Array, name = "the picture"): Text[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const texts: Text[] = [];
  for (let at = 12; at < bytes.length;) {
    const end = at + 8 <= bytes.length ? at + 8 + view.getUint32(at + 4, true) : Infinity;
    if (end > bytes.length) {
      throw new FormatError(
        `Cannot read ${name}: it is truncated at ${counted(bytes.length, "byte")}`,
      );
    }
    const type = fromLatin1(bytes.subarray(at, at + 4));
    const data = bytes.subarray(at + 8, end);
    if (type === "EXIF") texts.push(...readExif(data));
    if (type === "XMP ") texts.push(["XMP", fromBytes(data)]);
    at = end + (end & 1); // chunks have even lengths
  }
  return texts;
}
