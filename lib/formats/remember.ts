/** How a picture was made, from its own file: which texts each kind of file holds, and who can read them. */

import { readComfyGraph } from "./comfyui_reader.ts";
import { readFooocus } from "./fooocus.ts";
import { readInfotextRecipe } from "./infotext_recipe.ts";
import { readDream, readInvokeai, readSdMetadata } from "./invokeai.ts";
import { isJpeg, readJpegText } from "./jpeg.ts";
import { readKohya } from "./kohya.ts";
import { isPng, readPngText, type Text } from "./png.ts";
import type { Remembered } from "./recipe.ts";
import { readSdcpp, sdcppInXmp } from "./sdcpp.ts";
import { isWebp, readWebpText } from "./webp.ts";

/**
 * The texts of a picture's file: PNG, JPEG or WebP; none for anything else. Throws `FormatError`, naming `name`, for a file
 * that is cut off or damaged.
 */
export async function readTexts(
  bytes: Uint8Array<ArrayBuffer>,
  name = "the picture",
): Promise<readonly Text[]> {
  if (isPng(bytes)) return await readPngText(bytes, name);
  if (isJpeg(bytes)) return readJpegText(bytes, name);
  return isWebp(bytes) ? readWebpText(bytes, name) : [];
}

/** Where settings stand, and who may have put them there; the first who understands them is believed. */
const READERS: readonly (readonly [key: string, read: (text: string) => Remembered | undefined])[] =
  [
    ...["parameters", "UserComment", "Comment"].flatMap((key) =>
      [readSdcpp, readFooocus, readInfotextRecipe].map((read) => [key, read] as const)
    ),
    ["XMP", (xmp) => readSdcpp(sdcppInXmp(xmp) ?? "")],
    ["invokeai_metadata", readInvokeai],
    ["sd-metadata", readSdMetadata],
    ["Dream", readDream],
    ["prompt", readComfyGraph],
    ["Model", (text) => readComfyGraph(text.replace(/^prompt:/i, ""))], // WebP
    ["Make", (text) => readComfyGraph(text.replace(/^prompt:/i, ""))],
  ];

/**
 * How a picture was made: by ourselves, AUTOMATIC1111's web UI and its kin, ComfyUI, stable-diffusion.cpp, InvokeAI,
 * Fooocus or kohya's scripts. `undefined` where its file does not say. Throws as `readTexts` does.
 */
export async function readRecipe(
  bytes: Uint8Array<ArrayBuffer>,
  name = "the picture",
): Promise<Remembered | undefined> {
  return recipeIn(await readTexts(bytes, name));
}

/** How a picture with these texts was made. */
export function recipeIn(texts: readonly Text[]): Remembered | undefined {
  const byKey = new Map(texts);
  for (const [key, read] of READERS) {
    const text = byKey.get(key);
    const found = text === undefined ? undefined : read(text);
    if (found) return found;
  }
  return readKohya(byKey);
}
