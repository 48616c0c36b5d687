/**
 * The patch discriminator that autoencoders are trained against (Isola et al. 2017; Esser et al. 2021, "Taming
 * Transformers", as NLayerDiscriminator names it): one verdict for each patch of a picture, of 70×70 pixels with three
 * layers.
 *
 * Convention: pictures [n, h, w, 3] in −1 … 1; verdicts [n, h′, w′, 1], high for real. Batch norms take the statistics of
 * the batch, in training and always: nobody uses a discriminator afterwards.
 */

import type { Tensor } from "../graph/tensor.ts";
import { around, conv2d, module } from "../nn/layers.ts";
import type { Params } from "../nn/params.ts";

export interface DiscriminatorConfig {
  /** Of the first layer. */
  readonly channels: number;
  /** Layers that halve the picture. */
  readonly layers: number;
}

/** Pixels of a side of the smallest picture that there is a verdict on: its last two windows step by one pixel. */
export function smallestJudged(layers: number): number {
  return 3 * 2 ** layers;
}

/** PyTorch's BatchNorm2d. */
const EPS = 1e-5;
const SLOPE = 0.2;

const leakyRelu = (x: Tensor) => x.max(x.mul(SLOPE));

/** Over batch and pixels: [n, h, w, c]. */
function batchNorm(p: Params, x: Tensor): Tensor {
  return module(p, () => {
    const c = x.shape[3];
    const centred = x.sub(x.mean([0, 1, 2]));
    const variance = centred.mul(centred).mean([0, 1, 2]);
    const normed = centred.div(variance.add(EPS).sqrt());
    return normed.mul(p.get("weight", [c], "vector")).add(p.get("bias", [c], "vector"));
  });
}

/** Verdicts on a batch of pictures. */
export function discriminate(p: Params, config: DiscriminatorConfig, picture: Tensor): Tensor {
  const window = (stride: number, bias: boolean) =>
    ({ kernel: 4, stride, padding: around(1), bias }) as const;
  const main = p.at("main");
  let x = leakyRelu(conv2d(main.at(0), picture, config.channels, window(2, true)));
  for (let i = 1; i <= config.layers; i++) {
    const at = 3 * i - 1; // torch's Sequential: convolution, norm, activation
    const channels = config.channels * Math.min(2 ** i, 8);
    const stride = i < config.layers ? 2 : 1;
    x = conv2d(main.at(at), x, channels, window(stride, false));
    x = leakyRelu(batchNorm(main.at(at + 1), x));
  }
  return conv2d(main.at(3 * config.layers + 2), x, 1, window(1, true));
}
