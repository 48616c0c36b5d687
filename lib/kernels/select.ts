/** Which kernel computes a node, and in which variant. */

import type { OpName } from "../graph/ops.ts";
import type { Tensor } from "../graph/tensor.ts";
import { attention } from "./attention.ts";
import { attentionGradient, attentionLogSum } from "./attention_gradient.ts";
import { conv2d, conv2dTranspose } from "./conv2d.ts";
import { conv2dWeight } from "./conv2d_weight.ts";
import { gather, scatterAdd } from "./index.ts";
import type { Kernel, LayoutOf, NodeOf, Profile, Variant } from "./kernel.ts";
import { mapKernel } from "./map.ts";
import { matmul } from "./matmul.ts";
import { groupMoments, groupNormalize, layerNorm, softmax } from "./norm.ts";
import { groupSums, layerNormGradient } from "./norm_gradient.ts";
import { maximum, sum } from "./reduce.ts";
import { type Choice, choiceOf, classOf } from "./table.ts";

/** Leaves are written by the program. */
function noKernel({ op }: Tensor): never {
  throw new RangeError(`"${op}" is not computed by a kernel`);
}

/** The kernel of every operator. */
export const KERNELS: { readonly [K in OpName]: Kernel<K> } = {
  parameter: noKernel,
  input: noKernel,
  constant: noKernel,

  neg: mapKernel,
  abs: mapKernel,
  exp: mapKernel,
  log: mapKernel,
  sqrt: mapKernel,
  sin: mapKernel,
  cos: mapKernel,
  tanh: mapKernel,
  erf: mapKernel,
  sigmoid: mapKernel,
  add: mapKernel,
  sub: mapKernel,
  mul: mapKernel,
  div: mapKernel,
  max: mapKernel,
  min: mapKernel,
  less: mapKernel,
  select: mapKernel,
  detach: mapKernel,
  map: mapKernel,

  sum,
  maximum,

  matmul,
  conv2d,
  conv2dTranspose,
  conv2dWeight,
  attention,
  attentionLogSum,
  attentionGradient,

  groupMoments,
  groupNormalize,
  groupSums,
  layerNormGradient,
  layerNorm,
  softmax,

  reshape: mapKernel,
  transpose: mapKernel,
  broadcast: mapKernel,
  slice: mapKernel,
  concat: mapKernel,
  pad: mapKernel,
  upsample: mapKernel,
  gather,
  scatterAdd,
};

type Variants = readonly [Variant, ...Variant[]];

/** Correlates a node with the kernel of its operator. */
function variantsBy<K extends OpName>(
  op: K,
  node: NodeOf<K>,
  profile: Profile,
  layoutOf: LayoutOf,
): Variants {
  return KERNELS[op](node, profile, layoutOf);
}

/**
 * Every way to compute a node, the default first. Throws `RangeError` for leaves, and for operands that a kernel cannot
 * read or cut to fit.
 */
export function variantsOf(node: Tensor, profile: Profile, layoutOf: LayoutOf): Variants {
  return variantsBy(node.op, node, profile, layoutOf);
}

/** The way to compute a node that the choice names, or the first where it names none of them. */
export function select(
  node: Tensor,
  profile: Profile,
  layoutOf: LayoutOf,
  choice: Choice = choiceOf(profile),
): Variant {
  const variants = variantsOf(node, profile, layoutOf);
  if (variants.length === 1) return variants[0];
  const wanted = choice(classOf(node, layoutOf));
  return variants.find(({ name }) => name === wanted) ?? variants[0];
}
