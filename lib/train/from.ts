/**
 * Going on from a checkpoint (`autoencoder.from`, `diffusion.from`): it decides what settings leave open, and its weights
 * are those that a run begins with. Settings of shape that say something else are refused: a shape has its weights.
 */

import { FormatError } from "../base/errors.ts";
import { parseSchedulerConfig } from "../diffusion/plan.ts";
import { type Architecture, architectureOf, manifestsOf } from "../engine/architecture.ts";
import { compare, requireMatch } from "../engine/weights.ts";
import {
  type Checkpoint,
  type ComponentName,
  openCheckpoint,
  requireComponent,
  type TokenizerFiles,
} from "../formats/checkpoint.ts";
import { toFloat32 } from "../formats/safetensors.ts";
import type { Source } from "../formats/settings.ts";
import type { ManifestEntry } from "../nn/params.ts";
import { fromCheckpoint } from "./component.ts";
import { noiseSettingsOf } from "./denoising.ts";
import { boxesSettingsOf, textSettingsOf, unetSettingsOf, vaeSettingsOf } from "./shapes.ts";

/** Section → key → value, of settings. */
type Values = Readonly<Record<string, object>>;

/** A checkpoint to go on from. Dispose of it to close its files. */
export class Start implements Disposable {
  readonly architecture: Architecture;
  readonly #checkpoint: Checkpoint;

  private constructor(checkpoint: Checkpoint, architecture: Architecture) {
    this.#checkpoint = checkpoint;
    this.architecture = architecture;
  }

  /** Throws `FileError` and `FormatError`. */
  static async open(path: string): Promise<Start> {
    using unwind = new DisposableStack();
    const checkpoint = await openCheckpoint(path);
    // closing is synchronous behind its asynchronous face
    unwind.defer(() => void checkpoint[Symbol.asyncDispose]());
    const start = new Start(checkpoint, await architectureOf(checkpoint));
    unwind.move();
    return start;
  }

  get path(): string {
    return this.#checkpoint.path;
  }

  /** Of its text encoder; `undefined` where it carries none. */
  async tokenizerFiles(): Promise<TokenizerFiles | undefined> {
    return await this.#checkpoint.tokenizerFiles("tokenizer");
  }

  /** config.json of a component; `undefined` where there is none. */
  json(component: ComponentName): Readonly<Record<string, unknown>> | undefined {
    const json = this.#checkpoint.configs.get(component);
    return typeof json === "object" && json !== null
      ? Object.fromEntries(Object.entries(json))
      : undefined;
  }

