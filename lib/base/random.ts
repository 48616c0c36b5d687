/**
 * Normal noise that equals PyTorch's, so that a seed means the same picture here and there.
 * `torchCpu` is mt19937 (Matsumoto & Nishimura 1998) read out the way ATen's CPU generator does;
 * `torchCuda` is Philox4x32-10 (Salmon et al. 2011) read out the way ATen's CUDA kernels do.
 * Convention: a source is a stream. Two calls continue it, exactly as two `torch.randn` calls on one
 * generator would, and how values are grouped into calls matters.
 */

import { UsageError } from "./errors.ts";

/** A stream of standard normal numbers. */
export interface NoiseSource {
  /** The next `count` numbers: one `torch.randn` call on this source's generator. */
  normal(count: number): Float32Array<ArrayBuffer>;
}

/** A `NoiseSource` that also gives what else is drawn from a torch CPU generator. */
export interface TorchCpu extends NoiseSource {
  /** `torch.rand(count)`: f32 in [0, 1). */
  uniform(count: number): Float32Array<ArrayBuffer>;
  /** `torch.randint(low, high, [count])`, for ranges below 2³². */
  integers(low: number, high: number, count: number): Int32Array<ArrayBuffer>;
}

const f32 = Math.fround;
const TWO_PI = f32(2 * Math.PI);

/** A seed as torch takes it: an integer in [−2⁶³, 2⁶⁴); negative ones count down from 2⁶⁴. */
function seedBits(seed: number | bigint): bigint {
  const whole = typeof seed === "bigint" || Number.isInteger(seed);
  const value = whole ? BigInt(seed) : undefined;
  if (value === undefined || value < -(1n << 63n) || value >= 1n << 64n) {
    throw new UsageError(
      `Cannot seed noise with ${seed}: a seed is a whole number from -2^63 to 2^64 - 1`,
    );
  }
  return BigInt.asUintN(64, value);
}

/** The stream of u32 of mt19937 seeded with one u32. */
function mt19937(seed: number): () => number {
  const N = 624;
  const M = 397;
  const state = new Uint32Array(N);
  state[0] = seed;
  for (let i = 1; i < N; i++) {
    state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  }
  let next = N;
  const refill = () => {
    for (let i = 0; i < N; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % N] & 0x7fffffff);
      state[i] = state[(i + M) % N] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    next = 0;
  };
  return () => {
    if (next === N) refill();
    let y = state[next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

/** Fused multiply-add of f32 values: their product is exact in f64. torch's compiler fuses where these functions do. */
const fma = (a: number, b: number, c: number) => f32(a * b + c);

/**
 * Cephes' single-precision logarithm (Moshier, `logf.c`) for 2⁻²⁴ ≤ x ≤ 1, rounding as ATen's AVX2 code does:
 * torch's vectorised path uses it, and its last bits are not libm's.
 */
function cephesLog(x: number): number {
  let e = Math.floor(Math.log2(x)) + 1;
  let m = x / 2 ** e; // mantissa in [0.5, 1)
  if (m < 0.70710678) {
    m = f32(f32(m - 1) + m);
    e -= 1;
  } else m -= 1;
  const z = f32(m * m);
  let y = LOG[0];
  for (let i = 1; i < LOG.length; i++) y = fma(y, m, LOG[i]);
  y = fma(f32(y * m), z, f32(e * LN2_LOW));
  y = f32(y - z * 0.5);
  return fma(e, LN2_HIGH, f32(m + y));
}
const LOG = [
  7.0376836292e-2,
  -1.1514610310e-1,
  1.1676998740e-1,
  -1.2420140846e-1,
  1.4249322787e-1,
  -1.6668057665e-1,
  2.0000714765e-1,
  -2.4999993993e-1,
  3.3333331174e-1,
].map(f32);
const LN2_HIGH = f32(0.693359375); // ln 2 in two pieces
const LN2_LOW = f32(-2.12194440e-4);

/** Cephes' single-precision cosine and sine (`sinf.c`) for x ≥ 0, rounding as ATen's AVX2 code does. */
function cephesCosSin(x: number): [cos: number, sin: number] {
  const octant = (Math.trunc(f32(x * f32(4 / Math.PI))) + 1) & ~1;
  let r = x; // x − octant · π/4
  for (const piece of QUARTER_PI) r = fma(-octant, piece, r);
  const z = f32(r * r);
  const c0 = f32(fma(fma(COS[0], z, COS[1]), z, COS[2]) * z);
  const c = f32(fma(c0, z, -z * 0.5) + 1);
  const s0 = fma(fma(SIN[0], z, SIN[1]), z, SIN[2]);
  const s = fma(f32(s0 * z), r, r);
  const [cos, sin] = octant & 2 ? [s, c] : [c, s];
  return [(octant + 2) & 4 ? -cos : cos, octant & 4 ? -sin : sin];
}
const QUARTER_PI = [0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8].map(f32); // in three pieces
const COS = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2].map(f32);
const SIN = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1].map(f32);

