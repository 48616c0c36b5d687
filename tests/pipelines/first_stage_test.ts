import { deepEqual, equal, rejects } from "node:assert/strict";
import { MemoryError, UsageError } from "../../lib/base/errors.ts";
import {
  decodeLatents,
  encodePicture,
  toBytes,
  toFloats,
} from "../../lib/pipelines/first_stage.ts";
import { fakeModel } from "./fake_model.ts";

Deno.test("toBytes rounds half to even and clamps, as numpy does", () => {
  const values = [-1, 0, 0.5 / 255, 1.5 / 255, 2.5 / 255, 0.999, 1, 7, NaN, 127.5 / 255, 0, 0];
  const { data } = toBytes({ data: Float32Array.from(values), width: 2, height: 2 });
  deepEqual([...data], [0, 0, 0, 2, 2, 255, 255, 255, 0, 128, 0, 0]);
});

Deno.test("toFloats repeats grey and lays transparency over white", () => {
  const of = (
    channels: 1 | 3 | 4,
    ...data: number[]
  ) => [...toFloats({ width: 1, height: 1, channels, data: Uint8Array.from(data) }).data];
  deepEqual(of(1, 255), [1, 1, 1]);
  deepEqual(of(3, 255, 0, 51), [1, 0, Math.fround(0.2)]);
  deepEqual(of(4, 0, 255, 0, 0), [1, 1, 1]);
  deepEqual(of(4, 255, 0, 0, 51), [1, Math.fround(0.8), Math.fround(0.8)]);
});

Deno.test("encodePicture refuses sides that are not multiples of the factor", async () => {
  const { model } = fakeModel();
  const stage = { factor: 8, encode: model.encodeImage };
  const picture = { width: 20, height: 16, channels: 3 as const, data: new Uint8Array(960) };
  await rejects(encodePicture(stage, picture), UsageError);
  await rejects(encodePicture(stage, picture), /crop it to 16×16 first/);
});

Deno.test("decodeLatents yields every report of progress, then returns the picture", async () => {
  const { model } = fakeModel();
  const latents = { data: new Float32Array(24).fill(1), channels: 4, height: 2, width: 3 };
  const work = decodeLatents(model.decodeImage, latents, "auto", 5);
  const events = [];
  let result = await work.next();
  for (; !result.done; result = await work.next()) events.push(result.value);
  deepEqual(events, [1, 2, 3].map((done) => ({ kind: "decode", image: 5, done, of: 3 })));
  equal(result.value.data.length, 16 * 24 * 3);
  equal(result.value.data[0], 1);
});

Deno.test("decodeLatents passes on what the decoder throws", async () => {
  const failing = () => Promise.reject(new MemoryError("full"));
  const latents = { data: new Float32Array(4), channels: 4, height: 1, width: 1 };
  await rejects(decodeLatents(failing, latents).next(), MemoryError);
});
