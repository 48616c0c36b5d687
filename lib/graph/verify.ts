/** The law: what must hold of a graph after any pass. */

import { sameShape, show } from "../base/shape.ts";
import { type Expression, isElementwise, UNARY } from "./expression.ts";
import { BASE_INPUTS, hasEpilogue, type OpName, RULES } from "./ops.ts";
import { printNode } from "./print.ts";
import { reachable } from "./rewrite.ts";
import type { Tensor, TensorOf } from "./tensor.ts";

/** Throws an `Error` that names the first node which breaks the law and says how. */
export function verify(outputs: readonly Tensor[]): void {
  for (const node of reachable(outputs)) {
    const wrong = faults(node).next();
    if (!wrong.done) throw new Error(`The graph is broken at ${printNode(node)}: ${wrong.value}`);
  }
}

function* faults(node: Tensor): Generator<string, void> {
  const { graph, id, inputs, shape, dtype, attrs } = node;
  if (graph.nodes[id] !== node) yield "its graph does not hold it under its number";
  for (const input of inputs) {
    if (input.graph !== graph) yield `its input %${input.id} belongs to another graph`;
    if (input.id >= id) yield `its input %${input.id} is not older than it`;
  }
  if (!shape.every((n) => Number.isInteger(n) && n > 0)) {
    yield "its axes are not all of a positive length";
  }
  const number = firstNonFinite(attrs);
  if (number !== undefined) yield `its attributes hold ${number}, finite numbers were needed`;

  const derived = derive(node);
  if (typeof derived === "string") {
    yield `its operands do not fit: ${derived}`;
  } else if (!sameShape(derived.shape, shape) || derived.dtype !== dtype) {
    yield `its rule gives ${show(derived.shape)} ${derived.dtype}`;
  }
  const strange = inputs.findIndex((input, i) => !admits(node.op, i, input));
  if (strange >= 0) yield `its input %${inputs[strange].id} is ${inputs[strange].dtype}`;

  if (node.op === "concat" && inputs.some((input) => input.dtype !== dtype)) {
    yield "its parts have different element types";
  }
  if (node.op === "map") {
    const whole = node.attrs.views.flatMap(({ offset, strides }) => [offset, ...strides]);
    if (!whole.every((n) => Number.isInteger(n) && n >= 0)) {
      yield "its views are not made of whole, non-negative numbers";
    }
    yield* bodyFaults(node.attrs.body, inputs.length);
  }
  if (hasEpilogue(node.op)) {
    const operands = inputs.length - BASE_INPUTS[node.op];
    const epilogue = "epilogue" in attrs ? attrs.epilogue : undefined;
    if (epilogue) yield* bodyFaults(epilogue.body, operands + 1);
    else if (operands !== 0) yield `it has ${operands} operands of an epilogue, but no epilogue`;
  }
}

/** Shape and element type by the node's rule, or what the rule says against its operands. */
function derive<K extends OpName>({ op, inputs, attrs }: TensorOf<K>) {
  try {
    return RULES[op](inputs, attrs);
  } catch (error) {
    if (error instanceof RangeError) return error.message;
    throw error;
  }
}

/** Operators that move values without looking at them. */
const MOVES: ReadonlySet<OpName> = new Set<OpName>([
  "reshape",
  "transpose",
  "broadcast",
  "slice",
  "concat",
  "pad",
  "upsample",
]);

/** Operators whose second input is numbers of rows. */
const BY_NUMBER: ReadonlySet<OpName> = new Set<OpName>(["gather", "scatterAdd"]);

/** Moves take any element type, look-ups take numbers of rows, everything else computes in f32. */
function admits(op: OpName, index: number, { dtype }: Tensor): boolean {
  if (MOVES.has(op)) return true;
  return BY_NUMBER.has(op) && index === 1 ? dtype === "i32" : dtype === "f32";
}

/** What is wrong with a body over `operands` operands. */
function* bodyFaults(body: Expression, operands: number): Generator<string, void> {
  const read = new Set<number>();
  const stack: Expression[] = [body];
  for (let part = stack.pop(); part !== undefined; part = stack.pop()) {
    if (typeof part === "number") continue;
    if ("input" in part) {
      read.add(part.input);
      continue;
    }
    const { op, args } = part;
    const arity = op === "select" ? 3 : UNARY.some((unary) => unary === op) ? 1 : 2;
    if (!isElementwise(op)) yield `its body calls ${op}`;
    if (args.length !== arity) yield `its body gives ${op} ${args.length} arguments`;
    stack.push(...args);
  }
  for (const input of read) {
    if (!(input >= 0 && input < operands)) {
      yield `its body reads operand ${input} of ${operands}`;
    }
  }
}

/** The first number in attributes that is NaN or infinite. */
function firstNonFinite(value: unknown): number | undefined {
  if (typeof value === "number") return Number.isFinite(value) ? undefined : value;
  if (typeof value !== "object" || value === null) return undefined;
  for (const part of Object.values(value)) {
    const found = firstNonFinite(part);
    if (found !== undefined) return found;
  }
  return undefined;
}
