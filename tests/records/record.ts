/** What all records do: train by the command line, make pictures of what was trained, tell figures, hold them to bounds. */

import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Picture } from "../../lib/base/picture.ts";
import { loadFirstStage, loadModel } from "../../lib/engine/load.ts";
import { encodePng } from "../../lib/formats/png.ts";
import { readSettingsFile } from "../../lib/formats/settings.ts";
import { sheet, type SheetOptions } from "../../lib/formats/sheet.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { toBytes, toFloats } from "../../lib/pipelines/first_stage.ts";
import { type TextToImage, textToImagePipeline } from "../../lib/pipelines/text_to_image.ts";
import { autoencoderConfig, diffusionConfig } from "../../lib/train/config.ts";
import { parseRecords } from "../../lib/train/record.ts";
import { COMMAND } from "../cli/ldm.ts";

/** A number that is told, and where `least` is given decides. */
export interface Figure {
  readonly what: string;
  readonly value: number;
  readonly least?: number;
}

export interface Recipe {
  /** Its arguments on the command line, before the folder. */
  readonly needs: readonly string[];
  /** Does all of it in `folder`, where what is trained already is not trained again. */
  readonly run: (
    device: Device,
    folder: string,
    given: readonly string[],
  ) => AsyncGenerator<Figure, void, undefined>;
}

/** Readers of a run's settings. */
const CONFIGS = { autoencoder: autoencoderConfig, diffusion: diffusionConfig } as const;

/** What a run is of. */
const WHAT = { autoencoder: "autoencoder", diffusion: "denoiser" } as const;

/** What a run leaves when it is over. */
const LEFT: Readonly<Record<keyof typeof CONFIGS, string>> = {
  autoencoder: "vae/config.json",
  diffusion: "model_index.json",
};

/**
 * Runs `ldm train` with settings/NAME.toml, or goes on with what was interrupted, and tells the seconds that all steps took.
 * Throws an error where the command fails.
 */
export async function trained(
  kind: keyof typeof CONFIGS,
  name: string,
  { data, folder, set = [] }: {
    readonly data: string;
    readonly folder: string;
    readonly set?: readonly string[];
  },
): Promise<Figure> {
  if (!await exists(join(folder, LEFT[kind]))) {
    const settings = fileURLToPath(new URL(`settings/${name}.toml`, import.meta.url));
    const resume = await exists(join(folder, "checkpoints")) ? ["--resume"] : [];
    const words = set.flatMap((word) => ["--set", word]);
    const [program, ...first] = COMMAND;
    const args = [...first, "train", kind, settings, "--data", data, "-o", folder, ...words];
    const { success } = await new Deno.Command(program, { args: [...args, ...resume] }).spawn()
      .status;
    if (!success) throw new Error(`Cannot record: \`ldm train ${kind}\` of "${folder}" failed`);
  }
  const { optimizer: { batch, accumulate } } = CONFIGS[kind]([
    await readSettingsFile(join(folder, "config.toml")),
  ]);
  const records = parseRecords(await Deno.readTextFile(join(folder, "log.ndjson")));
  const value = records
    .reduce((sum, { samples_per_second }) => sum + batch * accumulate / samples_per_second, 0);
  return { what: `training the ${WHAT[kind]}, s`, value };
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

/** The pictures that a trained model makes of requests, in their order. */
export async function drawn(
  device: Device,
  path: string,
  requests: readonly TextToImage[],
): Promise<Picture[]> {
  await using model = await loadModel(device, path);
  using pipeline = textToImagePipeline(model);
  const pictures: Picture[] = [];
  for (const request of requests) {
    for await (const event of pipeline.run(request)) {
      if (event.kind === "image") pictures.push(event.image);
    }
  }
  return pictures;
}

/** What a first stage makes of pictures: encoded and decoded. */
export async function reconstructed(
  device: Device,
  path: string,
  pictures: readonly Picture[],
): Promise<Picture[]> {
  using stage = await loadFirstStage(device, path);
  const made: Picture[] = [];
  for (const picture of pictures) {
    made.push(toBytes(await stage.decode(await stage.encode(toFloats(picture)))));
  }
  return made;
}

/** Mean squared difference of two pictures' bytes. */
export function squaredError(a: Picture, b: Picture): number {
  return a.data.reduce((sum, value, i) => sum + (value - b.data[i]) ** 2, 0) / a.data.length;
}

/** Peak signal-to-noise ratio of two pictures, dB. */
export function psnr(a: Picture, b: Picture): number {
  return 10 * Math.log10(255 ** 2 / squaredError(a, b));
}

/** How many pictures are nearer to the original of their own place than to any other. */
export function nearestOwn(originals: readonly Picture[], made: readonly Picture[]): number {
  return made.filter((picture, i) => {
    const distances = originals.map((original) => squaredError(original, picture));
    return distances.indexOf(Math.min(...distances)) === i;
  }).length;
}

export function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Writes pictures as one sheet. */
export async function writeSheet(
  path: string,
  pictures: readonly Picture[],
  options: SheetOptions,
): Promise<void> {
  await Deno.writeFile(path, await encodePng(sheet(pictures, options)));
}

/** Writes PNGs and a metadata.jsonl that says of each what is known: a data set as `ldm train` reads it. */
export async function writeDataset(
  folder: string,
  examples: readonly { readonly picture: Picture; readonly said: object }[],
): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  const lines: string[] = [];
  for (const [i, { picture, said }] of examples.entries()) {
    const file_name = `${String(i).padStart(5, "0")}.png`;
    await Deno.writeFile(join(folder, file_name), await encodePng(picture));
    lines.push(`${JSON.stringify({ file_name, ...said })}\n`);
  }
  await Deno.writeTextFile(join(folder, "metadata.jsonl"), lines.join(""));
}
