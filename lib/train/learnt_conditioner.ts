/** Classes and layouts as a denoiser's condition, trained with it. */

import { FormatError } from "../base/errors.ts";
import { classToken, type ConditionerConfig, layoutContext } from "../models/conditioner.ts";
import { paramsOf } from "../nn/params.ts";
import { layoutLength, layoutTokens } from "../text/layout.ts";
import { classId } from "../text/told.ts";
import type { Conditioner } from "./conditioner.ts";
import type { DiffusionConfig } from "./config.ts";
import type { Vocabulary } from "./dataset.ts";
import { shuffledLayout } from "./layout.ts";
import { seedOf } from "./order.ts";

/** Scope of its parameters, and name of its folder. */
export const CONDITIONER = "conditioner";

/** What settings and data ask for. Throws `FormatError` where the data name no class. */
export function conditionerConfigOf(
  { diffusion: { conditioner }, boxes, unet: { context } }: Pick<
    DiffusionConfig,
    "diffusion" | "boxes" | "unet"
  >,
  { labels, objects }: Vocabulary,
): ConditionerConfig {
  const named = (what: string, names: readonly string[]) => {
    if (names.length > 0) return names;
    throw new FormatError(`Cannot train with ${what}: the data name none`);
  };
  const readsBoxes = conditioner.includes("boxes");
  const classes = readsBoxes ? named("boxes", objects) : [];
  if (readsBoxes && classes.length >= boxes.vocabulary) {
    throw new FormatError(
      `Cannot train with boxes of ${classes.length} classes and boxes.vocabulary = ${boxes.vocabulary}: ` +
        `more tokens than classes are needed`,
    );
  }
  return {
    width: context,
    classes: conditioner.includes("class") ? named("classes", labels) : undefined,
    layout: readsBoxes
      ? {
        classes,
        objects: boxes.objects,
        vocabulary: boxes.vocabulary,
        crop: boxes.crop,
        width: boxes.width,
        layers: boxes.layers,
        heads: boxes.heads,
      }
      : undefined,
  };
}

/** The class of a picture as one token; its input is "classes". */
export function classConditioner(config: ConditionerConfig): Conditioner {
  const { classes = [] } = config;
  return {
    tokens: 1,
    context: (graph, n) =>
      classToken(paramsOf(graph, CONDITIONER), config, graph.input("classes", [n], "i32")),
    inputs: (told) =>
      Promise.resolve({
        classes: Int32Array.from(told, (each) => classId(each?.label, classes)),
      }),
  };
}

/** Boxes as tokens of a transformer, in an order of chance; its input is "layout". */
export function layoutConditioner(config: ConditionerConfig): Conditioner {
  const { layout } = config;
  if (!layout) throw new TypeError("There is no layout");
  const tokens = layoutLength(layout);
  const nothing = layoutTokens([], layout);
  return {
    tokens,
    context: (graph, n) =>
      layoutContext(
        paramsOf(graph, CONDITIONER),
        config,
        layout,
        graph.input("layout", [n, tokens], "i32"),
      ),
    inputs(told, seed) {
      const all = new Int32Array(told.length * tokens);
      told.forEach((each, i) =>
        all.set(
          each ? shuffledLayout(each.objects ?? [], layout, seedOf(seed, i)) : nothing,
          i * tokens,
        )
      );
      return Promise.resolve({ layout: all });
    },
  };
}
