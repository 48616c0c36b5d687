/**
 * What a kernel is: a WGSL file, and functions that say for one node which variants exist and what is dispatched.
 *
 * A WGSL file is a body that is complete once its prelude stands before it. The prelude declares exactly the bindings,
 * the uniform `params`, the constants of the variant, the alias `T` and `fn epilogue`, so binding numbers, struct layout
 * and types cannot disagree. Every operand `x` is read through `x_at(i)`, whether it lies in a buffer or in a texture.
 */

import type { OpName } from "../graph/ops.ts";
import { BASE_INPUTS, hasEpilogue } from "../graph/ops.ts";
import type { Tensor } from "../graph/tensor.ts";
import { EXPRESSION_FUNCTIONS, returnText } from "./expression.ts";

/** What kernels must know of a device. */
export interface Profile {
  /** A software device reads operands fastest through textures, a GPU through buffers. */
  readonly kind: "software" | "gpu";
  /** Largest storage binding in bytes. */
  readonly maxBinding: number;
  /** Largest side of a 2-D texture in texels. */
  readonly maxTextureSide: number;
  /** Bytes of workgroup memory. */
  readonly maxWorkgroupMemory: number;
  /** Invocations of a workgroup. */
  readonly maxInvocations: number;
  /** WGSL `f16` is available. */
  readonly f16: boolean;
  /**
   * Subgroups are available: on a software device of exactly eight lanes, numbered as the invocations of a workgroup; on a
   * GPU of any size from 4 to 128, and in any order.
   */
  readonly subgroups?: boolean;
}

/**
 * How the values of a tensor lie in memory.
 * `rows32`: row-major f32 (or i32). `rows16`: row-major f16, two in a u32, padded to 16 bytes.
 * `panels16`/`panels32`: weights [n, k] in panels of 32 columns: panel, k block (8 f16 or 4 f32, one vec4u or vec4f),
 * column within the panel; n is padded to a multiple of 32 and k to whole blocks with zeros.
 */
export type Format = "rows32" | "rows16" | "panels16" | "panels32";
export type Residence = "buffer" | "texture";

/** Where a weight lies. */
export interface Layout {
  readonly format: Format;
  readonly residence: Residence;
}

/** How activations lie, and parameters that are not packed. */
export const ROWS32: Layout = { format: "rows32", residence: "buffer" };

/** Texels of a row of every texture: values are addressed linearly, `(i % width, i / width)`. */
export const TEXTURE_WIDTH = 8192;

/** Columns of a weight panel. */
export const PANEL = 32;

type Element = "f32" | "vec4f" | "u32" | "vec4u" | "i32";

/** A piece of a variant's scratch memory, by its number. */
export interface Scratch {
  readonly scratch: number;
}

/** One resource of a dispatch. */
export interface Binding {
  /** Identifier in WGSL; values are read by `name_at(i)`, written by `name[i] = …`. */
  readonly name: string;
  /** Index into the node's inputs, the node's result, or a piece of its scratch memory. */
  readonly source: number | "result" | Scratch;
  readonly element: Element;
  readonly access: "read" | "read_write";
  readonly residence: Residence;
  /** Part of the buffer, in bytes; the whole where absent. Offsets are multiples of 256. */
  readonly window?: { readonly offset: number; readonly size: number };
}

/** The binding that a shader calls result: the node's own, or what it leaves for a dispatch after it. */
export function resultBinding(
  element: "f32" | "vec4f",
  source: Binding["source"] = "result",
): Binding {
  return { name: "result", source, element, access: "read_write", residence: "buffer" };
}

/** Everything that decides the text of a shader. */
export interface Shader {
  /** The WGSL body. */
  readonly source: string;
  readonly bindings: readonly Binding[];
  readonly constants: Readonly<Record<string, number | boolean>>;
  /** Further WGSL, e.g. the epilogue. */
  readonly functions?: string;
  /** What `T` stands for. */
  readonly type: "f32" | "vec4f";
  /** The text uses `f16`. */
  readonly f16?: boolean;
}

