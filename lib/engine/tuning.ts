/**
 * Tuned tables of this machine's devices: where they are kept, when one holds, and what is tuned for a model. A table is
 * used only where it is asked for, so that the same command makes the same picture on the same kind of device everywhere.
 */

import { join } from "node:path";
import { FileError, FormatError } from "../base/errors.ts";
import { mismatch, readTuning, type Tuning, writeTuning } from "../formats/tuning.ts";
import type { Adapter } from "../gpu/device.ts";
import { kernelsVersion, type Table } from "../gpu/tune.ts";
import { Graph, type Tensor } from "../graph/tensor.ts";
import type { ClipConfig } from "../models/clip.ts";
import type { UnetConfig } from "../models/unet.ts";
import { decode, factorOf, type VaeConfig } from "../models/vae.ts";
import { paramsOf } from "../nn/params.ts";
import { clipProgram, denoiserGraph } from "./stages.ts";

/** Folder for what can be made again: $XDG_CACHE_HOME, else the system's usual one. */
function cacheFolder(): string {
  const { os } = Deno.build;
  const named = Deno.env.get("XDG_CACHE_HOME");
  if (named) return named;
  const local = os === "windows" ? Deno.env.get("LOCALAPPDATA") : undefined;
  if (local) return local;
  const home = Deno.env.get(os === "windows" ? "USERPROFILE" : "HOME");
  if (!home) {
    throw new FileError(
      "Cannot find the folder for tuned tables: neither XDG_CACHE_HOME nor HOME is set",
    );
  }
  return os === "darwin" ? join(home, "Library", "Caches") : join(home, ".cache");
}

/** The file of an adapter's tuned table. Throws `FileError` where there is no home. */
function tuningPath({ name }: Adapter): string {
  const word = name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-").replaceAll(/^-|-$/g, "");
  return join(cacheFolder(), "ldm", "tune", `${word || "adapter"}.json`);
}

async function here({ name, driver }: Adapter) {
  return { adapter: name, driver, kernels: await kernelsVersion() };
}

/**
 * For `openDevice`: the tuned table of its adapter. What is wrong with it is told in one sentence to `warn`, and the
 * built-in choices are used.
 */
export function tunedTable(
  warn: (message: string) => void,
): (adapter: Adapter) => Promise<Table | undefined> {
  return async (adapter) => {
    try {
      const path = tuningPath(adapter);
      const tuning = await readTuning(path);
      const why = tuning ? mismatch(tuning, await here(adapter)) : "there is none";
      if (tuning && why === undefined) return tuning.choices;
      warn(`The tuned table "${path}" is not used: ${why}; \`ldm tune\` makes one for this device`);
    } catch (error) {
      if (!(error instanceof FormatError || error instanceof FileError)) throw error;
      warn(error.message);
    }
    return undefined;
  };
}

/** Keeps choices for an adapter beside those that it already has; returns the file. Throws `FileError`. */
export async function keepTuning(adapter: Adapter, choices: Table): Promise<string> {
  const path = tuningPath(adapter);
  const now = await here(adapter);
  const old = await readTuning(path).catch((error): Tuning | undefined => {
    if (error instanceof FormatError) return undefined; // is replaced
    throw error;
  });
  const kept = old && mismatch(old, now) === undefined ? old.choices : [];
  await writeTuning(path, { ...now, choices: new Map([...kept, ...choices]) });
  return path;
}

/** The configs that decide what is computed for a picture. */
export interface Workload {
  readonly textEncoders: ReadonlyMap<string, ClipConfig>;
  readonly unet: UnetConfig | undefined;
  readonly vae: VaeConfig | undefined;
}

/**
 * The programs that make a picture of width × height pixels from two prompts, as outputs of graphs by name: text encoders,
 * the denoiser on the guided batch and on one latent, each with what it computes once for its prompts, the decoder.
 * Parameters are named as manifests name them.
 */
export function programsOf(
  { textEncoders, unet: denoiser, vae }: Workload,
  { width, height }: { readonly width: number; readonly height: number },
): Map<string, Tensor[]> {
  const programs = new Map<string, Tensor[]>();
  const lengths = [...textEncoders.values()].map(({ positions }) => positions);
  const factor = vae ? factorOf(vae) : 8;
  const size = {
    height: Math.ceil(height / factor),
    width: Math.ceil(width / factor),
    tokens: Math.max(...lengths, TOKENS),
  };
  const output = { skip: 0, finalNorm: true };
  for (const [name, config] of textEncoders) {
    const { outputs } = clipProgram({ name, config, output }, 1, config.positions);
    programs.set(name, [...outputs().values()]);
  }
  for (const [name, batch] of [["guided denoiser", 2], ["denoiser", 1]] as const) {
    if (!denoiser) break;
    const { once, step } = denoiserGraph(denoiser, { ...size, batch });
    programs.set(name, [...step.values()]);
    programs.set(`${name}: what reads the prompts alone`, [...once.values()]);
  }
  if (vae) programs.set("decoder", decoderProgram(vae, size));
  return programs;
}

/** Length of a prompt for a model without a text encoder of its own. */
const TOKENS = 77;

function decoderProgram(
  config: VaeConfig,
  { height, width }: { readonly height: number; readonly width: number },
): Tensor[] {
  const graph = new Graph();
  const z = graph.input("z", [1, height, width, config.latentChannels]);
  return [decode(paramsOf(graph, "vae"), config, z)];
}
