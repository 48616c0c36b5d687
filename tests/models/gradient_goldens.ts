/** The losses of fixtures/make/gradients.py as graphs, their gradients by every parameter, and the comparison. */

import assert from "node:assert/strict";
import { sizeOf } from "../../lib/base/shape.ts";
import { gradients } from "../../lib/graph/grad.ts";
import type { Values } from "../../lib/graph/interpret.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { clipText } from "../../lib/models/clip.ts";
import {
  clipConfigFromJson,
  unetConfigFromJson,
  vaeConfigFromJson,
} from "../../lib/models/config_from_json.ts";
import { unet } from "../../lib/models/unet.ts";
import { decode, encode } from "../../lib/models/vae.ts";
import { manifestOf, paramsOf } from "../../lib/nn/params.ts";
import { readGolden } from "../golden.ts";
import { channelsFirst, channelsLast, readTiny, type Tiny } from "./tiny.ts";

type Golden = Awaited<ReturnType<typeof readGolden>>;

/** A loss and its gradients; `values` of parameters under checkpoint names and of inputs. */
export interface Differentiated {
  readonly loss: Tensor;
  /** By each parameter of the graph: whole weights, or rows of some. */
  readonly gradients: readonly { readonly parameter: Parameter; readonly gradient: Tensor }[];
  readonly values: Values;
  readonly golden: Golden;
}
type Parameter = Extract<Tensor, { op: "parameter" }>;

const mean = (x: Tensor) => x.sum(x.shape.map((_, i) => i)).div(x.size).reshape([]);
const square = (x: Tensor) => x.mul(x);

/** Adds a graph input with a golden's values; pictures [n, c, h, w] become channels-last. */
type Input = (name: string, shape: readonly number[]) => Tensor;

interface Model {
  readonly component: "unet" | "vae" | "text_encoder";
  readonly folder: string;
  readonly loss: (graph: Graph, tiny: Tiny, input: Input) => Tensor;
}

const unetLoss = (h: number, w: number): Model["loss"] => (graph, { config: json }, input) => {
  const config = unetConfigFromJson(json);
  const { addition, contextWidth } = config;
  const size = [2, h, w, 4];
  const prediction = unet(paramsOf(graph, "unet"), config, {
    sample: input("sample", size),
    timestep: input("timestep", [2]),
    encoderHiddenStates: input("context", [2, 5, contextWidth]),
    ...(addition && {
      textEmbeds: input("text_embeds", [2, addition.inputWidth - 6 * addition.timeWidth]),
      timeIds: input("time_ids", [2, 6]),
    }),
  });
  return mean(square(prediction.sub(input("target", size))));
};

/** Each golden's loss. */
export const MODELS = {
  unet_sd1: { component: "unet", folder: "tiny/sd1", loss: unetLoss(5, 7) },
  unet_sdxl: { component: "unet", folder: "tiny/sdxl", loss: unetLoss(4, 8) },
  vae_sd1: {
    component: "vae",
    folder: "tiny/sd1",
    loss: (graph, { config: json }, input) => {
      const config = vaeConfigFromJson(json);
      const f = 2 ** (config.channels.length - 1);
      const p = paramsOf(graph, "vae");
      const picture = input("picture", [1, 2 * f, 3 * f, 3]);
      const moments = encode(p, config, picture);
      const centre = moments.slice(3, 0, 4);
      const logVariance = moments.slice(3, 4, 8).max(-30).min(20);
      const z = centre.add(logVariance.mul(0.5).exp().mul(input("noise", [1, 2, 3, 4])));
      const divergence = mean(square(centre).add(logVariance.exp()).sub(1).sub(logVariance));
      return mean(decode(p, config, z).sub(picture).abs()).add(divergence.mul(0.005));
    },
  },
  clip_sd1: {
    component: "text_encoder",
    folder: "tiny/sd1",
    loss: (graph, { config: json }, input) => {
      const config = clipConfigFromJson(json);
      const tokens = graph.input("tokens", [2, 6], "i32");
      const output = { skip: 0, finalNorm: true };
      const { hidden } = clipText(paramsOf(graph, "text_encoder"), config, tokens, output);
      return mean(square(hidden.sub(input("target", hidden.shape))));
    },
  },
} as const satisfies Record<string, Model>;
export type ModelName = keyof typeof MODELS;

