/** Scalar expressions as WGSL text, for one number or four at a time. */

import type { ElementwiseOp, Expression } from "../graph/expression.ts";

type Spell = (...args: string[]) => string;

/**
 * WGSL for each operator. `T` stands for the element type (f32 or vec4f).
 * exp and tanh saturate where f32 overflows, because drivers differ beyond it.
 */
const SPELLING: { readonly [K in ElementwiseOp]: Spell } = {
  neg: (x) => `(-${x})`,
  abs: (x) => `abs(${x})`,
  exp: (x) => `exp(${x})`,
  log: (x) => `log(${x})`,
  sqrt: (x) => `sqrt(${x})`,
  sin: (x) => `sin_(${x}, T(0))`,
  cos: (x) => `sin_(${x}, T(1))`,
  tanh: (x) => `tanh_(${x})`,
  erf: (x) => `erf_(${x})`,
  sigmoid: (x) => `sigmoid_(${x})`,
  add: (a, b) => `(${a} + ${b})`,
  sub: (a, b) => `(${a} - ${b})`,
  mul: (a, b) => `(${a} * ${b})`,
  div: (a, b) => `(${a} / ${b})`,
  max: (a, b) => `max(${a}, ${b})`,
  min: (a, b) => `min(${a}, ${b})`,
  less: (a, b) => `select(T(0), T(1), ${a} < ${b})`,
  select: (c, a, b) => `select(${b}, ${a}, ${c} != T(0))`,
};

/** A number as a WGSL f32 literal. Throws `RangeError` on values f32 cannot hold. */
export function literal(value: number): string {
  const rounded = Math.fround(value);
  if (!Number.isFinite(rounded)) throw new RangeError(`${value} is not a finite f32 number`);
  const text = rounded.toString();
  return /[.e]/.test(text) ? `${text}f` : `${text}.0f`;
}

/** `body` as one WGSL expression of type `T`; `inputs[i]` is the text that stands for `{ input: i }`. */
function expressionText(
  body: Expression,
  inputs: readonly string[],
  part: (part: Expression) => string = (part) => expressionText(part, inputs),
): string {
  if (typeof body === "number") return `T(${literal(body)})`;
  if ("input" in body) return inputs[body.input];
  return SPELLING[body.op](...body.args.map(part));
}

/**
 * `body` as the statements of a WGSL function that returns it; `inputs[i]` is the text that stands for `{ input: i }`. What
 * occurs several times is computed once: compilers see that in arithmetic, and not in calls and reads.
 */
export function returnText(body: Expression, inputs: readonly string[]): string {
  const uses = new Map<string, number>();
  const count = (part: Expression): void => {
    const text = expressionText(part, inputs);
    const known = uses.get(text) ?? 0;
    uses.set(text, known + 1);
    if (known === 0 && typeof part !== "number" && "op" in part) part.args.forEach(count);
  };
  count(body);
  const shared = new Map<string, string>();
  const lines: string[] = [];
  const spelled = (part: Expression): string => {
    const whole = expressionText(part, inputs);
    const known = shared.get(whole);
    if (known !== undefined) return known;
    const text = expressionText(part, inputs, spelled);
    if ((uses.get(whole) ?? 0) < 2 || typeof part === "number" || /^\w+$/.test(text)) return text;
    const name = `shared${shared.size}`;
    shared.set(whole, name);
    lines.push(`  let ${name} = ${text};`);
    return name;
  };
  const result = spelled(body);
  return [...lines, `  return ${result};`].join("\n");
}

/**
 * Functions that expressions call, over the alias `T`. erf is odd: below 1 a polynomial in x², fitted to erf(x)/x
 * (error 1.2e-9); above, 1 − t · e^(−x²) · a polynomial in t = 1/(1 + 0.4x), fitted to erfc (error 4e-9), the form of
 * Abramowitz & Stegun 7.1.26. In f32 the absolute error is below 2e-7, and so is the relative error near 0.
 * `sin_(x, quarters)` is sin(x + quarters · π/2): timestep embeddings reach 1000, and WGSL promises nothing beyond ±π,
 * so x is reduced to ±π/4 by π/2 in three parts (Cody & Waite 1980) and the Taylor series taken there.
 */
export const EXPRESSION_FUNCTIONS = `
fn sigmoid_(x: T) -> T { return T(1) / (T(1) + exp(-clamp(x, T(-80), T(80)))); }
fn tanh_(x: T) -> T { return tanh(clamp(x, T(-20), T(20))); }
fn sin_(x: T, quarters: T) -> T {
  let k = round(x * T(0.636619772));
  let r = ((x - k * T(1.5703125)) - k * T(4.8375129699707e-4)) - k * T(7.54978995e-8);
  let s = r * r;
  let sine = r * (T(1) + s * (T(-0.166666667) + s * (T(8.33333333e-3) + s * (T(-1.98412698e-4)
    + s * T(2.75573192e-6)))));
  let cosine = T(1) + s * (T(-0.5) + s * (T(4.16666667e-2) + s * (T(-1.38888889e-3)
    + s * (T(2.48015873e-5) - s * T(2.75573192e-7)))));
  let turned = k + quarters;
  let quadrant = turned - T(4) * floor(turned * T(0.25));
  let odd = quadrant - T(2) * floor(quadrant * T(0.5));
  let value = select(sine, cosine, odd == T(1));
  return select(value, -value, quadrant >= T(2));
}
fn erf_(x: T) -> T {
  let a = min(abs(x), T(4));
  let s = a * a;
  let near = a * ((((((T(7.88911952e-5) * s - T(8.02084128e-4)) * s + T(5.18953534e-3)) * s
    - T(2.68544446e-2)) * s + T(0.112836002)) * s - T(0.376126271)) * s + T(1.12837917));
  let t = T(1) / (T(1) + T(0.4) * a);
  let tail = ((((T(0.0746063446) * t + T(0.429473267)) * t - T(0.0337627695)) * t
    + T(0.318297392)) * t + T(0.212553420)) * t;
  return select(T(1) - tail * exp(-s), near, a < T(1)) * sign(x);
}
`;
