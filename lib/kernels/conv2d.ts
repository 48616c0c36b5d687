/**
 * Convolution, forwards and backwards, as an implicit product on the panels or rows of matmul; 1×1 convolutions are
 * products of pixels.
 */

import { show } from "../base/shape.ts";
import conv2dSource from "../../wgsl/conv2d.wgsl" with { type: "text" };
import narrowSource from "../../wgsl/conv2d_narrow.wgsl" with { type: "text" };
import flatSource from "../../wgsl/conv2d_flat.wgsl" with { type: "text" };
import pixelsSource from "../../wgsl/pixels.wgsl" with { type: "text" };
import {
  type Binding,
  type Dispatch,
  epilogueOf,
  type Kernel,
  type LayoutOf,
  MAX_GROUPS,
  MAX_ITERATIONS,
  type Profile,
  type Residence,
  resultBinding,
  type Variant,
  windowOn,
} from "./kernel.ts";
import { type Convolution, readingOf, weightParams, windowOf } from "./convolution.ts";
import { stagedProducts, tiledProducts } from "./matmul.ts";
import {
  columnGroups,
  productParts,
  productResidences,
  READERS,
  type Reading,
  sharing,
  type Tile,
  tilesFor,
} from "./product.ts";
import { packedBytes } from "./weights.ts";
import { convolutionAlgorithm, winogradConvolutions } from "./winograd.ts";
import { workgroupVariants } from "./workgroup.ts";

/** Output pixels begin … end − 1 of a dispatch, and the input pixels they need; all pictures are one list of pixels. */
interface Part {
  readonly begin: number;
  readonly end: number;
  readonly input: { readonly begin: number; readonly end: number };
}

/** Input lines that output lines begin … end − 1 of a picture read. */
function linesNeeded(node: Convolution, begin: number, end: number) {
  const { kernel: [kh], stride, top, upsample, apart } = windowOf(node);
  const [, h] = node.inputs[0].shape;
  const spread = upsample * apart;
  const line = (y: number) => Math.floor(Math.min(Math.max(y, 0), h * spread - 1) / spread);
  const first = line(begin * stride - top);
  const last = line((end - 1) * stride - top + kh - 1);
  return { begin: first, end: last + 1 };
}

/** Cuts the output into the fewest parts that fit a binding each and whose pixels fit a grid: whole, or lines of a picture. */
function partsOf(node: Convolution, residence: Residence, most: number, profile: Profile): Part[] {
  const [x] = node.inputs;
  const [, h, w, ci] = x.shape;
  const [n, oh, ow, co] = node.shape;
  const fits = (pixels: number, inputPixels: number, room: number) =>
    pixels <= most && pixels * co * 4 <= room &&
    (residence === "texture" || inputPixels * ci * 4 <= room);
  if (fits(n * oh * ow, n * h * w, profile.maxBinding)) {
    return [{ begin: 0, end: n * oh * ow, input: { begin: 0, end: n * h * w } }];
  }
  const room = profile.maxBinding - 256; // a window begins up to 256 bytes early
  const linesFit = (lines: number) => {
    for (let y = 0; y < oh; y += lines) {
      const { begin, end } = linesNeeded(node, y, Math.min(oh, y + lines));
      if (!fits(lines * ow, (end - begin) * w, room)) return false;
    }
    return true;
  };
  let count = 1;
  while (count < oh && !linesFit(Math.ceil(oh / count))) count++;
  const lines = Math.ceil(oh / count);
  if (!linesFit(lines)) {
    throw new RangeError(
      `Cannot convolve ${show(x.shape)} to ${show(node.shape)}: one line of ${ow} pixels needs ` +
        `more than the ${profile.maxBinding} bytes this device binds`,
    );
  }
  const parts: Part[] = [];
  for (let picture = 0; picture < n; picture++) {
    for (let y = 0; y < oh; y += lines) {
      const bottom = Math.min(oh, y + lines);
      const needed = linesNeeded(node, y, bottom);
      parts.push({
        begin: (picture * oh + y) * ow,
        end: (picture * oh + bottom) * ow,
        input: { begin: (picture * h + needed.begin) * w, end: (picture * h + needed.end) * w },
      });
    }
  }
  return parts;
}

/** What the shaders of a convolution differ in. */
interface Form {
  readonly name: string;
  readonly source: string;
  readonly constants: Dispatch["shader"]["constants"];
  readonly functions: string;
  readonly type: "f32" | "vec4f";
  readonly f16?: boolean;
  /** Elements of the operands. */
  readonly x: "f32" | "vec4f";
  readonly w: Binding["element"];
  readonly params: Readonly<Record<string, number>>;
  /** Pixels of a workgroup. */
  readonly height: number;
  readonly columns: number;
  readonly iterations: number;
}

/** `fn take`: what the flat shader reads of x at one place, put into its place s of four. */
const TAKE = {
  f32: `fn take(x: vec4f, s: u32, at: u32, inside: bool) -> vec4f {
  let value = select(0.0, x_at(at), inside);
  return select(x, vec4f(value), vec4<bool>(s == 0u, s == 1u, s == 2u, s == 3u));
}`,
  vec4f: `fn take(x: vec4f, s: u32, at: u32, inside: bool) -> vec4f {
  return select(vec4f(0), x_at(at), inside);
}`,
} as const;

