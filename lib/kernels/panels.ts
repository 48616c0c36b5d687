/** What kernels that read weight panels share: how a 16-byte block becomes numbers, and how four columns are stored. */

import { type Layout } from "./kernel.ts";

/** `fn block`: 4·PARTS values along the reduction of one column. */
const READ = {
  panels16: `fn block(i: u32) -> array<vec4f, PARTS> {
  let b = w_at(i);
  return array<vec4f, PARTS>(vec4f(unpack2x16float(b.x), unpack2x16float(b.y)), vec4f(unpack2x16float(b.z), unpack2x16float(b.w)));
}`,
  panels32: "fn block(i: u32) -> array<vec4f, PARTS> { return array<vec4f, PARTS>(w_at(i)); }",
} as const;

/** `fn store`: four adjacent columns of a row, of which those beyond the result's width are dropped. */
const STORE = {
  vec4f: `fn store(value: vec4f, row: u32, column: u32) {
  let width = params.width / 4u;
  if (column < width) { result[row * width + column] = epilogue(value, row, column); }
}`,
  f32: `fn store(value: vec4f, row: u32, column: u32) {
  /*unroll*/ for (var c = 0u; c < 4u; c++) {
    let x = column * 4u + c;
    if (x < params.width) { result[row * params.width + x] = epilogue(value[c], row, x); }
  }
}`,
} as const;

export function panelParts({ format }: Layout, width: number) {
  if (format !== "panels16" && format !== "panels32") throw new RangeError(format);
  const half = format === "panels16";
  const type = width % 4 === 0 ? "vec4f" as const : "f32" as const;
  return {
    type,
    parts: half ? 2 : 1,
    element: half ? "vec4u" as const : "vec4f" as const,
    functions: `${READ[format]}\n${STORE[type]}`,
  };
}
