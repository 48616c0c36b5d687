/** The course of a run as a picture (SVG): each step's value faint, their running mean strong, on a logarithmic scale. */

export interface Series {
  readonly name: string;
  /** By step, in its order; what is null or not finite leaves a gap. */
  readonly points: readonly { readonly step: number; readonly value: number | null }[];
}

export interface PlotOptions {
  readonly title: string;
  /** Pixels; of all that is drawn. */
  readonly width?: number;
  readonly height?: number;
}

interface Point {
  readonly step: number;
  readonly value: number;
}

/** Told apart by those who see few colours as well (Okabe & Ito 2008). */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const MARGIN = { left: 64, right: 16, top: 32, bottom: 36 };
/** Points that a line may have; more are thinned, so that a long run's file stays small. */
const MOST_POINTS = 1000;
/** The running mean's share of the points: it forgets within a fiftieth of the run. */
const MEMORY = 50;

/** A whole SVG file. Values at or below zero are drawn only where all are, on a linear scale. */
export function plotSeries(series: readonly Series[], options: PlotOptions): string {
  const { title, width = 800, height = 400 } = options;
  const lines = series.map(({ points }) => points.filter(isFinitePoint));
  const all = lines.flat();
  const isLog = all.length > 0 && all.every(({ value }) => value > 0);
  const [x, y] = [
    scaleOf(rangeOf(all.map(({ step }) => step)), MARGIN.left, width - MARGIN.right),
    scaleOf(
      padded(rangeOf(all.map(({ value }) => isLog ? Math.log10(value) : value))),
      height - MARGIN.bottom,
      MARGIN.top,
    ),
  ];
  const place = ({ step, value }: Point) =>
    `${round(x.at(step))},${round(y.at(isLog ? Math.log10(value) : value))}`;
  const pathOf = (points: readonly Point[]) => points.map(place).join(" ");
  const right = width - MARGIN.right;
  const base = height - MARGIN.bottom;
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ` +
    `viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${width}" height="${height}" fill="white"/>`,
    `<text x="${MARGIN.left}" y="20" font-size="14">${escapeXml(title)}</text>`,
    ...ticksOf(y, isLog).map(({ at, label }) =>
      `<path d="M${MARGIN.left} ${at}H${right}" stroke="#ddd"/>` +
      `<text x="${MARGIN.left - 6}" y="${at + 4}" text-anchor="end">${label}</text>`
    ),
    ...ticksOf(x, false).map(({ at, label }) =>
      `<path d="M${at} ${base}v4" stroke="black"/>` +
      `<text x="${at}" y="${base + 18}" text-anchor="middle">${label}</text>`
    ),
    `<path d="M${MARGIN.left} ${MARGIN.top}V${base}H${right}" fill="none" stroke="black"/>`,
    ...lines.flatMap((points, i) => {
      const colour = COLOURS[i % COLOURS.length];
      const line = (path: string, style: string) =>
        `<polyline points="${path}" fill="none" stroke="${colour}" ${style}/>`;
      return points.length === 0 ? [] : [
        line(pathOf(thinned(points)), 'stroke-opacity="0.3"'),
        line(pathOf(thinned(smoothed(points))), 'stroke-width="2"'),
      ];
    }),
    ...series.map(({ name }, i) =>
      `<text x="${right}" y="${MARGIN.top + 14 + 16 * i}" text-anchor="end" ` +
      `fill="${COLOURS[i % COLOURS.length]}">${escapeXml(name)}${lastOf(lines[i])}</text>`
    ),
    "</svg>\n",
  ];
  return parts.join("\n");
}

function isFinitePoint(point: { step: number; value: number | null }): point is Point {
  return point.value !== null && Number.isFinite(point.value);
}

/** The last value of the running mean, to be read beside the name. */
function lastOf(points: readonly Point[]): string {
  const last = smoothed(points).at(-1);
  return last === undefined ? "" : ` ${Number(last.value.toPrecision(3))}`;
}

/** Bias-corrected, as Adam's moments are, so that it begins at the first value. */
function smoothed(points: readonly Point[]): Point[] {
  const decay = 1 - 1 / Math.max(1, points.length / MEMORY);
  let [mean, weight] = [0, 0];
  return points.map(({ step, value }) => {
    mean = decay * mean + (1 - decay) * value;
    weight = decay * weight + (1 - decay);
    return { step, value: mean / weight };
  });
}

/** At most `MOST_POINTS` points: of each group the least and the greatest, so that no peak is lost. */
function thinned(points: readonly Point[]): Point[] {
  if (points.length <= MOST_POINTS) return [...points];
  const size = Math.ceil((2 * points.length) / MOST_POINTS);
  const kept: Point[] = [];
  for (let from = 0; from < points.length; from += size) {
    const group = points.slice(from, from + size);
    const least = group.reduce((a, b) => b.value < a.value ? b : a);
    const most = group.reduce((a, b) => b.value > a.value ? b : a);
    kept.push(
      ...(least === most ? [least] : least.step < most.step ? [least, most] : [most, least]),
    );
  }
  return kept;
}

type Interval = readonly [from: number, to: number];

function rangeOf(values: readonly number[]): Interval {
  if (values.length === 0) return [0, 1];
  const least = values.reduce((a, b) => Math.min(a, b));
  const most = values.reduce((a, b) => Math.max(a, b));
  return least === most ? [least - 0.5, most + 0.5] : [least, most];
}

function padded([from, to]: Interval): Interval {
  const pad = (to - from) / 20;
  return [from - pad, to + pad];
}

interface Scale {
  readonly range: Interval;
  readonly at: (value: number) => number;
}

function scaleOf(range: Interval, begin: number, end: number): Scale {
  const [from, to] = range;
  return { range, at: (value) => begin + ((value - from) / (to - from)) * (end - begin) };
}

interface Tick {
  readonly at: number;
  readonly label: string;
}

/** Some five round numbers; on a logarithmic scale 1, 2 and 5 of each power of ten where there are few powers. */
function ticksOf({ range, at }: Scale, isLog: boolean): Tick[] {
  const [from, to] = range;
  const values = isLog && to - from >= 0.7
    ? powers(from, to)
    : isLog
    ? multiples(10 ** from, 10 ** to).map(Math.log10)
    : multiples(from, to);
  return values.map((value) => ({
    at: round(at(value)),
    label: String(Number((isLog ? 10 ** value : value).toPrecision(6))),
  }));
}

function powers(from: number, to: number): number[] {
  const digits = to - from < 3 ? [1, 2, 5] : [1];
  const found: number[] = [];
  for (let power = Math.floor(from); power <= to; power++) {
    found.push(...digits.map((digit) => power + Math.log10(digit)));
  }
  return found.filter((value) => value >= from && value <= to);
}

function multiples(from: number, to: number): number[] {
  const rough = (to - from) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((size) => size >= rough) ?? rough;
  const first = Math.ceil(from / step);
  return Array.from({ length: Math.floor(to / step) - first + 1 }, (_, i) => (first + i) * step);
}

function round(x: number): number {
  return Math.round(x * 10) / 10;
}

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
};

function escapeXml(text: string): string {
  return text.replaceAll(/[&<>"]/g, (character) => ENTITIES[character]);
}
