import { deepEqual, equal, match, ok } from "node:assert/strict";
import { plotSeries, type Series } from "../../lib/train/plot.ts";

const series = (name: string, values: readonly (number | null)[]): Series => ({
  name,
  points: values.map((value, i) => ({ step: i + 1, value })),
});

/** The lines of a plot: their points. */
function linesOf(svg: string): [x: number, y: number][][] {
  return [...svg.matchAll(/<polyline points="([^"]*)"/g)].map(([, points]) =>
    points.split(" ").map((point): [number, number] => {
      const [x, y] = point.split(",").map(Number);
      return [x, y];
    })
  );
}
/** Labels at the left. */
const ticksOf = (svg: string) =>
  [...svg.matchAll(/text-anchor="end">([^<]*)<\/text>/g)].map(([, label]) => Number(label));

Deno.test("plotSeries draws each value and their running mean, from left to right, greater ones higher", () => {
  const svg = plotSeries([series("loss", [8, 4, 2, 1])], { title: "a & b" });
  const [raw, mean] = linesOf(svg);
  deepEqual(raw.map(([x]) => x), [64, 304, 544, 784]);
  deepEqual(raw, mean); // few points are not smoothed
  const [a, b, c, d] = raw.map(([, y]) => y);
  ok(a < b && b < c && c < d && a > 32 && d < 400 - 36);
  ok(Math.abs((b - a) - (c - b)) < 0.2, "halves are equally far apart: the scale is logarithmic");
  match(svg, /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg" width="800" height="400"/);
  match(svg, /a &amp; b<\/text>/);
  match(svg, />loss 1<\/text>/);
  deepEqual(ticksOf(svg), [1, 2, 5]);
});

Deno.test("plotSeries takes a linear scale where a value is not above zero, and leaves gaps out", () => {
  const svg = plotSeries([series("a", [null, -1, NaN, 3]), series("b", [])], { title: "" });
  const [raw] = linesOf(svg);
  deepEqual(raw.map(([x]) => x), [64, 784]);
  deepEqual(ticksOf(svg), [-1, 0, 1, 2, 3]);
  equal(linesOf(plotSeries([], { title: "nothing yet" })).length, 0);
  equal(linesOf(plotSeries([series("one", [5])], { title: "" })).length, 2);
});

Deno.test("plotSeries keeps a long run's file small and its peaks", () => {
  const values = Array.from({ length: 50_000 }, (_, i) => 1 + Math.sin(i) / 10);
  values[33_333] = 1000;
  values[11_111] = 0.001;
  const svg = plotSeries([series("loss", values)], { title: "" });
  ok(svg.length < 60_000, `${svg.length}`);
  const [raw, mean] = linesOf(svg);
  ok(raw.length <= 1002 && mean.length <= 1002);
  const ys = raw.map(([, y]) => y);
  const smooth = mean.map(([, y]) => y);
  ok(Math.min(...ys) < Math.min(...smooth) && Math.max(...ys) > Math.max(...smooth));
  deepEqual(raw.map(([x]) => x), raw.map(([x]) => x).toSorted((a, b) => a - b));
  deepEqual(ticksOf(svg), [0.001, 0.01, 0.1, 1, 10, 100, 1000]);
});
