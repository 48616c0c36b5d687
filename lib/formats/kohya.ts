/** The settings of kohya's gen_img scripts: a text for each (`sd-scripts`, `gen_img.py`). They leave out the size. */

import { parseNumber } from "./json.ts";
import { defined, type Remembered, seedOf } from "./recipe.ts";

/** What texts say, where they are its; `undefined` for any others. */
export function readKohya(texts: ReadonlyMap<string, string>): Remembered | undefined {
  const [prompt, sampler, steps, scale] = ["prompt", "sampler", "steps", "scale"]
    .map((key) => texts.get(key));
  if (prompt === undefined || sampler === undefined || scale === undefined) return undefined;
  const seed = seedOf(texts.get("seed"), "cuda");
  return {
    tool: "kohya",
    recipe: defined({
      prompt,
      negativePrompt: texts.get("negative-prompt"),
      sampler,
      steps: steps === undefined ? undefined : parseNumber(steps),
      cfgScale: parseNumber(scale),
      seed: seed.seed,
      rng: "cuda" as const,
      weighting: "a1111" as const,
    }),
    files: {},
    unmatched: [
      ...seed.unmatched,
      ...["negative-scale", "clip-prompt"].flatMap((key) =>
        texts.has(key) ? [`${key}: ${texts.get(key)}`] : []
      ),
    ],
  };
}
