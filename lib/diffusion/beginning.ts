/**
 * Walks that begin with a picture (Meng et al. 2021, "SDEdit"): noise is added to it, the more the more it may change, and
 * what is left of the walk from there is walked. How many steps that is, every tool counts in its own way.
 */

import { counted } from "../base/counted.ts";
import { UsageError } from "../base/errors.ts";
import type { Dialect } from "./dialects.ts";

/** Where a walk begins. */
export interface Beginning {
  /** Steps of the whole walk. */
  readonly steps: number;
  /** Steps of it that are walked: the last ones. */
  readonly kept: number;
  /** Intervals that are left out at its beginning, of so many. */
  skipped(intervals: number): number;
  /** What to say where none is left. */
  tooFew(): UsageError;
}

/** The walk from noise. */
export function wholeWalk(steps: number): Beginning {
  return beginning({ steps, kept: steps }, steps, 1);
}

function beginning(
  { steps, kept }: Pick<Beginning, "steps" | "kept">,
  asked: number,
  strength: number,
  skipped = (_intervals: number) => steps - kept,
): Beginning {
  const tooFew = () =>
    new UsageError(
      `Cannot change a picture by strength ${strength} in ${
        counted(asked, "step")
      }: no step of the walk is left; ` +
        `more strength or more steps were needed`,
    );
  if (kept < 1) throw tooFew();
  return { steps, kept, skipped, tooFew };
}

/** The most strength that AUTOMATIC1111 counts with. */
const A1111_MOST = 0.999;
/** Above this ComfyUI walks all of the walk. */
const COMFYUI_MOST = 0.9999;
/** Steps of a walk beyond which nobody's are. */
const MOST_STEPS = 1000;

/**
 * Of steps that are asked for and a strength from 0 to 1. Each throws `UsageError` where no step is left.
 * - diffusers (`get_timesteps` of its pipelines): so many whole steps as the strength leaves.
 * - AUTOMATIC1111 (`setup_img2img_steps`): likewise, and the one that begins there.
 * - stable-diffusion.cpp: as AUTOMATIC1111, in f32.
 * - ComfyUI (`KSampler.set_steps`): as many as are asked for, at the end of a longer walk.
 */
export const BEGINNINGS: Readonly<
  Record<Dialect, (steps: number, strength: number) => Beginning>
> = {
  diffusers: (steps, strength) =>
    beginning({ steps, kept: Math.min(Math.trunc(steps * strength), steps) }, steps, strength),
  a1111(steps, strength) {
    const kept = Math.trunc(Math.min(strength, A1111_MOST) * steps) + 1;
    return beginning({ steps, kept }, steps, strength);
  },
  sdcpp(steps, strength) {
    const ends = Math.trunc(Math.fround(steps * Math.fround(strength)));
    return beginning({ steps, kept: Math.min(ends, steps - 1) + 1 }, steps, strength);
  },
  comfyui(steps, strength) {
    if (strength > COMFYUI_MOST) return wholeWalk(steps);
    const whole = strength === 0 ? Infinity : Math.trunc(steps / strength);
    if (whole > MOST_STEPS) {
      throw new UsageError(
        `Cannot change a picture by strength ${strength} in ${
          counted(steps, "step")
        } as ComfyUI does, which takes the last steps of ` +
          `${whole}: ${MOST_STEPS} are the most; more strength or fewer steps were needed`,
      );
    }
    const skipped = (intervals: number) => Math.max(0, intervals - steps);
    return beginning({ steps: whole, kept: steps }, steps, strength, skipped);
  },
};
