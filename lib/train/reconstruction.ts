/**
 * The losses of first stages (Rombach et al. 2022, section 3.1 and appendix G; Esser et al. 2021, VQGAN): reconstruction,
 * regularisation of the latents, and a discriminator whose share is balanced by gradients at the decoder's last layer.
 */

import { gradients } from "../graph/grad.ts";
import type { Tensor } from "../graph/tensor.ts";
import { discriminate, type DiscriminatorConfig } from "../models/discriminator.ts";
import { quantize, straightThrough } from "../models/quantizer.ts";
import { decode, encode, type VaeConfig } from "../models/vae.ts";
import { relu } from "../nn/layers.ts";
import type { Params } from "../nn/params.ts";
import type { Objective } from "./trainer.ts";

const number = (x: Tensor) => x.reshape([]);
/** Mean over everything. */
const mean = (x: Tensor) => number(x.mean(x.shape.map((_, i) => i)));

export interface AdversarialLoss {
  readonly config: DiscriminatorConfig;
  readonly weight: number;
}

/** Distance of pictures as a network sees them, [n, 1, 1, 1] (lpips.ts). */
export interface PerceptualLoss {
  readonly weight: number;
  distance(a: Tensor, b: Tensor): Tensor;
}

export interface ReconstructionOptions {
  readonly pixelLoss: "l1" | "l2";
  /** Of the KL divergence, or of the distance between latents and their codes. */
  readonly regularisation: number;
  /** With codes: the latents' pull towards their codes, beside the codes' pull towards the latents. */
  readonly commitment: number;
  readonly adversarial: AdversarialLoss | undefined;
  readonly perceptual: PerceptualLoss | undefined;
}

/** Mean and half the log variance's exponential of the latents' distribution, each [n, h, w, c]. */
function posterior(moments: Tensor): { mean: Tensor; logVariance: Tensor } {
  const c = moments.shape[3] / 2;
  return {
    mean: moments.slice(3, 0, c),
    logVariance: moments.slice(3, c, 2 * c).max(-30).min(20),
  };
}

/**
 * KL divergence of the latents from a standard normal distribution for each number of the picture. The paper's code adds up
 * divergence and reconstruction where this takes means: weights mean the same.
 */
function divergence({ mean, logVariance }: ReturnType<typeof posterior>, picture: Tensor): Tensor {
  const each = mean.mul(mean).add(logVariance.exp()).sub(1).sub(logVariance).mul(0.5);
  return number(each.sum([0, 1, 2, 3])).div(picture.size);
}

/**
 * What the autoencoder is trained for. Inputs of the graph: "picture" [n, h, w, 3] in −1 … 1, "noise" (KL) like the
 * latents, "adversary" (with a discriminator): 0 before it takes part, 1 from then on. `first` and `adversary` are the
 * scopes of autoencoder and discriminator. Reports: "reconstruction" [n, h, w, 3], "pixel", "regularisation", and, where
 * they exist, "perceptual", "adversarial", "balance", "usage".
 */
export function autoencoderObjective(
  first: Params,
  config: VaeConfig,
  adversary: Params,
  picture: Tensor,
  options: ReconstructionOptions,
): Objective {
  const { graph } = first;
  const { adversarial, perceptual, pixelLoss } = options;
  const encoded = encode(first, config, picture);
  const reports: Record<string, Tensor> = {};
  let latents: Tensor;
  let penalty: Tensor;
  if (config.codes === undefined) {
    const distribution = posterior(encoded);
    const noise = graph.input("noise", distribution.mean.shape);
    latents = distribution.mean.add(distribution.logVariance.mul(0.5).exp().mul(noise));
    penalty = divergence(distribution, picture);
  } else {
    const { nearest, usage } = quantize(first, config.codes, encoded);
    const pull = (a: Tensor, b: Tensor) => mean(a.sub(b).mul(a.sub(b)));
    latents = straightThrough(encoded, nearest);
    penalty = pull(nearest, encoded.detach())
      .add(pull(encoded, nearest.detach()).mul(options.commitment));
    reports.usage = usage;
  }
  const reconstruction = decode(first, config, latents);
  const difference = picture.sub(reconstruction);
  const pixel = mean(pixelLoss === "l1" ? difference.abs() : difference.mul(difference));
  let quality = pixel;
  if (perceptual) {
    const distance = mean(perceptual.distance(picture, reconstruction));
    quality = pixel.add(distance.mul(perceptual.weight));
    reports.perceptual = distance;
  }
  let loss = quality.add(penalty.mul(options.regularisation));
  if (adversarial) {
    const verdict = mean(discriminate(adversary, adversarial.config, reconstruction)).neg();
    const balance = balanceOf(quality, verdict, lastLayer(first, config));
    const share = balance.mul(graph.input("adversary", [])).mul(adversarial.weight);
    loss = loss.add(verdict.mul(share));
    Object.assign(reports, { adversarial: verdict, balance });
  }
  return { loss, reports: { ...reports, reconstruction, pixel, regularisation: penalty } };
}

/** The decoder's last convolution. */
function lastLayer(first: Params, { channels, outChannels }: VaeConfig): Tensor {
  return first.at("decoder.conv_out").get("weight", [outChannels, 3, 3, channels[0]], "conv");
}

/** ‖∇ quality‖ / (‖∇ verdict‖ + 10⁻⁴), at most 10⁴, held fixed (Esser et al. 2021, equation 7). */
function balanceOf(quality: Tensor, verdict: Tensor, layer: Tensor): Tensor {
  const norm = (loss: Tensor) => {
    const [gradient] = gradients(loss, [layer]);
    return number(gradient.mul(gradient).sum([0, 1, 2, 3])).sqrt();
  };
  return norm(quality).div(norm(verdict).add(1e-4)).max(0).min(1e4).detach();
}

/** What the discriminator is trained for: hinge loss on "picture" and "reconstruction", both [n, h, w, 3]. */
export function discriminatorObjective(
  p: Params,
  config: DiscriminatorConfig,
  picture: Tensor,
  reconstruction: Tensor,
): Objective {
  const real = mean(relu(discriminate(p, config, picture).neg().add(1)));
  const made = mean(relu(discriminate(p, config, reconstruction).add(1)));
  return { loss: real.add(made).mul(0.5), reports: { real, made } };
}
