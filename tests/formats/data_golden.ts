/** The bytes that fixtures/make/data.py wrote: pictures by Pillow, archives by Python's tarfile. */

import { SafetensorsFile } from "../../lib/formats/safetensors.ts";
import { fixture } from "../fixture.ts";

const path = fixture("goldens/data.safetensors");

/** One of its tensors of bytes, or a text of its metadata. Throws where there is none. */
export async function goldenBytes(name: string): Promise<Uint8Array<ArrayBuffer>> {
  using file = await SafetensorsFile.open(path);
  return await file.read(name);
}

export async function goldenText(name: string): Promise<string> {
  using file = await SafetensorsFile.open(path);
  return file.metadata.get(name) ?? "";
}
