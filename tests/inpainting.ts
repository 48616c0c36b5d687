/** The tiny inpainting checkpoint: tiny/sd1 with the UNet of fixtures/make/inpaint.py. */

import { cp } from "node:fs/promises";
import { join } from "node:path";
import { fixture } from "./fixture.ts";

/** Makes it in a folder. */
export async function inpaintingFolder(folder: string): Promise<string> {
  const tiny = (name: string) => fixture(`tiny/${name}`);
  const path = join(folder, "inpaint");
  await cp(tiny("sd1"), path, { recursive: true });
  await cp(tiny("inpaint/unet"), join(path, "unet"), { recursive: true });
  return path;
}
