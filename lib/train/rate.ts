/** Learning rates by step: a warm-up from 0, then constant, linear or cosine (Loshchilov & Hutter 2017) to the end. */

export interface RateOptions {
  /** The rate at its highest. */
  readonly lr: number;
  readonly schedule: "constant" | "linear" | "cosine";
  /** Steps in which the rate rises. */
  readonly warmup: number;
  /** Share of the rate that is left at the end. */
  readonly final: number;
  /** Steps of the run. */
  readonly steps: number;
}

/** How much of the fall is still ahead, by how much of the run is over. */
const SHAPES: Readonly<Record<RateOptions["schedule"], (progress: number) => number>> = {
  constant: () => 1,
  linear: (progress) => 1 - progress,
  cosine: (progress) => (1 + Math.cos(Math.PI * progress)) / 2,
};

/** The rate of step `step`, from 0; the same as that of diffusers' `get_scheduler` at this step where `final` is 0. */
export function learningRate(step: number, options: RateOptions): number {
  const { lr, schedule, warmup, final, steps } = options;
  if (step < warmup) return (lr * step) / warmup;
  const progress = Math.min(1, (step - warmup) / Math.max(1, steps - warmup));
  return lr * (final + (1 - final) * SHAPES[schedule](progress));
}
