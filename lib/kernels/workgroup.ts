/**
 * Products and convolutions for GPUs, as variants of their kernels: tiles in workgroup memory, in f32 and (for those who
 * ask) f16; long reductions of small results split among workgroups; a few rows by panels alone. None of it has run on a
 * GPU yet: sizes and defaults are what such tiles usually are, tested for correctness, and for `ldm tune` to choose from.
 */

import type { Tensor } from "../graph/tensor.ts";
import {
  type Binding,
  type Dispatch,
  epilogueOf,
  NO_EPILOGUE,
  type Profile,
  resultBinding,
  type Variant,
} from "./kernel.ts";
import { FOUR_OF_PANELS, type Operand, type Reading, STORE } from "./product.ts";
import { flatGrid } from "./views.ts";
import f16Source from "../../wgsl/workgroup_f16.wgsl" with { type: "text" };
import f32Source from "../../wgsl/workgroup_f32.wgsl" with { type: "text" };
import pixelsSource from "../../wgsl/pixels.wgsl" with { type: "text" };
import tiledPixelsSource from "../../wgsl/workgroup_pixels.wgsl" with { type: "text" };
import productSource from "../../wgsl/workgroup_product.wgsl" with { type: "text" };
import rowsSource from "../../wgsl/workgroup_rows.wgsl" with { type: "text" };
import sumsSource from "../../wgsl/workgroup_sums.wgsl" with { type: "text" };
import vectorSource from "../../wgsl/matmul_vector.wgsl" with { type: "text" };

/** A shader that computes all rows and columns of a product, but for its bindings, its epilogue and where rows begin. */
export interface WorkgroupForm {
  readonly name: string;
  readonly source: string;
  readonly constants: Dispatch["shader"]["constants"];
  readonly functions: string;
  readonly type: "f32" | "vec4f";
  readonly f16: boolean;
  /** Elements of the operands. */
  readonly elements: { readonly a: "vec4f"; readonly w: Binding["element"] };
  readonly params: Readonly<Record<string, number>>;
  /** Rows of a workgroup. */
  readonly height: number;
  /** Workgroups along the columns. */
  readonly columns: number;
  readonly iterations: number;
}

/** How operands lie that consist of vec4s. */
type Staged = Exclude<Operand | Reading, "loose rows" | "loose turned">;

/** What is multiplied: all rows together, their second operand, and whether `a` has rows or is seen through taps. */
export interface Shape {
  readonly batch: number;
  readonly m: number;
  readonly n: number;
  /** A multiple of four. */
  readonly k: number;
  readonly operand: Staged;
  readonly a: "rows" | "pixels";
}

/** Four columns at a time where the width allows it. */
const typeOf = (n: number) => n % 4 === 0 ? "vec4f" as const : "f32" as const;

/** How a workgroup's share of the second operand comes into its tile. */
interface Staging {
  readonly element: "vec4u" | "vec4f";
  /** Steps of the reduction in a block of panels, in vec4s. */
  readonly blockDepth: 1 | 2;
  /** Columns and vec4s of the reduction that one unit holds. */
  readonly unit: { readonly columns: 1 | 4; readonly depth: 1 | 2 };
  /** `alias W`, `fn fetched(unit, k, column, batch)`: a unit as it lies in memory; `fn keep(unit, held)`: into the tile. */
  readonly functions: string;
}

/** Four steps and four columns of the second operand at once; `fn four_at`: four columns of step 4d + r. */
const fours = (element: "vec4u" | "vec4f", fourAt: string): Staging => ({
  element,
  blockDepth: 1,
  unit: { columns: 4, depth: 1 },
  functions: `alias W = mat4x4f;
${fourAt}
fn fetched(unit: u32, k: u32, column: u32, batch: u32) -> W {
  let d = k + unit / (COLUMNS / 4u);
  if (d >= params.depth) { return W(); }
  let four = column / 4u + unit % (COLUMNS / 4u);
  return W(
    four_at(d, 0u, four, batch), four_at(d, 1u, four, batch),
    four_at(d, 2u, four, batch), four_at(d, 3u, four, batch));
}
fn keep(unit: u32, held: W) {
  let columns = transpose(held);
  let at = unit / (COLUMNS / 4u) * COLUMNS;
  let column = unit % (COLUMNS / 4u) * 4u;
  /*unroll*/ for (var c = 0u; c < 4u; c++) {
    w_tile[at + place_in_tile(column + c)] = S(columns[c]);
  }
}`,
});

