/** What `ldm inspect` tells of a checkpoint: what it is, what each component holds, and what does not match. */

import { counted } from "../base/counted.ts";
import { FormatError } from "../base/errors.ts";
import { type Shape, show, sizeOf } from "../base/shape.ts";
import {
  type Checkpoint,
  type ComponentName,
  openCheckpoint,
  type Weights,
} from "../formats/checkpoint.ts";
import { type Architecture, architectureOf, manifestsOf } from "../engine/architecture.ts";
import { compare } from "../engine/weights.ts";
import { FILE_BYTES } from "../formats/safetensors.ts";
import { type Beside, besideOf } from "../models/beside.ts";
import type { ClipConfig } from "../models/clip.ts";
import { FAMILIES } from "../models/family.ts";
import { type TaesdConfig, taesdFactor } from "../models/taesd.ts";
import { factorOf } from "../models/vae.ts";
import type { Manifest } from "../nn/params.ts";
import { PURPOSES } from "../pipelines/beside.ts";
import { orProblem } from "./inspect_run.ts";
import {
  aligned,
  count,
  listed,
  named,
  type Report,
  shortened,
  tallied,
  tally,
} from "./listing.ts";
import { fileSize } from "./progress.ts";

/** What is told of one component. */
interface ComponentReport {
  readonly name: string;
  /** What it works on, in words. */
  readonly about: string | undefined;
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

/** Throws `FileError`, and `FormatError` for what is no checkpoint of a kind that is known. */
export async function describeCheckpoint(path: string): Promise<Report> {
  await using checkpoint = await openCheckpoint(path);
  const { kind, components, metadata, ignored, unexpected } = checkpoint;
  const recognised = await recognise(checkpoint);
  const reports = [...components].map(([name, weights]) => measure(name, weights, recognised));
  const { architecture, problem, beside } = recognised;
  const { family, conditioner } = architecture ?? {};
  const variant = family && architecture?.variant;
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

/** What each component works on. */
const ABOUT: Readonly<Record<ComponentName, (known: Architecture) => string | undefined>> = {
  text_encoder: ({ textEncoders }) => aboutClip(textEncoders.get("text_encoder")),
  text_encoder_2: ({ textEncoders }) => aboutClip(textEncoders.get("text_encoder_2")),
  conditioner: ({ conditioner }) => conditioner && `tokens ${conditioner.width} wide`,
  unet: ({ unet }) =>
    unet && `latents of ${counted(unet.inChannels, "channel")}, text ${unet.contextWidth} wide`,
  vae: ({ vae }) =>
    vae &&
    [
      vae.codes === undefined ? "KL" : `VQ of ${counted(vae.codes, "code")}`,
      `f = ${factorOf(vae)}`,
      counted(vae.latentChannels, "channel"),
    ].join(", "),
  taesd_encoder: ({ taesd }) => aboutTaesd(taesd),
  taesd_decoder: ({ taesd }) => aboutTaesd(taesd),
};

function aboutClip(config: ClipConfig | undefined): string | undefined {
  return config &&
    `CLIP, ${counted(config.layers, "layer")} ${config.width} wide, ${config.positions} tokens`;
}

function aboutTaesd(config: TaesdConfig | undefined): string | undefined {
  return config &&
    `TAESD, f = ${taesdFactor(config)}, ${counted(config.latentChannels, "channel")}`;
}

interface Recognised {
  /** `undefined` where it is none that is supported. */
  readonly architecture?: Architecture;
  readonly manifests: ReadonlyMap<ComponentName, Manifest>;
  readonly beside?: Beside | undefined;
  readonly problem?: string;
}

/** What a checkpoint is and needs; the reason where it is of no supported architecture. */
async function recognise(checkpoint: Checkpoint): Promise<Recognised> {
  try {
    const architecture = await architectureOf(checkpoint);
    const known = { architecture, manifests: manifestsOf(architecture) };
    const { unet } = architecture;
    if (!unet) return known;
    const seen = await orProblem(() => besideOf(architecture.index, unet, checkpoint.path));
    return "problem" in seen ? { ...known, ...seen } : { ...known, beside: seen.found };
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    return { manifests: new Map(), problem: error.message };
  }
}

function measure(
  name: ComponentName,
  { infos }: Weights,
  { architecture, manifests }: Recognised,
): ComponentReport {
  const manifest = manifests.get(name);
  const sizes = [...infos.values()].map(({ dtype, shape }) => [sizeOf(shape), FILE_BYTES[dtype]]);
  const { missing, unexpected, misshapen } = manifest
    ? compare(infos, manifest, name)
    : { missing: [], unexpected: [], misshapen: [] };
  return {
    name,
    about: architecture && ABOUT[name](architecture),
    parameters: sizes.reduce((sum, [size]) => sum + size, 0),
    tensors: infos.size,
    bytes: sizes.reduce((sum, [size, bytes]) => sum + size * bytes, 0),
    dtypes: tally(infos.values().map(({ dtype }) => dtype)),
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

function table(components: readonly ComponentReport[]): string[] {
  return aligned(components.map(({ name, about = "", parameters, tensors, bytes, dtypes }) => [
    name,
    counted(parameters, "parameter", count(parameters)),
    counted(tensors, "tensor"),
    fileSize(bytes),
    tallied(dtypes),
    about,
  ]));
}
