/**
 * TAESD, the tiny autoencoder of Ollin Boer Bohan, as diffusers' AutoencoderTiny names it:
 * convolutions, ReLUs, and skips around threes of them; no norms, so tiles with a halo of its
 * receptive field are exact.
 *
 * Convention: pictures [n, h, w, 3] in −1 … 1 as everywhere here (its own convention is 0 … 1; the
 * conversion is inside), latents [n, h/8, w/8, 4] in the denoiser's scale.
 */

import type { Tensor } from "../graph/tensor.ts";
import { around, conv2d, module, relu, same, type Window } from "../nn/layers.ts";
import type { Params } from "../nn/params.ts";

/** What `taesdDecode` and `taesdEncode` build. */
export interface TaesdConfig {
  /** Of the picture. */
  readonly inChannels: number;
  readonly latentChannels: number;
  /** Of every convolution inside. */
  readonly channels: number;
  /** Blocks at each size, from the largest picture to the smallest. */
  readonly encoderBlocks: readonly number[];
  /** Blocks at each size, from the smallest picture to the largest. */
  readonly decoderBlocks: readonly number[];
}

/** Pixels of the picture to one of the latent, along one side. */
export function taesdFactor({ decoderBlocks }: TaesdConfig): number {
  return 2 ** (decoderBlocks.length - 1);
}

/** TAESD and TAESDXL as published: github.com/madebyollin/taesd, taesd.py. */
export const TAESD: TaesdConfig = {
  inChannels: 3,
  latentChannels: 4,
  channels: 64,
  encoderBlocks: [1, 3, 3, 3],
  decoderBlocks: [3, 3, 3, 1],
};

const HALVING: Window = { kernel: 3, stride: 2, padding: around(1), bias: false };

/** Layers are numbered through as in a torch Sequential; activations and upsampling count. */
function numbered(p: Params): () => Params {
  let number = 0;
  return () => p.at(number++);
}

/** Latent → picture. `p` is the scope above "decoder.layers". */
export function taesdDecode(p: Params, config: TaesdConfig, z: Tensor): Tensor {
  const { channels, decoderBlocks, inChannels } = config;
  const next = numbered(p.at("decoder.layers"));
  const clamped = z.div(3).tanh().mul(3);
  const first = conv2d(next(), clamped, channels, same(3));
  let x = module(next(), () => relu(first));
  for (const [level, count] of decoderBlocks.entries()) {
    for (let i = 0; i < count; i++) x = block(next(), x, channels);
    const top = level === decoderBlocks.length - 1;
    if (!top) {
      const small = x;
      x = module(next(), () => small.upsample(2));
    }
    x = conv2d(next(), x, top ? inChannels : channels, { ...same(3), bias: top });
  }
  return p.graph.label(p.at("decoder").path, x.mul(2).sub(1));
}

/** Picture → latent. `p` is the scope above "encoder.layers". */
export function taesdEncode(p: Params, config: TaesdConfig, picture: Tensor): Tensor {
  const { channels, encoderBlocks, latentChannels } = config;
  const next = numbered(p.at("encoder.layers"));
  let x = picture.add(1).div(2);
  for (const [level, count] of encoderBlocks.entries()) {
    x = conv2d(next(), x, channels, level === 0 ? same(3) : HALVING);
    for (let i = 0; i < count; i++) x = block(next(), x, channels);
  }
  return p.graph.label(p.at("encoder").path, conv2d(next(), x, latentChannels, same(3)));
}

/** Three convolutions with x added before the last ReLU. */
function block(p: Params, x: Tensor, channels: number): Tensor {
  return module(p, () => {
    const a = relu(conv2d(p.at("conv.0"), x, channels, same(3)));
    const b = relu(conv2d(p.at("conv.2"), a, channels, same(3)));
    return relu(conv2d(p.at("conv.4"), b, channels, same(3)).add(x));
  });
}

const CONVOLUTIONS = 3; // in a block, each widening the view by one pixel on every side

/**
 * Latent pixels around a tile that its picture depends on (19 for `TAESD`), found from the last
 * layer back: a 3×3 convolution widens the view by one pixel on each side, an enlargement halves
 * it.
 */
export function decoderHalo({ decoderBlocks }: TaesdConfig): number {
  let halo = 0;
  for (const [i, count] of decoderBlocks.toReversed().entries()) {
    halo += 1; // the convolution after the blocks, at the larger size
    if (i > 0) halo = Math.ceil(halo / 2);
    halo += CONVOLUTIONS * count;
  }
  return halo + 1;
}

/**
 * Picture pixels around a tile that its latent depends on (145 for `TAESD`); a strided convolution
 * doubles the view. A tile must begin at a multiple of f, halo included, or the strides fall on
 * other pixels.
 */
export function encoderHalo({ encoderBlocks }: TaesdConfig): number {
  let halo = 1;
  for (const [level, count] of [...encoderBlocks.entries()].reverse()) {
    halo += CONVOLUTIONS * count;
    halo = level === 0 ? halo + 1 : 2 * halo + 1;
  }
  return halo;
}
