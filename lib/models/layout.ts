/**
 * A transformer that reads a layout (Rombach et al. 2022, section 4.3.1): tokens of objects and their corners, in which
 * each sees all others. Pre-norm, GELU, learnt positions, no dropout: the paper's `BERTEmbedder`, with biases.
 *
 * Convention: tokens [n, t] are i32; states are [n, t, width].
 */

import type { Tensor } from "../graph/tensor.ts";
import { attention, type AttentionNames, gelu, layerNorm, linear, module } from "../nn/layers.ts";
import type { Params } from "../nn/params.ts";

export interface LayoutTransformer {
  readonly vocabulary: number;
  /** Tokens of a layout. */
  readonly length: number;
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
}

const NAMES: AttentionNames = { q: "to_q", k: "to_k", v: "to_v", out: "to_out.0", bias: true };
/** torch's own of a layer norm. */
const EPS = 1e-5;

/** The states of `tokens`, after the last norm. */
export function layoutStates(p: Params, config: LayoutTransformer, tokens: Tensor): Tensor {
  const { vocabulary, length, width, layers, heads } = config;
  const table = p.at("token_embedding").get("weight", [vocabulary, width], "embedding");
  const places = p.at("position_embedding").get("weight", [length, width], "vector");
  let x = table.gather(tokens).add(places); // [n, t, width]
  for (let i = 0; i < layers; i++) x = layer(p.at(`layers.${i}`), x, heads);
  return layerNorm(p.at("norm"), x, EPS);
}

function layer(p: Params, x: Tensor, heads: number): Tensor {
  const width = x.shape[2];
  return module(p, () => {
    const a = layerNorm(p.at("norm1"), x, EPS);
    const y = x.add(attention(p.at("attn"), a, a, heads, NAMES, { causal: false }));
    const inner = gelu(linear(p.at("ff.0"), layerNorm(p.at("norm2"), y, EPS), 4 * width));
    return y.add(linear(p.at("ff.2"), inner, width));
  });
}