/** Uniform values of a dispatch: whole numbers as u32, the others as f32. */
export interface DispatchParams {
  readonly u32: Readonly<Record<string, number>>;
  readonly f32?: Readonly<Record<string, number>>;
}

/** One dispatch of workgroups. */
export interface Dispatch {
  /** What it does, where a variant has several of its kind. */
  readonly name?: string;
  readonly shader: Shader;
  readonly params: DispatchParams;
  readonly grid: readonly [x: number, y: number, z: number];
  /** Rolled loop iterations of the busiest invocation: software devices stop silently after 65,535. */
  readonly iterations: number;
}

/** One way to compute a node. */
export interface Variant {
  readonly name: string;
  /**
   * Bytes of each piece of memory that dispatches hand on to later ones. A piece that a dispatch reads from a texture is
   * copied there after it was written.
   */
  readonly scratch: readonly number[];
  readonly dispatches: readonly Dispatch[];
  /** Coarser than f32 sums of the operands: never a default, and to be tried only where the user asks for it. */
  readonly approximate?: true;
}

/** Asks where the parameter behind an input lies; activations are `rows32` buffers, copied to a texture where a binding asks for one. */
export type LayoutOf = (parameter: Tensor) => Layout;

/** Nodes of one operator. */
export type NodeOf<K extends OpName> = Extract<Tensor, { op: K }>;

/** All variants that can compute a node on a device; the first is the default. */
export type Kernel<K extends OpName> = (
  node: NodeOf<K>,
  profile: Profile,
  layoutOf: LayoutOf,
) => readonly [Variant, ...Variant[]];

/** The most rolled iterations one invocation may run on any device. */
export const MAX_ITERATIONS = 65_535;
/** The most workgroups along one axis of a dispatch. */
export const MAX_GROUPS = 65_535;

const DECLARED: Record<Element, string> = {
  f32: "array<f32>",
  vec4f: "array<vec4f>",
  u32: "array<u32>",
  vec4u: "array<vec4u>",
  i32: "array<i32>",
};

export type TexelFormat = "rgba32float" | "rgba32uint";

/**
 * How the texture behind a binding holds its values. Parameters in halves lie in whole numbers; all that is copied into
 * textures while a program runs shares those of floats, halves as their bits (no pair of finite halves is a NaN).
 */
export function texelFormatOf({ source, element }: Binding): TexelFormat {
  return element === "vec4u" && typeof source === "number" ? "rgba32uint" : "rgba32float";
}

/** How a shader reads an element from a texture of that format; single numbers are picked from their texel. */
const PICKS: { readonly [K in Element]?: (name: string, format: TexelFormat) => string } = {
  f32: (name) => `${name}_texel(i / 4u)[i % 4u]`,
  vec4f: (name) => `${name}_texel(i)`,
  vec4u: (name, format) =>
    format === "rgba32uint" ? `${name}_texel(i)` : `bitcast<vec4u>(${name}_texel(i))`,
};

function declaration(binding: Binding, index: number): string {
  const { name, element, access, residence } = binding;
  const at = `@group(0) @binding(${index + 1})`;
  const type = DECLARED[element].slice(6, -1);
  if (residence === "texture") {
    const pick = PICKS[element];
    if (pick === undefined) throw new RangeError(`A texture cannot hold ${element} elements`);
    const format = texelFormatOf(binding);
    return `${at} var ${name}: texture_storage_2d<${format}, read>;
fn ${name}_texel(i: u32) -> ${format === "rgba32uint" ? "vec4u" : "vec4f"} {
  return textureLoad(${name}, vec2u(i % ${TEXTURE_WIDTH}u, i / ${TEXTURE_WIDTH}u));
}
fn ${name}_at(i: u32) -> ${type} { return ${pick(name, format)}; }`;
  }
  return `${at} var<storage, ${access}> ${name}: ${DECLARED[element]};
fn ${name}_at(i: u32) -> ${type} { return ${name}[i]; }`;
}

