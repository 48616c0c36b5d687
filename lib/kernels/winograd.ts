/**
 * 3×3 convolutions in fewer multiplications (Winograd's minimal filtering, Lavin & Gray 2016): pictures are cut into tiles
 * of m×m output pixels, tiles and weights are transformed to t×t places (t = m + 2), and each place is a product of
 * [tiles, ci] by [ci, co]: t² multiplications stand for 9·m². F(2×2) saves 2.25 times, F(4×4) 4 times.
 *
 * Weights are transformed in every run, so that none is stored twice. What is transformed exists for a band of rows of
 * tiles and a block of output channels at a time, so that it never takes much memory.
 * F(4×4) multiplies rounding errors by about ten: its weights are f32 where F(2×2) keeps those of an f16 layout in f16.
 */

import { Graph } from "../graph/tensor.ts";
import inputSource from "../../wgsl/winograd_input.wgsl" with { type: "text" };
import outputSource from "../../wgsl/winograd_output.wgsl" with { type: "text" };
import weightSource from "../../wgsl/winograd_weight.wgsl" with { type: "text" };
import transforms2 from "../../wgsl/winograd2.wgsl" with { type: "text" };
import transforms4 from "../../wgsl/winograd4.wgsl" with { type: "text" };
import {
  type Binding,
  type Dispatch,
  epilogueOf,
  fitsTexture,
  type LayoutOf,
  MAX_GROUPS,
  MAX_TEXTURES,
  PANEL,
  type Profile,
  type Residence,
  resultBinding,
  type Scratch,
  type Variant,
  windowOn,
} from "./kernel.ts";
import { type Convolution, readingOf, weightParams, windowOf } from "./convolution.ts";
import { tiledProduct } from "./matmul.ts";
import { FOUR_OF_PANELS, productResidences, READERS, type Reading, tileFor } from "./product.ts";

type Panels = "panels16" | "panels32";

/**
 * Vec4s after which the next place begins, for places of `count` vec4s: an odd number of cache lines, so that what an
 * invocation stores or loads at all places of a tile falls on different sets of the cache (twice as fast).
 */
function stepOf(count: number): number {
  return (Math.ceil(count / 4) | 1) * 4;
}

/** How a 3×3 convolution is computed. */
export type Algorithm = "direct" | "winograd2" | "winograd4";
type Winograd = Exclude<Algorithm, "direct">;

/** What an algorithm is made of. */
interface Scheme {
  /** Output pixels of a tile along an axis. */
  readonly tile: number;
  readonly transforms: string;
  /** How transformed weights lie that came in halves; others lie in floats. */
  readonly halves: Panels;
}

/** How weights are read that can be transformed. */
type Whole = Exclude<Reading, "loose rows" | "loose turned">;

/** Blocks of a weight that is turned: four steps of a column are picked from the rows of four outputs. */
function turned(fourOf: string): string {
  return `${fourOf}
fn output_from(i: u32) -> u32 { return i; }
fn number(row: u32, tap: u32, column: u32) -> f32 {
  return four_of(row, (8u - tap) * (params.width / 4u) + column / 4u)[column % 4u];
}
fn block(base: u32, k: u32, c: u32) -> array<vec4f, PARTS> {
  let tap = k / params.tap_blocks;
  let row = (k - tap * params.tap_blocks) * 4u;
  return array<vec4f, PARTS>(vec4f(
    number(row, tap, base), number(row + 1u, tap, base),
    number(row + 2u, tap, base), number(row + 3u, tap, base)));
}`;
}

/** `fn output_from`: where an output's blocks begin; `fn block`: one of them. Outputs that do not exist are not used. */
const WEIGHTS: { readonly [K in Whole]: string } = {
  panels16: `${READERS.panels16.functions}
fn output_from(i: u32) -> u32 { return i / ${PANEL}u * params.blocks * ${PANEL}u + i % ${PANEL}u; }`,
  panels32: `${READERS.panels32.functions}
fn output_from(i: u32) -> u32 { return i / ${PANEL}u * params.blocks * ${PANEL}u + i % ${PANEL}u; }`,
  rows: `${READERS.rows.functions}
fn output_from(i: u32) -> u32 { return i * params.blocks; }`,
  turned: turned(
    "fn four_of(row: u32, i: u32) -> vec4f { return w_at(row * 9u * (params.width / 4u) + i); }",
  ),
  turned16: turned(FOUR_OF_PANELS.turned16),
  turned32: turned(FOUR_OF_PANELS.turned32),
};
const SCHEMES: { readonly [A in Winograd]: Scheme } = {
  winograd2: {
    tile: 2,
    transforms: transforms2,
    halves: "panels16",
  },
  winograd4: {
    tile: 4,
    transforms: transforms4,
    halves: "panels32",
  },
};