/** The same of a weight [k, taps, n] that is turned; `four`: what is at `i` of its row. */
const turned = (four: string) =>
  `fn four_at(d: u32, r: u32, four: u32, batch: u32) -> vec4f {
  let taps = params.kernel_height * params.kernel_width;
  let tap = d / params.tap_depth;
  let row = (d - tap * params.tap_depth) * 4u + r;
  let i = (taps - 1u - tap) * (params.width / 4u) + four;
  return ${four};
}`;

const STAGINGS: { readonly [K in Staged]: Staging } = {
  panels16: {
    element: "vec4u",
    blockDepth: 2,
    unit: { columns: 1, depth: 2 },
    functions: `alias W = vec4u;
fn fetched(unit: u32, k: u32, column: u32, batch: u32) -> W {
  let own = column + unit % COLUMNS;
  let block = k / 2u + unit / COLUMNS;
  let held = w_at((own / 32u * params.blocks + block) * 32u + own % 32u);
  return select(W(), held, block < params.blocks);
}
fn keep(unit: u32, held: W) {
  let at = unit / COLUMNS * 2u * COLUMNS + place_in_tile(unit % COLUMNS);
  w_tile[at] = S(vec4f(unpack2x16float(held.x), unpack2x16float(held.y)));
  w_tile[at + COLUMNS] = S(vec4f(unpack2x16float(held.z), unpack2x16float(held.w)));
}`,
  },
  panels32: {
    element: "vec4f",
    blockDepth: 1,
    unit: { columns: 1, depth: 1 },
    functions: `alias W = vec4f;
fn fetched(unit: u32, k: u32, column: u32, batch: u32) -> W {
  let own = column + unit % COLUMNS;
  let block = k + unit / COLUMNS;
  let held = w_at((own / 32u * params.blocks + block) * 32u + own % 32u);
  return select(W(), held, block < params.blocks);
}
fn keep(unit: u32, held: W) {
  w_tile[unit / COLUMNS * COLUMNS + place_in_tile(unit % COLUMNS)] = S(held);
}`,
  },
  rows: {
    element: "vec4f",
    blockDepth: 1,
    unit: { columns: 1, depth: 1 },
    functions: `alias W = vec4f;
fn fetched(unit: u32, k: u32, column: u32, batch: u32) -> W {
  let d = k + unit % DEPTH;
  let held = w_at(params.w_first + (batch * params.width + column + unit / DEPTH) * params.depth + d);
  return select(W(), held, d < params.depth);
}
fn keep(unit: u32, held: W) {
  w_tile[unit % DEPTH * COLUMNS + place_in_tile(unit / DEPTH)] = S(held);
}`,
  },
  columns: fours(
    "vec4f",
    `fn four_at(d: u32, r: u32, four: u32, batch: u32) -> vec4f {
  return w_at(params.w_first + ((batch * params.depth + d) * 4u + r) * (params.width / 4u) + four);
}`,
  ),
  turned: fours("vec4f", turned("w_at(row * taps * (params.width / 4u) + i)")),
  turned16: fours("vec4u", `${FOUR_OF_PANELS.turned16}\n${turned("four_of(row, i)")}`),
  turned32: fours("vec4f", `${FOUR_OF_PANELS.turned32}\n${turned("four_of(row, i)")}`),
};

/** Tiles of 16·TM rows × 64·TN columns, DEPTH vec4s of the reduction deep: none takes more than 16 KiB, the least there is. */
export interface Tile {
  readonly TM: number;
  readonly TN: number;
  readonly DEPTH: number;
}

/** The largest first: each value in workgroup memory is used 16·TM or 64·TN times, 8·8 registers being what GPUs hold. */
export const TILES: readonly [Tile, ...Tile[]] = [
  { TM: 8, TN: 2, DEPTH: 4 },
  { TM: 8, TN: 1, DEPTH: 4 },
  { TM: 4, TN: 1, DEPTH: 8 },
  { TM: 2, TN: 1, DEPTH: 8 },
];
const heightOf = ({ TM }: Tile) => 16 * TM;
const widthOf = ({ TN }: Tile) => 64 * TN;
const nameOf = (tile: Tile) => `${heightOf(tile)}×${widthOf(tile)}`;

const THREADS = 256;
/** vec4s of a block that are written out at once: enough multiplications to hide the loop, few enough to compile quickly. */
const stepOf = ({ TM, TN }: Tile) => TM * TN < 8 ? 2 : 1;
/** Workgroups that keep a large GPU busy. */
const ENOUGH = 192;
/** How much more than the thriftiest tile another may waste. */
const MORE_WASTE = 1.15;
/** The shortest reduction worth a workgroup of its own, and the most parts whose sums are worth adding. */
const SHORTEST = 256;
const MOST_PARTS = 16;
/** The most rows that are computed by panels alone. */
const FEW = 8;

