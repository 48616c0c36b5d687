/**
 * From what a network predicts to x̂₀, the clean latent that samplers are written in; classifier-free guidance.
 * Convention: x = α·x₀ + σ·ε (`Level`); networks see x scaled to unit variance and predict ε, x₀ or
 * v = α·ε − σ·x₀ (Salimans & Ho 2022) at that scale. Everything is elementwise, so the layout does not matter.
 */

import type { Level } from "./schedule.ts";

export const PREDICTIONS = ["epsilon", "v_prediction", "sample"] as const;
/** What the network's output is: ε, v or x₀. Names are diffusers'. */
export type Prediction = (typeof PREDICTIONS)[number];

/** Latents of one picture or of a batch, in any layout. */
export type Latents = Float32Array<ArrayBuffer>;

/** x̂₀ for noisy latents `x` at a level. Does not keep or change `x`. */
export type Denoise = (x: Latents, level: Level) => Promise<Latents> | Latents;

/** The network: its (guided) output for unit-variance input at a timestep. */
export type Predict = (input: Latents, timestep: number) => Promise<Latents> | Latents;

/** The network as a `Denoise`: scales its input, calls it, converts its output. */
export function denoiser(prediction: Prediction, predict: Predict): Denoise {
  return async (x, level) =>
    toX0(prediction, await predict(modelInput(x, level), level.timestep), x, level);
}

/** 1/√(α² + σ²), and α and σ at unit variance; exact where σ/α is infinite. */
function unit({ alpha, sigma }: Level) {
  const scale = 1 / Math.hypot(alpha, sigma);
  return { scale, a: alpha * scale, s: sigma * scale };
}

/** x scaled to unit variance: what the network is trained on. */
export function modelInput(x: Latents, level: Level): Latents {
  return weigh([unit(level).scale, x]);
}

/** x̂₀ from the network's output at `x`. */
export function toX0(prediction: Prediction, output: Latents, x: Latents, level: Level): Latents {
  const { scale, a, s } = unit(level);
  switch (prediction) {
    case "epsilon":
      return weigh([1 / level.alpha, x], [-level.sigma / level.alpha, output]);
    case "v_prediction":
      return weigh([a * scale, x], [-s, output]);
    case "sample":
      return output;
    default:
      return prediction satisfies never;
  }
}

/** ε̂ from x̂₀. */
export function toEpsilon(x0: Latents, x: Latents, { alpha, sigma }: Level): Latents {
  return weigh([1 / sigma, x], [-alpha / sigma, x0]);
}

/** v̂ from x̂₀. */
export function toV(x0: Latents, x: Latents, level: Level): Latents {
  const { scale, a, s } = unit(level);
  return weigh([a * scale / s, x], [-1 / s, x0]);
}

/** ε̂ from v̂. */
export function vToEpsilon(v: Latents, x: Latents, level: Level): Latents {
  const { scale, a, s } = unit(level);
  return weigh([a, v], [s * scale, x]);
}

/** The sum of weighted latents, in f64, rounded to f32 once. */
export function weigh(...terms: readonly (readonly [weight: number, x: Latents])[]): Latents {
  const sum = new Float64Array(terms[0][1].length);
  for (const [weight, x] of terms) {
    for (let i = 0; i < sum.length; i++) sum[i] += weight * x[i];
  }
  return new Float32Array(sum);
}

/** Classifier-free guidance (Ho & Salimans 2022): away from the unconditional prediction by `scale`; 1 changes nothing. */
export function guide(unconditional: Latents, conditional: Latents, scale: number): Latents {
  return compose(unconditional, [[1, conditional]], scale);
}

/**
 * Guidance towards several predictions at once (Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion
 * Models", eq. 12): the unconditional one plus scale times the weighted sum of their differences from it.
 */
export function compose(
  unconditional: Latents,
  parts: readonly (readonly [weight: number, conditional: Latents])[],
  scale: number,
): Latents {
  const scaled = parts.map(([weight, x]) => [weight * scale, x] as const);
  const rest = scaled.reduce((sum, [weight]) => sum - weight, 1);
  return weigh([rest, unconditional], ...scaled);
}

/**
 * Guidance rescale (Lin et al. 2023, section 3.4) of the guided prediction of one picture: its standard deviation
 * becomes the conditional one's, by the fraction `amount` in [0, 1].
 */
export function rescaleGuidance(guided: Latents, conditional: Latents, amount: number): Latents {
  const ratio = Math.sqrt(scatter(conditional) / scatter(guided));
  return weigh([amount * ratio + 1 - amount, guided]);
}

/** The sum of squared distances from the mean. */
function scatter(x: Latents): number {
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  return x.reduce((sum, value) => sum + (value - mean) ** 2, 0);
}

/**
 * The embedding of a guidance weight w for networks distilled with it (latent consistency models, Luo et al. 2023):
 * `[width]`, sines of 1000·w at falling frequencies, then cosines. diffusers passes w = guidance scale − 1.
 */
export function guidanceEmbedding(w: number, width: number): Latents {
  const f32 = Math.fround; // the reference works in f32 and the sines' arguments reach thousands
  const half = width >> 1;
  const slope = f32(Math.log(10000) / (half - 1));
  const out = new Float32Array(width);
  for (let i = 0; i < half; i++) {
    const angle = f32(f32(1000 * w) * f32(Math.exp(f32(i * -slope))));
    out[i] = Math.sin(angle);
    out[half + i] = Math.cos(angle);
  }
  return out;
}