/** Names of the uniform struct's members in order: whole numbers first. */
function members({ u32, f32 = {} }: DispatchParams): { name: string; type: "u32" | "f32" }[] {
  return [
    ...Object.keys(u32).map((name) => ({ name, type: "u32" as const })),
    ...Object.keys(f32).map((name) => ({ name, type: "f32" as const })),
  ];
}

/** The uniform block of a dispatch, as the shader's `params` reads it. */
export function paramBytes({ u32, f32 = {} }: DispatchParams): Uint8Array<ArrayBuffer> {
  const [whole, real] = [Object.values(u32), Object.values(f32)];
  const words = new Uint32Array(Math.ceil(Math.max(1, whole.length + real.length) / 4) * 4);
  words.set(whole);
  new Float32Array(words.buffer).set(real, whole.length);
  return new Uint8Array(words.buffer);
}

/**
 * The whole WGSL text of a dispatch: equal texts are one pipeline. `unrolled` keeps bodies for later calls: hundreds of a
 * model's dispatches share a few, and writing out a body's loops takes longer than everything else.
 */
export function shaderText(
  { shader, params }: Dispatch,
  unrolled: Map<string, string> = new Map(),
): string {
  const constants = Object.entries(shader.constants).map(([name, value]) =>
    typeof value === "boolean" ? `const ${name} = ${value};` : `const ${name} = ${value}u;`
  );
  const fields = members(params).map(({ name, type }) => `  ${name}: ${type},`);
  const uniforms = fields.length === 0 ? [] : [
    `struct Params {\n${fields.join("\n")}\n}`,
    "@group(0) @binding(0) var<uniform> params: Params;",
  ];
  const source = `${shader.functions ?? ""}\n${shader.source}`;
  const key = `${JSON.stringify(shader.constants)}${source}`;
  const body = unrolled.get(key) ?? unroll(source, shader.constants);
  unrolled.set(key, body);
  return [
    ...(shader.f16 ? ["enable f16;"] : []),
    `alias T = ${shader.type};`,
    ...constants,
    ...uniforms,
    ...shader.bindings.map(declaration),
    EXPRESSION_FUNCTIONS,
    body,
  ].join("\n");
}

