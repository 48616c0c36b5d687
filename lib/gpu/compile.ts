/**
 * From a graph to an assembly: what is dispatched in which order on which slots. Pure: needs no device, so plans of the
 * largest models are tested without one. Passes: simplify, fuse, lower and select (operator → kernel and variant),
 * order (creation order is topological; where memory is short, with repeats), plan (liveness → slots).
 */

import { BYTES } from "../base/dtype.ts";
import { sizeOf } from "../base/shape.ts";
import { fuse } from "../graph/fuse.ts";
import { leastOf, rematerialise } from "../graph/remat.ts";
import { simplify } from "../graph/simplify.ts";
import type { Tensor } from "../graph/tensor.ts";
import { paramBytes, type Profile } from "../kernels/kernel.ts";
import { lower } from "../kernels/lower.ts";
import { type Choice, choiceOf } from "../kernels/table.ts";
import { type Assembly, emit, Shaders, type Step } from "./emit.ts";
import { type LayoutOfName, type Work, workOf } from "./work.ts";

/** Uniform blocks start at multiples of this. */
export const UNIFORM_ALIGNMENT = 256;

/** Bytes of the uniform buffer with every dispatch's parameters. */
function uniformBytes(steps: readonly Step[]): number {
  const sizes = steps.map((step) =>
    step.kind === "dispatch" ? paramBytes(step.dispatch.params).length : 0
  );
  const blocks = sizes.map((size) => Math.ceil(size / UNIFORM_ALIGNMENT) * UNIFORM_ALIGNMENT);
  return Math.max(UNIFORM_ALIGNMENT, blocks.reduce((sum, size) => sum + size, 0));
}

/**
 * The most bytes that a program of this assembly has allocated, weights aside: slots and uniforms, which it keeps, and
 * copies of the outputs that a run hands to the host, all of them where `returned` does not name them.
 */
export function peakOf(
  { plan, steps, outputs }: Assembly,
  returned: readonly string[] = [...outputs.keys()],
): { readonly kept: number; readonly peak: number } {
  const kept = plan.bytes + uniformBytes(steps);
  const copies = returned.map((name) => {
    const output = outputs.get(name);
    return output ? Math.ceil(sizeOf(output.shape) * BYTES[output.dtype] / 4) * 4 : 0;
  });
  return { kept, peak: copies.reduce((sum, bytes) => sum + bytes, kept) };
}

/** The passes before kernels are chosen: what is left are operators that kernels compute. */
export function optimise(outputs: readonly Tensor[]): readonly Tensor[] {
  return lower(fuse(simplify(outputs)));
}

/** How a graph is compiled for a device. */
export interface AssembleOptions {
  /** Inputs that lie in buffers of the caller and take no slot. */
  readonly bound?: ReadonlySet<string>;
  /**
   * Outputs that are to be written to buffers of the caller; where that cannot be they take slots, and are among the
   * assembly's outputs.
   */
  readonly placed?: ReadonlySet<string>;
  /** Decides between variants. */
  readonly choice?: Choice;
  /**
   * Bytes that the assembly may keep, weights aside. Where it would keep more, values are given up and computed again,
   * until it keeps no more or nothing is left to gain.
   */
  readonly budget?: number;
}

/** Schedules that are tried for one budget: slots take more than the values in them, and a schedule knows only values. */
const MOST_SCHEDULES = 10;
/** The least by which the next schedule does with less, and how near two of them are worth telling apart. */
const STEP = 0.97;

/** Compiles the graph behind named outputs for a device. Throws `MemoryError` where an operand exceeds a binding. */
export function assemble(
  wanted: ReadonlyMap<string, Tensor>,
  profile: Profile,
  layoutOfName: LayoutOfName,
  { bound = new Set(), placed = new Set(), choice = choiceOf(profile), budget = Infinity }:
    AssembleOptions = {},
): Assembly {
  const optimised = optimise([...wanted.values()]);
  const outputs = new Map([...wanted.keys()].map((name, i) => [name, optimised[i]]));
  const work = workOf(outputs, profile, layoutOfName, { bound, placed, choice });
  const shaders = new Shaders();
  const inOrder = (order: Iterable<number>) => emit(work, order, outputs, shaders);
  const whole = inOrder(work.tasks.keys());
  return peakOf(whole).kept <= budget ? whole : within(budget, work, whole, inOrder);
}

/** The assembly that keeps to a budget, or the one that keeps least, where `whole` computes nothing again. */
function within(
  budget: number,
  { tasks, leaves }: Work,
  whole: Assembly,
  inOrder: (order: readonly number[]) => Assembly,
): Assembly {
  // What is there all the time cannot be given up.
  const always = leaves.reduce((sum, leaf) => sum + leaf.bytes, 0) + uniformBytes(whole.steps);
  // What a schedule has for values lies between what is impossible and what is not.
  let impossible = leastOf(tasks);
  let possible = peakOf(whole).kept;
  let target = Math.max(budget - always, impossible);
  let best = whole;
  for (let i = 0; i < MOST_SCHEDULES && impossible <= STEP * possible; i++) {
    const schedule = rematerialise(tasks, target);
    if (schedule) {
      const made = inOrder(schedule.order);
      const { kept } = peakOf(made);
      if (kept <= budget) return made;
      if (kept < peakOf(best).kept) best = made;
      possible = target;
      target *= Math.min(STEP, budget / kept);
    } else impossible = target;
    if (target <= impossible) target = (impossible + possible) / 2;
  }
  return best;
}
