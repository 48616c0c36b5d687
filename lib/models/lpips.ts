/**
 * LPIPS 0.1 (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"): the distance of
 * two pictures as a network that tells what they show sees them, VGG16 or AlexNet.
 *
 * Convention: pictures [n, h, w, 3] in −1 … 1. Parameters have the names of the Python package `lpips`; widths are those
 * of the weights that are given.
 */

import { FormatError } from "../base/errors.ts";
import type { Shape } from "../base/shape.ts";
import { Graph, type Tensor } from "../graph/tensor.ts";
import { around, conv2d, module, relu } from "../nn/layers.ts";
import { type Manifest, manifestOf, type Params, paramsOf } from "../nn/params.ts";

/** Mean and spread of a colour of ImageNet's pictures, brought to −1 … 1. */
const SHIFT = [-0.03, -0.088, -0.188];
const SCALE = [0.458, 0.448, 0.45];

/** A convolution: its place in torchvision's list, its usual width, and how it moves. */
interface Convolution {
  readonly at: number;
  readonly width: number;
  readonly kernel: number;
  readonly stride: number;
  readonly padding: number;
}

/** Convolutions up to where features are compared; the largest of `pool` × `pool` values is taken before them. */
interface Slice {
  readonly pool: 2 | 3 | undefined;
  readonly convolutions: readonly Convolution[];
}

const small = (at: number, width: number): Convolution => ({
  ...{ at, width, kernel: 3, stride: 1, padding: 1 },
});

/** Layers as torchvision's `features` numbers them, and the least side of a picture that does not vanish in them. */
const NETWORKS = {
  vgg: {
    least: 16,
    slices: [
      { pool: undefined, convolutions: [small(0, 64), small(2, 64)] },
      { pool: 2, convolutions: [small(5, 128), small(7, 128)] },
      { pool: 2, convolutions: [small(10, 256), small(12, 256), small(14, 256)] },
      { pool: 2, convolutions: [small(17, 512), small(19, 512), small(21, 512)] },
      { pool: 2, convolutions: [small(24, 512), small(26, 512), small(28, 512)] },
    ],
  },
  alex: {
    least: 31,
    slices: [
      { pool: undefined, convolutions: [{ at: 0, width: 64, kernel: 11, stride: 4, padding: 2 }] },
      { pool: 3, convolutions: [{ at: 3, width: 192, kernel: 5, stride: 1, padding: 2 }] },
      { pool: 3, convolutions: [small(6, 384)] },
      { pool: undefined, convolutions: [small(8, 256)] },
      { pool: undefined, convolutions: [small(10, 256)] },
    ],
  },
} as const satisfies Record<string, { least: number; slices: readonly Slice[] }>;

type Network = keyof typeof NETWORKS;

export interface LpipsConfig {
  readonly network: Network;
  /** Channels of each convolution, in order. */
  readonly widths: readonly number[];
  /** Pixels that a picture's sides must have at least. */
  readonly least: number;
}

const slicesOf = (network: Network): readonly Slice[] => NETWORKS[network].slices;
const convolutionsOf = (network: Network) =>
  slicesOf(network).flatMap(({ convolutions }) => convolutions);

/** Kernels of the first convolution, by which networks are told apart. */
const FIRST_KERNELS = new Map<number | undefined, Network>([[3, "vgg"], [11, "alex"]]);

/** Names in files: of the package, with its list of the weights as well, and of torchvision, after any prefix. */
const CONVOLUTION = /(?:^|\.)(?:net\.slice\d|features)\.(\d+)\.(weight|bias)$/;
const WEIGHING = /(?:^|\.)lin(?:s\.)?(\d)\.model\.\d\.weight$/;

