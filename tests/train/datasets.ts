/** Data sets made for tests. */

import { dirname } from "node:path";
import { encodePng } from "../../lib/formats/png.ts";
import type { Dataset, Example } from "../../lib/train/dataset.ts";
import type { TemporaryFolder } from "../folders.ts";

/** A PNG of one grey, 4×3 unless said otherwise. */
export function plainPng(grey: number, width = 4, height = 3): Promise<Uint8Array<ArrayBuffer>> {
  return encodePng({ width, height, channels: 1, data: new Uint8Array(width * height).fill(grey) });
}

/** Writes files, and the folders that they are in. */
export async function writeFiles(
  folder: TemporaryFolder,
  files: Readonly<Record<string, string | Uint8Array>>,
): Promise<void> {
  for (const [name, content] of Object.entries(files)) {
    await Deno.mkdir(dirname(folder.at(name)), { recursive: true });
    const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
    await Deno.writeFile(folder.at(name), bytes);
  }
}

/** Everything said of every example. */
export async function said(dataset: Dataset): Promise<Omit<Example, "picture">[]> {
  const all: Omit<Example, "picture">[] = [];
  for (let i = 0; i < dataset.length; i++) {
    const { picture: _, ...rest } = await dataset.example(i);
    all.push(rest);
  }
  return all;
}

/** The first byte of a picture. */
export async function greyOf(dataset: Dataset, index: number): Promise<number> {
  return (await (await dataset.example(index)).picture()).data[0];
}

/** A tar archive (ustar), made here independently of the reader. */
export function tarOf(files: Readonly<Record<string, string | Uint8Array>>): Uint8Array {
  const blocks: Uint8Array[] = [];
  for (const [name, content] of Object.entries(files)) {
    const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
    const header = new Uint8Array(512);
    const put = (at: number, text: string) => header.set(new TextEncoder().encode(text), at);
    put(0, name);
    put(124, bytes.length.toString(8).padStart(11, "0"));
    put(148, " ".repeat(8));
    put(156, "0");
    put(257, "ustar\x0000");
    put(148, header.reduce((a, b) => a + b, 0).toString(8).padStart(6, "0") + "\0");
    const padded = new Uint8Array(Math.ceil(bytes.length / 512) * 512);
    padded.set(bytes);
    blocks.push(header, padded);
  }
  return new Uint8Array([...blocks, new Uint8Array(1024)].flatMap((block) => [...block]));
}
