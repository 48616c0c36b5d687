/**
 * Bitmaps as the platform writes them: 8 bits of grey, 24 of blue, green and red or 32 with alpha as well, rows from the
 * bottom up, each filled to four bytes. It gives pixels in no other way that is not compressed.
 */

import type { Picture } from "../base/picture.ts";

/** The picture in a BMP that the platform wrote. Throws `RangeError` for other kinds. */
export function readBmp(bytes: Uint8Array): Picture {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const start = view.getUint32(10, true);
  const [width, height] = [view.getInt32(18, true), view.getInt32(22, true)];
  const depth = view.getUint16(28, true) / 8;
  const stride = Math.ceil((width * depth) / 4) * 4;
  const isKnown = (depth === 1 || depth === 3 || depth === 4) && width > 0 && height > 0;
  if (!isKnown || bytes.length < start + stride * height) {
    throw new RangeError(`Cannot read a bitmap of ${8 * depth} bits, ${width}×${height}`);
  }
  const channels = depth === 4 ? 4 : 3;
  const [red, green, blue] = depth === 1 ? [0, 0, 0] : [2, 1, 0];
  const data = new Uint8Array(width * height * channels);
  for (let y = 0, to = 0; y < height; y++) {
    let from = start + (height - 1 - y) * stride;
    for (let x = 0; x < width; x++, from += depth, to += channels) {
      data[to] = bytes[from + red];
      data[to + 1] = bytes[from + green];
      data[to + 2] = bytes[from + blue];
      if (channels === 4) data[to + 3] = bytes[from + 3];
    }
  }
  return { width, height, channels, data };
}
