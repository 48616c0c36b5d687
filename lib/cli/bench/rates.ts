/** Work by the second. */

import type { Seconds } from "./turns.ts";

/** Multiplications and additions of the plain algorithm, or bytes of values read and written once. */
export type Work = { readonly flops: number } | { readonly bytes: number };

/** The columns of a table's row. */
export function rates(work: Work, seconds: Seconds | undefined) {
  return {
    ["flops" in work ? "GFLOP/s" : "GB/s"]: rate(work, seconds?.median),
    "best": rate(work, seconds?.best),
    "CPU": rate(work, seconds?.cpu),
  };
}

/** In units of 10⁹. */
export function rate(work: Work, seconds: number | undefined): number | undefined {
  if (seconds === undefined) return undefined;
  return ("flops" in work ? work.flops : work.bytes) / seconds / 1e9;
}
