/** The tiny inpainting checkpoint: tiny/sd1 with the UNet of fixtures/make/inpaint.py. */

import { cp } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** Makes it in a folder. */
export async function inpaintingFolder(folder: string): Promise<string> {
  const tiny = (name: string) =>
    fileURLToPath(new URL(`../fixtures/tiny/${name}`, import.meta.url));
  const path = join(folder, "inpaint");
  await cp(tiny("sd1"), path, { recursive: true });
  await cp(tiny("inpaint/unet"), join(path, "unet"), { recursive: true });
  return path;
}
