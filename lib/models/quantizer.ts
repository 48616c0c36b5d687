/**
 * Vector quantisation (van den Oord et al. 2017; Esser et al. 2021): each pixel of a latent becomes the nearest of
 * `codes` learnt vectors. Names are those of diffusers' VQModel.
 */

import type { Tensor } from "../graph/tensor.ts";
import type { Params } from "../nn/params.ts";

export interface Quantized {
  /** [n, h, w, width], codes; its gradient goes to the codes alone. */
  readonly nearest: Tensor;
  /** How many pixels took each code: [codes]. */
  readonly usage: Tensor;
}

/** The nearest codes of a latent [n, h, w, width]; where two are equally near, their mean. */
export function quantize(p: Params, codes: number, z: Tensor): Quantized {
  const width = z.shape[3];
  const table = p.at("quantize.embedding").get("weight", [codes, width], "vector");
  const pixels = z.size / width;
  const rows = z.detach().reshape([pixels, width]);
  const fixed = table.detach();
  // |z|² is the same for all codes
  const distances = fixed.mul(fixed).sum([1]).reshape([1, codes])
    .sub(rows.matmul(fixed, { transposeB: true }).mul(2));
  const least = distances.neg().maximum([1]).neg();
  const isNearest = least.less(distances).select(0, 1); // [pixels, codes]
  const share = isNearest.div(isNearest.sum([1]));
  return {
    nearest: share.matmul(table, { transposeB: false }).reshape(z.shape),
    usage: share.sum([0]).reshape([codes]),
  };
}

/** The codes, as if the quantiser were not there for gradients: z + (codes − z), with the difference held fixed. */
export function straightThrough(z: Tensor, nearest: Tensor): Tensor {
  return z.add(nearest.sub(z).detach());
}
