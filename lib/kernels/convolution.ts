/**
 * What a convolution reads where, forwards and backwards: one backwards is a convolution of pixels that lie apart by a
 * weight that is turned around, so the same kernels compute both.
 */

import { show } from "../base/shape.ts";
import type { LayoutOf, NodeOf } from "./kernel.ts";
import { blocksOf, panelsOf, type Reading } from "./product.ts";

/** The first input is the picture, the second the weight. */
export type Convolution = NodeOf<"conv2d"> | NodeOf<"conv2dTranspose">;

/** How the taps of a convolution lie over its picture. */
export interface Window {
  readonly kernel: readonly [height: number, width: number];
  readonly stride: number;
  /** Where the first tap of the first place is: so far above and left of the picture, in pixels; below zero: inside. */
  readonly top: number;
  readonly left: number;
  /** Each pixel stands for so many along an axis. */
  readonly upsample: number;
  /** Pixels are so far from each other, with zeros between them. */
  readonly apart: number;
}

export function windowOf(node: Convolution): Window {
  const [, kh, kw] = node.inputs[1].shape;
  const { stride, padding: { top, left } } = node.attrs;
  const kernel = [kh, kw] as const;
  if (node.op === "conv2d") {
    return { kernel, stride, top, left, upsample: node.attrs.upsample, apart: 1 };
  }
  const moved = { top: kh - 1 - top, left: kw - 1 - left };
  return { kernel, stride: 1, ...moved, upsample: 1, apart: stride };
}

/** How a convolution reads its weight. Throws `RangeError` on weights that lie otherwise. */
export function readingOf(node: Convolution, layoutOf: LayoutOf): Reading {
  const [{ shape: [, , , channels] }, weight] = node.inputs;
  const layout = layoutOf(weight);
  const backwards = node.op === "conv2dTranspose";
  if (layout.format === "rows32") {
    const whole = channels % 4 === 0 && (!backwards || node.shape[3] % 4 === 0);
    if (backwards) return whole ? "turned" : "loose turned";
    return whole ? "rows" : "loose rows";
  }
  const panels = panelsOf(layout);
  if (panels && !backwards) return panels;
  if (panels && channels % 4 === 0 && node.shape[3] % 4 === 0) {
    return panels === "panels16" ? "turned16" : "turned32";
  }
  throw new RangeError(
    `Cannot convolve${backwards ? " backwards" : ""} by ${
      show(weight.shape)
    }, which lies in ${layout.format}`,
  );
}

/** What readers of a turned weight in panels need to know of it. */
export function weightParams(node: Convolution, reading: Reading): Record<string, number> {
  if (reading !== "turned16" && reading !== "turned32") return {};
  return { weight_blocks: blocksOf(node.inputs[1], reading) };
}
