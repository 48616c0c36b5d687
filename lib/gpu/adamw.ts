/** The optimiser's programs: each changes flat vectors of the caller's where they lie. */

import {
  ADAMW_OPERANDS,
  type AdamWConstants,
  adamWDispatch,
  SCALARS,
  squareParts,
  squaresDispatch,
} from "../kernels/adamw.ts";
import type { Device } from "./device.ts";
import { compileInPlace } from "./in_place.ts";
import type { BoundSet, Program } from "./program.ts";

export { squareParts } from "../kernels/adamw.ts";

/** What a step is told. */
export type Scalars = Readonly<Record<typeof SCALARS[number], number>>;

/**
 * AdamW on vectors of so many numbers, a multiple of 4: each set binds "weight", "moment1", "moment2", "gradient" and, where
 * there is one, "average". `scalarInputs` gives what each run is told.
 */
export async function compileAdamW(
  device: Device,
  numbers: number,
  constants: AdamWConstants,
  sets: readonly BoundSet[],
): Promise<Program> {
  const operands = ADAMW_OPERANDS.map((name) =>
    name === "scalars" ? { name, size: SCALARS.length, isInput: true } : { name, size: numbers }
  );
  const dispatch = adamWDispatch(numbers, constants, device.profile);
  return await compileInPlace(device, dispatch, operands, sets, "AdamW");
}

/** The inputs of a run of AdamW. */
export function scalarInputs(scalars: Scalars): { readonly scalars: Float32Array<ArrayBuffer> } {
  return { scalars: Float32Array.from(SCALARS, (name) => scalars[name]) };
}

/** Σ x² of vectors of so many numbers, a multiple of 4: each set binds "x", and "parts" of `squareParts` numbers. */
export async function compileSquares(
  device: Device,
  numbers: number,
  sets: readonly BoundSet[],
): Promise<Program> {
  const operands = [{ name: "x", size: numbers }, { name: "parts", size: squareParts(numbers) }];
  const dispatch = squaresDispatch(numbers, device.profile);
  return await compileInPlace(device, dispatch, operands, sets, "sums of squares");
}