/** Most bytes of transformed tiles or their products, and of transformed weights, that exist at once. */
const MOST = { tiles: 40 * 2 ** 20, weights: 10 * 2 ** 20 } as const;

/**
 * What a transform costs on llvmpipe for each number it makes, in multiply-adds of a product. Predicted and measured gains
 * over the direct convolution, one thread of a Zen 3: 64² 320→320 2.5, 2.4; 32² 1280→1280 2.0, 2.1 (F4×4);
 * 16² 1280→1280 1.1, 1.1 and on two pictures 1.4, 1.5; 8² 0.5, 0.3 (F2×2).
 */
const COST = 60;

/** The algorithm that is taken for a convolution unless a table knows better: the cheapest by `COST`; direct on GPUs. */
export function convolutionAlgorithm(node: Convolution, { kind }: Profile): Algorithm {
  const ci = node.inputs[0].shape[3];
  const [n, oh, ow, co] = node.shape;
  if (kind === "gpu" || !isApplicable(node) || Math.min(ci, co) < 64) return "direct";
  const cost = (algorithm: Winograd): number => {
    const { tile } = SCHEMES[algorithm];
    const places = (tile + 2) ** 2;
    const tiles = n * Math.ceil(oh / tile) * Math.ceil(ow / tile);
    return places * (tiles * ci * co + COST * (tiles * (ci + co) + ci * co));
  };
  const costs: readonly (readonly [Algorithm, number])[] = [
    ["direct", 9 * n * oh * ow * ci * co],
    ["winograd2", cost("winograd2")],
    ["winograd4", cost("winograd4")],
  ];
  return costs.reduce((best, next) => next[1] < best[1] ? next : best)[0];
}

/** Whether a convolution has the kernel and stride that the transforms are made for. */
function isApplicable(node: Convolution): boolean {
  const { kernel: [kh, kw], stride, apart } = windowOf(node);
  return kh === 3 && kw === 3 && stride === 1 && apart === 1;
}

/** `fn put`: a transformed block of a weight's channels, four or eight of them, into BLOCKS blocks of u. */
const PUT: { readonly [F in Panels]: string } = {
  panels16:
    `// As pack2x16float, to the nearest, ties to even, but a fifth of its instructions on llvmpipe. Finite values only.
fn halves(x: vec4f) -> vec4u {
  let bits = bitcast<vec4u>(min(abs(x), vec4f(65504)));
  let normal = (bits + 0xfffu + ((bits >> vec4u(13)) & vec4u(1)) - 0x38000000u) >> vec4u(13);
  let small = bitcast<vec4u>(abs(x) + 0.5) - 0x3f000000u;
  let sign = (bitcast<vec4u>(x) >> vec4u(16)) & vec4u(0x8000);
  return select(normal, small, abs(x) < vec4f(0x1p-14)) | sign;
}
fn put(at: u32, values: array<vec4f, PARTS>) {
  let a = halves(values[0]);
  let b = halves(values[1]);
  u[at] = vec4u(a.xz | (a.yw << vec2u(16)), b.xz | (b.yw << vec2u(16)));
}`,
  panels32: `fn put(at: u32, values: array<vec4f, PARTS>) {
  /*unroll*/ for (var p = 0u; p < PARTS; p++) {
    u[at + p * ${PANEL}u] = values[p];
  }
}`,
};

/** A run of rows of tiles (those of all pictures counted on), of rows of places, or of panels. */
interface Run {
  readonly begin: number;
  readonly end: number;
}

/** Weights that are transformed together: some panels for some rows of places. */
interface Group {
  readonly rows: Run;
  readonly panels: Run;
}

/** 0 … count − 1 in the fewest equal runs of at most `most`. */
function runs(count: number, most: number): Run[] {
  const step = Math.ceil(count / Math.ceil(count / Math.max(1, most)));
  return Array.from({ length: Math.ceil(count / step) }, (_, i) => ({
    begin: i * step,
    end: Math.min(count, (i + 1) * step),
  }));
}

/**
 * All weights in groups of at most `room` bytes: whole rows of places, else an even number of panels of one, since
 * products of floats take two at a time. `bytes`: those of a panel's row.
 */
