/** The text form of a graph, one line per node: `%7 = conv2d(%5, %6) [1, 8, 8, 4] {stride: 2} "down_blocks.0"`. */

import { show } from "../base/shape.ts";
import type { Expression } from "./expression.ts";
import type { Epilogue, Heads, Padding, Piece, View } from "./ops.ts";
import { reachable } from "./rewrite.ts";
import type { Tensor } from "./tensor.ts";

/**
 * Every node that the outputs depend on, oldest first, then the outputs. A node shows its inputs, its shape (and
 * element type unless f32), the attributes that these do not tell, and the scope it was built in.
 */
export function print(outputs: readonly Tensor[]): string {
  const lines = reachable(outputs).map(printNode);
  return [...lines, `outputs ${outputs.map(nameOf).join(", ")}`].join("\n");
}

/** One line: the node alone. */
export function printNode(node: Tensor): string {
  const inputs = node.inputs.map(nameOf).join(", ");
  const attrs = Object.entries<Value>({ ...node.attrs })
    .filter(([key]) => key !== "shape" && key !== "dtype")
    .map(([key, value]) => `${key}: ${text(value)}`);
  const scope = node.graph.scopeOf(node);
  return [
    `${nameOf(node)} = ${node.op}(${inputs})`,
    show(node.shape),
    ...node.dtype === "f32" ? [] : [node.dtype],
    ...attrs.length === 0 ? [] : [`{${attrs.join(", ")}}`],
    ...scope === "" ? [] : [JSON.stringify(scope)],
  ].join(" ");
}

/** `mul($0, sigmoid($0))`, where `$0` is the first operand. */
export function printExpression(body: Expression): string {
  if (typeof body === "number") return `${body}`;
  if ("input" in body) return `$${body.input}`;
  return `${body.op}(${body.args.map(printExpression).join(", ")})`;
}

const nameOf = (tensor: Tensor): string => `%${tensor.id}`;

/** What attributes are made of. */
type Value =
  | string
  | boolean
  | Expression
  | Epilogue
  | Heads
  | Padding
  | View
  | Piece
  | readonly number[]
  | readonly View[]
  | readonly Piece[];

/** Names and values of what is shown by its fields. */
const fieldsOf = (value: Padding | Heads | Piece) =>
  Object.entries<string | number | readonly number[]>({ ...value });

/** Lists longer than this are shown by their ends. */
const SHOWN = 8;

/** An attribute's value: a view as `offset+[strides]`, a body as an expression, a long list by its ends. */
function text(value: Value): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value !== "object") return `${value}`;
  if ("length" in value) {
    const items = [...value].map(text);
    const ends = [...items.slice(0, 3), `… ${items.length} in all …`, ...items.slice(-1)];
    return `[${(items.length > SHOWN ? ends : items).join(", ")}]`;
  }
  if ("strides" in value) return `${value.offset}+${show(value.strides)}`;
  if ("body" in value) return printExpression(value.body);
  if ("op" in value || "input" in value) return printExpression(value);
  return `{${fieldsOf(value).map(([name, n]) => `${name}: ${text(n)}`).join(", ")}}`;
}
