/** `--preview PATH`: while a picture is made, the guess of it in a file that is replaced every few steps. */

import { extname } from "node:path";
import { counted } from "../base/counted.ts";
import { FormatError, UsageError } from "../base/errors.ts";
import { loadFirstStage } from "../engine/load.ts";
import type { Latents, Model } from "../engine/model.ts";
import { writeWhole } from "../formats/files.ts";
import { encodePng, type Picture } from "../formats/png.ts";
import { resample } from "../formats/resample.ts";
import type { Device } from "../gpu/device.ts";
import { toBytes } from "../pipelines/first_stage.ts";
import { latentToRgb } from "../pipelines/preview.ts";
import type { RunEvent } from "./saving.ts";

/** Options of `--preview`. */
export interface PreviewOptions {
  readonly preview?: string;
  readonly previewEvery?: number;
  readonly previewTaesd?: string;
}

/** Steps between previews where nothing else is asked for. */
export const USUAL_EVERY = 5;

/** How a guess becomes a picture. */
export type Sketch = (x0: Latents) => Promise<Picture> | Picture;

/** Throws `UsageError` for options that make no sense together. */
export function checkPreview({ preview, previewEvery, previewTaesd }: PreviewOptions): void {
  if (preview === undefined) {
    const other = previewTaesd !== undefined ? "--preview-taesd" : "--preview-every";
    if (previewTaesd === undefined && previewEvery === undefined) return;
    throw new UsageError(`Cannot use ${other} alone: --preview PATH says where previews go`);
  }
  if (extname(preview).toLowerCase() === ".png") return;
  throw new UsageError(`Cannot write previews to "${preview}": its name must end in .png`);
}

export interface Previewing extends Disposable {
  readonly path: string;
  /** Steps. */
  readonly every: number;
  readonly sketch: Sketch;
}

/**
 * What previews are made with, if they are asked for: a TAESD, which is read now, or a linear map of each latent to a colour.
 * Throws `FormatError` for a TAESD of another family.
 */
export async function openPreview(
  { preview: path, previewEvery: every = USUAL_EVERY, previewTaesd }: PreviewOptions,
  model: Model,
  device: Device,
): Promise<Previewing | undefined> {
  if (path === undefined) return undefined;
  if (previewTaesd === undefined) {
    const sketch = (x0: Latents) => {
      const small = latentToRgb(x0, model.family);
      return resample(small, small.width * model.factor, small.height * model.factor, "bilinear");
    };
    return { path, every, sketch, [Symbol.dispose]: () => {} };
  }
  const stage = await loadFirstStage(device, previewTaesd);
  if (stage.latentChannels !== model.latentChannels) {
    stage[Symbol.dispose]();
    throw new FormatError(
      `Cannot make previews with "${previewTaesd}": its latents have ${
        counted(stage.latentChannels, "channel")
      }, ` +
        `and those of "${model.path}" have ${model.latentChannels}`,
    );
  }
  return {
    path,
    every,
    sketch: async (x0) => toBytes(await stage.decode(x0)),
    [Symbol.dispose]: () => stage[Symbol.dispose](),
  };
}

/**
 * Passes events on; after every few steps and the last one saves a preview and tells of it. What cannot be saved is told once,
 * and the picture goes on without.
 */
export async function* previewing(
  events: AsyncIterable<RunEvent>,
  { path, every, sketch }: Previewing,
): AsyncGenerator<RunEvent, void, undefined> {
  let fails = false;
  for await (const event of events) {
    yield event;
    if (event.kind !== "step" || fails) continue;
    const { image, index, of } = event;
    if ((index + 1) % every !== 0 && index + 1 < of) continue;
    try {
      await writeWhole(path, await encodePng(await sketch(event.x0)));
    } catch (error) {
      fails = true;
      const why = error instanceof Error ? error.message : String(error);
      yield { kind: "warning", message: `There are no more previews: ${why}` };
      continue;
    }
    yield { kind: "preview", path, image, index, of };
  }
}