function groupsOf(
  room: number,
  side: number,
  panels: number,
  { bytes }: { bytes: number },
): Group[] {
  const rows = runs(side, Math.floor(room / (panels * bytes)));
  const blocks = panels * bytes <= room ? [{ begin: 0, end: panels }] : runs(
    Math.ceil(panels / 2),
    Math.floor(room / (2 * bytes)),
  ).map(({ begin, end }) => ({ begin: 2 * begin, end: Math.min(panels, 2 * end) }));
  return rows.flatMap((rows) => blocks.map((panels) => ({ rows, panels })));
}

const lengthOf = ({ begin, end }: Run) => end - begin;

/** The convolution by every algorithm that applies to it. */
export function winogradConvolutions(
  node: Convolution,
  profile: Profile,
  layoutOf: LayoutOf,
): Variant[] {
  return (["winograd2", "winograd4"] as const).flatMap((algorithm) =>
    winograd(algorithm, node, profile, layoutOf) ?? []
  );
}

/** The convolution by one algorithm; `undefined` where that does not apply, or where even its smallest part exceeds a binding. */
function winograd(
  algorithm: Winograd,
  node: Convolution,
  profile: Profile,
  layoutOf: LayoutOf,
): Variant | undefined {
  if (!isApplicable(node)) return undefined;
  const reading = readingOf(node, layoutOf);
  const [, , , ci] = node.inputs[0].shape;
  const [n, oh, ow, co] = node.shape;
  if (reading === "loose rows" || reading === "loose turned") return undefined;
  if (ci % (4 * READERS[reading].parts) !== 0 || co % 4 !== 0) return undefined;

  const { tile, halves } = SCHEMES[algorithm];
  const kept = reading === "panels16" ? halves : "panels32";
  const side = tile + 2;
  const tileRows = Math.ceil(oh / tile);
  const tileColumns = Math.ceil(ow / tile);
  const most = profile.maxBinding - side * side * stepOf(1) * 16;
  const bandBytes = side * side * tileColumns * Math.max(ci, co) * 4;
  const bandRows = Math.floor(Math.min(MOST.tiles, most) / bandBytes);
  const bands = runs(n * tileRows, Math.min(bandRows, MAX_GROUPS));
  // Weights that several bands need are transformed once where they are small beside the picture.
  const once = bands.length > 1 ? Math.min(MOST.tiles, node.size * 4 / 2) : 0;
  const room = Math.min(Math.max(MOST.weights, once), most);
  const groups = groupsOf(room, side, Math.ceil(co / PANEL), {
    bytes: side * PANEL * ci * (kept === "panels16" ? 2 : 4),
  });

  const parts = new Parts(algorithm, node, profile, layoutOf, { reading, kept });
  for (const band of bands) {
    parts.transformTiles(band);
    for (const group of groups) {
      if (band === bands[0] || groups.length > 1) parts.transformWeights(group);
      parts.multiply(group, band);
    }
    parts.transformProducts(band);
  }
  if (tileColumns > MAX_GROUPS || Math.max(...parts.scratch) > profile.maxBinding) return undefined;
  return { name: algorithm, scratch: parts.scratch, dispatches: parts.dispatches };
}

/** Scratch memory of values at all places. */
interface Piece extends Scratch {
  /** Vec4s from one place to the next, and those of them that hold nothing. */
  readonly step: number;
  readonly gap: number;
}
const NOTHING: Piece = { scratch: -1, step: 0, gap: 0 };

/** The dispatches of a convolution, and the memory between them, as they are listed. */
class Parts {
  readonly scratch: number[] = [];
  readonly dispatches: Dispatch[] = [];
  /** The latest transformed tiles and weights, and products. */
  #tiles = NOTHING;
  #weights = NOTHING;
  #products = NOTHING;

  readonly #scheme: Scheme;
  readonly #side: number;
  readonly #tileRows: number;
  readonly #tileColumns: number;
  readonly #lanes: number;
  /** Where pieces of scratch memory are read. */
  readonly #residence: Residence;

  constructor(
    readonly algorithm: Winograd,
    readonly node: Convolution,
    readonly profile: Profile,
    readonly layoutOf: LayoutOf,
    /** How weights are read, and how they lie once they are transformed. */
    readonly weights: { readonly reading: Whole; readonly kept: Panels },
  ) {
    this.#scheme = SCHEMES[algorithm];
    const { tile } = this.#scheme;
    this.#side = tile + 2;
    this.#tileRows = Math.ceil(node.shape[1] / tile);
    this.#tileColumns = Math.ceil(node.shape[2] / tile);
    this.#residence = profile.kind === "software" ? "texture" : "buffer";
    this.#lanes = profile.kind === "software" ? 8 : 64;
  }