/** Up to so many output channels, lanes lie along the pixels. */
const NARROW = 8;

/** The shaders worth trying, the best first. */
function formsOf(node: Convolution, profile: Profile, reading: Reading): Form[] {
  const [{ shape: [, , , ci] }, { shape: [, kh, kw] }] = node.inputs;
  const co = node.shape[3];
  const pixels = node.size / co;
  const wholeBlocks = hasWholeBlocks(node, reading);
  const byRows = profile.kind === "software" && profile.subgroups === true &&
    !READERS[reading].across;
  if (wholeBlocks && co <= NARROW && byRows) {
    return [narrowForm(node, Math.max(1, Math.min(8, Math.ceil(pixels / 8))), reading)];
  }
  const form = wholeBlocks ? tapsForm : flatForm;
  return tilesFor(pixels, co, READERS[reading].parts, node.size * kh * kw * ci, profile)
    .map(({ prefix, tile }) => form(node, tile, profile, reading, prefix));
}

/** True where no block of the weight reaches from one tap into the next. */
function hasWholeBlocks({ inputs: [x] }: Convolution, reading: Reading): boolean {
  return !reading.startsWith("loose") && x.shape[3] % (4 * READERS[reading].parts) === 0;
}

/** What forms have in common. */
function commonForm(node: Convolution, reading: Reading) {
  const { parts, across, element, type, functions } = productParts(reading, node.shape[3]);
  const { upsample, apart } = windowOf(node);
  return {
    common: { type, w: element, functions: `${pixelsSource}\n${functions}` },
    constants: { PARTS: parts, UPSAMPLE: upsample, APART: apart },
    across,
  };
}

/** Blocks of channels of one tap, and the loops over taps of whole blocks. */
function tapsOf(node: Convolution, reading: Reading) {
  const [{ shape: [, , , ci] }, { shape: [, kh, kw] }] = node.inputs;
  const tapBlocks = ci / (4 * READERS[reading].parts);
  return {
    params: {
      tap_blocks: tapBlocks,
      blocks: kh * kw * tapBlocks,
      ...weightParams(node, reading),
    },
    iterations: kh * (1 + kw * (1 + tapBlocks)),
  };
}

/** Taps of whole blocks of channels; lanes along the pixels. */
function narrowForm(node: Convolution, pixels: number, reading: Reading): Form {
  const { common, constants } = commonForm(node, reading);
  return {
    ...common,
    ...tapsOf(node, reading),
    name: "narrow",
    source: narrowSource,
    constants: { ...constants, TM: pixels },
    x: "vec4f",
    height: 8 * pixels,
    columns: Math.ceil(node.shape[3] / 4),
  };
}

/** Taps of whole blocks of channels; lanes along the output channels. */
function tapsForm(
  node: Convolution,
  tile: Tile,
  profile: Profile,
  reading: Reading,
  prefix: string,
): Form {
  const { common, constants, across } = commonForm(node, reading);
  return {
    ...common,
    ...tapsOf(node, reading),
    name: `${prefix}tiles`,
    source: conv2dSource,
    constants: { ...constants, ...tile, ...sharing(tile.TM, profile), ACROSS: across },
    x: "vec4f",
    height: tile.TM * tile.ROWS,
    columns: columnGroups(node.shape[3], tile),
  };
}

/** The reduction as one list, where channels do not fill blocks. */
function flatForm(
  node: Convolution,
  { TM, ...across }: Tile,
  _profile: Profile,
  reading: Reading,
  prefix: string,
): Form {
  const [{ shape: [, , , ci] }, { shape: [, kh, kw] }] = node.inputs;
  const { common, constants } = commonForm(node, reading);
  const x = ci % 4 === 0 ? "vec4f" : "f32";
  // Channels read one by one make much code for each row: fewer rows keep the compiler's time in bounds.
  const tile = { ...across, TM: x === "f32" ? Math.min(TM, 8) : TM };
  const blocks = Math.ceil(kh * kw * ci / (4 * constants.PARTS));
  return {
    ...common,
    name: `${prefix}flat`,
    source: flatSource,
    constants: {
      ...constants,
      ...tile,
      CHANNELS: ci,
      KERNEL_WIDTH: kw,
      STEPS: x === "f32" ? 4 : 1,
    },
    functions: `${common.functions}\n${TAKE[x]}`,
    x,
    params: { blocks, depth: kh * kw * ci },
    iterations: blocks,
    height: tile.TM * tile.ROWS,
    columns: columnGroups(node.shape[3], tile),
  };
}

