/** Rows of a table by number: looked up, and added up. */

import {
  type Binding,
  type Dispatch,
  type Kernel,
  MAX_ITERATIONS,
  residencesOf,
  resultBinding,
  splitRows,
  windowOn,
} from "./kernel.ts";
import { show, sizeOf } from "../base/shape.ts";
import { filling } from "./map.ts";
import { flatGrid } from "./views.ts";
import source from "../../wgsl/gather.wgsl" with { type: "text" };
import scatterAddSource from "../../wgsl/scatter_add.wgsl" with { type: "text" };

const LANES = 64;

/** How a T is read from a table of each kind. */
const READS = {
  f32: "return table_at(i);",
  vec4f: "return table_at(i);",
  half: "return unpack2x16float(table_at(i / 8u)[i / 2u % 4u])[i % 2u];",
  halves: `let eight = table_at(i / 2u);
  let four = select(eight.xy, eight.zw, i % 2u == 1u);
  return vec4f(unpack2x16float(four.x), unpack2x16float(four.y));`,
} as const;

/** The one variant of a look-up in rows of f32 or f16. Throws `RangeError` on tables that lie in panels. */
export const gather: Kernel<"gather"> = (node, profile, layoutOf) => {
  const [table, ids] = node.inputs;
  const [rows, width] = table.shape;
  const format = table.op === "parameter" ? layoutOf(table).format : "rows32";
  if (format !== "rows32" && format !== "rows16") {
    throw new RangeError(`Cannot look up rows of a table that lies in ${format}`);
  }
  const half = format === "rows16";
  const lanes = width % 4 === 0 ? 4 : 1;
  const type = lanes === 4 ? "vec4f" : "f32";
  const [residence] = residencesOf(node, profile, layoutOf);
  const columns = width / lanes;
  const count = ids.size * columns;
  const [gridColumns, gridRows] = flatGrid(Math.ceil(count / LANES));
  const bytes = half ? 2 : 4;
  const parts = residence === "texture"
    ? [{ begin: 0, end: rows }]
    : splitRows(rows, width * bytes / 4, profile);
  const dispatches = parts.map(({ begin, end }): Dispatch => {
    const part = parts.length === 1 ? undefined : windowOn(begin * width, end * width, bytes);
    const read: Binding = {
      name: "table",
      source: 0,
      element: half ? "vec4u" : type,
      access: "read",
      residence,
      ...(part ? { window: part.window } : {}),
    };
    const text = READS[half ? (lanes === 4 ? "halves" : "half") : type];
    return {
      shader: {
        source,
        type,
        constants: { LANES },
        functions: `fn value_at(i: u32) -> T { ${text} }`,
        bindings: [
          read,
          { name: "ids", source: 1, element: "i32", access: "read", residence: "buffer" },
          resultBinding(type),
        ],
      },
      params: {
        u32: {
          count,
          grid_columns: gridColumns,
          columns,
          first_row: begin,
          rows: end - begin,
          table_first: (part?.first ?? 0) / lanes,
        },
      },
      grid: [gridColumns, gridRows, 1],
      iterations: 0,
    };
  });
  return [{ name: "rows", scratch: [], dispatches }];
};

/** The one variant: zeros everywhere, then the rows that are named. Throws `RangeError` on more ids than an invocation can go through. */
export const scatterAdd: Kernel<"scatterAdd"> = (node, profile, layoutOf) => {
  const [x, ids] = node.inputs;
  const [rows, width] = node.shape;
  if (ids.size > MAX_ITERATIONS) {
    throw new RangeError(
      `Cannot add up ${show(x.shape)} by ${ids.size} numbers: ${MAX_ITERATIONS} are possible`,
    );
  }
  const lanes = width % 4 === 0 ? 4 : 1;
  const type = lanes === 4 ? "vec4f" : "f32";
  const [residence] = residencesOf(node, profile, layoutOf);
  const columns = width / lanes;
  const count = sizeOf(ids.shape) * columns;
  const [gridColumns, gridRows] = flatGrid(Math.ceil(count / LANES));
  const parts = splitRows(rows, width, profile);
  const dispatches = parts.map(({ begin, end }): Dispatch => {
    const part = parts.length === 1 ? undefined : windowOn(begin * width, end * width, 4);
    return {
      shader: {
        source: scatterAddSource,
        type,
        constants: { LANES },
        bindings: [
          { name: "x", source: 0, element: type, access: "read", residence },
          { name: "ids", source: 1, element: "i32", access: "read", residence: "buffer" },
          { ...resultBinding(type), ...(part ? { window: part.window } : {}) },
        ],
      },
      params: {
        u32: {
          count,
          grid_columns: gridColumns,
          columns,
          ids: ids.size,
          first_row: begin,
          rows: end - begin,
          result_first: (part?.first ?? 0) / lanes,
        },
      },
      grid: [gridColumns, gridRows, 1],
      iterations: ids.size,
    };
  });
  return [{
    name: "first of each",
    scratch: [],
    dispatches: [...filling(node, 0, profile), ...dispatches],
  }];
};
