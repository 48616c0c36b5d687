/**
 * The optimiser's kernels: they change flat vectors where these lie, many parameters at once, which no operator of a graph
 * does. Bindings name their operands by place in the lists here.
 */

import type { Binding, Dispatch, Profile } from "./kernel.ts";
import adamwSource from "../../wgsl/adamw.wgsl" with { type: "text" };
import squaresSource from "../../wgsl/squares.wgsl" with { type: "text" };

const LANES = 64;
/** vec4s of which an invocation adds up the squares. */
const TAKEN = 64;

/** What a step is told, one number each, in this order. */
export const SCALARS = ["rate", "correction1", "correction2", "scale", "renewal"] as const;

/** What stays the same during a run. */
export interface AdamWConstants {
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly weightDecay: number;
  /** Whether weights have an average. */
  readonly averages: boolean;
}

/** Vectors that are always changed. */
const CHANGED = ["weight", "moment1", "moment2"] as const;

/** Operands of `adamWDispatch`. */
export const ADAMW_OPERANDS: readonly string[] = [...CHANGED, "gradient", "scalars", "average"];

/** One step on vectors of so many numbers, a multiple of 4. */
export function adamWDispatch(
  numbers: number,
  { beta1, beta2, eps, weightDecay, averages }: AdamWConstants,
  { kind }: Pick<Profile, "kind">,
): Dispatch {
  const inTextures = kind === "software";
  const count = numbers / 4;
  const buffer = (
    name: string,
    access: Binding["access"],
    element: Binding["element"],
  ): Binding => ({
    ...{ name, source: ADAMW_OPERANDS.indexOf(name), element, access, residence: "buffer" },
  });
  const texture = (name: string, of: string): Binding => ({
    ...{
      name,
      source: ADAMW_OPERANDS.indexOf(of),
      element: "vec4f",
      access: "read",
      residence: "texture",
    },
  });
  const before = (name: string, read: string) =>
    `fn ${name}_before(i: u32) -> vec4f { return ${read}(i); }`;
  return {
    shader: {
      source: adamwSource,
      type: "vec4f",
      constants: {
        LANES,
        ...Object.fromEntries(SCALARS.map((name, i) => [name.toUpperCase(), i])),
      },
      functions: [
        ...CHANGED.map((name) => before(name, inTextures ? `${name}_copy_at` : `${name}_at`)),
        averages
          ? `fn averaged(i: u32, w: vec4f) {
  let a = average_at(i);
  average[i] = a + (w - a) * scalars_at(RENEWAL);
}`
          : "fn averaged(i: u32, w: vec4f) {}",
      ].join("\n"),
      bindings: [
        inTextures ? texture("gradient", "gradient") : buffer("gradient", "read", "vec4f"),
        buffer("scalars", "read", "f32"),
        ...CHANGED.map((name) => buffer(name, "read_write", "vec4f")),
        ...(averages ? [buffer("average", "read_write", "vec4f")] : []),
        ...(inTextures ? CHANGED.map((name) => texture(`${name}_copy`, name)) : []),
      ],
    },
    params: {
      u32: { count },
      f32: { renewal1: 1 - beta1, beta2, renewal2: 1 - beta2, eps, decay: weightDecay },
    },
    grid: [Math.ceil(count / LANES), 1, 1],
    iterations: 0,
  };
}

/** Workgroups that add up the squares of so many numbers. */
const groupsFor = (numbers: number) => Math.ceil(numbers / 4 / LANES / TAKEN);

/** How many parts the sum of squares of so many numbers has, in whole 256 bytes. */
export const squareParts = (numbers: number) => groupsFor(numbers) * LANES;

/** Σ x² of so many numbers, a multiple of 4, in parts that are still to be added up; operands: the vector, the parts. */
export function squaresDispatch(numbers: number, { kind }: Pick<Profile, "kind">): Dispatch {
  const residence = kind === "software" ? "texture" : "buffer";
  return {
    shader: {
      source: squaresSource,
      type: "vec4f",
      constants: { LANES, TAKEN },
      bindings: [
        { name: "x", source: 0, element: "vec4f", access: "read", residence },
        { name: "result", source: 1, element: "f32", access: "read_write", residence: "buffer" },
      ],
    },
    params: { u32: { count: numbers / 4 } },
    grid: [groupsFor(numbers), 1, 1],
    iterations: TAKEN,
  };
}
