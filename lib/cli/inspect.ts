/**
 * `ldm inspect PATH`: what a checkpoint holds and what does not match, how a picture was made, or how a training run goes.
 * Needs no GPU.
 */

import { FormatError } from "../base/errors.ts";
import { type Shape, show, sizeOf } from "../base/shape.ts";
import {
  type Checkpoint,
  type ComponentName,
  openCheckpoint,
  type Weights,
} from "../formats/checkpoint.ts";
import { architectureOf, manifestsOf } from "../engine/architecture.ts";
import { compare } from "../engine/weights.ts";
import { fileError } from "../formats/files.ts";
import { decodePicture } from "../formats/png.ts";
import { TOOLS } from "../formats/recipe.ts";
import { readTexts, recipeIn } from "../formats/remember.ts";
import { FILE_BYTES } from "../formats/safetensors.ts";
import { type Beside, besideOf } from "../models/beside.ts";
import { FAMILIES, type Family, type Variant } from "../models/config.ts";
import type { ConditionerConfig } from "../models/conditioner.ts";
import type { Manifest } from "../nn/params.ts";
import { PURPOSES } from "../pipelines/beside.ts";
import { checkpointPath } from "./built_in.ts";
import { describeRun, isRunFolder, orProblem } from "./inspect_run.ts";
import { addReportOptions, newCommand, parse, type ReportOptions } from "./options.ts";
import { fileSize } from "./progress.ts";
import { printJson, printLine } from "./terminal.ts";

/** What is told of one component. */
interface ComponentReport {
  readonly name: string;
  readonly parameters: number;
  readonly tensors: number;
  readonly bytes: number;
  /** Tensors of each element type. */
  readonly dtypes: Readonly<Record<string, number>>;
  /** What the model needs and the file does not have, by diffusers' names. */
  readonly missing: readonly string[];
  /** What the file has and the model does not need, by the file's names. */
  readonly unexpected: readonly string[];
  readonly misshapen: readonly {
    readonly name: string;
    readonly shape: Shape;
    readonly expected: Shape;
  }[];
}

export async function inspect(argv: readonly string[]): Promise<number> {
  const command = addReportOptions(
    newCommand("inspect", "what a checkpoint, a picture or a training run holds").argument(
      "<path>",
    ),
  );
  parse(command, argv);
  const path = checkpointPath(command.args[0]);
  const { json } = command.opts<ReportOptions>();
  const picture = await openPicture(path);
  const report = picture
    ? await describePicture(path, picture)
    : await isRunFolder(path)
    ? await describeRunAndModel(path)
    : await describeCheckpoint(path);
  if (json) await printJson({ event: "inspect", ...report.json });
  else await printLine(report.text);
  return 0;
}

interface Report {
  readonly json: Readonly<Record<string, unknown>>;
  readonly text: string;
}

/** First bytes of the picture formats that are read. */
const PICTURES = [
  [0x89, 0x50, 0x4e, 0x47], // PNG
  [0xff, 0xd8, 0xff], // JPEG
  [0x52, 0x49, 0x46, 0x46], // RIFF: WebP
  [0x47, 0x49, 0x46, 0x38], // GIF
  [0x42, 0x4d], // BMP
];

