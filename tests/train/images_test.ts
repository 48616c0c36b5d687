import { deepEqual, equal, ok } from "node:assert/strict";
import type { LabelledBox } from "../../lib/base/box.ts";
import type { Picture } from "../../lib/base/picture.ts";
import {
  coveringSize,
  coverPicture,
  cutBoxes,
  cutPicture,
  type Fitting,
  flatten,
} from "../../lib/train/images.ts";
import { goldenBytes } from "../formats/data_golden.ts";

const fitting: Fitting = {
  width: 2,
  height: 2,
  channels: 1,
  crop: "centre",
  flip: false,
  filter: "bilinear",
};
/** Numbers of pixels from the top left, times ten. */
const grey = (width: number, height: number): Picture => ({
  width,
  height,
  channels: 1,
  data: Uint8Array.from({ length: width * height }, (_, i) => i * 10),
});
const draws = (...numbers: number[]) => () => numbers.shift() ?? 0.99;
const bytesOf = (data: Float32Array) => [...data].map((x) => Math.round((x + 1) * 127.5));

Deno.test("flatten makes Pillow's grey, repeats grey, and lays transparency over white", async () => {
  const data = await goldenBytes("picture");
  const picture: Picture = { width: 53, height: 37, channels: 3, data };
  deepEqual(flatten(picture, 1).data, await goldenBytes("luma"));
  deepEqual([...flatten(grey(2, 1), 3).data], [0, 0, 0, 10, 10, 10]);
  const clear: Picture = {
    width: 2,
    height: 1,
    channels: 4,
    data: Uint8Array.of(0, 100, 200, 0, 0, 100, 200, 51),
  };
  deepEqual([...flatten(clear, 3).data], [255, 255, 255, 204, 224, 244]);
});

Deno.test("coveringSize keeps the shape, as torchvision's Resize does for squares", () => {
  const square = { width: 64, height: 64 };
  deepEqual(coveringSize({ width: 100, height: 75 }, square), { width: 85, height: 64 });
  deepEqual(coveringSize({ width: 33, height: 100 }, square), { width: 64, height: 193 });
  deepEqual(coveringSize({ width: 28, height: 28 }, square), square);
  deepEqual(coveringSize({ width: 1, height: 999 }, { width: 3, height: 2 }), {
    width: 3,
    height: 2997,
  });
  for (let width = 1; width < 60; width++) {
    for (let height = 1; height < 60; height++) {
      const size = coveringSize({ width, height }, { width: 31, height: 17 });
      ok(size.width >= 31 && size.height >= 17 && (size.width === 31 || size.height === 17));
    }
  }
});

Deno.test("cutPicture takes the middle, or where chance says, and mirrors", () => {
  const cover = grey(4, 2);
  const middle = cutPicture(cover, fitting, draws(0, 0, 0));
  deepEqual(bytesOf(middle.data), [10, 20, 50, 60]);
  equal(middle.data[0], Math.fround(10 / 127.5 - 1));
  deepEqual(middle.crop, { left: 0.25, top: 0, right: 0.75, bottom: 1 });
  deepEqual([middle.cropLeft, middle.cropTop, middle.isFlipped], [1, 0, false]);
  const random = { ...fitting, crop: "random" } as const;
  deepEqual(bytesOf(cutPicture(cover, random, draws(0, 0, 0)).data), [0, 10, 40, 50]);
  deepEqual(bytesOf(cutPicture(cover, random, draws(0.999, 0.999, 0)).data), [20, 30, 60, 70]);
  const flipped = cutPicture(cover, { ...random, flip: true }, draws(0, 0, 0.49));
  deepEqual(bytesOf(flipped.data), [10, 0, 50, 40]);
  equal(cutPicture(cover, { ...random, flip: true }, draws(0, 0, 0.5)).isFlipped, false);
});

Deno.test("cutPicture puts every place and both sides to use", () => {
  const random = { ...fitting, height: 1, crop: "random", flip: true } as const;
  const cover = grey(5, 3);
  const seen = new Set<string>();
  for (let i = 0; i < 400; i++) {
    seen.add(bytesOf(cutPicture(cover, random, Math.random).data).join());
  }
  equal(seen.size, 4 * 3 * 2);
});

Deno.test("coverPicture and cutPicture keep rows, columns and colours apart", () => {
  const picture: Picture = {
    width: 4,
    height: 2,
    channels: 3,
    data: Uint8Array.from({ length: 24 }, (_, i) => [i < 12 ? 0 : 255, (i % 12) * 20, 7][i % 3]),
  };
  const out = cutPicture(
    coverPicture(picture, { ...fitting, channels: 3 }),
    { ...fitting, channels: 3 },
    draws(0, 0, 0),
  );
  // columns 1 and 2 of 4, whose greens are 4·20 and 7·20; rows 0 and 255 in red
  deepEqual(bytesOf(out.data), [0, 80, 7, 0, 140, 7, 255, 80, 7, 255, 140, 7]);
});

Deno.test("cutBoxes moves boxes with their picture, and drops those that are cut away", () => {
  const boxes: LabelledBox[] = [
    { label: "left", left: 0, top: 0, right: 0.25, bottom: 1 },
    { label: "sliver", left: 0, top: 0, right: 0.3, bottom: 1 }, // a sixth of it is inside
    { label: "most", left: 0.2, top: 0.5, right: 0.5, bottom: 1 },
    { label: "all", left: 0.375, top: 0.25, right: 0.5, bottom: 0.5 },
  ];
  const crop = { left: 0.25, top: 0, right: 0.75, bottom: 1 };
  const kept = cutBoxes(boxes, { crop, isFlipped: false });
  deepEqual(kept, [
    { label: "most", left: 0, top: 0.5, right: 0.5, bottom: 1 },
    { label: "all", left: 0.25, top: 0.25, right: 0.5, bottom: 0.5 },
  ]);
  deepEqual(cutBoxes(boxes, { crop, isFlipped: true }), [
    { label: "most", left: 0.5, top: 0.5, right: 1, bottom: 1 },
    { label: "all", left: 0.5, top: 0.25, right: 0.75, bottom: 0.5 },
  ]);
});
