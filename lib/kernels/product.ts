/**
 * What matmul and conv2d share: how four columns of the second operand become registers, how four columns of a result
 * are stored, and the tiles.
 */

import { sizeOf } from "../base/shape.ts";
import type { Tensor } from "../graph/tensor.ts";
import {
  fitsTexture,
  type Layout,
  type LayoutOf,
  MAX_TEXTURES,
  PANEL,
  type Profile,
  type Residence,
  ROWS32,
} from "./kernel.ts";

/**
 * How the second operand of a product is read: `panels…` and `rows` hold the reduction of a column side by side, `columns`
 * the columns of a step; `turned…` are panels of the product's transpose, whose outputs are steps here.
 */
export type Operand = "panels16" | "panels32" | "rows" | "columns" | "turned16" | "turned32";

/**
 * How a convolution reads its weight: like a product; or a weight [k, taps, n] as the one [n, taps, k] that undoes it, its
 * taps in reverse (`turned`: in rows); `loose`: one number at a time, where rows are not made of vec4s.
 */
export type Reading = Exclude<Operand, "columns"> | "turned" | "loose rows" | "loose turned";

/** What a kernel needs to read one kind of second operand. */
interface Reader {
  /** Element of the binding `w`. */
  readonly element: "vec4u" | "vec4f" | "f32";
  /** A block is 4·PARTS values along the reduction. */
  readonly parts: 1 | 2;
  /** A block holds four columns of one step rather than four steps of one column. */
  readonly across: boolean;
  /**
   * `fn columns_from(group, batch)`: where the four columns of a group begin.
   * `fn block(from, k, c)`: block k of column c of them; with `across`, step 4k + c of all four.
   */
  readonly functions: string;
}

const panelsFrom = `fn columns_from(group: u32, batch: u32) -> u32 {
  return (group / 8u) * params.blocks * ${PANEL}u + (group % 8u) * 4u;
}`;

/** Four steps of a column, each by `fn number(step, column)`. */
const loose = (place: string): Reader => ({
  element: "f32",
  parts: 1,
  across: false,
  functions: `fn columns_from(group: u32, batch: u32) -> u32 { return group * 4u; }
fn number(step: u32, column: u32) -> f32 {
  ${place}
  return select(0.0, w_at(at), step < params.depth);
}
fn block(base: u32, k: u32, c: u32) -> array<vec4f, PARTS> {
  return array<vec4f, PARTS>(vec4f(
    number(k * 4u, base + c), number(k * 4u + 1u, base + c),
    number(k * 4u + 2u, base + c), number(k * 4u + 3u, base + c)));
}`,
});

/** `row` and `tap` of step 4k + c of a weight [k, taps, n] that is turned. */
const turnedStep = `let taps = params.kernel_height * params.kernel_width;
  let tap = k / params.tap_blocks;
  let row = (k - tap * params.tap_blocks) * 4u + c;`;

/** Four columns of a step of a weight that is turned, found at `four` in its row. */
const turned = (element: "vec4u" | "vec4f", four: string): Reader => ({
  element,
  parts: 1,
  across: true,
  functions: `fn columns_from(group: u32, batch: u32) -> u32 { return group; }
fn block(base: u32, k: u32, c: u32) -> array<vec4f, PARTS> {
  ${turnedStep}
  let at = (taps - 1u - tap) * (params.width / 4u) + base;
  return array<vec4f, PARTS>(${four});
}`,
});

/** Four numbers, from 4i on, of an output's row that lies in panels. */
export const FOUR_OF_PANELS = {
  turned16: `fn four_of(row: u32, i: u32) -> vec4f {
  let eight = w_at((row / ${PANEL}u * params.weight_blocks + i / 2u) * ${PANEL}u + row % ${PANEL}u);
  let half = select(eight.xy, eight.zw, i % 2u == 1u);
  return vec4f(unpack2x16float(half.x), unpack2x16float(half.y));
}`,
  turned32: `fn four_of(row: u32, i: u32) -> vec4f {
  return w_at((row / ${PANEL}u * params.weight_blocks + i) * ${PANEL}u + row % ${PANEL}u);
}`,
} as const;

const ofPanels = (key: keyof typeof FOUR_OF_PANELS, element: "vec4u" | "vec4f"): Reader => {
  const { functions, ...reader } = turned(element, "four_of(row, at)");
  return { ...reader, functions: `${FOUR_OF_PANELS[key]}\n${functions}` };
};

/** Blocks of an output of a weight [outputs, …, inputs] in panels. */
export function blocksOf({ shape }: Tensor, operand: keyof typeof FOUR_OF_PANELS): number {
  return Math.ceil(sizeOf(shape.slice(1)) / (operand === "turned16" ? 8 : 4));
}

