/**
 * `ldm inspect PATH`: what a checkpoint, a LoRA or another file of tensors holds and what does not match, how a picture was
 * made, or how a training run goes. Needs no GPU.
 */

import { UsageError } from "../base/errors.ts";
import { fileError } from "../formats/files.ts";
import { decodePicture, type Picture, type PixelForm, pngForm } from "../formats/png.ts";
import { TOOLS } from "../formats/recipe.ts";
import { readTexts, recipeIn } from "../formats/remember.ts";
import { checkpointPath } from "./built_in.ts";
import { describeCheckpoint } from "./inspect_checkpoint.ts";
import { describeOther } from "./inspect_file.ts";
import { describeLora, isLora } from "./inspect_lora.ts";
import { describeRun, isRunFolder, orProblem } from "./inspect_run.ts";
import { named, type Report } from "./listing.ts";
import { addReportOptions, newCommand, parse, type ReportOptions } from "./options.ts";
import { fileSize } from "./progress.ts";
import { printJson, printLine } from "./terminal.ts";

interface Options extends ReportOptions {
  readonly model?: string;
}

export async function inspect(argv: readonly string[]): Promise<number> {
  const command = newCommand("inspect", "What a checkpoint, a LoRA, a picture or a run holds.")
    .argument("<path>")
    .option("-m, --model <path>", "of a LoRA: the checkpoint that it is compared with");
  parse(addReportOptions(command), argv);
  const path = checkpointPath(command.args[0]);
  const { json, model } = command.opts<Options>();
  const report = await describe(path, model === undefined ? undefined : checkpointPath(model));
  if (json) await printJson({ event: "inspect", ...report.json });
  else await printLine(report.text);
  return 0;
}

async function describe(path: string, model: string | undefined): Promise<Report> {
  const picture = await openPicture(path);
  if (!picture && await isLora(path)) return await describeLora(path, model);
  if (model !== undefined) {
    throw new UsageError(`Cannot compare "${path}" with "${model}": it is no LoRA file`);
  }
  if (picture) return await describePicture(path, picture);
  if (await isRunFolder(path)) return await describeRunAndModel(path);
  return await describeOther(path) ?? await describeCheckpoint(path);
}

/** First bytes of the picture formats that are read. */
const PICTURES = [
  [0x89, 0x50, 0x4e, 0x47], // PNG
  [0xff, 0xd8, 0xff], // JPEG
  [0x52, 0x49, 0x46, 0x46], // RIFF: WebP
  [0x47, 0x49, 0x46, 0x38], // GIF
  [0x42, 0x4d], // BMP
];

/** Ends of their names. */
const PICTURE_NAMES = /\.(png|jpe?g|webp|gif|bmp)$/i;

/** A picture's bytes; `undefined` for anything that neither begins like one nor is called one. */
async function openPicture(path: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
  try {
    if ((await Deno.stat(path)).isDirectory) return undefined;
    using file = await Deno.open(path);
    const head = new Uint8Array(4);
    await file.read(head);
    const isPicture = PICTURES.some((magic) => magic.every((byte, i) => head[i] === byte));
    if (!isPicture && !PICTURE_NAMES.test(path)) return undefined;
    return await Deno.readFile(path);
  } catch (error) {
    throw fileError("read", path, error);
  }
}

/** Pixels, who made it, what that one says, and what `ldm rerun` could not match. */
async function describePicture(path: string, bytes: Uint8Array<ArrayBuffer>): Promise<Report> {
  const { width, height, channels } = await decodePicture(bytes, `"${path}"`);
  const texts = await readTexts(bytes, `"${path}"`);
  const made = recipeIn(texts);
  const { colours, bits } = pngForm(bytes) ?? formOf(channels);
  const pixels = bits === 8 ? colours : `${colours} of ${bits} bits`;
  const said = texts.map(([key, value]) => `${key}:\n${value.replaceAll(/^/gm, "  ")}`);
  return {
    json: {
      kind: "picture",
      path,
      width,
      height,
      channels,
      colours,
      bits,
      texts: Object.fromEntries(texts),
      made,
    },
    text: [
      `${path}: a picture of ${width}×${height} pixels, ${pixels}, ${fileSize(bytes.length)}`,
      ...(made ? [`made by ${TOOLS[made.tool]}; \`ldm rerun\` makes it again`] : []),
      ...named("LoRAs and their kin, which it looks for in --lora-dir", made?.networks ?? []),
      ...named("what that cannot match", made?.unmatched ?? []),
      ...(said.length > 0 ? said : ["no text inside"]),
    ].join("\n"),
  };
}

/** What the pixels of other files than PNG come as. */
function formOf(channels: Picture["channels"]): PixelForm {
  return { colours: ({ 1: "grey", 3: "RGB", 4: "RGBA" } as const)[channels], bits: 8 };
}

/** A run, and below it the model that it has made. */
async function describeRunAndModel(path: string): Promise<Report> {
  const { json, lines, model } = await describeRun(path);
  const made = model === undefined
    ? undefined
    : await orProblem(async () =>
      await isLora(model) ? await describeLora(model) : await describeCheckpoint(model)
    );
  const found = made && "found" in made ? made.found : undefined;
  const below = made && "problem" in made ? made.problem : found?.text;
  return {
    json: { ...json, ...(made && { made: found ? found.json : made }) },
    text: [...lines, ...(below === undefined ? [] : ["", below])].join("\n"),
  };
}
