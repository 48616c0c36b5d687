/** The gradient of a convolution by its weight, and of a product by its second factor: products of columns over all pixels. */

import { show } from "../base/shape.ts";
import source from "../../wgsl/conv2d_weight.wgsl" with { type: "text" };
import pixelsSource from "../../wgsl/pixels.wgsl" with { type: "text" };
import {
  type Binding,
  type Dispatch,
  type Kernel,
  MAX_GROUPS,
  MAX_ITERATIONS,
  type Profile,
  residencesOf,
  resultBinding,
} from "./kernel.ts";
import { sumOfParts } from "./parts.ts";

/** Work of an invocation, and the shape of a workgroup; `STEPS` pixels at a time. */
interface Tile {
  readonly TM: number;
  readonly TN: number;
  readonly ROWS: number;
  readonly STEPS: number;
}

/** The largest that registers hold; less where there are not so many channels. */
function tileFor(outputs: number, units: number, { kind }: Profile): Tile {
  const fits = (sizes: readonly number[], n: number) =>
    sizes.find((size) => size >= n) ?? sizes[sizes.length - 1];
  const TM = fits(kind === "gpu" ? [1, 2] : [1, 2, 4], Math.ceil(outputs / 4));
  const TN = fits(kind === "gpu" ? [1] : [1, 2], Math.ceil(units / 8));
  const ROWS = kind === "gpu" ? fits([1, 2, 4, 8], Math.ceil(outputs / 4 / TM)) : 1;
  return { TM, TN, ROWS, STEPS: kind === "gpu" ? 2 : 4 };
}

/** Whether each of eight lanes reads its share of the outputs of all steps, or all of them. */
function sharingOf({ TM, STEPS }: Tile, { kind, subgroups }: Profile) {
  const count = TM * STEPS;
  const SHARE = kind === "software" && subgroups === true && count % 8 === 0 ? 8 : 1;
  return { SHARE, OWN: count / SHARE, PASSED: SHARE > 1 ? 1 : 0 };
}

/** Workgroups that keep a large GPU busy, pixels that are worth one of their own, and the most parts worth adding. */
const ENOUGH = 512;
const FEWEST = 64;
const MOST_PARTS = 64;

/** Pixels of a part, a whole number of steps, so that there are neither too many to loop over nor too few workgroups. */
function shareOf(
  pixels: number,
  width: number,
  groups: number,
  bytes: number,
  { kind, maxBinding }: Profile,
): number {
  const rounds = (share: number) => share + Math.ceil(share / width) + 1;
  let parts = 1;
  while (rounds(Math.ceil(pixels / parts)) > MAX_ITERATIONS) parts++;
  if (kind === "gpu") {
    const most = Math.min(MOST_PARTS, Math.floor(pixels / FEWEST), Math.floor(maxBinding / bytes));
    parts = Math.max(parts, Math.min(most, Math.ceil(ENOUGH / groups)));
  }
  return Math.ceil(pixels / parts);
}

/** `fn outputs_at`: four outputs of a pixel. */
const OUTPUTS_AT = {
  vec4f: `fn outputs_at(pixel: u32, four: u32) -> vec4f {
  return y_at(pixel * (params.outputs / 4u) + four);
}`,
  f32: `fn outputs_at(pixel: u32, four: u32) -> vec4f {
  let at = pixel * params.outputs + four * 4u;
  return vec4f(y_at(at), y_at(at + 1u), y_at(at + 2u), y_at(at + 3u));
}`,
} as const;

const elementOf = (channels: number) => channels % 4 === 0 ? "vec4f" as const : "f32" as const;

/** The one variant: all pixels at once, or in parts that are then added. Throws `RangeError` on operands that exceed a binding. */
export const conv2dWeight: Kernel<"conv2dWeight"> = (node, profile, layoutOf) => {
  const [x, y] = node.inputs;
  const { kernel: [kh, kw], stride, padding, upsample } = node.attrs;
  const [n, h, w, inputs] = x.shape;
  const [, oh, ow, outputs] = y.shape;
  const residences = residencesOf(node, profile, layoutOf);
  const large = [x, y].find(({ size }, i) =>
    residences[i] === "buffer" && size * 4 > profile.maxBinding
  );
  if (large) {
    throw new RangeError(
      `The gradient by a weight reads ${show(large.shape)}: ${
        large.size * 4
      } bytes, this device binds ${profile.maxBinding}`,
    );
  }
  const type = elementOf(inputs);
  const units = type === "vec4f" ? inputs / 4 : inputs;
  const tile = tileFor(outputs, units, profile);
  const columns = Math.ceil(units / (8 * tile.TN));
  const rows = Math.ceil(outputs / 4 / tile.TM / tile.ROWS) * kh * kw;
  if (rows > MAX_GROUPS) {
    throw new RangeError(`The gradient by a weight ${show(node.shape)} has too many outputs`);
  }
  const pixels = n * oh * ow;
  const share = shareOf(pixels, ow, columns * rows, 4 * node.size, profile);
  const parts = Math.ceil(pixels / share);
  const read = (name: string, index: 0 | 1, element: "f32" | "vec4f"): Binding => ({
    name,
    source: index,
    element,
    access: "read",
    residence: residences[index],
  });
  const products: Dispatch = {
    shader: {
      source,
      type,
      constants: {
        ...tile,
        ...sharingOf(tile, profile),
        OUTPUTS: 4 * tile.TM,
        UPSAMPLE: upsample,
        APART: 1,
      },
      functions: `${pixelsSource}\n${OUTPUTS_AT[elementOf(outputs)]}`,
      bindings: [
        resultBinding(type, parts > 1 ? { scratch: 0 } : "result"),
        read("x", 0, type),
        read("y", 1, elementOf(outputs)),
      ],
    },
    params: {
      u32: {
        pixels,
        share,
        inputs: units,
        outputs,
        first_pixel: 0,
        height: h,
        input_width: w,
        result_height: oh,
        result_width: ow,
        kernel_height: kh,
        kernel_width: kw,
        stride,
        top: padding.top,
        left: padding.left,
      },
    },
    grid: [columns, rows, parts],
    iterations: share + Math.ceil(share / ow) + 1,
  };
  if (parts === 1) return [{ name: "columns", scratch: [], dispatches: [products] }];
  const scratch = [4 * node.size * parts];
  return [{ name: "columns", scratch, dispatches: [products, sumOfParts(node, type, parts)] }];
};
