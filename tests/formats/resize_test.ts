import { deepEqual, equal, throws } from "node:assert/strict";
import type { Picture } from "../../lib/formats/png.ts";
import { shrink, sizeWithin } from "../../lib/formats/resize.ts";

function plain(width: number, height: number): Picture {
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => [7, 200, 90][i % 3]);
  return { width, height, channels: 3, data };
}

Deno.test("shrink takes means of areas, whole and broken", () => {
  const row: Picture = { width: 3, height: 1, channels: 1, data: Uint8Array.of(0, 90, 240) };
  deepEqual([...shrink(row, 1, 1).data], [110]);
  deepEqual([...shrink(row, 2, 1).data], [30, 190]); // (0 + 90/2) / 1.5, (90/2 + 240) / 1.5
  equal(shrink(row, 3, 1), row);
  const even = shrink(plain(101, 67), 13, 5);
  deepEqual(even, plain(13, 5));
  throws(() => shrink(row, 4, 1), /Cannot shrink a picture of 3×1 pixels to 4×1/);
  deepEqual(sizeWithin({ width: 100, height: 50 }, 40, 40), { width: 40, height: 20 });
  deepEqual(sizeWithin({ width: 10, height: 5 }, 40, 40), { width: 10, height: 5 });
});
