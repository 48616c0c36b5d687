/**
 * Latent diffusion on WebGPU, as a library.
 *
 * ```ts
 * await using device = await openDevice();
 * await using model = await loadModel(device, "sd15.safetensors");
 * for await (const event of textToImage(model, { prompt: "a red fox", steps: 20, seed: 7 })) {
 *   if (event.kind === "image") await Deno.writeFile("fox.png", await encodePng(event.image));
 * }
 * ```
 *
 * Every failure is one of the errors below, and says in one sentence what was being done and what is the case.
 */

export { DeviceError, FileError, FormatError, MemoryError, UsageError } from "./lib/base/errors.ts";
export { openDevice } from "./lib/gpu/device.ts";
export type { Device, DeviceOptions } from "./lib/gpu/device.ts";
export { tunedTable } from "./lib/engine/tuning.ts";
export { loadFirstStage, loadModel } from "./lib/engine/load.ts";
export type { FloatPicture, Latents, LoadOptions, Model, Tiling } from "./lib/engine/model.ts";
export { textToImage } from "./lib/pipelines/text_to_image.ts";
export type { TextToImage } from "./lib/pipelines/text_to_image.ts";
export type { PipelineEvent, Rng, Settings } from "./lib/pipelines/events.ts";
export { decodeLatents, encodePicture } from "./lib/pipelines/first_stage.ts";
export { SAMPLER_NAMES, SCHEDULE_NAMES } from "./lib/diffusion/names.ts";
export { openCheckpoint } from "./lib/formats/checkpoint.ts";
export { decodePicture, encodePng, type Picture } from "./lib/formats/png.ts";
