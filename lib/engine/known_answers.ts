/**
 * Known answers: every kind of kernel on this device, on made-up values, against the interpreter in double precision.
 * Drivers have bugs; this finds the ones that would spoil pictures. On a GPU each variant that `ldm tune` may choose is
 * tried: the tests see them on the software driver alone, where they would take long to compile.
 */

import { torchCpu } from "../base/random.ts";
import { sizeOf } from "../base/shape.ts";
import { type StoredParameter, storeWeight } from "../gpu/buffers.ts";
import type { Device } from "../gpu/device.ts";
import { compile, type HostArray } from "../gpu/program.ts";
import { tasksOf } from "../gpu/tune.ts";
import { decompose } from "../graph/decompose.ts";
import { interpret } from "../graph/interpret.ts";
import { Graph, type Tensor } from "../graph/tensor.ts";
import type { Choice } from "../kernels/table.ts";
import { around } from "../nn/layers.ts";
import { type ManifestEntry, manifestOf } from "../nn/params.ts";
import { releaseWeights } from "./weights.ts";

/** One answer. */
export interface KnownAnswer {
  readonly name: string;
  /** How many answers there are. */
  readonly of: number;
  /** What is wrong, where something is. */
  readonly error?: string;
}

/** A graph of inputs and weights whose result is known. */
type Case = (g: Graph) => Tensor;

const linear = (g: Graph, x: Tensor, n: number) =>
  x.matmul(g.parameter("w", [n, x.shape[x.rank - 1]], "linear"), { transposeB: true });
const vector = (g: Graph, name: string, n: number) => g.parameter(name, [n], "vector");
const convolution = (g: Graph, kernel: number, stride: number) =>
  g.input("x", [1, 11, 9, 16]).conv2d(g.parameter("w", [24, kernel, kernel, 16], "conv"), {
    stride,
    padding: around(kernel >> 1),
  });
const attention = (g: Graph, tokens: number, causal: boolean) => {
  const of = (name: string, n: number) => g.input(name, [2, n, 2, 40]);
  return of("q", 37).attention(of("k", tokens), of("v", tokens), { scale: 40 ** -0.5, causal });
};

/** Sizes are odd where kernels have tiles, so that their edges are used as well. */
const CASES: Readonly<Record<string, Case>> = {
  "elementwise work": (g) => {
    const [x, y] = [g.input("x", [7, 33]), g.input("y", [33])];
    return x.mul(y).add(x.sigmoid()).sub(y.exp()).add(x.tanh()).add(y.erf()).add(x.cos());
  },
  "moves of data": (g) => {
    const x = g.input("x", [2, 5, 3, 4]);
    return g.concat([
      x.transpose([0, 2, 1, 3]),
      x.slice(1, 1, 4).upsample(1).transpose([0, 2, 1, 3]),
    ], 2);
  },
  "rows of a table": (g) =>
    g.parameter("w", [50, 12], "embedding").gather(g.input("ids", [9], "i32")),
  "sums": (g) => g.input("x", [5, 700]).sum([1]),
  "softmax": (g) => g.input("x", [5, 77]).softmax(),
  "product with weights": (g) => linear(g, g.input("x", [1, 77, 64]), 96).add(vector(g, "b", 96)),
  "product with few rows": (g) => linear(g, g.input("x", [2, 48]), 40),
  "product of a long reduction": (g) =>
    linear(g, g.input("x", [9, 2568]), 36).add(vector(g, "b", 36)),
  "product of many rows and columns": (g) => linear(g, g.input("x", [1500, 12]), 2000),
  "product of activations": (g) =>
    g.input("x", [3, 19, 24]).matmul(g.input("y", [3, 24, 21]), { transposeB: false }),
  "convolution 3×3": (g) => convolution(g, 3, 1).add(vector(g, "b", 24)),
  "convolution 3×3, stride 2": (g) => convolution(g, 3, 2),
  "convolution of many channels": (g) =>
    g.input("x", [1, 5, 5, 256])
      .conv2d(g.parameter("w", [12, 3, 3, 256], "conv"), { stride: 1, padding: around(1) }),
  "convolution 1×1": (g) => convolution(g, 1, 1),
  "convolution after enlargement": (g) =>
    g.input("x", [1, 5, 6, 16]).upsample(2)
      .conv2d(g.parameter("w", [8, 3, 3, 16], "conv"), { stride: 1, padding: around(1) }),
  "group norm": (g) => {
    const x = g.input("x", [2, 9, 7, 16]);
    const options = { groups: 4, eps: 1e-5 };
    return x.groupNormalize(x.groupMoments(4), vector(g, "w", 16), vector(g, "b", 16), options);
  },
  "layer norm": (g) =>
    g.input("x", [2, 9, 40]).layerNorm(vector(g, "w", 40), vector(g, "b", 40), { eps: 1e-5 }),
  "self-attention": (g) => attention(g, 37, false),
  "causal attention": (g) => attention(g, 37, true),
  "cross-attention": (g) => attention(g, 77, false),
};