function countOf(tile: Tile, { batch, m, n }: Shape): number {
  return batch * Math.ceil(m / heightOf(tile)) * Math.ceil(n / widthOf(tile));
}

/** Rows and columns that a tile computes for each that exists. */
function wasteOf(tile: Tile, shape: Shape): number {
  return countOf(tile, shape) * heightOf(tile) * widthOf(tile) / (shape.batch * shape.m * shape.n);
}

/**
 * The tiles worth trying, the best first: the largest that still makes enough workgroups and wastes little, but not below
 * 64×64, whose reduction is rather split, unless rows are few; and the next smaller one.
 */
function tilesFor(shape: Shape): readonly [Tile, ...Tile[]] {
  const least = Math.min(...TILES.map((tile) => wasteOf(tile, shape)));
  const thrifty = TILES.filter((tile) => wasteOf(tile, shape) <= MORE_WASTE * least);
  const found = thrifty.find((tile) => tile.TM <= 4 || countOf(tile, shape) >= ENOUGH) ??
    thrifty[0];
  const next = TILES[TILES.indexOf(found) + 1];
  return next ? [found, next] : [found];
}

/** Parts of a reduction that give the device enough workgroups; 1 where it is not to be split. */
function partsFor(tile: Tile, shape: Shape, profile: Profile): number {
  if (shape.batch > 1) return 1;
  const bytes = 4 * shape.m * shape.n;
  const most = Math.min(
    MOST_PARTS,
    Math.floor(shape.k / SHORTEST),
    Math.floor(profile.maxBinding / bytes),
  );
  return Math.max(1, Math.min(most, Math.ceil(ENOUGH / countOf(tile, shape))));
}

interface TileOptions {
  readonly f16: boolean;
  readonly constants: WorkgroupForm["constants"];
}

/** The form of a tile. */
function tileForm(tile: Tile, shape: Shape, options: TileOptions): WorkgroupForm {
  const { TM, DEPTH } = tile;
  const { n, k, operand, a } = shape;
  const { element, blockDepth, unit, functions } = STAGINGS[operand];
  const COLUMNS = widthOf(tile);
  const depth = k / 4;
  const STEP = stepOf(tile);
  const W_UNITS = COLUMNS * DEPTH / (unit.columns * unit.depth);
  const A_SIZE = 16 * TM * DEPTH;
  const type = typeOf(n);
  const { f16 } = options;
  return {
    name: `workgroup ${nameOf(tile)}${f16 ? " f16" : ""}`,
    source: productSource,
    constants: {
      ...options.constants,
      ...tile,
      STEP,
      COLUMNS,
      A_SIZE,
      A_SHARE: A_SIZE / THREADS,
      W_SIZE: COLUMNS * DEPTH,
      W_UNITS,
      W_SHARE: Math.ceil(W_UNITS / THREADS),
    },
    functions: [
      f16 ? f16Source : f32Source,
      a === "rows" ? rowsSource : `${pixelsSource}\n${tiledPixelsSource}`,
      functions,
      STORE[type],
    ].join("\n"),
    type,
    f16,
    elements: { a: "vec4f", w: element },
    params: { depth, blocks: Math.ceil(depth / blockDepth), share: depth, stride_of_z: 0 },
    height: heightOf(tile),
    columns: Math.ceil(n / COLUMNS),
    iterations: Math.ceil(depth / DEPTH) * (1 + DEPTH / STEP),
  };
}

const HALVES = {
  panels16: `fn halves(w: vec4u) -> array<vec4f, 2> {
  return array<vec4f, 2>(
    vec4f(unpack2x16float(w.x), unpack2x16float(w.y)),
    vec4f(unpack2x16float(w.z), unpack2x16float(w.w)));
}`,
  panels32: "fn halves(w: vec4f) -> array<vec4f, 1> { return array<vec4f, 1>(w); }",
} as const;

/** Few rows by panels, at as many columns at once as a panel has. */
function vectorForm({ m, n, k }: Shape, operand: keyof typeof HALVES): WorkgroupForm {
  const { element, blockDepth } = STAGINGS[operand];
  const TM = [1, 2, 4].find((rows) => rows >= m) ?? FEW;
  const blocks = Math.ceil(k / 4 / blockDepth);
  return {
    name: "vector",
    source: vectorSource,
    constants: { TM, PARTS: blockDepth, SHARES: TM * THREADS },
    functions: HALVES[operand],
    type: "f32",
    f16: false,
    elements: { a: "vec4f", w: element },
    params: { depth: k / 4, blocks },
    height: TM,
    columns: Math.ceil(n / 32),
    iterations: Math.ceil(blocks / 8),
  };
}