/**
 * torch's CPU generator after `manual_seed(seed)`; only the low 32 bits of the seed count.
 * 16 numbers or more come from f32 uniforms in blocks of 16, fewer from f64 uniforms in pairs whose
 * second half waits for the next short call (ATen `DistributionTemplates.h`, `normal_fill`).
 * Equal bit for bit to torch on x86 with AVX2 for 16 or more; torch elsewhere differs by some 1e-6 here and there.
 */
export function torchCpu(seed: number | bigint): TorchCpu {
  const next = mt19937(Number(seedBits(seed) & 0xffffffffn));
  let waiting: number | undefined;

  const uniform24 = () => (next() & 0xffffff) / 2 ** 24;
  const uniform53 = () => {
    const high = next() & 0x1fffff; // ATen joins two draws, the first above, and keeps 53 bits
    return (high * 2 ** 32 + next()) / 2 ** 53;
  };

  /** Box–Muller on 16 uniforms in place: pairs are (j, j + 8). */
  const block = (x: Float32Array) => {
    for (let j = 0; j < 8; j++) {
      const radius = f32(Math.sqrt(f32(-2 * cephesLog(1 - x[j]))));
      const [cos, sin] = cephesCosSin(f32(TWO_PI * x[j + 8]));
      x[j] = radius * cos;
      x[j + 8] = radius * sin;
    }
  };

  const single = () => {
    if (waiting !== undefined) {
      const value = waiting;
      waiting = undefined;
      return value;
    }
    const theta = 2 * Math.PI * uniform53();
    const radius = Math.sqrt(-2 * Math.log1p(-uniform53()));
    waiting = radius * Math.sin(theta);
    return radius * Math.cos(theta);
  };

  return {
    normal(count) {
      const x = new Float32Array(count);
      if (count < 16) return x.map(single);
      for (let i = 0; i < count; i++) x[i] = uniform24();
      for (let i = 0; i + 16 <= count; i += 16) block(x.subarray(i, i + 16));
      if (count % 16 !== 0) {
        const last = x.subarray(count - 16);
        for (let j = 0; j < 16; j++) last[j] = uniform24();
        block(last);
      }
      return x;
    },
    uniform: (count) => new Float32Array(count).map(uniform24),
    integers: (low, high, count) => new Int32Array(count).map(() => low + (next() % (high - low))),
  };
}

/** High and low halves of a 32×32-bit product. */
function multiply(a: number, b: number): [high: number, low: number] {
  const low = Math.imul(a, b) >>> 0;
  const cross = (a >>> 16) * (b & 0xffff) + (((a & 0xffff) * (b & 0xffff)) >>> 16);
  const high = (a >>> 16) * (b >>> 16) + Math.floor(cross / 2 ** 16) +
    ((((cross % 2 ** 16) + (a & 0xffff) * (b >>> 16)) / 2 ** 16) >>> 0);
  return [high, low];
}

/** The first two words of the Philox4x32-10 block at a counter. */
function philox(counter: [number, number, number, number], key: [number, number]) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = multiply(0xd2511f53, c0);
    const [high1, low1] = multiply(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1] as const;
}

/**
 * torch's CUDA generator after `manual_seed(seed)`, for tensors within one pass of the launch grid
 * (some 200,000 numbers on current cards): number i of call n is made of the Philox block at counter (n, 0, i, 0).
 * The readout in f64 is AUTOMATIC1111's `modules/rng_philox.py`.
 */
export function torchCuda(seed: number | bigint): NoiseSource {
  const bits = seedBits(seed);
  const key: [number, number] = [Number(bits & 0xffffffffn), Number(bits >> 32n)];
  let call = 0;
  return {
    normal(count) {
      const x = new Float32Array(count);
      for (let i = 0; i < count; i++) {
        const [g0, g1] = philox([call, 0, i, 0], key);
        const u = (g0 + 0.5) * 2 ** -32;
        const v = (g1 + 0.5) * 2 ** -32 * 2 * Math.PI;
        x[i] = Math.sqrt(-2 * Math.log(u)) * Math.sin(v);
      }
      call++;
      return x;
    },
  };
}

/**
 * Several sources as one, for a batch whose pictures have a seed each: a call is shared out evenly, in order,
 * as diffusers does when it is given a list of generators.
 */
export function perPicture(sources: readonly NoiseSource[]): NoiseSource {
  return {
    normal(count) {
      const each = count / sources.length;
      if (!Number.isInteger(each)) {
        throw new RangeError(
          `Cannot share ${count} noise values among ${sources.length} pictures: not a multiple`,
        );
      }
      const out = new Float32Array(count);
      sources.forEach((source, i) => out.set(source.normal(each), i * each));
      return out;
    },
  };
}
