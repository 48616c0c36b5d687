import assert from "node:assert/strict";
import type { Shape } from "../../lib/base/shape.ts";
import type { View } from "../../lib/graph/ops.ts";
import {
  broadcastView,
  isWhole,
  reshapeView,
  sliceView,
  transposeView,
  wholeView,
} from "../../lib/graph/view.ts";

/** The elements a view reads over a shape, in order. */
function elements({ offset, strides }: View, shape: Shape): number[] {
  return shape.reduce<number[]>(
    (starts, n, axis) =>
      starts.flatMap((at) => Array.from({ length: n }, (_, i) => at + i * strides[axis])),
    [offset],
  );
}

const divisors = (n: number) =>
  Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);

/** All shapes of at most `rank` axes with `size` elements. */
function shapesOf(size: number, rank: number): number[][] {
  if (rank === 0) return size === 1 ? [[]] : [];
  const longer = divisors(size).flatMap((d) =>
    shapesOf(size / d, rank - 1).filter((rest) => rest.length === rank - 1).map((s) => [d, ...s])
  );
  return [...shapesOf(size, rank - 1), ...longer];
}

Deno.test("reshapeView reads the same elements, wherever strides can say so", () => {
  const from = [2, 3, 4];
  const whole = wholeView(from);
  const views: [View, Shape][] = [
    [whole, from],
    [transposeView(whole, [1, 0, 2]), [3, 2, 4]],
    [transposeView(whole, [2, 1, 0]), [4, 3, 2]],
    [sliceView(whole, [0, 1, 0], [2, 2, 4]), [2, 2, 4]],
    [sliceView(whole, [1, 0, 1], [1, 3, 2]), [1, 3, 2]],
    [broadcastView(wholeView([3, 1]), [3, 1], [2, 3, 4]), [2, 3, 4]],
    [broadcastView(wholeView([]), [], [2, 3]), [2, 3]],
  ];
  for (const [view, shape] of views) {
    const expected = elements(view, shape);
    const targets = shapesOf(expected.length, 4);
    const strided = (to: Shape) => {
      // Whether any strides read these elements over this shape: differences along each axis decide it.
      const strides = to.map((n, axis) => {
        const step = to.slice(axis + 1).reduce((a, b) => a * b, 1);
        return n === 1 ? 0 : expected[step] - expected[0];
      });
      const same = elements({ offset: expected[0], strides }, to);
      return strides.every((s) => s >= 0) && same.every((e, i) => e === expected[i]);
    };
    for (const to of targets) {
      const reshaped = reshapeView(view, shape, to);
      assert.equal(reshaped !== undefined, strided(to), `${elements(view, shape)} over ${to}`);
      if (reshaped) assert.deepEqual(elements(reshaped, to), expected);
    }
  }
});

Deno.test("isWhole tells a reading of everything in order", () => {
  assert.ok(isWhole(wholeView([2, 1, 3]), [2, 1, 3], 6));
  assert.ok(
    isWhole({ offset: 0, strides: [3, 7, 1] }, [2, 1, 3], 6),
    "axes of length 1 do not move",
  );
  assert.ok(!isWhole(wholeView([2, 3]), [2, 3], 7), "a part");
  assert.ok(!isWhole(transposeView(wholeView([2, 3]), [1, 0]), [3, 2], 6), "another order");
  assert.ok(!isWhole(broadcastView(wholeView([3]), [3], [2, 3]), [2, 3], 3), "repeated");
});
