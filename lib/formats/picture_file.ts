/** Pictures as files that say how they were made: which kinds can be written, and where each keeps its texts. */

import { UsageError } from "../base/errors.ts";
import { encodeJpeg } from "./jpeg.ts";
import { type DeepPicture, encodePng, type Picture } from "./png.ts";

export type PictureFormat = "png" | "jpeg";

/** Kinds of files by the end of their name. */
const FORMATS: ReadonlyMap<string, PictureFormat> = new Map([
  [".png", "png"],
  [".jpg", "jpeg"],
  [".jpeg", "jpeg"],
]);

/** The ends of names of pictures that can be written, the usual one first. */
export const PICTURE_EXTENSIONS: readonly string[] = [...FORMATS.keys()];

/** The kind of file that an extension, with its dot, means. Throws `UsageError` for one that cannot be written. */
export function pictureFormat(extension: string): PictureFormat {
  const format = FORMATS.get(extension.toLowerCase());
  if (format !== undefined) return format;
  throw new UsageError(
    `Cannot write a picture as ${extension}: there are ${PICTURE_EXTENSIONS.join(", ")}`,
  );
}

export interface PictureFileOptions {
  readonly format: PictureFormat;
  /** Of JPEG, 1 … 100; 95 where it is left out. */
  readonly quality?: number;
  /** AUTOMATIC1111's text: in PNG under "parameters", in JPEG as EXIF's comment. */
  readonly infotext?: string;
  /** ComfyUI's graph, which PNG alone can hold, under "prompt". */
  readonly graph?: string;
}

/** A picture's file. Throws `UsageError` for 16 bits or a text that the format cannot hold. */
export async function encodePictureFile(
  picture: Picture | DeepPicture,
  { format, quality = 95, infotext, graph }: PictureFileOptions,
): Promise<Uint8Array<ArrayBuffer>> {
  if (format === "jpeg") {
    const { data } = picture;
    if (data instanceof Uint16Array) {
      throw new UsageError("Cannot write 16 bits into a JPEG: it has 8; write a .png");
    }
    const comment = infotext === undefined ? {} : { comment: infotext };
    return await encodeJpeg({ ...picture, data }, { quality, ...comment });
  }
  return await encodePng(picture, {
    text: [
      ...(infotext === undefined ? [] : [["parameters", infotext] as const]),
      ...(graph === undefined ? [] : [["prompt", graph] as const]),
    ],
  });
}
