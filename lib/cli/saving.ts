/** Pictures to files: each with what it was made with, under a name of its own. */

import { encodePictureFile, pictureFormat } from "../formats/picture_file.ts";
import { toDeep } from "../formats/png.ts";
import type { PipelineEvent, Settings } from "../pipelines/events.ts";
import { graphOf, infotextOf, type Makers } from "./metadata.ts";
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

/** How a picture becomes a file. */
export interface FileOptions {
  /** What made it, for its settings; `undefined` leaves them out. */
  readonly makers: Makers | undefined;
  readonly bits: 8 | 16;
  /** Of JPEG, 1 … 100; as `encodePictureFile` has it where it is left out. */
  readonly quality?: number;
}

export interface SaverOptions {
  readonly output: Output;
  readonly file: FileOptions;
  /** Added to the index of a request's pictures, for names. */
  readonly firstIndex?: number;
  /** What earlier attempts at a request's picture may have left. */
  readonly earlier?: (index: number) => Earlier;
}

/** Saves pictures where an output says. */
export function saver(
  { output, file, firstIndex = 0, earlier = () => ({}) }: SaverOptions,
): Save {
  return async (event) => {
    const { index, seed, settings } = event;
    const bytes = await pictureBytes(event, file, output.extension);
    const { prompt, label = "" } = settings;
    const fields = { index: firstIndex + index, seed, prompt: prompt || label };
    return await output.save(fields, bytes, earlier(index));
  };
}

/** A picture's file. */
function pictureBytes(
  event: ImageEvent,
  { makers, bits, quality }: FileOptions,
  extension: string,
): Promise<Uint8Array> {
  const { image, floats, settings } = event;
  return encodePictureFile(bits === 16 ? toDeep(floats) : image, {
    format: pictureFormat(extension),
    ...(quality !== undefined && { quality }),
    ...(makers && {
      infotext: infotextOf(settings, event, makers),
      ...graphOf(settings, event, makers),
    }),
  });
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