/** What tensors are, by names and shapes: the config, and the parameter that each is. Throws `FormatError`. */
export function lpipsFromShapes(
  shapes: ReadonlyMap<string, Shape>,
  where: string,
): { readonly config: LpipsConfig; readonly names: ReadonlyMap<string, string> } {
  const convolutions = new Map<string, string>();
  for (const name of shapes.keys()) {
    const [, at, kind] = CONVOLUTION.exec(name) ?? [];
    if (at !== undefined) convolutions.set(`${at}.${kind}`, name);
  }
  const shapeOf = (at: number) => shapes.get(convolutions.get(`${at}.weight`) ?? "");
  const network = FIRST_KERNELS.get(shapeOf(0)?.[2]);
  if (network === undefined || shapes.keys().some((name) => /\.squeeze\./.test(name))) {
    throw new FormatError(
      `Cannot use ${where} for a perceptual loss: it is neither VGG16 nor AlexNet with LPIPS' weights, under the names of ` +
        `the Python package lpips or of torchvision`,
    );
  }
  const names = new Map<string, string>();
  slicesOf(network).forEach(({ convolutions: layers }, slice) => {
    for (const { at } of layers) {
      for (const kind of ["weight", "bias"]) {
        const name = convolutions.get(`${at}.${kind}`);
        if (name !== undefined) names.set(name, `net.slice${slice + 1}.${at}.${kind}`);
      }
    }
  });
  for (const name of shapes.keys()) {
    const [, slice] = WEIGHING.exec(name) ?? [];
    if (slice !== undefined) names.set(name, `lin${slice}.model.1.weight`);
  }
  const widths = convolutionsOf(network).map(({ at, width }) => shapeOf(at)?.[0] ?? width);
  return { config: { network, widths, least: NETWORKS[network].least }, names };
}

/** The largest of `kernel` values, two apart, along an axis; what does not fill a window at the end is left out. */
function pooledAlong(x: Tensor, axis: 1 | 2, kernel: 2 | 3): Tensor {
  const length = x.shape[axis];
  const windows = Math.floor((length - kernel) / 2) + 1;
  const pairs = kernel === 2 ? windows : windows + 1;
  const missing = Math.max(0, 2 * pairs - length); // in a pair whose second no window reads
  const none = x.shape.map(() => 0);
  const fitted = x.pad(none, none.with(axis, missing)).slice(axis, 0, 2 * pairs);
  const split = fitted.reshape(x.shape.toSpliced(axis, 1, pairs, 2));
  const shape = x.shape.with(axis, windows);
  const each = (first: number, second: 0 | 1) =>
    split.slice(axis, first, first + windows).slice(axis + 1, second, second + 1).reshape(shape);
  const pair = each(0, 0).max(each(0, 1));
  return kernel === 2 ? pair : pair.max(each(1, 0));
}

/** What the network sees, at five depths. */
function features(p: Params, { network, widths }: LpipsConfig, picture: Tensor): Tensor[] {
  const { graph } = p;
  const shift = graph.constant(SHIFT, [1, 1, 1, 3]);
  const scale = graph.constant(SCALE, [1, 1, 1, 3]);
  const width = widths.values();
  let x = picture.sub(shift).div(scale);
  return slicesOf(network).map(({ pool, convolutions }, slice) => {
    if (pool !== undefined) x = pooledAlong(pooledAlong(x, 1, pool), 2, pool);
    for (const { at, kernel, stride, padding, width: usual } of convolutions) {
      const window = { kernel, stride, padding: around(padding), bias: true };
      x = relu(conv2d(p.at(`net.slice${slice + 1}.${at}`), x, width.next().value ?? usual, window));
    }
    return x;
  });
}

/** Of unit length over channels, [n, h, w, c]. Where all are 0 the root has no gradient, and relu lets none pass. */
function unit(x: Tensor): Tensor {
  return x.div(x.mul(x).sum([3]).sqrt().add(1e-10));
}

/**
 * The distance of each pair of pictures: [n, 1, 1, 1]. Grey pictures are three equal colours. Gradients go to whichever
 * picture they are wanted of.
 */
export function lpips(p: Params, config: LpipsConfig, a: Tensor, b: Tensor): Tensor {
  return module(p, () => {
    const [one, other] = [a, b].map((picture) =>
      features(p, config, picture.broadcast([...picture.shape.slice(0, 3), 3]))
    );
    return one.map((seen, slice) => {
      const difference = unit(seen).sub(unit(other[slice]));
      const weight = p.at(`lin${slice}.model.1`).get("weight", [1, 1, 1, seen.shape[3]], "conv");
      return difference.mul(difference).mul(weight).sum([3]).mean([1, 2]);
    }).reduce((sum, each) => sum.add(each));
  });
}

/** The parameters under a scope. */
export function lpipsManifest(scope: string, config: LpipsConfig): Manifest {
  const graph = new Graph();
  const picture = graph.input("picture", [1, config.least, config.least, 3]);
  lpips(paramsOf(graph, scope), config, picture, picture);
  return manifestOf(graph);
}
