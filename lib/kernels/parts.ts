/** What the parts of a long sum, which several workgroups computed, add up to. */

import type { Tensor } from "../graph/tensor.ts";
import { type Dispatch, NO_EPILOGUE, resultBinding } from "./kernel.ts";
import { flatGrid } from "./views.ts";
import source from "../../wgsl/workgroup_sums.wgsl" with { type: "text" };

const LANES = 64;

/** The sum over the first axis of scratch memory [parts, …result], always in the same order. */
export function sumOfParts(node: Tensor, type: "f32" | "vec4f", parts: number): Dispatch {
  const count = type === "vec4f" ? node.size / 4 : node.size;
  const [gridColumns, gridRows] = flatGrid(Math.ceil(count / LANES));
  return {
    name: "sum of parts",
    shader: {
      source,
      type,
      constants: { LANES },
      functions: NO_EPILOGUE,
      bindings: [
        resultBinding(type),
        {
          name: "sums",
          source: { scratch: 0 },
          element: type,
          access: "read",
          residence: "buffer",
        },
      ],
    },
    params: { u32: { count, columns: 1, parts, grid_columns: gridColumns } },
    grid: [gridColumns, gridRows, 1],
    iterations: parts,
  };
}