/** Normalised mean square error that rounding may cause: f16 weights are exact here, sums are short. */
const TOLERANCE = 1e-10;
/** The same for kernels that are coarser than f32: values and short sums are rounded to f16. */
const COARSE = 1e-6;

/** Computes every known answer on a device. What the device throws is an answer that is wrong. */
export async function* knownAnswers(device: Device): AsyncGenerator<KnownAnswer, void, undefined> {
  const cases = Object.entries(CASES);
  for (const [name, build] of cases) {
    const error = await difference(device, build).catch((thrown) =>
      thrown instanceof Error ? thrown.message : String(thrown)
    );
    yield { name, of: cases.length, ...(error !== undefined && { error }) };
  }
}

/** What is wrong with a case, or `undefined`. */
async function difference(device: Device, build: Case): Promise<string | undefined> {
  const graph = new Graph();
  const output = build(graph);
  const values = valuesOf(graph);
  const [expected] = interpret(decompose([output]), values, { precision: "f64" });
  const parameters = new Map<string, StoredParameter>();
  try {
    for (const entry of manifestOf(graph).values()) {
      const source = stored(values[entry.name], entry);
      parameters.set(entry.name, storeWeight(device, source, entry, "f16"));
    }
    for (const { name, choice, tolerance } of waysOf(output, device)) {
      using program = await compile(device, new Map([["y", output]]), parameters, { choice });
      const actual = (await program.run(values)).get("y");
      const wrong = actual && compared(actual, expected, tolerance);
      if (wrong !== undefined) return `${wrong}${name === "" ? "" : `, by ${name}`}`;
    }
    return undefined;
  } finally {
    releaseWeights(device, parameters);
  }
}

/** A way to compute a case: which variants are taken. */
interface Way {
  readonly name: string;
  readonly choice: Choice;
  readonly tolerance: number;
}

/** The ways to compute a case that, on a GPU, together take every variant of everything in it. */
function waysOf(output: Tensor, { profile, choice }: Device): Way[] {
  if (profile.kind === "software") return [{ name: "", choice, tolerance: TOLERANCE }];
  const find = (approximate: boolean) =>
    tasksOf([[output]], profile, { weights: "f16", most: Infinity, approximate });
  const exact = new Set(find(false).flatMap(({ names }) => names));
  const tasks = find(true);
  const count = Math.max(1, ...tasks.map(({ names }) => names.length));
  return Array.from({ length: count }, (_, i) => {
    const chosen = new Map(
      tasks.map(({ shapeClass, names }) => [shapeClass, names[Math.min(i, names.length - 1)]]),
    );
    const names = [...chosen.values()];
    return {
      name: names.map((name) => `"${name}"`).join(" and "),
      choice: (shapeClass) => chosen.get(shapeClass),
      tolerance: names.every((name) => exact.has(name)) ? TOLERANCE : COARSE,
    };
  });
}

/** Values for inputs and weights, which f16 holds exactly. */
function valuesOf(graph: Graph): Record<string, HostArray> {
  const values: Record<string, HostArray> = {};
  const random = torchCpu(1);
  for (const node of graph.nodes) {
    if (node.op !== "input" && node.op !== "parameter") continue;
    const { name } = node.attrs;
    values[name] = node.dtype === "i32"
      ? random.integers(0, 50, node.size)
      : new Float32Array(new Float16Array(random.normal(node.size)));
  }
  return values;
}

/** A weight as a checkpoint has it: [co, ci, kh, kw] for convolutions. */
function stored(values: HostArray, { shape, role }: ManifestEntry) {
  const data = new Float32Array(sizeOf(shape));
  if (role === "conv") {
    const [co, kh, kw, ci] = shape;
    for (let at = 0; at < data.length; at++) {
      const [o, i, y, x] = [
        Math.floor(at / (ci * kh * kw)) % co,
        Math.floor(at / (kh * kw)) % ci,
        Math.floor(at / kw) % kh,
        at % kw,
      ];
      data[at] = values[((o * kh + y) * kw + x) * ci + i];
    }
  } else data.set(values);
  return { dtype: "f32", data: new Uint8Array(data.buffer) } as const;
}

function compared(
  actual: Float32Array,
  expected: Float64Array,
  tolerance: number,
): string | undefined {
  let [error, power] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i] - expected[i]) ** 2;
    power += expected[i] ** 2;
  }
  if (actual.length === expected.length && error <= tolerance * power) return undefined;
  return `its normalised mean square error is ${(error / power).toExponential(1)}, and ${
    tolerance.toExponential(0)
  } is the most that rounding may cause`;
}