/** The convolution from its pixels and weights as they are. */
export function directConvolution(
  node: Convolution,
  profile: Profile,
  layoutOf: LayoutOf,
): readonly [Variant, ...Variant[]] {
  const [x, weight] = node.inputs;
  const { kernel: [kh, kw], stride, top, left, upsample, apart } = windowOf(node);
  const [n, h, w, ci] = x.shape;
  const [, oh, ow, co] = node.shape;
  const reading = readingOf(node, layoutOf);
  const residences = productResidences(node, profile, layoutOf);
  const wholeBlocks = hasWholeBlocks(node, reading);
  const isProduct = kh * kw * stride * upsample * apart === 1 && top === 0 && left === 0 &&
    oh === h && ow === w;
  if (wholeBlocks && reading !== "loose rows" && reading !== "loose turned" && isProduct) {
    const bytes = weight.op === "parameter"
      ? packedBytes(weight.shape, layoutOf(weight))
      : weight.size * 4;
    const operand = reading === "turned" ? "columns" : reading;
    const product = { batch: 1, m: n * h * w, n: co, k: ci, residences, bytes };
    const staged = stagedProducts(node, product, operand, profile);
    const [first, ...others] = [...staged, ...tiledProducts(node, product, operand, profile)];
    return [first, ...others];
  }
  const staged = ci % 4 === 0 && reading !== "loose rows" && reading !== "loose turned"
    ? workgroupVariants(
      node,
      { batch: 1, m: n * oh * ow, n: co, k: kh * kw * ci, operand: reading, a: "pixels" },
      profile,
      ({ elements, ...form }) => {
        const own = { tap_depth: ci / 4, w_first: 0, ...weightParams(node, reading) };
        const params = { ...form.params, ...own };
        return variantOf(
          node,
          { ...form, x: elements.a, w: elements.w, params },
          residences,
          profile,
        );
      },
      { constants: { UPSAMPLE: upsample, APART: apart } },
    )
    : [];
  const alone = formsOf(node, profile, reading).map((form) =>
    variantOf(node, form, residences, profile)
  );
  const [first, ...others] = [...staged, ...alone];
  return [first, ...others];
}

/** A convolution by one shader, cut to fit bindings. */
function variantOf(
  node: Convolution,
  form: Form,
  residences: readonly Residence[],
  profile: Profile,
): Variant {
  const [x, weight] = node.inputs;
  const { kernel: [kh, kw], stride, top, left } = windowOf(node);
  const [, h, w, ci] = x.shape;
  const [, oh, ow, co] = node.shape;
  const { iterations } = form;
  if (iterations > MAX_ITERATIONS) {
    throw new RangeError(
      `Cannot convolve ${show(x.shape)} by ${show(weight.shape)}: sums of ${
        kh * kw * ci
      } products ` +
        `take ${iterations} loop iterations, devices run at most ${MAX_ITERATIONS}`,
    );
  }
  const parts = partsOf(node, residences[0], MAX_GROUPS * form.height, profile);
  const split = parts.length > 1;
  const scale = form.x === "vec4f" ? 4 : 1;
  const dispatches = parts.map(({ begin, end, input }): Dispatch => {
    const epilogue = epilogueOf(node, form.type, {
      residences,
      byColumns: form.type === "vec4f",
      ...(split ? { rows: { begin, end } } : {}),
    });
    const result = split ? windowOn(begin * co, end * co, 4) : undefined;
    const source = split && residences[0] === "buffer"
      ? windowOn(input.begin * ci, input.end * ci, 4)
      : undefined;
    return {
      shader: {
        source: form.source,
        type: form.type,
        f16: form.f16 ?? false,
        constants: form.constants,
        functions: `${form.functions}\n${epilogue.functions}`,
        bindings: [
          { ...resultBinding(form.type), ...(result ? { window: result.window } : {}) },
          {
            name: "x",
            source: 0,
            element: form.x,
            access: "read",
            residence: residences[0],
            ...(source ? { window: source.window } : {}),
          },
          {
            name: "w",
            source: 1,
            element: form.w,
            access: "read",
            residence: residences[1],
          },
          ...epilogue.bindings,
        ],
      },
      params: {
        u32: {
          pixels: end - begin,
          first_pixel: begin,
          width: co,
          result_first: result?.first ?? 0,
          x_skipped: (source?.window.offset ?? 0) / 4 / scale,
          height: h,
          input_width: w,
          result_height: oh,
          result_width: ow,
          kernel_height: kh,
          kernel_width: kw,
          stride,
          top,
          left,
          ...form.params,
          ...epilogue.params,
        },
      },
      grid: [form.columns, Math.ceil((end - begin) / form.height), 1],
      iterations,
    };
  });
  return { name: form.name, scratch: [], dispatches };
}

/** Every way to compute a convolution, the one that is expected to be the fastest first. */
function convolution(
  node: Convolution,
  profile: Profile,
  layoutOf: LayoutOf,
): readonly [Variant, ...Variant[]] {
  const [plain, ...others] = directConvolution(node, profile, layoutOf);
  const transformed = winogradConvolutions(node, profile, layoutOf);
  const best = convolutionAlgorithm(node, profile);
  const [first = plain] = transformed.filter(({ name }) => name === best);
  return [first, ...[plain, ...others, ...transformed].filter((variant) => variant !== first)];
}

export const conv2d: Kernel<"conv2d"> = convolution;
export const conv2dTranspose: Kernel<"conv2dTranspose"> = convolution;
