/** The text of every shader: what a tuned table was measured with. */

import acrossSubgroups from "../../wgsl/across_subgroups.wgsl" with { type: "text" };
import acrossWorkgroup from "../../wgsl/across_workgroup.wgsl" with { type: "text" };
import adamw from "../../wgsl/adamw.wgsl" with { type: "text" };
import attention from "../../wgsl/attention.wgsl" with { type: "text" };
import attentionGradient from "../../wgsl/attention_gradient.wgsl" with { type: "text" };
import attentionLogSum from "../../wgsl/attention_log_sum.wgsl" with { type: "text" };
import attentionPack from "../../wgsl/attention_pack.wgsl" with { type: "text" };
import attentionSubgroups from "../../wgsl/attention_subgroups.wgsl" with { type: "text" };
import attentionTiles from "../../wgsl/attention_tiles.wgsl" with { type: "text" };
import combineMoments from "../../wgsl/combine_moments.wgsl" with { type: "text" };
import conv2d from "../../wgsl/conv2d.wgsl" with { type: "text" };
import conv2dFlat from "../../wgsl/conv2d_flat.wgsl" with { type: "text" };
import conv2dNarrow from "../../wgsl/conv2d_narrow.wgsl" with { type: "text" };
import conv2dWeight from "../../wgsl/conv2d_weight.wgsl" with { type: "text" };
import divide from "../../wgsl/divide.wgsl" with { type: "text" };
import gather from "../../wgsl/gather.wgsl" with { type: "text" };
import groupMoments from "../../wgsl/group_moments.wgsl" with { type: "text" };
import groupNorm from "../../wgsl/group_norm.wgsl" with { type: "text" };
import groupNormalize from "../../wgsl/group_normalize.wgsl" with { type: "text" };
import groupSums from "../../wgsl/group_sums.wgsl" with { type: "text" };
import layerNorm from "../../wgsl/layer_norm.wgsl" with { type: "text" };
import layerNormGradient from "../../wgsl/layer_norm_gradient.wgsl" with { type: "text" };
import map from "../../wgsl/map.wgsl" with { type: "text" };
import matmul from "../../wgsl/matmul.wgsl" with { type: "text" };
import matmulRows from "../../wgsl/matmul_rows.wgsl" with { type: "text" };
import matmulVector from "../../wgsl/matmul_vector.wgsl" with { type: "text" };
import pixels from "../../wgsl/pixels.wgsl" with { type: "text" };
import reduce from "../../wgsl/reduce.wgsl" with { type: "text" };
import reduceAcross from "../../wgsl/reduce_across.wgsl" with { type: "text" };
import scatterAdd from "../../wgsl/scatter_add.wgsl" with { type: "text" };
import softmax from "../../wgsl/softmax.wgsl" with { type: "text" };
import squares from "../../wgsl/squares.wgsl" with { type: "text" };
import winograd2 from "../../wgsl/winograd2.wgsl" with { type: "text" };
import winograd4 from "../../wgsl/winograd4.wgsl" with { type: "text" };
import winogradInput from "../../wgsl/winograd_input.wgsl" with { type: "text" };
import winogradOutput from "../../wgsl/winograd_output.wgsl" with { type: "text" };
import winogradWeight from "../../wgsl/winograd_weight.wgsl" with { type: "text" };
import workgroupF16 from "../../wgsl/workgroup_f16.wgsl" with { type: "text" };
import workgroupF32 from "../../wgsl/workgroup_f32.wgsl" with { type: "text" };
import workgroupPixels from "../../wgsl/workgroup_pixels.wgsl" with { type: "text" };
import workgroupProduct from "../../wgsl/workgroup_product.wgsl" with { type: "text" };
import workgroupRows from "../../wgsl/workgroup_rows.wgsl" with { type: "text" };
import workgroupSums from "../../wgsl/workgroup_sums.wgsl" with { type: "text" };

/** Every file of wgsl/, in the order of their names. */
export const SOURCES: readonly string[] = [
  acrossSubgroups,
  acrossWorkgroup,
  adamw,
  attention,
  attentionGradient,
  attentionLogSum,
  attentionPack,
  attentionSubgroups,
  attentionTiles,
  combineMoments,
  conv2d,
  conv2dFlat,
  conv2dNarrow,
  conv2dWeight,
  divide,
  gather,
  groupMoments,
  groupNorm,
  groupNormalize,
  groupSums,
  layerNorm,
  layerNormGradient,
  map,
  matmul,
  matmulRows,
  matmulVector,
  pixels,
  reduce,
  reduceAcross,
  scatterAdd,
  softmax,
  squares,
  winograd2,
  winograd4,
  winogradInput,
  winogradOutput,
  winogradWeight,
  workgroupF16,
  workgroupF32,
  workgroupPixels,
  workgroupProduct,
  workgroupRows,
  workgroupSums,
];
