/** Winograd's algorithms on every shape they take, what they refuse, how they are cut, and which is chosen. */

import assert from "node:assert/strict";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { conv2d } from "../../lib/kernels/conv2d.ts";
import type { Kernel, LayoutOf, NodeOf, Profile } from "../../lib/kernels/kernel.ts";
import { layoutFor } from "../../lib/kernels/weights.ts";
import { convolutionAlgorithm, winogradConvolutions } from "../../lib/kernels/winograd.ts";
import { conv, type Convolution, sum } from "./convolutions.ts";
import { type KernelCase, kernelTest } from "./harness.ts";
import { meaning } from "./meaning.ts";
import { LLVMPIPE } from "./profiles.ts";

/** Fails unless both algorithms apply, with so many dispatches at least. */
const both = (
  build: KernelCase["build"],
  rest: Partial<KernelCase> = {},
  least = 4,
): KernelCase => ({
  build,
  expect: (variants) => {
    assert.deepEqual(variants.map(({ name }) => name), ["winograd2", "winograd4"]);
    for (const { name, dispatches } of variants) {
      assert.ok(dispatches.length >= least, `${name}: ${dispatches.length} dispatches`);
    }
  },
  ...rest,
});

/** A device that binds so little that a convolution must be cut. */
const tight = (shape: Convolution, maxBinding: number, least: number): KernelCase =>
  both(conv(shape), { profile: { maxBinding }, fills: ["ordinary", "offset"] }, least);

const transformed: Kernel<"conv2d"> = (node, profile, layoutOf) => {
  const [first, ...others] = winogradConvolutions(node, profile, layoutOf);
  return [first, ...others];
};

kernelTest("conv2d", {
  kernel: transformed,
  oracle: meaning,
  reduction: ({ inputs: [, weight] }) => weight.size / weight.shape[0],
  // F(2×2) rounds its transformed weights to f16 where the weights are f16; F(4×4)'s transforms multiply errors of f32.
  tolerance: ({ name }, dtype, reduction) =>
    name === "winograd4" ? { reduction: reduction * 16 } : { half: dtype === "f16" },
  cases: {
    "Winograd, whole tiles": both(conv({ x: [1, 8, 12, 16], co: 64 })),
    "Winograd, parts of tiles": both(conv({ x: [1, 7, 9, 24], co: 36 })),
    "Winograd, two pictures": both(conv({ x: [2, 5, 6, 8], co: 32 })),
    "Winograd, enlarged": both(conv({ x: [2, 4, 5, 8], co: 32, upsample: 2 })),
    "Winograd, unpadded": both(
      conv({ x: [1, 9, 8, 8], co: 32, padding: { top: 0, bottom: 0, left: 0, right: 0 } }),
    ),
    "Winograd, padded on one side as a band is": both(
      conv({ x: [1, 9, 8, 8], co: 32, padding: { top: 0, bottom: 1 } }),
    ),
    "Winograd, a wide border": both(
      conv({ x: [1, 4, 5, 8], co: 4, padding: { top: 2, bottom: 3, left: 2, right: 0 } }),
    ),
    "Winograd, a picture smaller than a tile": both(conv({ x: [1, 1, 2, 8], co: 32 })),
    "Winograd, many channels": both(conv({ x: [1, 10, 10, 136], co: 100 }), {
      fills: ["ordinary"],
    }),
    "Winograd, a picture too large for a texture": both(conv({ x: [1, 40, 40, 24], co: 8 }), {
      profile: { maxTextureSide: 1 },
      fills: ["ordinary"],
    }),
    "Winograd, epilogue of bias, time and residual": both(
      conv({ x: [2, 5, 5, 8], co: 32, operands: [[32], [2, 1, 1, 32], [2, 5, 5, 32]], body: sum }),
    ),
    "Winograd, in bands": tight({ x: [1, 22, 6, 16], co: 16 }, 16_384, 8),
    "Winograd, in bands of two enlarged pictures, with an epilogue": tight(
      {
        x: [2, 9, 5, 16],
        co: 32,
        upsample: 2,
        operands: [[32], [2, 1, 1, 32], [2, 18, 10, 32]],
        body: sum,
      },
      32_768,
      8,
    ),
    "Winograd, weights in rows of places": tight({ x: [1, 5, 4, 64], co: 64 }, 106_496, 6),
    "Winograd, weights in panels of rows of places": tight(
      { x: [1, 4, 4, 64], co: 160 },
      106_496,
      10,
    ),
  },
});

function isConv(node: Tensor): node is NodeOf<"conv2d"> {
  return node.op === "conv2d";
}

function variantsOf(shape: Convolution, profile: Profile) {
  const node = conv(shape)(new Graph());
  assert.ok(isConv(node));
  const layoutOf: LayoutOf = (p) =>
    p.op === "parameter"
      ? layoutFor(p.attrs.role, p.shape, "f16", profile)
      : { format: "rows32", residence: "buffer" };
  return { node, variants: conv2d(node, profile, layoutOf) };
}

const CHOICES: Readonly<Record<string, readonly [Convolution, string]>> = {
  "64², 320 channels": [{ x: [1, 64, 64, 320], co: 320 }, "winograd4"],
  "32², 640 channels": [{ x: [1, 32, 32, 640], co: 640 }, "winograd4"],
  "16², 1280 channels": [{ x: [1, 16, 16, 1280], co: 1280 }, "winograd2"],
  "8², 1280 channels": [{ x: [1, 8, 8, 1280], co: 1280 }, "direct"],
  "few inputs": [{ x: [1, 64, 64, 4], co: 320 }, "direct"],
  "few outputs": [{ x: [1, 64, 64, 320], co: 4 }, "direct"],
  "stride 2": [{ x: [1, 64, 64, 320], co: 320, stride: 2 }, "direct"],
  "1×1": [
    {
      x: [1, 64, 64, 320],
      co: 320,
      kernel: [1, 1],
      padding: { top: 0, bottom: 0, left: 0, right: 0 },
    },
    "direct",
  ],
};

for (const [name, [shape, wanted]] of Object.entries(CHOICES)) {
  Deno.test(`convolutionAlgorithm takes ${wanted} for ${name} on software devices, and direct on GPUs`, () => {
    const { node, variants } = variantsOf(shape, LLVMPIPE);
    assert.equal(convolutionAlgorithm(node, LLVMPIPE), wanted);
    assert.equal(variants[0].name.startsWith("winograd") ? variants[0].name : "direct", wanted);
    const gpu = variantsOf(shape, { ...LLVMPIPE, kind: "gpu" });
    assert.equal(convolutionAlgorithm(gpu.node, { ...LLVMPIPE, kind: "gpu" }), "direct");
    assert.ok(!gpu.variants[0].name.startsWith("winograd"));
  });
}

Deno.test("winogradConvolutions offers nothing for channels that do not fill blocks", () => {
  for (const shape of [{ x: [1, 8, 8, 12], co: 32 }, { x: [1, 8, 8, 16], co: 30 }]) {
    const { variants } = variantsOf(shape, LLVMPIPE);
    assert.ok(variants.every(({ name }) => !name.startsWith("winograd")), JSON.stringify(shape));
  }
});

Deno.test("winogradConvolutions needs little memory beside the picture at any size", () => {
  const { variants } = variantsOf({ x: [1, 512, 512, 128], co: 128 }, LLVMPIPE);
  const found = variants.filter(({ name }) => name.startsWith("winograd"));
  assert.equal(found.length, 2);
  for (const { scratch } of found) {
    assert.ok(Math.max(...scratch) <= 41 * 2 ** 20, `${Math.max(...scratch)} bytes`);
  }
});