const UNROLLED = /\/\*unroll\*\/\s*for \(var (\w+) = 0u; \1 < (\w+); \1\+\+\) \{/;

/**
 * Writes out loops marked `/*unroll*\/ for (var i = 0u; i < N; i++) { … }` whose N is a constant of the variant or a literal.
 * The file is valid WGSL without this; compilers that bound loops do not unroll them, and register tiles then spill.
 */
function unroll(
  source: string,
  constants: Readonly<Record<string, number | boolean>>,
): string {
  for (let found = UNROLLED.exec(source); found; found = UNROLLED.exec(source)) {
    const [head, name, bound] = found;
    const count = constants[bound] ?? Number.parseInt(bound);
    if (typeof count !== "number" || !Number.isInteger(count)) {
      throw new RangeError(`Cannot unroll a loop to "${bound}": it is not a constant`);
    }
    const start = found.index + head.length;
    let end = start;
    for (let depth = 1; depth > 0; end++) {
      depth += source[end] === "{" ? 1 : source[end] === "}" ? -1 : 0;
    }
    const body = source.slice(start, end - 1);
    const variable = new RegExp(`\\b${name}\\b`, "g");
    const copies = Array.from(
      { length: count },
      (_, i) => `{${body.replaceAll(variable, `${i}u`)}}`,
    );
    source = source.slice(0, found.index) + copies.join("\n") + source.slice(end);
  }
  return source;
}

/** How an epilogue operand is found for an element at (row, column) of a result [rows, c]. */
type Reach = "full" | "channel" | "sample" | "scalar";

/** How `operand` broadcasts to `result`; `undefined` where an epilogue cannot read it. */
export function reachOf(operand: Tensor, result: Tensor): Reach | undefined {
  const c = result.shape[result.rank - 1];
  if (operand.size === 1) return "scalar";
  if (operand.size === result.size) return "full";
  if (operand.shape[operand.rank - 1] !== c) return undefined;
  if (operand.size === c) return "channel";
  const leading = operand.rank === result.rank && operand.shape[0] === result.shape[0];
  return leading && operand.size === result.shape[0] * c ? "sample" : undefined;
}

/** What a kernel adds to its shader for the epilogue of a node. */
export interface EpilogueParts {
  readonly bindings: readonly Binding[];
  /** Defines `fn epilogue(value: T, row: u32, column: u32) -> T`; with T = vec4f, `column` counts vec4s. */
  readonly functions: string;
  /** To be merged into the dispatch's u32 params. */
  readonly params: Readonly<Record<string, number>>;
}

/** The identity, for nodes that have no epilogue and shaders that leave it to another. */
export const NO_EPILOGUE = `fn epilogue_columns(column: u32) {}
fn epilogue(value: T, row: u32, column: u32) -> T { return value; }`;

/** Part of a tensor seen as rows of equal width: what one dispatch computes where the whole exceeds a binding. */
export interface Rows {
  readonly begin: number;
  readonly end: number;
}

/** Cuts `count` rows of `width` f32 into the fewest equal parts that fit a binding each. */
export function splitRows(count: number, width: number, profile: Profile): Rows[] {
  const most = Math.floor((profile.maxBinding - WINDOW_ALIGNMENT) / (width * 4));
  if (count * width * 4 <= profile.maxBinding) return [{ begin: 0, end: count }];
  const step = Math.ceil(count / Math.ceil(count / Math.max(1, most)));
  return Array.from({ length: Math.ceil(count / step) }, (_, i) => ({
    begin: i * step,
    end: Math.min(count, (i + 1) * step),
  }));
}

/** Windows begin at multiples of this many bytes. */
export const WINDOW_ALIGNMENT = 256;

/** The window on elements begin … end − 1 of a buffer, and where the first of them lies in it, in elements. */
export function windowOn(
  begin: number,
  end: number,
  bytes: number,
): { readonly window: { readonly offset: number; readonly size: number }; readonly first: number } {
  const offset = Math.floor(begin * bytes / WINDOW_ALIGNMENT) * WINDOW_ALIGNMENT;
  const granule = bytes % 4 === 0 ? 4 : 16; // f16 rows are read sixteen bytes at a time and padded to that
  const size = Math.ceil((end * bytes - offset) / granule) * granule;
  return { window: { offset, size }, first: begin - offset / bytes };
}

/** Storage textures that every device can bind in one dispatch. */
export const MAX_TEXTURES = 4;

/** True where an f32 tensor fits a texture. */
export function fitsTexture(x: Tensor, { maxTextureSide }: Profile): boolean {
  return x.size * 4 <= 16 * TEXTURE_WIDTH * maxTextureSide;
}

/**
 * Where a kernel reads each input of a node: packed parameters where they lie, all else in buffers; on a software device,
 * whose buffer reads are ten times slower than texture reads, the largest in textures. A parameter that is larger than the
 * result is read in part, or so rarely that it stays where it lies.
 */
export function residencesOf(node: Tensor, profile: Profile, layoutOf: LayoutOf): Residence[] {
  const inputs: readonly Tensor[] = node.inputs;
  const layouts = inputs.map((x) => x.op === "parameter" ? layoutOf(x) : ROWS32);
  const residences = layouts.map(({ residence }) => residence);
  if (profile.kind !== "software") return residences;
  const room = MAX_TEXTURES - residences.filter((residence) => residence === "texture").length;
  const largest = inputs.map((x, index) => ({ x, index }))
    .filter(({ x, index }) =>
      layouts[index].format === "rows32" && residences[index] === "buffer" && x.dtype === "f32" &&
      (x.op !== "parameter" || x.size <= node.size) && fitsTexture(x, profile)
    )
    .sort((a, b) => b.x.size - a.x.size)
    .slice(0, Math.max(0, room));
  for (const { index } of largest) residences[index] = "texture";
  return residences;
}

/** Numbers that are read from a buffer in less time than a copy into a texture takes. */
const FEW = 16_384;

/** The same for work that reads every number about once: where they are few, all stay where they lie. */
export function residencesOnce(node: Tensor, profile: Profile, layoutOf: LayoutOf): Residence[] {
  const inputs: readonly Tensor[] = node.inputs;
  if (Math.max(node.size, ...inputs.map(({ size }) => size)) > FEW) {
    return residencesOf(node, profile, layoutOf);
  }
  return inputs.map((x) => x.op === "parameter" ? layoutOf(x).residence : "buffer");
}

/** What an epilogue depends on beside its node. */
export interface EpilogueOptions {
  /** Where each input of the node is read; all in buffers where absent. */
  readonly residences?: readonly Residence[];
  /** The rows that a dispatch computes; all where absent. */
  readonly rows?: Rows;
  /**
   * Operands that are the same for all rows are read by `fn epilogue_columns(column: u32)`, which the kernel calls before
   * `epilogue` for that column, rather than again for each row.
   */
  readonly byColumns?: boolean;
}

/**
 * The epilogue of a node; `fn epilogue` is the identity where it has none. A dispatch that computes only some
 * rows says which: `row` then counts from the first of them.
 */
export function epilogueOf(
  node: Tensor,
  type: "f32" | "vec4f",
  { residences, rows, byColumns = false }: EpilogueOptions = {},
): EpilogueParts {
  const attrs = "epilogue" in node.attrs ? node.attrs.epilogue : undefined;
  if (!hasEpilogue(node.op) || attrs === undefined) {
    return { bindings: [], functions: NO_EPILOGUE, params: {} };
  }
  const base = BASE_INPUTS[node.op];
  const channels = node.shape[node.rank - 1];
  const lanes = type === "vec4f" ? 4 : 1;
  const rowsPerSample = node.size / node.shape[0] / channels;
  const operands: readonly Tensor[] = node.inputs.slice(base);
  const part = rows && windowOn(rows.begin * channels, rows.end * channels, 4);
  const inTexture = operands.map((_, i) => residences?.[base + i] === "texture");
  const spelled: Record<Reach, (i: number) => string> = {
    full: (i) =>
      inTexture[i] || !part
        ? `e${i}_at((params.epilogue_row + row) * params.epilogue_width + column)`
        : `e${i}_at(params.epilogue_first + row * params.epilogue_width + column)`,
    channel: (i) => `e${i}_at(column)`,
    sample: (i) =>
      `e${i}_at((params.epilogue_row + row) / params.epilogue_rows * params.epilogue_width + column)`,
    scalar: (i) => `T(e${i}_at(0u))`,
  };
  const reaches = operands.map((operand) => reachOf(operand, node));
  const texts = reaches.map((reach, i) => {
    if (reach === undefined) throw new RangeError(`Epilogue operand ${i} does not fit its result`);
    return spelled[reach](i);
  });
  const kept = reaches.map((reach) => byColumns && (reach === "channel" || reach === "scalar"));
  const only = (i: number) => kept[i];
  const indices = reaches.map((_, i) => i);
  return {
    bindings: reaches.map((reach, i) => ({
      name: `e${i}`,
      source: base + i,
      element: reach === "scalar" ? "f32" : type,
      access: "read",
      residence: inTexture[i] ? "texture" : "buffer",
      ...(reach === "full" && part && !inTexture[i] ? { window: part.window } : {}),
    })),
    functions: `${indices.filter(only).map((i) => `var<private> kept${i}: T;`).join("\n")}
fn epilogue_columns(column: u32) {
${indices.filter(only).map((i) => `  kept${i} = ${texts[i]};`).join("\n")}
}
fn epilogue(value: T, row: u32, column: u32) -> T {
${returnText(attrs.body, ["value", ...indices.map((i) => kept[i] ? `kept${i}` : texts[i])])}
}`,
    params: {
      epilogue_width: channels / lanes,
      epilogue_rows: rowsPerSample,
      epilogue_row: rows?.begin ?? 0,
      epilogue_first: (part?.first ?? 0) / lanes,
    },
  };
}
