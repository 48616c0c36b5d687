/** How the invocations of a workgroup fold what each of them holds: sums and maxima for norms and reductions. */

import subgroupsSource from "../../wgsl/across_subgroups.wgsl" with { type: "text" };
import workgroupSource from "../../wgsl/across_workgroup.wgsl" with { type: "text" };
import type { Profile } from "./kernel.ts";

/** One way; both define `struct Lane`, `fn sum_across` and `fn max_across`. */
export interface Across {
  readonly name: "workgroup" | "subgroups";
  readonly source: string;
}

export const BY_WORKGROUP: Across = { name: "workgroup", source: workgroupSource };
const BY_SUBGROUPS: Across = { name: "subgroups", source: subgroupsSource };

/** The ways that a device has, the best first. */
export function acrossesFor({ kind, subgroups }: Profile): readonly [Across, ...Across[]] {
  return kind === "gpu" && subgroups === true ? [BY_SUBGROUPS, BY_WORKGROUP] : [BY_WORKGROUP];
}

/** The smallest subgroups that there are. */
const LEAST = 4;

/** What a shader needs to fold values of a type among `threads` invocations. */
export function acrossParts({ source }: Across, type: string, threads: number) {
  return {
    functions: `alias Shared = ${type};\n${source}`,
    constants: { THREADS: threads, SUBGROUPS: threads / LEAST },
  };
}
