import assert from "node:assert/strict";
import { toBf16 } from "../../lib/base/dtype.ts";
import { sizeOf } from "../../lib/base/shape.ts";
import type { Role } from "../../lib/graph/ops.ts";
import { type Layout, PANEL, type Profile } from "../../lib/kernels/kernel.ts";
import {
  layoutFor,
  pack,
  packedBytes,
  Scratch,
  WeightError,
  type WeightSource,
} from "../../lib/kernels/weights.ts";
import { LEAST } from "./profiles.ts";

const software: Profile = { kind: "software", ...LEAST };

/** Distinct numbers that f16 and bf16 hold exactly. */
const numbers = (count: number) => Float32Array.from({ length: count }, (_, i) => i % 127 - 63);

const sourceOf: { readonly [K in WeightSource["dtype"]]: (x: Float32Array) => Uint8Array } = {
  f32: (x) => new Uint8Array(Float32Array.from(x).buffer),
  f16: (x) => new Uint8Array(new Float16Array(x).buffer),
  bf16: (x) => new Uint8Array(toBf16(x).buffer),
};

/** Number k of output n, found by the definition of the format. */
function unpacked(
  bytes: Uint8Array<ArrayBuffer>,
  layout: Layout,
  width: number,
  n: number,
  k: number,
) {
  const half = layout.format.endsWith("16");
  const list = half ? new Float16Array(bytes.buffer) : new Float32Array(bytes.buffer);
  if (layout.format.startsWith("rows")) return list[n * width + k];
  const block = half ? 8 : 4;
  const blocks = Math.ceil(width / block);
  const panel = Math.floor(n / PANEL);
  return list[((panel * blocks + Math.floor(k / block)) * PANEL + n % PANEL) * block + k % block];
}

const SHAPES: readonly (readonly [Role, readonly number[]])[] = [
  ["linear", [32, 8]],
  ["linear", [70, 24]],
  ["linear", [5, 13]],
  ["embedding", [7, 5]],
  ["conv", [33, 3, 3, 8]],
  ["conv", [4, 3, 2, 16]],
  ["conv", [40, 1, 1, 8]],
  ["conv", [6, 3, 3, 3]],
  ["conv", [6, 3, 3, 4]],
  ["vector", [11]],
];

Deno.test("pack puts every number where its format says, from every element type", () => {
  for (const [role, shape] of SHAPES) {
    const count = sizeOf(shape);
    const width = count / shape[0];
    const values = numbers(count);
    const [, kh, kw, ci] = shape;
    /** Where number k = (ky, kx, i) of output n lies in the checkpoint's [co, ci, kh, kw]. */
    const place = (n: number, k: number) =>
      role === "conv" ? (n * ci + k % ci) * kh * kw + Math.floor(k / ci) : n * width + k;
    for (const dtype of ["f32", "f16"] as const) {
      const layout = layoutFor(role, shape, dtype, software);
      for (const from of ["f32", "f16", "bf16"] as const) {
        const bytes = pack({ dtype: from, data: sourceOf[from](values) }, role, shape, layout);
        const label = `${role} [${shape}] ${from} → ${layout.format}`;
        assert.equal(bytes.byteLength, packedBytes(shape, layout), label);
        let sum = 0;
        for (let n = 0; n < shape[0]; n++) {
          for (let k = 0; k < width; k++) {
            const value = unpacked(bytes, layout, width, n, k);
            assert.equal(value, values[place(n, k)], `${label}: ${n}, ${k}`);
            sum += Math.abs(value);
          }
        }
        const all: Iterable<number> = layout.format.endsWith("16")
          ? new Float16Array(bytes.buffer)
          : new Float32Array(bytes.buffer);
        const total = [...all].reduce((a, b) => a + Math.abs(b), 0);
        assert.equal(total, sum, `${label}: padding is not zero`);
      }
    }
  }
});

