/** What pictures say of themselves: settings in AUTOMATIC1111's words, and as ComfyUI's graph. */

import { basename } from "node:path";
import project from "../../deno.json" with { type: "json" };
import { BEGINNINGS } from "../diffusion/beginning.ts";
import {
  COMFYUI_SAMPLERS,
  COMFYUI_SCHEDULES,
  SAMPLER_LABELS,
  SCHEDULE_LABELS,
} from "../diffusion/names.ts";
import { showBoxes } from "../formats/boxes.ts";
import { writeComfyGraph } from "../formats/comfyui.ts";
import { writeInfotext } from "../formats/infotext.ts";
import { OWN_KEYS } from "../formats/infotext_recipe.ts";
import { fileName, type FileRole } from "../formats/recipe.ts";
import type { Settings, Weighting } from "../pipelines/events.ts";
import { matchOf } from "../pipelines/settings.ts";
import { networksOf } from "../text/networks.ts";

/** What a picture is made with beside its settings. */
export interface Makers {
  /** Paths, as they were given. */
  readonly files: Readonly<Partial<Record<FileRole, string>>>;
  readonly modelHash?: string | undefined;
  readonly dtype: "f16" | "f32";
  readonly tuned: boolean;
  /** Tags of the LoRAs that no prompt asks for. */
  readonly loras: readonly string[];
}

/** Which picture of its batch, and its seed. */
interface Place {
  readonly index: number;
  readonly seed: number;
}

/**
 * Infotext in AUTOMATIC1111's order and words; after them what only we know and need to make the same picture again. No
 * paths: a picture may be shown to anybody. `further` entries stand before the version.
 */
export function infotextOf(
  settings: Settings,
  { index, seed }: Place,
  makers: Makers,
  further: Readonly<Record<string, string>> = {},
): string {
  const { sampler, schedule, width, height, clipSkip, guidanceRescale, match } = settings;
  const { strength, maskBlur } = settings;
  const { model = "", vae, taesd, tokenizer, image, mask } = makers.files;
  const isOne = settings.batchSeeds === "one" && settings.batchCount > 1;
  // with a match, leaving the second generator out would mean the matched tool's
  const samplerRng = settings.samplerRng ?? (match && settings.rng);
  return writeInfotext({
    prompt: settings.weighting === "a1111"
      ? [settings.prompt, ...makers.loras].join(" ")
      : settings.prompt,
    negativePrompt: settings.negativePrompt,
    entries: {
      "Steps": settings.steps,
      "Sampler": SAMPLER_LABELS[sampler],
      "Schedule type": schedule && SCHEDULE_LABELS[schedule],
      "CFG scale": settings.cfgScale,
      "Seed": seed,
      "Size": `${width}x${height}`,
      "Model hash": makers.modelHash,
      "Model": basename(fileName(model), ".safetensors"),
      "VAE": vae && fileName(vae),
      "Denoising strength": strength,
      "Clip skip": clipSkip > 1 ? clipSkip : undefined,
      "RNG": settings.rng === "cpu" ? "CPU" : undefined,
      "Eta": settings.eta,
      "VAE Decoder": taesd && "TAESD",
      "Mask blur": maskBlur,
      [OWN_KEYS.label]: settings.label,
      [OWN_KEYS.boxes]: settings.boxes && showBoxes(settings.boxes),
      [OWN_KEYS.taesd]: taesd && fileName(taesd),
      [OWN_KEYS.sees]: settings.sees,
      [OWN_KEYS.image]: image && fileName(image),
      [OWN_KEYS.mask]: mask && fileName(mask),
      [OWN_KEYS.keep]: settings.keep === false ? "False" : undefined,
      [OWN_KEYS.guidanceRescale]: guidanceRescale > 0 ? guidanceRescale : undefined,
      [OWN_KEYS.samplerRng]: samplerRng?.toUpperCase(),
      [OWN_KEYS.match]: match,
      [OWN_KEYS.batchSeeds]: isOne ? "one" : undefined,
      [OWN_KEYS.batchCount]: isOne ? settings.batchCount : undefined,
      [OWN_KEYS.batchIndex]: isOne ? index : undefined,
      [OWN_KEYS.weighting]: settings.weighting,
      [OWN_KEYS.rounding]: settings.rounding,
      [OWN_KEYS.zeroNegative]: settings.zeroNegative ? "True" : undefined,
      [OWN_KEYS.tokenizer]: tokenizer && fileName(tokenizer),
      [OWN_KEYS.dtype]: makers.dtype,
      [OWN_KEYS.tuned]: makers.tuned ? "True" : undefined,
      ...further,
      "Version": `ldm ${project.version}`,
    },
  });
}

/** A prompt of each kind as ComfyUI reads it: without tags, which would be words there; brackets mean what they meant. */
const COMFYUI_TEXT: Readonly<Record<Weighting, (prompt: string) => string>> = {
  a1111(prompt) {
    const { text, networks } = networksOf(prompt);
    return networks.length > 0 ? text.trimEnd() : text;
  },
  comfy: (prompt) => prompt,
  none: (prompt) => prompt.replaceAll(/[()]/g, (bracket) => `\\${bracket}`),
};

/**
 * ComfyUI's graph of the picture: its nearest sampler, and prompts whose brackets mean there what they meant here. None of a
 * picture of a class, with boxes, with a hole or by a model that saw a second picture, which no such graph can ask for.
 */
export function graphOf(
  settings: Settings,
  { seed }: Place,
  { files }: Makers,
): { readonly graph?: string } {
  const { sampler, schedule, weighting, label, boxes, sees } = settings;
  const { strength = 1, match, steps } = settings;
  const isPlain = sees === undefined || sees === "start" && files.image !== undefined;
  if (label !== undefined || boxes !== undefined || !isPlain) return {};
  const text = COMFYUI_TEXT[weighting];
  const isGpuTree = sampler === "dpmpp_2m_sde" && settings.samplerRng === "cuda";
  const graph = writeComfyGraph({
    ...settings,
    ...(files.image !== undefined && {
      start: { image: fileName(files.image), strength },
      // ComfyUI counts the steps that are left
      steps: BEGINNINGS[matchOf(match).dialect](steps, strength).kept,
    }),
    prompt: text(settings.prompt),
    negativePrompt: text(settings.negativePrompt),
    seed,
    checkpoint: fileName(files.model ?? ""),
    vae: files.vae && fileName(files.vae),
    sampler: COMFYUI_SAMPLERS[sampler] + (isGpuTree ? "_gpu" : ""),
    schedule: COMFYUI_SCHEDULES[schedule ?? "discrete"],
  });
  return { graph };
}
