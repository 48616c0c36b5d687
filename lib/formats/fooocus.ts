/** Fooocus' settings in its own scheme: JSON under "parameters" (`modules/meta_parser.py`, `FooocusMetadataParser`). */

import { fieldOf, isObject, type Json, numberOf, parseJson, textOf } from "./json.ts";
import { defined, fileName, loraTag, type Remembered, seedOf } from "./recipe.ts";

/** Settings that change the picture and have no place in a recipe, and their neutral value. */
const UNMATCHED: Readonly<Record<string, string>> = {
  sharpness: "0",
  adm_guidance: "(1.0, 1.0, 0.0)",
  adaptive_cfg: "0",
  refiner_model: "None",
  freeu: "",
};

/** What a text says, where it is Fooocus'; `undefined` for any other text. */
export function readFooocus(text: string): Remembered | undefined {
  const json = parseJson(text);
  const version = textOf(json, "version");
  if (!isObject(json) || !version?.startsWith("Fooocus")) return undefined;
  const seed = seedOf(fieldOf(json, "seed"), "cpu");
  const [, width, height] = /^\((\d{1,6}), (\d{1,6})\)$/.exec(textOf(json, "resolution") ?? "") ??
    [];
  const styled = fieldOf(json, "full_prompt");
  const vae = textOf(json, "vae");
  const model = textOf(json, "base_model");
  const loras = fieldOf(json, "loras");
  return defined({
    tool: "fooocus" as const,
    recipe: defined({
      prompt: joined(styled) ?? textOf(json, "prompt"),
      negativePrompt: joined(fieldOf(json, "full_negative_prompt")) ??
        textOf(json, "negative_prompt"),
      width: width === undefined ? undefined : Number(width),
      height: height === undefined ? undefined : Number(height),
      steps: numberOf(json, "steps"),
      cfgScale: numberOf(json, "guidance_scale"),
      sampler: textOf(json, "sampler"),
      schedule: textOf(json, "scheduler"),
      clipSkip: numberOf(json, "clip_skip"),
      seed: seed.seed,
    }),
    modelHash: textOf(json, "base_model_hash"),
    files: defined({
      model: model && fileName(model),
      vae: vae === undefined || vae.startsWith("Default") ? undefined : fileName(vae),
    }),
    networks: Array.isArray(loras) && loras.length > 0 ? loras.map(tagOf) : undefined,
    unmatched: [
      ...seed.unmatched,
      ...Object.entries(UNMATCHED).flatMap(([name, neutral]) => {
        const value = fieldOf(json, name);
        const said = typeof value === "string" ? value : String(numberOf(json, name) ?? "");
        return said === "" || said === neutral ? [] : [`${name}: ${said}`];
      }),
      ...(Array.isArray(styled) && styled.length > 1
        ? ["styles, which it encodes one by one"]
        : []),
    ],
  });
}

/** The prompt with each style's words. */
function joined(parts: Json | undefined): string | undefined {
  if (!Array.isArray(parts) || parts.length === 0) return undefined;
  return parts.filter((part) => typeof part === "string").join(", ");
}

/** Of [name, weight, hash]. */
function tagOf(lora: Json): string {
  const [name, weight] = Array.isArray(lora) ? lora : [lora];
  return loraTag(String(name), typeof weight === "number" ? weight : undefined);
}
