/**
 * Scalar expressions: what a `map` computes for each element, and what an epilogue does to each element
 * of a product. A number is a literal; `{ input }` is the element read from that operand.
 */

/** Functions of one number. `sigmoid(x) = 1 / (1 + e⁻ˣ)`, `erf` is the Gauss error function. */
export const UNARY = [
  "neg",
  "abs",
  "exp",
  "log",
  "sqrt",
  "sin",
  "cos",
  "tanh",
  "erf",
  "sigmoid",
] as const;
/** Functions of two numbers; `less` is 1 where a < b, else 0. */
export const BINARY = ["add", "sub", "mul", "div", "max", "min", "less"] as const;

export type UnaryOp = (typeof UNARY)[number];
export type BinaryOp = (typeof BINARY)[number];
/** `select(c, a, b)` is a where c ≠ 0, else b. */
export type ElementwiseOp = UnaryOp | BinaryOp | "select";

export type Expression =
  | number
  | { readonly input: number }
  | { readonly op: ElementwiseOp; readonly args: readonly Expression[] };

const arity = new Map<string, number>([
  ...UNARY.map((op) => [op, 1] as const),
  ...BINARY.map((op) => [op, 2] as const),
  ["select", 3] as const,
]);

/** True for the operators that a `map` or an epilogue can contain. */
export function isElementwise(op: string): op is ElementwiseOp {
  return arity.has(op);
}

/** Replaces every `{ input: i }` by `replace(i)`. */
export function substitute(body: Expression, replace: (input: number) => Expression): Expression {
  if (typeof body === "number") return body;
  if ("input" in body) return replace(body.input);
  return { op: body.op, args: body.args.map((arg) => substitute(arg, replace)) };
}

/** Number of operators in an expression, counting shared parts once per use. */
export function sizeOfExpression(body: Expression): number {
  if (typeof body === "number" || "input" in body) return 0;
  return 1 + body.args.reduce<number>((sum, arg) => sum + sizeOfExpression(arg), 0);
}