  /** Throws `FormatError` where a component is missing, or is not what its architecture says. */
  require(component: ComponentName): void {
    const weights = requireComponent(this.#checkpoint, component);
    const manifest = manifestsOf(this.architecture).get(component) ?? new Map();
    requireMatch(compare(weights.infos, manifest, component), component, this.path);
  }

  /** A parameter `component.name` in the graph's layout. Throws `FileError` and `FormatError`. */
  async read(component: ComponentName, { name, shape, role }: ManifestEntry) {
    const weights = requireComponent(this.#checkpoint, component);
    const { dtype, data } = await weights.read(name.slice(component.length + 1));
    const read = toFloat32(dtype, data, name);
    return role === "conv" ? fromCheckpoint(read, shape) : read;
  }

  /** Refuses settings that ask for another shape than the checkpoint's. Throws `FormatError`. */
  requireAgreement(said: Values, has: Values): void {
    for (const [section, values] of Object.entries(has)) {
      const settings = new Map<string, unknown>(Object.entries(said[section]));
      for (const [key, value] of Object.entries(values)) {
        const [asked, found] = [settings.get(key), value].map((each) => JSON.stringify(each));
        if (asked === found) continue;
        throw new FormatError(
          `Cannot go on from "${this.path}" with ${section}.${key} = ${asked}: it has ${found}; leave that setting out`,
        );
      }
    }
  }

  [Symbol.dispose](): void {
    void this.#checkpoint[Symbol.asyncDispose]();
  }
}

/** Settings of shape that an autoencoder's checkpoint decides. Throws `FormatError` where it has none that is trained. */
export function autoencoderShape({ path, architecture: { vae } }: Start): Values {
  if (vae) return { autoencoder: vaeSettingsOf(vae) };
  throw new FormatError(`Cannot go on from "${path}": it holds no KL or VQ autoencoder`);
}

/**
 * Settings of shape that a denoiser's checkpoint decides, `conditioners` among them. Throws `FormatError` where it has no
 * denoiser that is trained here.
 */
export function diffusionShape(
  { path, architecture }: Start,
  conditioners: readonly string[],
): Values {
  const { unet, textEncoders, conditioner } = architecture;
  const refuse = (what: string) => new FormatError(`Cannot go on from "${path}": ${what}`);
  if (!unet) throw refuse("it holds no denoiser");
  if (unet.addition) {
    throw refuse(
      "its denoiser is told the sizes of pictures (SDXL), which diffusion training does not; ldm train lora does",
    );
  }
  if (unet.guidanceWidth !== undefined) {
    throw refuse("its denoiser is told the guidance (LCM), which diffusion training does not");
  }
  const text = textEncoders.get("text_encoder");
  const boxes = conditioner && boxesSettingsOf(conditioner);
  return {
    unet: unetSettingsOf(unet),
    ...(text && conditioners.includes("text") && { text: textSettingsOf(text) }),
    ...(boxes && conditioners.includes("boxes") && { boxes }),
  };
}

/** Settings that a checkpoint decides where nothing is said: first stage, text encoder, and how noise grows. */
function diffusionDefaults(start: Start): Values {
  const { path, architecture: { vae, taesd, textEncoders, scheduler } } = start;
  const config = parseSchedulerConfig(scheduler);
  if (config.trainedBetas) {
    throw new FormatError(
      `Cannot go on from "${path}": its scheduler lists its betas one by one, and a schedule with a name was needed`,
    );
  }
  return {
    diffusion: {
      ...noiseSettingsOf(config),
      ...((vae || taesd) && { first_stage: path }),
    },
    ...(textEncoders.size > 0 && { clip: { path } }),
  };
}

/** What a checkpoint decides of a kind of run. */
const KINDS: Readonly<
  Record<"autoencoder" | "diffusion", (start: Start, sources: readonly Source[]) => Values>
> = {
  autoencoder: autoencoderShape,
  diffusion: (start, sources) => {
    const names = saidIn(sources, "diffusion", "conditioner") ?? ["text"];
    const told = [names].flat().map(String);
    return { ...diffusionShape(start, told), ...diffusionDefaults(start) };
  },
};

/**
 * Sources of settings, with those that the checkpoint of `from` decides where none says them. Throws `FileError` and
 * `FormatError` where it cannot be gone on from.
 */
export async function withStart(
  kind: "autoencoder" | "diffusion",
  sources: readonly Source[],
): Promise<readonly Source[]> {
  const path = saidIn(sources, kind, "from");
  if (typeof path !== "string" || path === "") return sources;
  using start = await Start.open(path);
  const values = Object.entries(KINDS[kind](start, sources)).map(([section, decided]) => {
    const open = Object.entries(decided).filter(([key]) =>
      saidIn(sources, section, key) === undefined
    );
    return [section, Object.fromEntries(open)];
  });
  const name = `${kind}.from="${path}"`;
  return [...sources, { name, isTyped: true, values: Object.fromEntries(values) }];
}

/** What the last source that says it says. */
function saidIn(sources: readonly Source[], section: string, key: string): unknown {
  return sources.map(({ values }) => {
    const found = values[section];
    return typeof found === "object" && found !== null
      ? new Map<string, unknown>(Object.entries(found)).get(key)
      : undefined;
  }).findLast((value) => value !== undefined);
}
