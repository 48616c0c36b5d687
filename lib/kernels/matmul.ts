/** Products of matrices: activations by weights, and activations by activations. */

import { epilogueOf, type Kernel } from "./kernel.ts";
import { panelParts } from "./panels.ts";
import panelSource from "../../wgsl/matmul.wgsl" with { type: "text" };

export const matmul: Kernel<"matmul"> = (node, profile, layoutOf) => {
  const [a, b] = node.inputs;
  const k = a.shape[a.rank - 1];
  const n = node.shape[node.rank - 1];
  const m = node.size / n;
  const layout = layoutOf(b);
  const software = profile.kind === "software";
  const parts = panelParts(layout, n);
  const TM = software ? 16 : 8;
  const TN = software ? 2 : 1;
  const ROWS = software ? 1 : 8;
  const blocks = k / (4 * parts.parts);
  const panels = Math.ceil(n / 32);
  const epilogue = epilogueOf(node, parts.type);
  return [{
    name: "panels",
    staged: software ? [0] : [],
    scratch: 0,
    dispatches: [{
      shader: {
        source: panelSource,
        type: parts.type,
        constants: { TM, TN, ROWS, PARTS: parts.parts },
        functions: [epilogue.functions, parts.functions].join("\n"),
        bindings: [
          {
            name: "result",
            source: "result",
            element: parts.type,
            access: "read_write",
            residence: "buffer",
          },
          {
            name: "a",
            source: 0,
            element: "vec4f",
            access: "read",
            residence: software ? "texture" : "buffer",
          },
          {
            name: "w",
            source: 1,
            element: parts.element,
            access: "read",
            residence: layout.residence,
          },
          ...epilogue.bindings,
        ],
      },
      params: { u32: { m, panels, blocks, width: n, ...epilogue.params } },
      grid: [Math.ceil(panels / TN), Math.ceil(m / (TM * ROWS)), 1],
      iterations: blocks,
    }],
  }];
};
