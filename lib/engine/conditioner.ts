/** The program of a conditioner: what a picture is told beside text, as tokens for the denoiser. */

import { Graph, type Tensor } from "../graph/tensor.ts";
import { peakOf } from "../gpu/compile.ts";
import { classToken, type ConditionerConfig, layoutContext } from "../models/conditioner.ts";
import { type Manifest, manifestOf, paramsOf } from "../nn/params.ts";
import type { TextEmbedding, Told } from "./model.ts";
import type { Programs } from "./programs.ts";

const SCOPE = "conditioner";

/** Tokens of a layout: three for each object, two for the part of the picture that is shown. */
function layoutLength({ layout }: ConditionerConfig): number {
  return layout === undefined ? 0 : 3 * layout.objects + (layout.crop ? 2 : 0);
}

/** How many tokens a conditioner gives. */
export function toldTokens(config: ConditionerConfig): number {
  return Math.max(1, (config.classes ? 1 : 0) + layoutLength(config));
}

/** Tokens [1, tokens, width]; inputs "classes" [1] and "layout" [1, t], as far as it reads them. */
function contextOf(config: ConditionerConfig): Tensor {
  const graph = new Graph();
  const p = paramsOf(graph, SCOPE);
  const { classes, layout, width } = config;
  const parts = [
    ...(classes ? [classToken(p, config, graph.input("classes", [1], "i32"))] : []),
    ...(layout
      ? [layoutContext(p, config, layout, graph.input("layout", [1, layoutLength(config)], "i32"))]
      : []),
  ];
  return parts.length === 0 ? graph.constant(0, [1, 1, width]) : graph.concat(parts, 1);
}

/** Parameters of a conditioner. */
export function conditionerManifest(config: ConditionerConfig): Manifest {
  return manifestOf(contextOf(config).graph);
}

const KEY = "what is told";
const outputsOf = (config: ConditionerConfig) => () => new Map([["context", contextOf(config)]]);

/** The most bytes that running it takes beside its weights. */
export function conditionerBytes(programs: Programs, config: ConditionerConfig): number {
  if (!config.classes && !config.layout) return 0;
  return peakOf(programs.assembly(KEY, outputsOf(config))).peak;
}

/** Tokens of each that is told. */
export async function runConditioner(
  programs: Programs,
  config: ConditionerConfig,
  told: readonly Told[],
): Promise<TextEmbedding[]> {
  const tokens = toldTokens(config);
  if (!config.classes && !config.layout) {
    return told.map(() => ({ hidden: new Float32Array(config.width), tokens }));
  }
  using program = await programs.compile(KEY, outputsOf(config), { label: "the conditioner" });
  const results: TextEmbedding[] = [];
  for (const { classId, layout } of told) {
    const result = await program.run({
      ...(config.classes && { classes: Int32Array.of(classId ?? config.classes.length) }),
      ...(config.layout && layout && { layout: Int32Array.from(layout) }),
    });
    const hidden = result.get("context");
    if (!hidden) throw new TypeError("The conditioner returned nothing");
    results.push({ hidden, tokens });
  }
  return results;
}
