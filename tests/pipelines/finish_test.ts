import assert from "node:assert/strict";
import type { Picture } from "../../lib/base/picture.ts";
import { finished } from "../../lib/pipelines/finish.ts";

Deno.test("finished keeps every byte outside the hole, however numbers become bytes", () => {
  const [width, height] = [256, 2];
  const size = { width, height };
  // every value a byte can have, in a row that stays and in one that is made anew
  const data = Uint8Array.from(
    { length: width * height * 3 },
    (_, i) => Math.floor(i / 3) % width,
  );
  const picture: Picture = { ...size, channels: 3, data };
  const mask: Picture = {
    ...size,
    channels: 1,
    data: Uint8Array.from({ length: width * height }, (_, i) => i < width ? 0 : 255),
  };
  const made = { ...size, data: new Float32Array(width * height * 3).fill(0.999) };
  for (const [rounding, anew] of [["round", 255], ["truncate", 254]] as const) {
    const { image } = finished(made, { source: "mask", picture, mask }, size, rounding);
    assert.deepEqual(image.data.subarray(0, width * 3), data.subarray(0, width * 3), rounding);
    assert.deepEqual(new Set(image.data.subarray(width * 3)), new Set([anew]), rounding);
  }
});
