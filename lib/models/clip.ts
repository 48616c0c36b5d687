/**
 * CLIP's text transformer (Radford et al. 2021), as transformers' CLIPTextModel and
 * CLIPTextModelWithProjection name it: ViT-L/14 of SD 1, OpenCLIP ViT-H/14 of SD 2, ViT-L/14 and
 * OpenCLIP ViT-bigG/14 of SDXL.
 *
 * Convention: tokens [n, t] are i32; states are [n, t, width].
 */

import { show } from "../base/shape.ts";
import type { Graph, Tensor } from "../graph/tensor.ts";
import {
  type Activation,
  ACTIVATIONS,
  attention,
  type AttentionNames,
  layerNorm,
  linear,
  linearNoBias,
  module,
} from "../nn/layers.ts";
import type { Params } from "../nn/params.ts";

/** What `clipText` builds; `config_from_json.ts` or `config_from_shapes.ts` reads it. */
export interface ClipConfig {
  readonly vocabulary: number;
  readonly positions: number;
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
  /** Width inside the MLP. */
  readonly intermediate: number;
  readonly activation: Activation;
  readonly eps: number;
  /** Width of the pooled projection (`text_projection`); `undefined` where the model has none. */
  readonly projection: number | undefined;
  /** Where the pooled state is taken; 2 is the mistake of old configs, and means the largest id. */
  readonly eosTokenId: number;
}

/** Which states condition the denoiser. */
export interface ClipOutput {
  /** Layers left out at the top: 0 is the last layer, 1 the penultimate. */
  readonly skip: number;
  /** Whether the final layer norm is applied to that state. */
  readonly finalNorm: boolean;
}

export interface ClipStates {
  /** The states that `ClipOutput` chose, [n, t, width]. */
  readonly hidden: Tensor;
  /**
   * Normed last state at `pooledRows`, projected where the model has a projection: [n, width or
   * projection].
   */
  readonly pooled: Tensor | undefined;
}

const NAMES: AttentionNames = {
  q: "q_proj",
  k: "k_proj",
  v: "v_proj",
  out: "out_proj",
  bias: true,
};

/**
 * Text states of `tokens`. All layers are built, used or not, so that the manifest is the
 * checkpoint's. `pooledRows` (i32 [n], see `pooledRow`) is needed for the pooled state only. Throws
 * `RangeError` where the tokens are more than the positions, or there are not as many layers as are
 * skipped.
 */
export function clipText(
  p: Params,
  config: ClipConfig,
  tokens: Tensor,
  output: ClipOutput,
  pooledRows?: Tensor,
): ClipStates {
  const [n, t] = tokens.shape;
  const { width, eps } = config;
  if (t > config.positions) {
    throw new RangeError(
      `Cannot encode tokens of shape ${
        show(tokens.shape)
      }: the text encoder has ${config.positions} positions`,
    );
  }
  if (output.skip >= config.layers) {
    throw new RangeError(
      `Cannot skip ${output.skip} layers of a text encoder that has ${config.layers}`,
    );
  }
  const text = p.at("text_model");
  const states = [embeddings(text.at("embeddings"), config, tokens)];
  for (let i = 0; i < config.layers; i++) {
    states.push(layer(text.at(`encoder.layers.${i}`), config, states[i]));
  }
  const chosen = states[config.layers - output.skip];
  const norm = (x: Tensor) => layerNorm(text.at("final_layer_norm"), x, eps);
  const hidden = output.finalNorm ? norm(chosen) : chosen;
  const final = norm(states[config.layers]);
  const rows = pooledRows && final.reshape([n * t, width]).gather(pooledRows); // [n, width]
  const pooled = config.projection === undefined
    ? rows
    : linearNoBias(p.at("text_projection"), rows ?? final, config.projection);
  return { hidden, pooled: rows && pooled };
}

function embeddings(p: Params, config: ClipConfig, tokens: Tensor): Tensor {
  const { width, positions, vocabulary } = config;
  return module(p, () => {
    const table = p.at("token_embedding").get("weight", [vocabulary, width], "embedding");
    const places = p.at("position_embedding").get("weight", [positions, width], "vector");
    return table.gather(tokens).add(places.slice(0, 0, tokens.shape[1]));
  });
}

function layer(p: Params, config: ClipConfig, x: Tensor): Tensor {
  const { width, heads, intermediate, activation, eps } = config;
  return module(p, () => {
    const a = layerNorm(p.at("layer_norm1"), x, eps);
    const y = x.add(attention(p.at("self_attn"), a, a, heads, NAMES, { causal: true }));
    const b = layerNorm(p.at("layer_norm2"), y, eps);
    const mlp = p.at("mlp");
    const inner = () => ACTIVATIONS[activation](linear(mlp.at("fc1"), b, intermediate));
    return y.add(module(mlp, () => linear(mlp.at("fc2"), inner(), width)));
  });
}

/**
 * The inputs of `clipText` for `batch` prompts of `length` tokens: "tokens" and "pooledRows", both
 * i32.
 */
export function clipInputs(
  graph: Graph,
  batch: number,
  length: number,
): { readonly tokens: Tensor; readonly pooledRows: Tensor } {
  return {
    tokens: graph.input("tokens", [batch, length], "i32"),
    pooledRows: graph.input("pooledRows", [batch], "i32"),
  };
}

/**
 * Where prompt `index` of a batch is pooled: a row of the batch's states laid end to end. It is the
 * first end-of-text token; where the config says 2 (transformers before 4.31), the first largest
 * id.
 */
export function pooledRow(ids: Int32Array, index: number, eosTokenId: number): number {
  const at = eosTokenId === 2
    ? ids.indexOf(ids.reduce((a, b) => Math.max(a, b)))
    : ids.indexOf(eosTokenId);
  return index * ids.length + Math.max(at, 0); // argmax of all zeros is 0
}
