/** What the run of a denoiser begins with: new weights, or those of a checkpoint to go on from. */

import { isDeepStrictEqual } from "node:util";
import { counted } from "../base/counted.ts";
import { FormatError } from "../base/errors.ts";
import type { ComponentName } from "../formats/checkpoint.ts";
import type { ClipConfig } from "../models/clip.ts";
import { unetJson } from "../models/diffusers_json.ts";
import type { UnetConfig } from "../models/unet.ts";
import type { ManifestEntry } from "../nn/params.ts";
import type { Conditioning } from "./conditioning.ts";
import type { DiffusionConfig } from "./config.ts";
import { diffusionShape, type Start } from "./from.ts";
import { initial, normal, type Rule, zeros } from "./initial.ts";
import { CONDITIONER } from "./learnt_conditioner.ts";
import { type LatentForm, unetConfigOf } from "./shapes.ts";
import { TEXT_ENCODER } from "./text_conditioner.ts";
import type { WeightReader } from "./vectors.ts";

/**
 * What adds to a stream begins with nothing to add (the paper's `zero_module`). Words and their places are as loud as torch's
 * embeddings are: with CLIP's 0.02 the first half of a short run goes by before texts are told apart.
 */
const RULES: readonly Rule[] = [
  ["unet.conv_out.weight", zeros],
  [".conv2.weight", zeros],
  [".proj_out.weight", zeros],
  ["embeddings.token_embedding.weight", normal(0, 1)],
  ["embeddings.position_embedding.weight", normal(0, 1)],
  ["position_embedding.weight", normal(0, 0.02)],
];

export interface Beginning {
  readonly config: UnetConfig;
  /** config.json of the denoiser. */
  readonly json: Readonly<Record<string, unknown>>;
  /** Of every parameter. */
  readonly read: WeightReader;
  /** What the user should know. */
  readonly notes: readonly string[];
}

/** A denoiser as settings ask for it. Throws `FormatError` where there is none such. */
export function newDenoiser(settings: DiffusionConfig, form: LatentForm): Beginning {
  const config = unetConfigOf(settings, form);
  const read = (entry: ManifestEntry) => initial(entry, settings.run.seed, RULES);
  return { config, json: unetJson(config), read, notes: [] };
}

/**
 * The denoiser of a checkpoint, and what it is told by where that fits; a denoiser that sees latents alone can be one that
 * sees more, which has no say at first. Throws `FormatError` where it is none for these settings, latents or conditioners.
 * The checkpoint must stay open while weights are read.
 */
export function goingOn(
  start: Start,
  settings: DiffusionConfig,
  form: LatentForm,
  conditioning: Conditioning,
): Beginning {
  const { path } = start;
  start.requireAgreement(settings, diffusionShape(start, settings.diffusion.conditioner));
  const unet = adapted(start, form);
  const taken = new Set<ComponentName>(["unet"]);
  const notes: string[] = [];
  if (unet.added > 0) {
    notes.push(
      `the denoiser of "${path}" does not see the ${unet.added} channels beside latents yet: they begin with no say`,
    );
  }
  for (const [component, fits] of told(start, conditioning)) {
    if (fits) taken.add(component);
    else notes.push(`"${path}" has no ${component} for this: it begins anew`);
  }
  for (const component of taken) start.require(component);
  return {
    config: unet.config,
    json: {
      ...start.json("unet") ?? unetJson(unet.config),
      in_channels: unet.config.inChannels,
      sample_size: form.size,
    },
    read: async (entry) => {
      const component = [...taken].find((name) => entry.name.startsWith(`${name}.`));
      if (component === undefined) return initial(entry, settings.run.seed, RULES);
      if (entry.name !== "unet.conv_in.weight") return await start.read(component, entry);
      const { shape: [co, kh, kw, ci] } = entry;
      const before = ci - unet.added;
      const values = await start.read(component, { ...entry, shape: [co, kh, kw, before] });
      return widened(values, before, ci);
    },
    notes: [`begins with the weights of "${path}": ${[...taken].join(", ")}`, ...notes],
  };
}

/** The checkpoint's denoiser for other latents, and how many channels it sees more than before. */
function adapted(
  { path, architecture: { unet } }: Start,
  { channels, size, beside }: LatentForm,
): { readonly config: UnetConfig; readonly added: number } {
  if (!unet) throw new TypeError("There is no denoiser");
  if (unet.outChannels !== channels) {
    throw new FormatError(
      `Cannot go on from "${path}": its denoiser is for latents of ${
        counted(unet.outChannels, "channel")
      }, and the first stage's ` +
        `have ${channels}`,
    );
  }
  const inChannels = channels + beside;
  if (unet.inChannels !== inChannels && unet.inChannels !== channels) {
    throw new FormatError(
      `Cannot go on from "${path}": its denoiser sees ${
        unet.inChannels - channels
      } channels beside latents, and the ` +
        `settings' conditioner shows ${beside}`,
    );
  }
  return {
    config: { ...unet, inChannels, sampleSize: size },
    added: inChannels - unet.inChannels,
  };
}

/** Zeros after each row of `from` numbers, up to `to`. */
function widened(
  values: Float32Array<ArrayBuffer>,
  from: number,
  to: number,
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(values.length / from * to);
  for (let row = 0; row * from < values.length; row++) {
    out.set(values.subarray(row * from, (row + 1) * from), row * to);
  }
  return out;
}

/** What is trained with the denoiser, and whether the checkpoint's is such a one. Throws `FormatError`. */
function told(
  start: Start,
  { text, learnt }: Conditioning,
): readonly (readonly [ComponentName, boolean])[] {
  const { path, architecture: { textEncoders, conditioner } } = start;
  const known = textEncoders.get(TEXT_ENCODER);
  if (text && known && !isAlike(text, known)) {
    throw new FormatError(
      `Cannot go on from "${path}" with conditioner = text: its text encoder has another activation or inner width ` +
        `than those that are trained; with conditioner = clip it is read as it is`,
    );
  }
  const reads = learnt && (learnt.classes || learnt.layout);
  return [
    ...(text ? [[TEXT_ENCODER, known !== undefined] as const] : []),
    ...(reads ? [[CONDITIONER, isDeepStrictEqual(learnt, conditioner)] as const] : []),
  ];
}

/** Whether two text encoders are of one kind; which token ends a text says nothing of its states. */
function isAlike(a: ClipConfig, b: ClipConfig): boolean {
  return isDeepStrictEqual(
    { ...a, eosTokenId: 0, projection: undefined },
    { ...b, eosTokenId: 0, projection: undefined },
  );
}