export const READERS: { readonly [K in Operand | Reading]: Reader } = {
  panels16: {
    element: "vec4u",
    parts: 2,
    across: false,
    functions: `${panelsFrom}
fn block(base: u32, k: u32, c: u32) -> array<vec4f, PARTS> {
  let b = w_at(base + k * ${PANEL}u + c);
  return array<vec4f, PARTS>(
    vec4f(unpack2x16float(b.x), unpack2x16float(b.y)),
    vec4f(unpack2x16float(b.z), unpack2x16float(b.w)));
}`,
  },
  panels32: {
    element: "vec4f",
    parts: 1,
    across: false,
    functions: `${panelsFrom}
fn block(base: u32, k: u32, c: u32) -> array<vec4f, PARTS> {
  return array<vec4f, PARTS>(w_at(base + k * ${PANEL}u + c));
}`,
  },
  rows: {
    element: "vec4f",
    parts: 1,
    across: false,
    functions: `fn columns_from(group: u32, batch: u32) -> u32 {
  return (batch * params.width + group * 4u) * params.blocks;
}
fn block(base: u32, k: u32, c: u32) -> array<vec4f, PARTS> {
  return array<vec4f, PARTS>(w_at(base + c * params.blocks + k));
}`,
  },
  columns: {
    element: "vec4f",
    parts: 1,
    across: true,
    functions: `fn columns_from(group: u32, batch: u32) -> u32 {
  return batch * params.blocks * params.width + group;
}
fn block(base: u32, k: u32, c: u32) -> array<vec4f, PARTS> {
  return array<vec4f, PARTS>(w_at(base + (k * 4u + c) * (params.width / 4u)));
}`,
  },
  turned: turned("vec4f", "w_at(row * taps * (params.width / 4u) + at)"),
  turned16: ofPanels("turned16", "vec4u"),
  turned32: ofPanels("turned32", "vec4f"),
  "loose rows": loose("let at = column * params.depth + step;"),
  "loose turned": loose(`let taps = params.kernel_height * params.kernel_width;
  let at = (step % CHANNELS * taps + taps - 1u - step / CHANNELS) * params.width + column;`),
};

/**
 * `fn store`: four adjacent columns of a row of the result, dropping those beyond its width; `fn store_columns` comes
 * before it, once for all rows. `skipped`: elements of the result before row 0 that are no rows of it.
 */
export const STORE = {
  vec4f: `var<private> skipped: u32;
fn store_columns(group: u32) { epilogue_columns(group); }
fn store(value: vec4f, row: u32, group: u32) {
  let width = params.width / 4u;
  if (group < width) {
    result[params.result_first / 4u + skipped + row * width + group] = epilogue(value, row, group);
  }
}`,
  f32: `var<private> skipped: u32;
fn store_columns(group: u32) {}
fn store(value: vec4f, row: u32, group: u32) {
  /*unroll*/ for (var c = 0u; c < 4u; c++) {
    let column = group * 4u + c;
    if (column < params.width) {
      result[params.result_first + skipped + row * params.width + column] = epilogue(value[c], row, column);
    }
  }
}`,
} as const;

/** Registers of an invocation and the shape of a workgroup. */
export interface Tile {
  /** Rows of an invocation. */
  readonly TM: number;
  /** Groups of four columns of an invocation, 32 columns apart. */
  readonly TN: number;
  /** Invocations of a workgroup along the rows; eight are side by side along the columns. */
  readonly ROWS: number;
}

/** How the eight lanes that want the same rows read them: all of them, or each its own, passed on to the others. */
export function sharing(TM: number, { kind, subgroups }: Profile) {
  const shared = kind === "software" && subgroups === true && TM > 1;
  const SHARE = shared ? 8 : 1;
  return { SHARE, OWN: Math.ceil(TM / SHARE), PASSED: shared ? 1 : 0 };
}

/**
 * The tile for a result of m rows and n columns, of operands read in blocks of 4·parts steps. Software: the most
 * arithmetic for each load (kernels.md) in a loop of at most some 2,500 instructions, since a longer one does not fit what
 * a core keeps decoded and runs at two thirds of the speed (Zen 3): two panels of four steps, or one of eight. Few rows
 * take small tiles, and one panel at a time where two would compute too many columns that are not there. Widths that do
 * not fill vec4s take small tiles too: each column is stored by its own copy of the epilogue, which costs compile time.
 */
