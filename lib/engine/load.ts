/** From a path to a model on a device: open, recognise, check, and bind the stages to parts that are read when they are needed. */

import { counted } from "../base/counted.ts";
import { FormatError } from "../base/errors.ts";
import type { Device } from "../gpu/device.ts";
import { besideOf } from "../models/beside.ts";
import { architectureOf, manifestsOf, requirePipeline } from "./architecture.ts";
import { addFirstStage, Builder } from "./builder.ts";
import type { FirstStage, Half } from "./first_stage.ts";
import { LoadedModel } from "./loaded_model.ts";
import type { LoadOptions, MemoryPlan, Model, StageOptions } from "./model.ts";
import type { Stage } from "./residency.ts";

/** Loads a checkpoint for making pictures. Throws `FormatError` for what is wrong with it, `MemoryError` where it does not fit. */
export async function loadModel(
  device: Device,
  path: string,
  options: LoadOptions = {},
): Promise<Model> {
  using builder = new Builder(device, path, options);
  const checkpoint = await builder.open(path);
  const architecture = await architectureOf(checkpoint);
  const { family, unet } = requirePipeline(architecture, path);
  const manifests = manifestsOf(architecture);
  for (const name of ["text_encoder", "text_encoder_2", "conditioner", "unet"] as const) {
    const manifest = manifests.get(name);
    if (manifest) builder.add(name, checkpoint, name, manifest);
  }
  const firstStage = await addFirstStage(builder, checkpoint, architecture);
  if (!firstStage) {
    throw new FormatError(
      `Cannot make pictures with "${path}": it lacks a VAE; give one with --vae or --taesd`,
    );
  }
  if (firstStage.stage.latentChannels !== unet.outChannels) {
    throw new FormatError(
      `Cannot use this first stage with "${path}": it has ${firstStage.stage.latentChannels} latent channels, ` +
        `the UNet predicts ${unet.outChannels}`,
    );
  }
  const beside = besideOf(architecture.index, unet, path);
  const tokenizers = [
    await checkpoint.tokenizerFiles("tokenizer"),
    ...(family === "sdxl" ? [await checkpoint.tokenizerFiles("tokenizer_2")] : []),
  ];
  if (checkpoint.unexpected.length > 0) {
    builder.warnings.unshift(
      `"${path}" has ${counted(checkpoint.unexpected.length, "tensor")} of no known component`,
    );
  }
  const { warnings } = builder;
  warnings.push(...(await builder.loras.use(options.loras ?? [])).warnings);
  const parts = builder.finish();
  using unwind = new DisposableStack();
  unwind.use(parts.files);
  const { stage } = firstStage;
  const model = new LoadedModel(parts, {
    path,
    family,
    unet,
    architecture,
    beside,
    firstStage: stage,
    tokenizers,
    warnings,
  });
  if (parts.lifetime === "model" && model.mayStay()) await parts.residency.loadAll();
  unwind.move();
  return model;
}

/** A first stage alone, for `encode` and `decode`. */
export interface LoadedFirstStage extends Omit<FirstStage, "bytes">, Disposable {
  /** What loading noticed. */
  readonly warnings: readonly string[];
  /** Bytes of the checkpoint that it is made of. */
  readonly fileBytes: number;
  /** See `Model.prepare`: for one picture of this size in pixels. */
  prepare(
    half: Half,
    size: { readonly height: number; readonly width: number },
    options?: StageOptions,
  ): MemoryPlan;
  /** Frees the weights of one half, which nobody uses now; they are read again when they are needed. */
  unload(half: Half): void;
}

/** Loads only the first stage of a checkpoint, of a VAE, or of a TAESD. */
export async function loadFirstStage(
  device: Device,
  path: string,
  options: LoadOptions = {},
): Promise<LoadedFirstStage> {
  using builder = new Builder(device, path, options);
  const checkpoint = await builder.open(path);
  const architecture = await architectureOf(checkpoint);
  const found = await addFirstStage(builder, checkpoint, architecture);
  if (!found) {
    const has = [...checkpoint.components.keys()].join(", ");
    throw new FormatError(`Cannot use "${path}" as a first stage: it holds only ${has}`);
  }
  const { warnings } = builder;
  const { residency, files, lifetime } = builder.finish();
  using unwind = new DisposableStack();
  unwind.use(files);
  if (lifetime === "model") await residency.loadAll();
  unwind.move();
  const { stage, parts } = found;
  const { factor } = stage;
  return {
    factor,
    latentChannels: stage.latentChannels,
    decode: (latents, options) =>
      residency.during(parts.decode.name, () => stage.decode(latents, options)),
    encode: (picture, options) =>
      residency.during(parts.encode.name, () => stage.encode(picture, options)),
    encodeAll: (pictures, options) =>
      residency.during(parts.encode.name, () => stage.encodeAll(pictures, options)),
    prepare(half, { height, width }, options = {}) {
      const size = half === "decode"
        ? { height: height / factor, width: width / factor }
        : { height, width };
      const what = `${half} ${width}×${height} pixels with "${path}"`;
      const bytes: Stage["bytes"] = (room) => stage.bytes(half, size, options, room);
      return residency.plan(JSON.stringify([half, size, options]), what, [
        { part: parts[half].name, uses: 1, bytes },
      ]);
    },
    unload: (half) => parts[half].unload(),
    warnings,
    fileBytes: parts.decode.fileBytes + parts.encode.fileBytes,
    [Symbol.dispose]: () => files.dispose(),
  };
}