export async function differentiated(name: ModelName): Promise<Differentiated> {
  const model: Model = MODELS[name];
  const golden = await readGolden(`gradients_${name}`);
  const tiny = await readTiny(model.folder, model.component);
  const graph = new Graph();
  const values: Record<string, ArrayLike<number>> = { ...tiny.values };
  for (const [key, list] of golden.integers) values[key.slice("in.".length)] = list;
  const loss = model.loss(graph, tiny, (key, shape) => {
    const given = golden.tensors.get(`in.${key}`);
    assert.ok(given, `the golden has no ${key}`);
    const [n, h, w, c] = shape;
    values[key] = shape.length === 4 ? channelsLast(given, [n, c, h, w]) : given;
    return graph.input(key, shape);
  });
  const parameters = graph.nodes.flatMap((node) => node.op === "parameter" ? [node] : []);
  const found = gradients(loss, parameters);
  const pairs = parameters.map((parameter, i) => ({ parameter, gradient: found[i] }));
  return { loss, gradients: pairs, values, golden };
}

/** Gradients by name and in torch's order from those of the graph's parameters. */
export function byName(
  pairs: Differentiated["gradients"],
  results: readonly ArrayLike<number>[],
): Map<string, Float64Array> {
  const whole = new Map<string, Float64Array>();
  const manifest = manifestOf(pairs[0].parameter.graph);
  pairs.forEach(({ parameter: { attrs, shape } }, i) => {
    const pieces = attrs.pieces ?? [{ name: attrs.name, shape, begin: 0, end: shape[0] }];
    let from = 0;
    for (const { name, shape, begin, end } of pieces) {
      const row = sizeOf(shape) / shape[0];
      const sum = whole.get(name) ?? new Float64Array(sizeOf(shape));
      whole.set(name, sum);
      for (let j = begin * row; j < end * row; j++) sum[j] += results[i][from++];
    }
  });
  return new Map([...whole].map(([name, values]) => {
    const shape = manifest.get(name)?.shape ?? [];
    return [name, shape.length === 4 ? channelsFirst(values, shape) : values];
  }));
}

/** As `signs` of fixtures/make/gradients.py. */
function sign(i: number, order: number): number {
  let h = (Math.imul(i, 0x9e3779b1) + Math.imul(order, 0x85ebca6b)) >>> 0;
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d) >>> 0;
  h = Math.imul(h ^ (h >>> 12), 0x297a2d39) >>> 0;
  return (h ^ (h >>> 15)) < 0 ? -1 : 1;
}

/**
 * Fails unless the loss and every gradient are those of the golden: projections within √bound of a gradient's norm, or of
 * a thousandth of the largest norm, for those that should be zero.
 */
export function assertGolden(
  { tensors, metadata }: Golden,
  component: string,
  loss: number,
  found: ReadonlyMap<string, Float64Array>,
  bound: number,
): void {
  const names: string[] = JSON.parse(metadata.get("parameters") ?? "[]");
  assert.deepEqual([...found.keys()].sort(), names.map((key) => `${component}.${key}`).sort());
  const [expectedLoss] = tensors.get("loss") ?? [];
  assert.ok(
    Math.abs(loss - expectedLoss) <= Math.sqrt(bound) * expectedLoss,
    `loss ${loss}, expected ${expectedLoss}`,
  );
  const projections = tensors.get("projections") ?? new Float32Array();
  const width = projections.length / names.length;
  const norms = names.map((_, i) => projections[i * width + width - 1]);
  const floor = 1e-3 * Math.max(...norms);
  names.forEach((name, i) => {
    const gradient = found.get(`${component}.${name}`);
    assert.ok(gradient, `there is no gradient by ${name}`);
    let error = 0;
    for (let k = 0; k < width - 1; k++) {
      const sum = gradient.reduce((sum, v, j) => sum + v * sign(j, k), 0);
      error += (sum - projections[i * width + k]) ** 2 / (width - 1);
    }
    const power = norms[i] ** 2 + floor ** 2;
    assert.ok(error <= bound * power, `${name}: NMSE ${(error / power).toExponential(2)}`);
  });
}
