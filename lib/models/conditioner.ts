/**
 * What a denoiser is told other than text: the class of a picture, and what lies where in it. Kept in a folder
 * `conditioner/` beside the denoiser's, as config.json and weights, in the manner of diffusers' components.
 */

import { FormatError } from "../base/errors.ts";
import type { Tensor } from "../graph/tensor.ts";
import { linear } from "../nn/layers.ts";
import type { Params } from "../nn/params.ts";
import { layoutStates } from "./layout.ts";

/** A transformer over objects and their corners. */
export interface LayoutReader {
  /** What objects can be called; a class's token is its place. */
  readonly classes: readonly string[];
  /** The most objects. */
  readonly objects: number;
  /** Tokens there are: classes and corners share them, the last one is "none". */
  readonly vocabulary: number;
  /** Two tokens more say which part of the picture is shown. */
  readonly crop: boolean;
  /** Of a token. */
  readonly width: number;
  /** Of the transformer. */
  readonly layers: number;
  /** Of attention. */
  readonly heads: number;
}

/** All that a conditioner reads; where it reads nothing it gives one token of zeros. */
export interface ConditionerConfig {
  /** Of the tokens that it gives. */
  readonly width: number;
  /** What pictures can be called. */
  readonly classes: readonly string[] | undefined;
  /** How it reads what lies where. */
  readonly layout: LayoutReader | undefined;
}

/** Tokens of a class: one. `ids` [n] are classes' places, the number of classes where none is told. */
export function classToken(
  p: Params,
  { classes = [], width }: ConditionerConfig,
  ids: Tensor,
): Tensor {
  const table = p.at("class_embedding").get("weight", [classes.length + 1, width], "embedding");
  return table.gather(ids.reshape([ids.size, 1])); // [n, 1, width]
}

/** Tokens of a layout's tokens [n, t], as wide as the denoiser reads them. */
export function layoutContext(
  p: Params,
  { width }: ConditionerConfig,
  layout: LayoutReader,
  tokens: Tensor,
): Tensor {
  const length = tokens.shape[1];
  const states = layoutStates(p.at("layout"), { ...layout, length }, tokens);
  return layout.width === width ? states : linear(p.at("proj"), states, width);
}

// ---- config.json

const CLASS = "LatentDiffusionConditioner";

/** config.json of a conditioner. */
export function conditionerJson(config: ConditionerConfig): Record<string, unknown> {
  return { _class_name: CLASS, ...config };
}

type Json = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Reads a conditioner's config.json. Throws `FormatError` for what is malformed. */
export function conditionerFromJson(
  json: unknown,
  where = "conditioner/config.json",
): ConditionerConfig {
  const bad = (what: string) => new FormatError(`Cannot use ${where}: ${what}`);
  if (!isObject(json)) throw bad("it is not a JSON object");
  const count = (from: Json, key: string): number => {
    const value = from[key];
    if (typeof value === "number" && Number.isInteger(value) && value > 0) return value;
    throw bad(`"${key}" is ${JSON.stringify(value)}, expected a positive whole number`);
  };
  const names = (from: Json): readonly string[] => {
    const { classes } = from;
    if (Array.isArray(classes) && classes.every((name) => typeof name === "string")) return classes;
    throw bad(`"classes" is ${JSON.stringify(classes)}, expected a list of texts`);
  };
  const { classes, layout } = json;
  if (layout !== undefined && !isObject(layout)) throw bad(`"layout" is no JSON object`);
  return {
    width: count(json, "width"),
    classes: classes === undefined ? undefined : names(json),
    layout: layout && {
      classes: names(layout),
      objects: count(layout, "objects"),
      vocabulary: count(layout, "vocabulary"),
      crop: layout.crop === true,
      width: count(layout, "width"),
      layers: count(layout, "layers"),
      heads: count(layout, "heads"),
    },
  };
}
