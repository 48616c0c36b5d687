/**
 * Operators at the shapes that Stable Diffusion 1.5 has at 512×512: products, convolutions and attention with the plain
 * algorithm's work, whatever the kernel's; norms and maps with the least traffic.
 */

import type { Graph, Tensor } from "../../graph/tensor.ts";
import { silu } from "../../nn/layers.ts";
import type { Work } from "./rates.ts";

/** An operator at one shape. */
export interface Case {
  readonly build: (g: Graph) => Tensor;
  readonly work: Work;
  /** The same in words and numbers, for another program that is to compute it. */
  readonly request: Readonly<Record<string, unknown>>;
}

const weight = (g: Graph, n: number, k: number) => g.parameter("w", [n, k], "linear");

/** [m, k] by a weight [n, k]; `fused` with a bias and a residual. */
function linear(m: number, n: number, k: number, fused = false): Case {
  return {
    build: (g) => {
      const y = g.input("x", [m, k]).matmul(weight(g, n, k), { transposeB: true });
      if (!fused) return y;
      return y.add(g.parameter("b", [n], "vector")).add(g.input("residual", [m, n]));
    },
    work: { flops: 2 * m * n * k },
    request: { op: "matmul", batch: 1, m, n, k, fused },
  };
}

/** Activations by activations: [batch, m, k] by [batch, n, k] or, as values are read, [batch, k, n]. */
function product(batch: number, m: number, n: number, k: number, transposeB: boolean): Case {
  return {
    build: (g) =>
      g.input("a", [batch, m, k]).matmul(
        g.input("b", transposeB ? [batch, n, k] : [batch, k, n]),
        { transposeB },
      ),
    work: { flops: 2 * batch * m * n * k },
    request: { op: "matmul", batch, m, n, k, fused: false },
  };
}

/** A 3×3 convolution of a square picture, given by the side of what it reads. */
function conv(side: number, ci: number, co: number, { stride = 1, upsample = 1 } = {}): Case {
  const out = side * upsample / stride;
  const padding = { top: 1, bottom: 1, left: 1, right: 1 };
  return {
    build: (g) =>
      g.node("conv2d", [
        g.input("x", [1, side, side, ci]),
        g.parameter("w", [co, 3, 3, ci], "conv"),
      ], { stride, padding, upsample }),
    work: { flops: 2 * out * out * ci * co * 9 },
    request: { op: "conv2d", height: side, width: side, ci, co, kernel: 3, stride, upsample },
  };
}

function attention(tokens: number, keys: number, heads: number, d: number): Case {
  return {
    build: (g) => {
      const of = (name: string, n: number) => g.input(name, [1, n, heads, d]);
      const options = { scale: d ** -0.5, causal: false };
      return of("q", tokens).attention(of("k", keys), of("v", keys), options);
    },
    work: { flops: 4 * heads * tokens * keys * d },
    request: { op: "attention", tokens, keys, heads, d },
  };
}

/** Statistics read x once, the normalisation once more. */
function groupNormSilu(side: number, channels: number): Case {
  return {
    build: (g) => {
      const x = g.input("x", [1, side, side, channels]);
      const vector = (name: string) => g.parameter(name, [channels], "vector");
      const moments = x.groupMoments(32);
      return silu(x.groupNormalize(moments, vector("w"), vector("b"), { groups: 32, eps: 1e-5 }));
    },
    work: { bytes: 3 * 4 * side * side * channels },
    request: { op: "group_norm", height: side, width: side, channels },
  };
}

/** Work over rows of channels that reads `reads` times as many values as it writes. */
function rowwise(
  op: string,
  rows: number,
  channels: number,
  reads: number,
  build: (g: Graph, rows: number, channels: number) => Tensor,
): Case {
  return {
    build: (g) => build(g, rows, channels),
    work: { bytes: (reads + 1) * 4 * rows * channels },
    request: { op, rows, channels },
  };
}

const input = (g: Graph, name: string, rows: number, channels: number) =>
  g.input(name, [rows, channels]);
const layerNorm = (rows: number, channels: number) =>
  rowwise("layer_norm", rows, channels, 1, (g, m, n) => {
    const vector = (name: string) => g.parameter(name, [n], "vector");
    return input(g, "x", m, n).layerNorm(vector("w"), vector("b"), { eps: 1e-5 });
  });
const softmax = (rows: number, channels: number) =>
  rowwise("softmax", rows, channels, 1, (g, m, n) => input(g, "x", m, n).softmax());
const activation = (rows: number, channels: number) =>
  rowwise("silu", rows, channels, 1, (g, m, n) => silu(input(g, "x", m, n)));
const add = (rows: number, channels: number) =>
  rowwise("add", rows, channels, 2, (g, m, n) => input(g, "x", m, n).add(input(g, "y", m, n)));
const concat = (rows: number, channels: number) =>
  rowwise(
    "concat",
    rows,
    channels,
    2,
    (g, m, n) => g.concat([input(g, "x", m, n), input(g, "y", m, n)], 1),
  );
