import { deepEqual, equal, throws } from "node:assert/strict";
import type { Picture } from "../../lib/base/picture.ts";
import { FILTER_NAMES, resample } from "../../lib/formats/resample.ts";
import { goldenBytes } from "./data_golden.ts";

const source: Picture = {
  width: 53,
  height: 37,
  channels: 3,
  data: await goldenBytes("picture"),
};

Deno.test("resample gives Pillow's pixels bit for bit, larger and smaller, with every filter", async () => {
  for (const filter of FILTER_NAMES) {
    for (const [width, height] of [[64, 50], [16, 16], [11, 40], [53, 9], [1, 1]]) {
      const out = resample(source, width, height, filter);
      deepEqual([out.width, out.height, out.channels], [width, height, 3]);
      deepEqual(
        out.data,
        await goldenBytes(`${filter}.${width}x${height}`),
        `${filter} ${width}×${height}`,
      );
    }
  }
});

Deno.test("resample takes the pixel under the middle of each new one where it is to blend nothing", () => {
  const data = Uint8Array.of(0, 1, 2, 10, 11, 12);
  const picture: Picture = { width: 3, height: 2, channels: 1, data };
  deepEqual([...resample(picture, 2, 1, "nearest").data], [10, 12]);
  deepEqual([...resample(picture, 4, 3, "nearest").data], [
    0,
    1,
    1,
    2,
    10,
    11,
    11,
    12,
    10,
    11,
    11,
    12,
  ]);
});

Deno.test("resample returns a picture of the size asked for as it is, and refuses a size of nothing", () => {
  equal(resample(source, 53, 37, "bicubic"), source);
  throws(() => resample(source, 0, 5, "box"), /Cannot resample a picture to 0×5 pixels/);
});
