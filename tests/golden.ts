/** Reading the tensors that fixtures/make/*.py wrote. */

import { SafetensorsFile } from "../lib/formats/safetensors.ts";
import { fixture } from "./fixture.ts";

/** All float tensors of fixtures/goldens/<name>.safetensors, as f32, and its metadata. Integers come as their own arrays. */
export async function readGolden(name: string): Promise<{
  tensors: Map<string, Float32Array>;
  integers: Map<string, Int32Array>;
  metadata: ReadonlyMap<string, string>;
}> {
  const path = fixture(`goldens/${name}.safetensors`);
  using file = await SafetensorsFile.open(path);
  const tensors = new Map<string, Float32Array>();
  const integers = new Map<string, Int32Array>();
  for (const { name, dtype } of file.tensors.values()) {
    if (dtype === "I32") integers.set(name, new Int32Array((await file.read(name)).buffer));
    else if (dtype !== "U8") tensors.set(name, await file.readTensor(name));
  }
  return { tensors, integers, metadata: file.metadata };
}

/** The largest distance between two arrays in units in the last place of the expected value. */
export function ulpDistance(actual: Float32Array, expected: Float32Array): number {
  if (actual.length !== expected.length) return Infinity;
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const ulp = 2 ** Math.max(-149, Math.floor(Math.log2(Math.abs(expected[i]))) - 23);
    worst = Math.max(worst, Math.abs(actual[i] - expected[i]) / ulp);
    if (Number.isNaN(actual[i])) return Infinity;
  }
  return worst;
}
