import { deepEqual, equal, match } from "node:assert/strict";
import { graphOf } from "../../lib/cli/metadata.ts";
import type { Settings } from "../../lib/pipelines/events.ts";

const settings: Settings = {
  prompt: "a fox",
  negativePrompt: "",
  width: 64,
  height: 64,
  steps: 2,
  cfgScale: 7,
  guidanceRescale: 0,
  sampler: "euler",
  schedule: undefined,
  eta: undefined,
  clipSkip: 2,
  rng: "cpu",
  samplerRng: undefined,
  batchSeeds: "each",
  batchCount: 1,
  weighting: "a1111",
  rounding: "round",
  zeroNegative: false,
  match: undefined,
};
const place = { index: 0, seed: 7 };
const makers = {
  files: { model: "a/b.safetensors" },
  dtype: "f16",
  tuned: false,
  loras: [],
} as const;

Deno.test("graphOf takes the text encoder's layer that was read, by ComfyUI's number", () => {
  const { graph = "" } = graphOf({ ...settings, clipLayer: 3 }, place, makers);
  match(graph, /"inputs":\{"stop_at_clip_layer":-3,/);
  const { graph: own = "" } = graphOf(settings, place, makers);
  equal(own.includes("CLIPSetLastLayer"), false);
});

Deno.test("graphOf makes none of what ComfyUI cannot ask for", () => {
  deepEqual(graphOf({ ...settings, label: "fox" }, place, makers), {});
  deepEqual(graphOf({ ...settings, boxes: [] }, place, makers), {});
  deepEqual(graphOf({ ...settings, sees: "low" }, place, makers), {});
});
