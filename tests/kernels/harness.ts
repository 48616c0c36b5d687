/**
 * One declaration per kernel (after ggml's `test_case`): from cases that build a node, every variant is run on both
 * kinds of device, with f32 and f16 weights, on hostile values, and compared with a double-precision oracle.
 */

import assert from "node:assert/strict";
import type { OpName } from "../../lib/graph/ops.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import type { Kernel, LayoutOf, NodeOf, Profile, Variant } from "../../lib/kernels/kernel.ts";
import { layoutFor } from "../../lib/kernels/weights.ts";
import { profileOf, subgroupDevice, testDevice } from "../gpu.ts";
import { assertClose, type Tolerance } from "../tolerance.ts";
import { prepare, type Values, type ValuesOf, verifyVariant } from "./runner.ts";

/** The meaning of a node in double precision, from the values of its inputs by name. */
export type Oracle = (
  node: Tensor,
  values: Readonly<Record<string, ArrayLike<number>>>,
) => ArrayLike<number>;

/** Values that find mistakes; `ordinary` is standard normal with every seventh value zero. */
const FILLS = {
  ordinary: (normal: () => number, i: number) => i % 7 === 3 ? 0 : normal(),
  zeros: () => 0,
  offset: (normal: () => number) => 100 + 0.01 * normal(),
  denormals: (normal: () => number, i: number) => i % 2 === 0 ? normal() : 1e-40 * normal(),
} as const;
export type Fill = keyof typeof FILLS;

export interface KernelCase {
  /** Makes the node under test; its inputs are leaves. */
  readonly build: (g: Graph) => Tensor;
  /** Values to use instead of random ones, by the name of an input (token numbers, say). */
  readonly values?: Readonly<Record<string, Values>>;
  /** Fills of the inputs; all of them where absent. */
  readonly fills?: readonly Fill[];
  /** Changes to the profile kernels are told of, e.g. a small `maxBinding` so that they must split. */
  readonly profile?: Partial<Profile>;
  /** Also variants that are coarser than f32; they take long to compile, so a few cases stand for all. */
  readonly approximate?: boolean;
  /** Checks that something is tested at all, e.g. how many dispatches a variant has. */
  readonly expect?: (variants: ReturnType<Kernel<OpName>>, profile: Profile) => void;
}

export interface KernelTest<K extends OpName> {
  readonly kernel: Kernel<K>;
  readonly oracle: Oracle;
  /** Length of the longest sum behind an element, for the tolerance. */
  readonly reduction: (node: NodeOf<K>) => number;
  /** What the tolerance of a variant differs in. */
  readonly tolerance?: (
    variant: Variant,
    dtype: "f32" | "f16",
    reduction: number,
  ) => Partial<Tolerance>;
  readonly cases: Readonly<Record<string, KernelCase>>;
}

/** Standard normal numbers from a seed (mulberry32, Box–Muller). */
export function normals(seed: number): () => number {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

function byName(values: ValuesOf): Record<string, Values> {
  return Object.fromEntries(
    [...values].flatMap(([{ attrs }, list]) => "name" in attrs ? [[attrs.name, list]] : []),
  );
}

function isNode<K extends OpName>(tensor: Tensor, op: K): tensor is NodeOf<K> {
  return tensor.op === op;
}

/** Activations take the fill; parameters are normal, scaled to keep results near 1, and rounded where they are stored f16. */
function fillInputs(node: Tensor, test: KernelCase, fill: Fill, layoutOf: LayoutOf): ValuesOf {
  const values = new Map<Tensor, Values>();
  for (const input of node.inputs) {
    if (values.has(input)) continue;
    const normal = normals(input.id + 1);
    const name = "name" in input.attrs ? input.attrs.name : "";
    const given = test.values?.[name];
    if (given) values.set(input, given);
    else if (input.op === "constant") {
      const { values: list } = input.attrs;
      const filled = list.length === 1 ? new Array(input.size).fill(list[0]) : list;
      values.set(input, Float32Array.from(filled));
    } else if (input.op === "parameter") {
      const scale = 1 / Math.sqrt(input.size / input.shape[0]);
      const drawn = Float32Array.from({ length: input.size }, () => normal() * scale);
      const half = layoutOf(input).format.endsWith("16");
      values.set(input, half ? new Float32Array(new Float16Array(drawn)) : drawn);
    } else {
      const draw = FILLS[fill];
      values.set(input, Float32Array.from({ length: input.size }, (_, i) => draw(normal, i)));
    }
  }
  return values;
}

/**
 * Registers one test for each case: every variant × {software, GPU}, without features and with subgroups and f16, × {f32, f16} weights
 * × fill. Variants that are approximate are held to the tolerance of values stored as f16.
 * Results start as NaN between guard zones; a second run must give the same bits.
 */
export function kernelTest<K extends OpName>(op: K, declared: KernelTest<K>): void {
  for (const [name, test] of Object.entries(declared.cases)) {
    Deno.test(`${op} equals its meaning: ${name}`, async () => {
      const [plain, withSubgroups] = [await testDevice(), await subgroupDevice()];
      const targets = [
        { device: plain, kind: "software" },
        ...(withSubgroups ? [{ device: withSubgroups, kind: "software" } as const] : []),
        { device: plain, kind: "gpu" },
        ...(withSubgroups ? [{ device: withSubgroups, kind: "gpu" } as const] : []),
      ] as const;
      const node = test.build(new Graph());
      assert.ok(isNode(node, op), `the case builds ${node.op}`);
      const inputs: readonly Tensor[] = node.inputs;
      const hasWeights = inputs.some(({ op }) => op === "parameter");
      const reduction = declared.reduction(node);
      const expected = new Map<string, ArrayLike<number>>();
      const seen = new Set<string>();
      let compared = 0;
      for (const { device, kind } of targets) {
        for (const dtype of hasWeights ? ["f32", "f16"] as const : ["f32"] as const) {
          const profile = profileOf(device, { kind, ...test.profile });
          const layoutOf: LayoutOf = (parameter) =>
            parameter.op === "parameter"
              ? layoutFor(parameter.attrs.role, parameter.shape, dtype, profile)
              : { format: "rows32", residence: "buffer" };
          const variants = declared.kernel(node, profile, layoutOf);
          test.expect?.(variants, profile);
          for (const variant of variants) {
            verifyVariant(node, variant, layoutOf);
            const work = `${dtype} ${JSON.stringify(variant)}`;
            if (seen.has(work)) continue; // features change nothing here
            seen.add(work);
            if (variant.approximate && !test.approximate) continue;
            for (
              const fill of test.fills ?? ["ordinary", "zeros", "offset", "denormals"] as const
            ) {
              const label = `${variant.name} ${kind} ${dtype} ${fill}`;
              const values = fillInputs(node, test, fill, layoutOf);
              const key = `${dtype} ${fill}`;
              const oracle = expected.get(key) ?? declared.oracle(node, byName(values));
              expected.set(key, oracle);
              using prepared = await prepare(device, node, variant, values, layoutOf);
              prepared.reset();
              prepared.submit(1);
              const first = await prepared.read();
              const half = variant.approximate ?? false;
              const own = declared.tolerance?.(variant, dtype, reduction);
              assertClose(first, oracle, { reduction, half, ...own }, label);
              compared++;
              if (fill !== "ordinary") continue;
              prepared.reset();
              prepared.submit(1);
              assert.deepEqual(await prepared.read(), first, `${label}: two runs differ`);
            }
          }
        }
      }
      assert.ok(compared > 0);
      for (const { device } of targets) device.check();
    });
  }
}
