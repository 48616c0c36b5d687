/** Pictures to files: each with what it was made with, under a name of its own. */

import { basename, extname } from "node:path";
import project from "../../deno.json" with { type: "json" };
import { SAMPLER_LABELS, SCHEDULE_LABELS } from "../diffusion/names.ts";
import { writeInfotext } from "../formats/infotext.ts";
import { encodePng } from "../formats/png.ts";
import type { PipelineEvent, Settings } from "../pipelines/events.ts";
import type { Earlier, Output } from "./output.ts";

export type ImageEvent = Extract<PipelineEvent, { kind: "image" }>;

/** A picture is saved. */
export interface SavedEvent {
  readonly kind: "saved";
  /** "-" is stdout. */
  readonly path: string;
  /** Which picture of its request, from 0. */
  readonly index: number;
  readonly seed: number;
  readonly settings: Settings;
}

/** A guess of a picture is saved. */
export interface PreviewEvent {
  readonly kind: "preview";
  readonly path: string;
  /** Which picture, after which step, both from 0, and how many steps there are. */
  readonly image: number;
  readonly index: number;
  readonly of: number;
}

/** What happens while pictures are made and saved. */
export type RunEvent = PipelineEvent | SavedEvent | PreviewEvent;

/** Saves a picture; returns its path. */
export type Save = (event: ImageEvent) => Promise<string>;

export interface SaverOptions {
  readonly output: Output;
  /** The checkpoint's, for the picture's parameters. */
  readonly model: string;
  /** False leaves the parameters out. */
  readonly metadata: boolean;
  /** Added to the index of a request's pictures, for names. */
  readonly firstIndex?: number;
  /** What earlier attempts at a request's picture may have left. */
  readonly earlier?: (index: number) => Earlier;
}

/** Saves pictures where an output says. */
export function saver(
  { output, firstIndex = 0, earlier = () => ({}), ...options }: SaverOptions,
): Save {
  return async (event) => {
    const { index, seed, settings } = event;
    const bytes = await pictureBytes(event, options);
    const fields = { index: firstIndex + index, seed, prompt: settings.prompt };
    return await output.save(fields, bytes, earlier(index));
  };
}

/** A picture's file. */
export function pictureBytes(
  { image, seed, settings }: ImageEvent,
  { model, metadata }: Pick<SaverOptions, "model" | "metadata">,
): Promise<Uint8Array> {
  const text = writeInfotext(infotextOf(settings, seed, model));
  return encodePng(image, metadata ? { text: [["parameters", text]] } : {});
}

/** Passes events on; after each picture, that it is saved. */
export async function* saving(
  events: AsyncIterable<PipelineEvent>,
  save: Save,
): AsyncGenerator<RunEvent, void, undefined> {
  for await (const event of events) {
    yield event;
    if (event.kind !== "image") continue;
    const { index, seed, settings } = event;
    yield { kind: "saved", path: await save(event), index, seed, settings };
  }
}

/** In AUTOMATIC1111's order and words. */
export function infotextOf(settings: Settings, seed: number, model: string) {
  const { sampler, schedule, width, height, clipSkip, guidanceRescale } = settings;
  return {
    prompt: settings.prompt,
    negativePrompt: settings.negativePrompt,
    entries: {
      "Steps": settings.steps,
      "Sampler": SAMPLER_LABELS[sampler],
      "Schedule type": schedule && SCHEDULE_LABELS[schedule],
      "CFG scale": settings.cfgScale,
      "Seed": seed,
      "Size": `${width}x${height}`,
      "Model": basename(
        model.replace(/[\\/]+$/, ""),
        extname(model) === ".safetensors" ? extname(model) : "",
      ),
      "Clip skip": clipSkip > 1 ? clipSkip : undefined,
      "RNG": settings.rng === "cpu" ? "CPU" : undefined,
      "Eta": settings.eta,
      "CFG Rescale": guidanceRescale > 0 ? guidanceRescale : undefined,
      "Version": `ldm ${project.version}`,
    },
  };
}