Deno.test("layoutFor keeps vectors in f32 and weights in textures on software devices only", () => {
  const gpu = { ...software, kind: "gpu" as const };
  assert.deepEqual(layoutFor("vector", [320], "f16", software), {
    format: "rows32",
    residence: "buffer",
  });
  assert.equal(layoutFor("linear", [320, 320], "f16", software).residence, "texture");
  assert.equal(layoutFor("linear", [320, 320], "f16", gpu).residence, "buffer");
  const low = { ...software, maxTextureSide: 1 };
  assert.equal(layoutFor("linear", [512, 512], "f32", low).residence, "buffer");
});

Deno.test("pack rounds f32 to the nearest f16", () => {
  const values = Float32Array.of(0.1, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 2 ** -25, 65519, 1e-8, 0, -1);
  const layout = layoutFor("linear", [1, 8], "f16", software);
  const bytes = pack({ dtype: "f32", data: sourceOf.f32(values) }, "linear", [1, 8], layout);
  assert.deepEqual([...new Float16Array(bytes.buffer).subarray(0, 8)], [
    ...new Float16Array(values),
  ]);
});

Deno.test("pack reports weights that are not finite, or that f16 cannot hold", () => {
  const shape = [2, 8];
  const half = layoutFor("linear", shape, "f16", software);
  const single = layoutFor("linear", shape, "f32", software);
  const values = numbers(16);
  for (const bad of [NaN, Infinity, -Infinity]) {
    values[11] = bad;
    for (const dtype of ["f32", "f16", "bf16"] as const) {
      for (const layout of [half, single]) {
        assert.throws(
          () => pack({ dtype, data: sourceOf[dtype](values) }, "linear", shape, layout),
          (error) =>
            error instanceof WeightError && error.reason === "not finite" && error.index === 11 &&
            Object.is(error.value, bad),
        );
      }
    }
  }
  values[11] = -70_000;
  const source = { dtype: "f32", data: sourceOf.f32(values) } as const;
  assert.throws(
    () => pack(source, "linear", shape, half),
    (error) =>
      error instanceof WeightError && error.reason === "beyond f16" && error.value === -70_000 &&
      error.message === "value 11 is -70000, which f16 cannot hold (largest 65504)",
  );
  assert.equal(pack(source, "linear", shape, single).byteLength, packedBytes(shape, single));
});

Deno.test("pack takes data at any offset of a larger buffer", () => {
  const values = numbers(16);
  const layout = layoutFor("linear", [2, 8], "f16", software);
  const aligned = pack({ dtype: "f16", data: sourceOf.f16(values) }, "linear", [2, 8], layout);
  for (const offset of [1, 2, 4, 6]) {
    const buffer = new Uint8Array(64);
    buffer.set(sourceOf.f16(values), offset);
    const data = buffer.subarray(offset, offset + 32);
    assert.deepEqual(pack({ dtype: "f16", data }, "linear", [2, 8], layout), aligned);
  }
});

Deno.test("pack refuses data of the wrong length", () => {
  const layout = layoutFor("linear", [2, 8], "f16", software);
  assert.throws(
    () => pack({ dtype: "f16", data: new Uint8Array(30) }, "linear", [2, 8], layout),
    /Cannot pack a weight of shape \[2, 8\]: 30 bytes of f16 were given, 32 are needed/,
  );
});

Deno.test("pack gives in used memory what it gives in fresh memory", () => {
  const scratch = new Scratch();
  for (const format of ["panels16", "panels32", "rows16", "rows32"] as const) {
    for (const dtype of ["f32", "f16", "bf16"] as const) {
      for (const [role, shape] of SHAPES) {
        const source = { dtype, data: sourceOf[dtype](numbers(sizeOf(shape))) };
        const layout = { format, residence: "buffer" } as const;
        const fresh = pack(source, role, shape, layout);
        scratch.packed(4096).fill(0xff);
        assert.deepEqual(pack(source, role, shape, layout, scratch), fresh, `${dtype} ${shape}`);
      }
    }
  }
});