/** A picture's bytes; `undefined` for anything that does not begin like one. */
async function openPicture(path: string): Promise<Uint8Array<ArrayBuffer> | undefined> {
  try {
    if ((await Deno.stat(path)).isDirectory) return undefined;
    using file = await Deno.open(path);
    const head = new Uint8Array(4);
    await file.read(head);
    if (!PICTURES.some((magic) => magic.every((byte, i) => head[i] === byte))) return undefined;
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
  const kind = ["", "grey", "", "RGB", "RGBA"][channels];
  const said = texts.map(([key, value]) => `${key}:\n${value.replaceAll(/^/gm, "  ")}`);
  return {
    json: {
      kind: "picture",
      path,
      width,
      height,
      channels,
      texts: Object.fromEntries(texts),
      made,
    },
    text: [
      `${path}: a picture of ${width}×${height} pixels, ${kind}, ${fileSize(bytes.length)}`,
      ...(made ? [`made by ${TOOLS[made.tool]}; \`ldm rerun\` makes it again`] : []),
      ...named("LoRAs and their kin, which it looks for in --lora-dir", made?.networks ?? []),
      ...named("what that cannot match", made?.unmatched ?? []),
      ...(said.length > 0 ? said : ["no text inside"]),
    ].join("\n"),
  };
}

/** A run, and below it the model that it has made. */
async function describeRunAndModel(path: string): Promise<Report> {
  const { json, lines, model } = await describeRun(path);
  const made = model === undefined
    ? undefined
    : await orProblem(async () => await describeCheckpoint(model));
  const found = made && "found" in made ? made.found : undefined;
  const below = made && "problem" in made ? made.problem : found?.text;
  return {
    json: { ...json, ...(made && { made: found ? found.json : made }) },
    text: [...lines, ...(below === undefined ? [] : ["", below])].join("\n"),
  };
}

async function describeCheckpoint(path: string): Promise<Report> {
  await using checkpoint = await openCheckpoint(path);
  const { kind, components, metadata, ignored, unexpected } = checkpoint;
  const recognised = await recognise(checkpoint);
  const reports = [...components].map(([name, weights]) =>
    measure(name, weights, recognised.manifests.get(name))
  );
  const { family, variant, problem, conditioner, beside } = recognised;
  const classes = conditioner?.classes;
  const objects = conditioner?.layout?.classes;
  return {
    json: {
      kind: "checkpoint",
      path,
      form: kind,
      family,
      variant,
      problem,
      classes,
      objects,
      sees: beside,
      components: reports,
      metadata: Object.fromEntries(metadata),
      ignored,
      unexpected,
    },
    text: [
      `${path}: ${FORMS[kind]}${family && !conditioner ? `, ${FAMILIES[family].title}` : ""}${
        variant && variant !== "base" ? ` (${variant})` : ""
      }`,
      ...table(reports),
      ...(classes ? [`--class (${classes.length}): ${listed(classes)}`] : []),
      ...(objects ? [`--box (${objects.length}): ${listed(objects)}`] : []),
      ...(beside ? [`it ${PURPOSES[beside.source].what}: ${PURPOSES[beside.source].how}`] : []),
      ...[...metadata].map(([key, value]) => `metadata ${key}: ${shortened(value)}`),
      ...(problem === undefined ? [] : [`not usable: ${problem}`]),
      ...reports.flatMap(mismatches),
      ...named("belonging to no component", unexpected),
      ...named("left out on purpose", ignored),
    ].join("\n"),
  };
}

const FORMS: Readonly<Record<Checkpoint["kind"], string>> = {
  folder: "a diffusers folder",
  file: "a checkpoint in one file",
  component: "one component",
};

/** What a checkpoint is and needs; the reason where it is of no supported architecture. */
async function recognise(checkpoint: Checkpoint): Promise<{
  readonly family?: Family | undefined;
  readonly variant?: Variant | undefined;
  readonly manifests: ReadonlyMap<ComponentName, Manifest>;
  readonly conditioner?: ConditionerConfig | undefined;
  readonly beside?: Beside | undefined;
  readonly problem?: string;
}> {
  try {
    const architecture = await architectureOf(checkpoint);
    const { family, variant, conditioner, unet } = architecture;
    const manifests = manifestsOf(architecture);
    const known = { family, variant: family && variant, manifests, conditioner };
    if (!unet) return known;
    const index = checkpoint.configs.get("model_index");
    const seen = await orProblem(() => besideOf(index, unet, checkpoint.path));
    return "problem" in seen ? { ...known, ...seen } : { ...known, beside: seen.found };
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    return { manifests: new Map(), problem: error.message };
  }
}

function measure(
  name: ComponentName,
  { infos }: Weights,
  manifest: Manifest | undefined,
): ComponentReport {
  const dtypes: Record<string, number> = {};
  let parameters = 0;
  let bytes = 0;
  for (const { dtype, shape } of infos.values()) {
    dtypes[dtype] = (dtypes[dtype] ?? 0) + 1;
    parameters += sizeOf(shape);
    bytes += sizeOf(shape) * FILE_BYTES[dtype];
  }
  const { missing, unexpected, misshapen } = manifest
    ? compare(infos, manifest, name)
    : { missing: [], unexpected: [], misshapen: [] };
  return {
    name,
    parameters,
    tensors: infos.size,
    bytes,
    dtypes,
    missing,
    unexpected: unexpected.map(({ source }) => source),
    misshapen: misshapen.map(({ info, expected }) => ({
      name: info.source,
      shape: info.shape,
      expected,
    })),
  };
}

function mismatches({ name, missing, unexpected, misshapen }: ComponentReport): string[] {
  const shapes = misshapen.map(({ name, shape, expected }) =>
    `${name}: ${show(shape)}, expected ${show(expected)}`
  );
  return [
    ...named(`missing in the ${name}`, missing),
    ...named(`of the wrong shape in the ${name}`, shapes),
    ...named(`not used of the ${name}`, unexpected),
  ];
}

/** A row a component, columns aligned. */
function table(components: readonly ComponentReport[]): string[] {
  const rows = components.map(({ name, parameters, tensors, bytes, dtypes }) => [
    name,
    `${count(parameters)} parameters`,
    `${tensors} tensors`,
    fileSize(bytes),
    Object.entries(dtypes).map(([dtype, n]) =>
      Object.keys(dtypes).length > 1 ? `${dtype} (${n})` : dtype
    ).join(", "),
  ]);
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  return rows.map((row) =>
    "  " +
    row.map((cell, i) =>
      i === 0 || i === row.length - 1 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])
    ).join("  ").trimEnd()
  );
}

/** "859.5 M", "83.7 k". */
function count(n: number): string {
  if (n < 1000) return String(n);
  const [value, unit] = n < 1e6 ? [n / 1e3, "k"] : n < 1e9 ? [n / 1e6, "M"] : [n / 1e9, "G"];
  return `${value.toPrecision(4)} ${unit}`;
}

/** The beginning of a long text; --json gives all of it. */
function shortened(text: string): string {
  return text.length > 160 ? `${text.slice(0, 160)}… (${text.length} characters)` : text;
}

/** The first names of many; --json gives all of them. */
function listed(names: readonly string[]): string {
  return names.length > 20 ? `${names.slice(0, 20).join(", ")}, …` : names.join(", ");
}

/** All names under a heading, or nothing. */
function named(heading: string, names: readonly string[]): string[] {
  if (names.length === 0) return [];
  return [`${heading} (${names.length}):`, ...names.map((name) => `  ${name}`)];
}