/** The product is not counted: GEGLU's halves come from one that is timed by itself. */
const gates = (rows: number, channels: number) =>
  rowwise("geglu", rows, channels, 2, (g, m, n) => {
    const both = input(g, "x", m, 2 * n);
    const gate = both.slice(-1, n, 2 * n);
    return both.slice(-1, 0, n).mul(gate.mul(0.5).mul(gate.mul(Math.SQRT1_2).erf().add(1)));
  });

/** By family, as Stable Diffusion 1.5 has them at 512². */
export const CASES: Readonly<Record<string, Readonly<Record<string, Case>>>> = {
  "Products": {
    "product 4096×320×320": linear(4096, 320, 320),
    "product 4096×320×320, bias and residual": linear(4096, 320, 320, true),
    "product 4096×2560×320": linear(4096, 2560, 320),
    "product 4096×320×1280": linear(4096, 320, 1280),
    "product 1024×640×640": linear(1024, 640, 640),
    "product 1024×5120×640": linear(1024, 5120, 640),
    "product 1024×640×2560": linear(1024, 640, 2560),
    "product 256×1280×1280": linear(256, 1280, 1280),
    "product 256×10240×1280": linear(256, 10240, 1280),
    "product 64×1280×1280": linear(64, 1280, 1280),
    "product 77×3072×768": linear(77, 3072, 768),
    "product 154×640×768": linear(154, 640, 768),
    "product 2×1280×1280": linear(2, 1280, 1280),
    "scores 4096×4096×512": product(1, 4096, 4096, 512, true),
    "values 4096×512×4096": product(1, 4096, 512, 4096, false),
  },
  "Convolutions": {
    "conv 320→320 64²": conv(64, 320, 320),
    "conv 640→320 64²": conv(64, 640, 320),
    "conv 640→640 32²": conv(32, 640, 640),
    "conv 1280→1280 16²": conv(16, 1280, 1280),
    "conv 2560→1280 16²": conv(16, 2560, 1280),
    "conv 1280→1280 8²": conv(8, 1280, 1280),
    "conv 320→320 64² stride 2": conv(64, 320, 320, { stride: 2 }),
    "conv 640→640 16² enlarged": conv(16, 640, 640, { upsample: 2 }),
    "conv 4→320 64²": conv(64, 4, 320),
    "conv 320→4 64²": conv(64, 320, 4),
    "conv 512→512 64²": conv(64, 512, 512),
    "conv 512→512 128²": conv(128, 512, 512),
    "conv 256→256 256²": conv(256, 256, 256),
    "conv 128→128 512²": conv(512, 128, 128),
    "conv 128→3 512²": conv(512, 128, 3),
    "conv 3→128 512²": conv(512, 3, 128),
  },
  "Attention": {
    "attention 4096, 8 heads of 40": attention(4096, 4096, 8, 40),
    "attention 1024, 8 heads of 80": attention(1024, 1024, 8, 80),
    "attention 256, 8 heads of 160": attention(256, 256, 8, 160),
    "attention 4096×77, 8 heads of 40": attention(4096, 77, 8, 40),
    "attention 1024×77, 8 heads of 80": attention(1024, 77, 8, 80),
    "attention 4096, 1 head of 512": attention(4096, 4096, 1, 512),
  },
  "Norms and maps": {
    "group norm, SiLU 64²×320": groupNormSilu(64, 320),
    "group norm, SiLU 16²×1280": groupNormSilu(16, 1280),
    "group norm, SiLU 512²×128": groupNormSilu(512, 128),
    "layer norm 4096×320": layerNorm(4096, 320),
    "softmax 4096×4096": softmax(4096, 4096),
    "SiLU 4096×320": activation(4096, 320),
    "GEGLU 4096×1280": gates(4096, 1280),
    "sum 4096×320": add(4096, 320),
    "concatenation 4096×320": concat(4096, 320),
  },
};

/** All of them, by their names. */
export function namesOfCases(): string[] {
  return Object.values(CASES).flatMap((cases) => Object.keys(cases));
}

/** Those that stand for their kind where not all are timed: some of each family. */
export const USUAL: ReadonlySet<string> = new Set([
  "product 4096×320×320",
  "product 4096×2560×320",
  "product 256×1280×1280",
  "product 77×3072×768",
  "conv 320→320 64²",
  "conv 1280→1280 16²",
  "conv 512→512 64²",
  "attention 4096, 8 heads of 40",
  "attention 4096×77, 8 heads of 40",
  "group norm, SiLU 64²×320",
  "layer norm 4096×320",
  "GEGLU 4096×1280",
  "sum 4096×320",
]);

/** The least that says something of a device: one of each family, none of them large. */
export const FEW: ReadonlySet<string> = new Set([
  "product 1024×640×640",
  "conv 640→640 32²",
  "attention 1024, 8 heads of 80",
  "sum 4096×320",
]);