export function tileFor(m: number, n: number, parts: 1 | 2, { kind }: Profile): Tile {
  const fits = (sizes: readonly number[]) => sizes.find((size) => size >= m) ?? sizes.at(-1) ?? 1;
  if (kind === "gpu") {
    const TM = fits(n % 4 === 0 ? [1, 2, 4, 8] : [1, 2, 4]);
    return { TM, TN: 1, ROWS: Math.min(8, 2 ** Math.ceil(Math.log2(Math.ceil(m / TM)))) };
  }
  if (n % 4 !== 0) return { TM: fits([1, 2, 4]), TN: 1, ROWS: 1 };
  const panels = Math.ceil(n / PANEL);
  const alone = parts === 2 || (panels % 2 === 1 && panels < 8);
  return { TM: fits([1, 2, 4, 8, 16]), TN: alone ? 1 : 2, ROWS: 1 };
}

/** So many multiplications take less time in any tile than the text of a large one takes to compile. */
const LITTLE_WORK = 2 ** 22;

/** Tiles worth trying for a product of `work` multiplications, the best first, with a word before the variant's name. */
export function tilesFor(
  m: number,
  n: number,
  parts: 1 | 2,
  work: number,
  profile: Profile,
): readonly { readonly prefix: string; readonly tile: Tile }[] {
  const usual = { prefix: "", tile: tileFor(m, n, parts, profile) };
  const { TM, ROWS } = usual.tile;
  if (profile.kind === "gpu" || work > LITTLE_WORK || TM <= 4) return [usual];
  return [{ prefix: "small ", tile: { TM: 4, TN: 1, ROWS } }, usual];
}

/** Workgroups along the columns. */
export function columnGroups(n: number, { TN }: Tile): number {
  return Math.ceil(n / (PANEL * TN));
}

/** What the shader of a product of rows by an operand needs beside its bindings. */
export function productParts(operand: Operand | Reading, width: number) {
  const reader = READERS[operand];
  const type = width % 4 === 0 ? "vec4f" as const : "f32" as const;
  return { ...reader, type, functions: `${reader.functions}\n${STORE[type]}` };
}

/** The operand a packed parameter is, or `undefined` where it lies in rows. */
export function panelsOf({ format }: Layout): "panels16" | "panels32" | undefined {
  return format === "panels16" || format === "panels32" ? format : undefined;
}

/**
 * Where a product reads its inputs: the packed parameter where it lies, all else in buffers; on software devices the
 * operands, and operands of the epilogue as large as the result, in as many textures as a dispatch may have.
 */
export function productResidences(
  node: Tensor,
  profile: Profile,
  layoutOf: LayoutOf,
): Residence[] {
  const inputs: readonly Tensor[] = node.inputs;
  const layouts = inputs.map((x) => x.op === "parameter" ? layoutOf(x) : ROWS32);
  const residences = layouts.map(({ residence }) => residence);
  if (profile.kind !== "software") return residences;
  let textures = residences.filter((residence) => residence === "texture").length;
  inputs.forEach((x, i) => {
    const worth = (i < 2 || (x.op !== "parameter" && x.size === node.size)) &&
      layouts[i].format === "rows32" && fitsTexture(x, profile);
    if (worth && residences[i] === "buffer" && textures < MAX_TEXTURES) {
      residences[i] = "texture";
      textures++;
    }
  });
  return residences;
}

function numberOfPanels(operand: keyof typeof FOUR_OF_PANELS): string {
  return `${FOUR_OF_PANELS[operand]}
fn weight(k: u32, column: u32, batch: u32) -> f32 { return four_of(k, column / 4u)[column % 4u]; }`;
}

/** `fn weight(k, column, batch)`: one number of the second operand. */
export const NUMBERS: { readonly [K in Operand]: string } = {
  panels16: `fn weight(k: u32, column: u32, batch: u32) -> f32 {
  let block = w_at((column / ${PANEL}u * params.blocks + k / 8u) * ${PANEL}u + column % ${PANEL}u);
  return unpack2x16float(block[k % 8u / 2u] >> (k % 2u * 16u)).x;
}`,
  panels32: `fn weight(k: u32, column: u32, batch: u32) -> f32 {
  return w_at((column / ${PANEL}u * params.blocks + k / 4u) * ${PANEL}u + column % ${PANEL}u)[k % 4u];
}`,
  rows: `fn weight(k: u32, column: u32, batch: u32) -> f32 {
  return w_at(params.w_first + (batch * params.width + column) * params.k + k);
}`,
  columns: `fn weight(k: u32, column: u32, batch: u32) -> f32 {
  return w_at(params.w_first + (batch * params.k + k) * params.width + column);
}`,
  turned16: numberOfPanels("turned16"),
  turned32: numberOfPanels("turned32"),
};
