/** What loading does first: opens files, checks them against manifests, and makes of them parts and a first stage. */

import { FormatError } from "../base/errors.ts";
import { type Checkpoint, type ComponentName, openCheckpoint } from "../formats/checkpoint.ts";
import { LORA_COMPONENTS } from "../formats/lora_names.ts";
import type { Device } from "../gpu/device.ts";
import type { Manifest } from "../nn/params.ts";
import { type Architecture, architectureOf, autoencoderFor } from "./architecture.ts";
import {
  type FirstStage,
  type Half,
  klFirstStage,
  taesdManifest,
  tinyFirstStage,
  vaeManifest,
} from "./first_stage.ts";
import { Loras } from "./lora.ts";
import type { LoadOptions } from "./model.ts";
import { Part, type PartName } from "./part.ts";
import { Residency } from "./residency.ts";
import { compare, requireMatch } from "./weights.ts";

/** Type of the weights on the device where nothing else is asked for. */
export const USUAL_WEIGHTS = "f16";

/** Gathers a model's parts; closes the files it opened unless it comes to `finish`. */
export class Builder implements Disposable {
  readonly warnings: string[] = [];
  readonly #parts: Part[] = [];
  readonly #checked = new Set<string>();
  readonly #files = new DisposableStack();
  readonly loras: Loras;

  constructor(readonly device: Device, path: string, readonly options: LoadOptions) {
    this.loras = this.#files.use(new Loras(path));
  }

  async open(path: string): Promise<Checkpoint> {
    const checkpoint = await openCheckpoint(path);
    // closing is synchronous behind its asynchronous face
    this.#files.defer(() => void checkpoint[Symbol.asyncDispose]());
    return checkpoint;
  }

  /**
   * Adds the part of a component that `manifest` names. Throws `FormatError` where the component is not what `whole`, its
   * manifest, says.
   */
  add(
    name: PartName,
    checkpoint: Checkpoint,
    component: ComponentName,
    whole: Manifest,
    manifest: Manifest = whole,
  ): Part {
    const { path } = checkpoint;
    const own = checkpoint.components.get(component);
    if (!own) throw new TypeError(`There is no ${component}`);
    const changeable = LORA_COMPONENTS.find((each) => each === component);
    const weights = changeable ? this.loras.over(changeable, own) : own;
    if (!this.#checked.has(component)) {
      const warning = requireMatch(compare(weights.infos, whole, component), component, path);
      if (warning !== undefined) this.warnings.push(warning);
      this.#checked.add(component);
    }
    const dtype = this.options.weights ?? USUAL_WEIGHTS;
    const part = new Part(this.device, { name, component, weights, manifest, path, dtype });
    this.#parts.push(part);
    return part;
  }

  finish(): LoadedParts {
    const { device, options: { lifetime = "model", progress = () => {} } } = this;
    const files = this.#files.move();
    const residency = new Residency(device, this.#parts, lifetime, progress);
    files.use(residency);
    return { device, residency, files, lifetime, loras: this.loras };
  }

  [Symbol.dispose](): void {
    this.#files.dispose();
  }
}

/** Parts, and the files that they are read from. */
export interface LoadedParts {
  readonly device: Device;
  readonly residency: Residency;
  /** Frees the parts, then closes the files. */
  readonly files: DisposableStack;
  readonly lifetime: "model" | "run";
  readonly loras: Loras;
}

/** A first stage and which of its parts each half needs. */
type StageAndParts = { readonly stage: FirstStage; readonly parts: Readonly<Record<Half, Part>> };

/** The first stage of one checkpoint, `undefined` where it has none. A TAESD is preferred: it is asked for by name. */
function firstStageOf(
  builder: Builder,
  checkpoint: Checkpoint,
  { vae, taesd }: Architecture,
): StageAndParts | undefined {
  const programs = (parts: Record<Half, Part>) => ({
    decode: parts.decode.programs,
    encode: parts.encode.programs,
  });
  if (taesd) {
    const half = (name: "decoder" | "encoder") =>
      builder.add(name, checkpoint, `taesd_${name}`, taesdManifest(name, taesd));
    const parts = { decode: half("decoder"), encode: half("encoder") };
    return { stage: tinyFirstStage(taesd, programs(parts)), parts };
  }
  if (!vae) return undefined;
  const whole = vaeManifest(vae);
  const half = (name: "decoder" | "encoder", which: Half) =>
    builder.add(name, checkpoint, "vae", whole, vaeManifest(vae, [which]));
  const parts = { decode: half("decoder", "decode"), encode: half("encoder", "encode") };
  return { stage: klFirstStage(vae, programs(parts)), parts };
}

/** The first stage of what `--vae` or `--taesd` names, else of `checkpoint` itself. */
export async function addFirstStage(
  builder: Builder,
  checkpoint: Checkpoint,
  architecture: Architecture,
): Promise<StageAndParts | undefined> {
  const { vae, taesd } = builder.options;
  const path = taesd ?? vae;
  if (path === undefined) return firstStageOf(builder, checkpoint, architecture);
  const other = await builder.open(path);
  const own = await architectureOf(other);
  const autoencoder = own.vae && autoencoderFor(own.vae, other, architecture.family);
  const chosen = taesd === undefined
    ? { ...own, vae: autoencoder, taesd: undefined }
    : { ...own, vae: undefined };
  if (!chosen.vae && !chosen.taesd) {
    const wanted = taesd === undefined ? "a KL autoencoder" : "a TAESD";
    throw new FormatError(`Cannot use "${path}" as the first stage: it does not hold ${wanted}`);
  }
  return firstStageOf(builder, other, chosen);
}