/** The one piece of scratch memory. */
const SUMS = { scratch: 0 };

/** What one dispatch computes with a tile, by its shader in `parts` of the reduction, and then their sum. */
function split(
  node: Tensor,
  { shader, params, grid, iterations }: Dispatch,
  form: WorkgroupForm,
  { parts, tile }: { readonly parts: number; readonly tile: Tile },
): Variant {
  const { DEPTH } = tile;
  const own = Object.entries(params.u32).filter(([name]) => !name.startsWith("epilogue_"));
  const share = Math.ceil(params.u32.depth / parts / DEPTH) * DEPTH;
  const partial: Dispatch = {
    shader: {
      ...shader,
      functions: `${form.functions}\n${NO_EPILOGUE}`,
      bindings: shader.bindings.filter(({ name }) => ["result", "a", "x", "w"].includes(name))
        .map((binding) => binding.name === "result" ? { ...binding, source: SUMS } : binding),
    },
    params: { ...params, u32: { ...Object.fromEntries(own), share, stride_of_z: share } },
    grid: [grid[0], grid[1], parts],
    iterations,
  };
  const LANES = 64;
  const columns = node.shape[node.rank - 1] / (form.type === "vec4f" ? 4 : 1);
  const count = node.size / (form.type === "vec4f" ? 4 : 1);
  const [gridColumns, gridRows] = flatGrid(Math.ceil(count / LANES));
  const epilogue = epilogueOf(node, form.type);
  const total: Dispatch = {
    shader: {
      source: sumsSource,
      type: form.type,
      constants: { LANES },
      functions: epilogue.functions,
      bindings: [
        resultBinding(form.type),
        {
          name: "sums",
          source: SUMS,
          element: form.type,
          access: "read",
          residence: "buffer",
        },
        ...epilogue.bindings,
      ],
    },
    params: { u32: { count, columns, parts, grid_columns: gridColumns, ...epilogue.params } },
    grid: [gridColumns, gridRows, 1],
    iterations: parts,
  };
  return {
    name: `split ${nameOf(tile)}`,
    scratch: [4 * node.size * parts],
    dispatches: [partial, total],
  };
}

const unitOf = (operand: Staged) => STAGINGS[operand].unit.columns;

export interface WorkgroupOptions {
  readonly constants?: WorkgroupForm["constants"];
  /** Other tiles than those that suit the shape, the best first. */
  readonly tiles?: readonly [Tile, ...Tile[]];
}

/**
 * The variants of a product or convolution on a GPU, the best first; none on other devices. `variantOf` makes one from a
 * form, adding what the kernel knows: bindings, epilogue, the parameters of rows or pixels, and cuts that fit bindings.
 */
export function workgroupVariants(
  node: Tensor,
  shape: Shape,
  profile: Profile,
  variantOf: (form: WorkgroupForm) => Variant,
  { constants = {}, tiles = tilesFor(shape) }: WorkgroupOptions = {},
): Variant[] {
  const { m, n, k, batch, operand } = shape;
  if (profile.kind !== "gpu" || k % 4 !== 0 || (unitOf(operand) > 1 && n % 4 !== 0)) return [];
  const panels = operand === "panels16" || operand === "panels32" ? operand : undefined;
  const [best, ...others] = tiles;
  const form = tileForm(best, shape, { f16: false, constants });
  const first = variantOf(form);
  const variants = [first];
  const parts = partsFor(best, shape, profile);
  if (parts > 1 && first.dispatches.length === 1) {
    const inParts = split(node, first.dispatches[0], form, { parts, tile: best });
    // Where the whole leaves half the device idle, splitting comes first.
    if (2 * countOf(best, shape) <= ENOUGH) variants.unshift(inParts);
    else variants.push(inParts);
  }
  variants.push(
    ...others.map((tile) => variantOf(tileForm(tile, shape, { f16: false, constants }))),
  );
  if (panels && m <= FEW && batch === 1 && shape.a === "rows") {
    variants.unshift(variantOf(vectorForm(shape, panels)));
  }
  // Weights bound what sums reach; two activations may well exceed f16 together.
  if (profile.f16 && panels) {
    const coarse = variantOf(tileForm(best, shape, { f16: true, constants }));
    variants.push({ ...coarse, approximate: true });
  }
  return variants;
}
