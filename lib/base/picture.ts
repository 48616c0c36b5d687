/** Pictures of 8 bits: what files hold and screens show. */

/** Pixels, row by row from the top left: grey, RGB, or RGBA with alpha not multiplied in. */
export interface Picture {
  /** Pixels. */
  readonly width: number;
  /** Pixels. */
  readonly height: number;
  /** Bytes of a pixel. */
  readonly channels: 1 | 3 | 4;
  /** width × height × channels bytes. */
  readonly data: Uint8Array;
}

/** Brightness of a colour of bytes: ITU-R 601's luma in Pillow's whole numbers. */
export function lumaOf(red: number, green: number, blue: number): number {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}
