/**
 * The texts of an EXIF block, and a block with one comment: where JPEG, WebP and some PNG files say how they were made.
 * "Exchangeable image file format for digital still cameras: Exif Version 2.3" (CIPA DC-008), a TIFF 6.0 file inside.
 */

/** Tags with texts that programs put settings into. ComfyUI uses the camera's. */
const TEXTS: Readonly<Record<number, string>> = {
  0x010e: "ImageDescription",
  0x010f: "Make",
  0x0110: "Model",
  0x0131: "Software",
  0x927c: "MakerNote",
  0x9286: "UserComment",
};
/** The tag that tells where the part with the comment is. */
const EXIF_PART = 0x8769;
const USER_COMMENT = 0x9286;

/** Field types whose elements are bytes: BYTE, ASCII, UNDEFINED. */
const BYTES: readonly number[] = [1, 2, 7];
const LONG = 4;
const UNDEFINED = 7;

/** What a comment may begin with to tell its encoding, eight bytes. */
const UNICODE = "UNICODE\0";

/**
 * The texts of a block, with or without the six bytes "Exif\0\0" before it. What is damaged is left out: a picture whose
 * camera wrote nonsense is still a picture.
 */
export function readExif(bytes: Uint8Array): [key: string, value: string][] {
  const marked = fromLatin1(bytes.subarray(0, 6)) === "Exif\0\0";
  const data = marked ? bytes.subarray(6) : bytes;
  const order = fromLatin1(data.subarray(0, 2));
  if (data.length < 8 || (order !== "II" && order !== "MM")) return [];
  const little = order === "II";
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const texts: [string, string][] = [];
  const parts = [view.getUint32(4, little)];
  const seen = new Set<number>();
  for (let at = parts.pop(); at !== undefined; at = parts.pop()) {
    if (seen.has(at) || at + 2 > data.length) continue; // parts that point at each other end here
    seen.add(at);
    const count = view.getUint16(at, little);
    for (let entry = at + 2, i = 0; i < count && entry + 12 <= data.length; i++, entry += 12) {
      const tag = view.getUint16(entry, little);
      const type = view.getUint16(entry + 2, little);
      const length = view.getUint32(entry + 4, little);
      if (tag === EXIF_PART && type === LONG) parts.push(view.getUint32(entry + 8, little));
      if (!Object.hasOwn(TEXTS, tag) || !BYTES.includes(type)) continue;
      const from = length <= 4 ? entry + 8 : view.getUint32(entry + 8, little);
      if (from + length > data.length) continue;
      const text = decodeComment(data.subarray(from, from + length), little);
      if (text !== "") texts.push([TEXTS[tag], text]);
    }
  }
  return texts;
}

function decodeComment(data: Uint8Array, little: boolean): string {
  const code = fromLatin1(data.subarray(0, 8));
  const isMarked = code === UNICODE || code === "ASCII\0\0\0" || code === "\0".repeat(8);
  const body = isMarked ? data.subarray(8) : data;
  const text = code === UNICODE ? fromUtf16(body, little) : fromBytes(body);
  return text.replace(/\0+$/, "");
}

/**
 * Programs disagree whether the comment has the block's byte order. Settings always have letters of ASCII, whose upper
 * bytes are zero, so the zeros tell.
 */
function fromUtf16(data: Uint8Array, little: boolean): string {
  let even = 0;
  let odd = 0;
  for (let i = 0; i + 1 < data.length; i += 2) {
    if (data[i] === 0) even++;
    if (data[i + 1] === 0) odd++;
  }
  const isLittle = even === odd ? little : odd > even;
  return new TextDecoder(isLittle ? "utf-16le" : "utf-16be").decode(data);
}

/**
 * A block whose only text is a comment, in big-endian UTF-16 as piexif writes it (and so AUTOMATIC1111). Without the six
 * bytes that JPEG puts before it.
 */
export function writeExif(comment: string): Uint8Array<ArrayBuffer> {
  const [header, part] = [8, 8 + 2 + 12 + 4];
  const body = part + 2 + 12 + 4;
  const bytes = new Uint8Array(body + UNICODE.length + 2 * comment.length);
  const view = new DataView(bytes.buffer);
  const entry = (at: number, tag: number, type: number, length: number, value: number) => {
    view.setUint16(at, 1); // entries of this part
    view.setUint16(at + 2, tag);
    view.setUint16(at + 4, type);
    view.setUint32(at + 6, length);
    view.setUint32(at + 10, value);
  };
  bytes.set([0x4d, 0x4d, 0, 42]); // "MM", TIFF's number
  view.setUint32(4, header);
  entry(header, EXIF_PART, LONG, 1, part);
  entry(part, USER_COMMENT, UNDEFINED, bytes.length - body, body);
  for (let i = 0; i < UNICODE.length; i++) bytes[body + i] = UNICODE.charCodeAt(i);
  for (let i = 0; i < comment.length; i++) {
    view.setUint16(body + UNICODE.length + 2 * i, comment.charCodeAt(i));
  }
  return bytes;
}

/** UTF-8 where the bytes are that, else Latin-1. */
export function fromBytes(data: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
  } catch {
    return fromLatin1(data);
  }
}

/** A character a byte. */
export function fromLatin1(data: Uint8Array): string {
  let text = "";
  for (const byte of data) text += String.fromCharCode(byte);
  return text;
}
