import { deepEqual, rejects } from "node:assert/strict";
import { join } from "node:path";
import { FormatError } from "../../lib/base/errors.ts";
import { readLatents, writeLatents } from "../../lib/formats/latents.ts";
import { writeSafetensors } from "../../lib/formats/safetensors.ts";
import { inFolder } from "../folders.ts";

const LATENTS = {
  data: Float32Array.from({ length: 24 }, (_, i) => i / 7),
  channels: 4,
  height: 2,
  width: 3,
};

Deno.test("readLatents reads what writeLatents wrote", () =>
  inFolder(async (folder) => {
    const path = join(folder, "z.safetensors");
    await writeLatents(path, LATENTS, { factor: "8" });
    deepEqual(await readLatents(path), LATENTS);
  }));

Deno.test("readLatents takes the only tensor of a file, of any float type", () =>
  inFolder(async (folder) => {
    const path = join(folder, "z.safetensors");
    const data = new Uint8Array(new Float16Array([1, 2, 3, 4]).buffer);
    await writeSafetensors(path, [{ name: "x", dtype: "F16", shape: [4, 1, 1], data }]);
    const expected = { data: Float32Array.of(1, 2, 3, 4), channels: 4, height: 1, width: 1 };
    deepEqual(await readLatents(path), expected);
  }));

Deno.test("readLatents refuses other shapes and files of many tensors", () =>
  inFolder(async (folder) => {
    const path = join(folder, "z.safetensors");
    const data = new Uint8Array(96);
    for (const shape of [[24], [2, 12], [2, 3, 2, 2], [1, 1, 2, 3, 4]]) {
      await writeSafetensors(path, [{ name: "latents", dtype: "F32", shape, data }]);
      await rejects(readLatents(path), FormatError);
    }
    const shape = [4, 2, 3];
    await writeSafetensors(path, [
      { name: "a", dtype: "F32", shape, data },
      { name: "b", dtype: "F32", shape, data },
    ]);
    await rejects(readLatents(path), /none is called "latents"/);
  }));