  /** Memory for `count` vec4s at each of some places, or of all. */
  #piece(count: number, places: number = this.#side ** 2): Piece {
    const step = stepOf(count);
    const scratch = this.scratch.push(places * step * 16) - 1;
    return { scratch, step, gap: step - count };
  }

  get #constants() {
    const { tile } = this.#scheme;
    return { LANES: this.#lanes, TILE: tile, SIDE: this.#side };
  }

  /** Rows of tiles of x, as rows of a product for each place. */
  transformTiles(band: Run): void {
    const { node: { inputs: [x] }, profile } = this;
    const { top, left, upsample } = windowOf(this.node);
    const [, h, w, ci] = x.shape;
    const tiles = lengthOf(band) * this.#tileColumns;
    this.#tiles = this.#piece(tiles * ci / 4);
    this.#products = this.#piece(tiles * this.node.shape[3] / 4);
    const residence = profile.kind === "software" && fitsTexture(x, profile) ? "texture" : "buffer";
    const cut = residence === "buffer" && x.size * 4 > profile.maxBinding;
    const pixels = this.#pixelsNeeded(band);
    const part = cut ? windowOn(pixels.begin * ci, pixels.end * ci, 4) : undefined;
    this.dispatches.push({
      name: `${this.algorithm} tiles`,
      shader: {
        source: inputSource,
        type: "vec4f",
        constants: { ...this.#constants, UPSAMPLE: upsample },
        functions: this.#scheme.transforms,
        bindings: [
          { name: "v", source: this.#tiles, element: "vec4f", ...WRITTEN },
          {
            name: "x",
            source: 0,
            element: "vec4f",
            access: "read",
            residence,
            ...(part ? { window: part.window } : {}),
          },
        ],
      },
      params: {
        u32: {
          columns: ci / 4,
          step: this.#tiles.step,
          first_row: band.begin,
          tile_rows: this.#tileRows,
          tile_columns: this.#tileColumns,
          height: h,
          width: w,
          top,
          left,
          x_skipped: (part?.window.offset ?? 0) / 16,
        },
      },
      grid: this.#grid(ci / 4, band),
      iterations: 0,
    });
  }

  /** Pixels of x, those of all pictures counted on, that a band of tiles reads. */
  #pixelsNeeded({ begin, end }: Run): Run {
    const { top, upsample } = windowOf(this.node);
    const [, h, w] = this.node.inputs[0].shape;
    const { tile } = this.#scheme;
    const line = (row: number, y: number) => {
      const inside = Math.min(
        Math.max(row % this.#tileRows * tile - top + y, 0),
        h * upsample - 1,
      );
      return Math.floor(row / this.#tileRows) * h + Math.floor(inside / upsample);
    };
    return { begin: line(begin, 0) * w, end: (line(end - 1, tile + 1) + 1) * w };
  }

  /** Panels of the weight, as panels for each place of some rows of places. */
  transformWeights({ rows, panels: block }: Group): void {
    const { node, weights: { reading, kept: to }, profile, layoutOf } = this;
    const ci = node.inputs[0].shape[3];
    const { parts, element } = READERS[reading];
    const columns = lengthOf(block) * PANEL;
    const count = columns * ci / (4 * READERS[to].parts);
    this.#weights = this.#piece(count, lengthOf(rows) * this.#side);
    this.dispatches.push({
      name: `${this.algorithm} weights`,
      shader: {
        source: weightSource,
        type: "vec4f",
        constants: { ...this.#constants, PARTS: parts, BLOCKS: parts / READERS[to].parts },
        functions: [WEIGHTS[reading], this.#scheme.transforms, PUT[to]].join("\n"),
        bindings: [
          { name: "u", source: this.#weights, element: READERS[to].element, ...WRITTEN },
          {
            name: "w",
            source: 1,
            element,
            access: "read",
            residence: productResidences(node, profile, layoutOf)[1],
          },
        ],
      },
      params: {
        u32: {
          first_row: rows.begin,
          rows: lengthOf(rows),
          step: this.#weights.step,
          columns,
          first_panel: block.begin,
          width: node.shape[3],
          blocks: 9 * ci / (4 * parts),
          tap_blocks: ci / (4 * parts),
          ...weightParams(node, reading),
        },
      },
      grid: [Math.ceil(columns / this.#lanes), ci / (4 * parts), 1],
      iterations: lengthOf(rows),
    });
  }

  /** The products of the latest tiles and weights, written as a graph would. */
  multiply({ rows, panels }: Group, band: Run): void {
    const { node: { inputs: [x], shape: [, , , co] }, profile } = this;
    const ci = x.shape[3];
    const tiles = lengthOf(band) * this.#tileColumns;
    const batch = lengthOf(rows) * this.#side;
    const first = rows.begin * this.#side;
    const channels = Math.min(co, panels.end * PANEL) - panels.begin * PANEL;
    const graph = new Graph();
    const product = graph.input("v", [batch, tiles, ci])
      .matmul(graph.input("u", [batch, channels, ci]), { transposeB: true });
    const { dispatches } = tiledProduct(
      product,
      {
        batch,
        m: tiles,
        n: channels,
        k: ci,
        residences: [this.#residence, this.#residence],
        bytes: this.scratch[this.#weights.scratch],
        placement: {
          a_first: first * this.#tiles.step,
          a_gap: this.#tiles.gap,
          w_gap: this.#weights.step,
          result_first: first * this.#products.step * 4,
          result_gap: this.#products.gap,
          width: co,
          first_group: panels.begin * PANEL / 4,
        },
      },
      this.weights.kept,
      tileFor(tiles, channels, READERS[this.weights.kept].parts, profile),
      profile,
    );
    const sources = [this.#tiles, this.#weights];
    for (const dispatch of dispatches) {
      const { shader } = dispatch;
      const bindings = shader.bindings.map((binding): Binding => ({
        ...binding,
        source: typeof binding.source === "number" ? sources[binding.source] : this.#products,
      }));
      const name = `${this.algorithm} products`;
      this.dispatches.push({ ...dispatch, name, shader: { ...shader, bindings } });
    }
  }

  /** The products of a band, as the part of the result that they are. */
  transformProducts(band: Run): void {
    const { node, profile } = this;
    const [, oh, ow, co] = node.shape;
    const pixels = { begin: this.#pixelOf(band.begin), end: this.#pixelOf(band.end) };
    const cut = node.size * 4 > profile.maxBinding;
    const part = cut ? windowOn(pixels.begin * co, pixels.end * co, 4) : undefined;
    const epilogue = epilogueOf(node, "vec4f", {
      residences: this.#residences(),
      byColumns: true,
      ...(cut ? { rows: pixels } : {}),
    });
    this.dispatches.push({
      name: `${this.algorithm} result`,
      shader: {
        source: outputSource,
        type: "vec4f",
        constants: this.#constants,
        functions: `${this.#scheme.transforms}\n${epilogue.functions}`,
        bindings: [
          { ...resultBinding("vec4f"), ...(part ? { window: part.window } : {}) },
          {
            name: "m",
            source: this.#products,
            element: "vec4f",
            access: "read",
            residence: this.#residence,
          },
          ...epilogue.bindings,
        ],
      },
      params: {
        u32: {
          columns: co / 4,
          step: this.#products.step,
          first_row: band.begin,
          tile_rows: this.#tileRows,
          tile_columns: this.#tileColumns,
          first_pixel: cut ? pixels.begin : 0,
          result_first: (part?.first ?? 0) / 4,
          result_height: oh,
          result_width: ow,
          ...epilogue.params,
        },
      },
      grid: this.#grid(co / 4, band),
      iterations: 0,
    });
  }

  /** Where the result of a row of tiles begins, in pixels. */
  #pixelOf(row: number): number {
    const [, oh, ow] = this.node.shape;
    const line = Math.min(row % this.#tileRows * this.#scheme.tile, oh);
    return (Math.floor(row / this.#tileRows) * oh + line) * ow;
  }

  /** Where operands of the epilogue are read: on software devices in as many textures as products leave. */
  #residences(): Residence[] {
    const { node, profile, layoutOf } = this;
    let room = MAX_TEXTURES - 1;
    return node.inputs.map((x, i) => {
      if (x.op === "parameter") return layoutOf(x).residence;
      const isRead = i >= 2 && x.size > 1 && profile.kind === "software";
      if (!isRead || room === 0 || !fitsTexture(x, profile)) return "buffer";
      room--;
      return "texture";
    });
  }

  /** Groups of four channels side by side, tiles along y, rows of tiles along z. */
  #grid(columns: number, band: Run): [number, number, number] {
    return [Math.ceil(columns / this.#lanes), this.#tileColumns, lengthOf(band)];
  }
}

const WRITTEN = { access: "read_write", residence: "buffer" } as const;
