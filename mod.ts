/**
 * Latent diffusion on WebGPU, as a library.
 *
 * ```ts
 * import { encodePng, loadModel, openDevice, textToImage } from "./mod.ts";
 *
 * await using device = await openDevice();
 * await using model = await loadModel(device, "v1-5-pruned-emaonly.safetensors");
 * for await (const event of textToImage(model, { prompt: "a red fox", steps: 20, seed: 7 })) {
 *   if (event.kind === "image") await Deno.writeFile("fox.png", await encodePng(event.image));
 * }
 * ```
 *
 * Every failure is one of the errors below, and says in one sentence what was being done and what is the case.
 *
 * @module
 */

// What can go wrong
export {
  DeviceError,
  FileError,
  FormatError,
  MemoryError,
  OverflowError,
  UsageError,
} from "./lib/base/errors.ts";

// The device
export { openDevice } from "./lib/gpu/device.ts";
export type { Adapter, Device, DeviceOptions, MemoryUse } from "./lib/gpu/device.ts";
export type { Profile } from "./lib/kernels/kernel.ts";
export type { Table } from "./lib/kernels/table.ts";
export { tunedTable } from "./lib/engine/tuning.ts";

// Models
export { loadFirstStage, loadModel } from "./lib/engine/load.ts";
export type { LoadedFirstStage } from "./lib/engine/load.ts";
export type { FirstStage, Half } from "./lib/engine/first_stage.ts";
export type {
  Condition,
  Denoiser,
  DenoiserRequest,
  Encoded,
  FloatPicture,
  Latents,
  LoadOptions,
  LoraChoice,
  MemoryPlan,
  Model,
  ReadProgress,
  Run,
  StageMemory,
  StageOptions,
  TextEmbedding,
  Tiling,
  TokenIds,
  Told,
} from "./lib/engine/model.ts";
export type { Beside, BesideSource } from "./lib/models/beside.ts";
export type { ConditionerConfig, LayoutReader } from "./lib/models/conditioner.ts";
export type { PartName } from "./lib/engine/part.ts";
export type { Lifetime } from "./lib/engine/residency.ts";
export type { Defaults, Family, Variant } from "./lib/models/family.ts";
export { openCheckpoint } from "./lib/formats/checkpoint.ts";
export type {
  Checkpoint,
  ComponentName,
  OpenOptions,
  WeightInfo,
  Weights,
} from "./lib/formats/checkpoint.ts";
export type { FileDType } from "./lib/formats/safetensors.ts";

export type { Shape } from "./lib/base/shape.ts";

// Pipelines
export { textToImage, textToImagePipeline } from "./lib/pipelines/text_to_image.ts";
export type { PipelineOptions, TextToImagePipeline } from "./lib/pipelines/text_to_image.ts";
export type { TextToImage } from "./lib/pipelines/settings.ts";
export type { SecondPicture } from "./lib/pipelines/beside.ts";
export type { HoledPicture } from "./lib/pipelines/holes.ts";
export type { Vocabulary } from "./lib/pipelines/tokens.ts";
export { BATCH_SEEDS, MATCH_NAMES, ROUNDINGS } from "./lib/pipelines/events.ts";
export type {
  BatchSeeds,
  MatchName,
  PipelineEvent,
  Rng,
  Rounding,
  Sees,
  Settings,
} from "./lib/pipelines/events.ts";
export { MATCHES } from "./lib/pipelines/match.ts";
export type { Match } from "./lib/pipelines/match.ts";
export type { Dialect } from "./lib/diffusion/dialects.ts";
export { decodeLatents, encodePicture } from "./lib/pipelines/first_stage.ts";
export type { Report } from "./lib/pipelines/first_stage.ts";
export { latentToRgb } from "./lib/pipelines/preview.ts";
export { SAMPLER_NAMES, SCHEDULE_NAMES } from "./lib/diffusion/names.ts";
export type { SamplerName, ScheduleName } from "./lib/diffusion/names.ts";

// Checkpoints in another form
export { convertCheckpoint } from "./lib/pipelines/convert.ts";
export type { CheckpointForm, Conversion, ConvertOptions } from "./lib/pipelines/convert.ts";
export type { CastType } from "./lib/formats/cast.ts";

// Prompts
export { chunkPrompt, parseEmphasis } from "./lib/text/prompt.ts";
export type { ChunkedPrompt, PromptChunk, Segment, Weighting } from "./lib/text/prompt.ts";
export { schedulePrompt } from "./lib/text/schedule.ts";
export type { PromptSpan } from "./lib/text/schedule.ts";
export { composePrompt } from "./lib/text/compose.ts";
export type { PromptPart } from "./lib/text/compose.ts";
export { clipTokenizer, folderTokenizer } from "./lib/text/tokenizer.ts";
export type { ClipTokenizer, Tokens } from "./lib/text/tokenizer.ts";
export type { TokenizerFiles } from "./lib/base/tokenizer_files.ts";
export { parsePromptFile } from "./lib/formats/prompt_file.ts";
export type { BadLine, PromptFile, PromptItem } from "./lib/formats/prompt_file.ts";
export type { Asked } from "./lib/formats/prompt_fields.ts";
export { drawsOf, resolveDynamic, wildcardsOf } from "./lib/text/dynamic.ts";
export type { Draw, Wildcards } from "./lib/text/dynamic.ts";
export { applyStyles, parseStyles } from "./lib/text/styles.ts";
export type { Style } from "./lib/text/styles.ts";

// How pictures were made
export { readRecipe, readTexts } from "./lib/formats/remember.ts";
export { TOOLS } from "./lib/formats/recipe.ts";
export type { FileRole, Recipe, Remembered, Tool } from "./lib/formats/recipe.ts";
export { readInfotext, writeInfotext } from "./lib/formats/infotext.ts";
export type { Infotext, ReadInfotext } from "./lib/formats/infotext.ts";
export { writeComfyGraph } from "./lib/formats/comfyui.ts";
export type { ComfyGraph } from "./lib/formats/comfyui.ts";

// Files
export { decodePicture, encodePng, toDeep } from "./lib/formats/png.ts";
export type { DeepPicture, PngOptions, Text } from "./lib/formats/png.ts";
export type { Picture } from "./lib/base/picture.ts";
export type { Box, LabelledBox } from "./lib/base/box.ts";
export { encodeJpeg } from "./lib/formats/jpeg.ts";
export type { JpegOptions } from "./lib/formats/jpeg.ts";
export { sheet } from "./lib/formats/sheet.ts";
export type { SheetOptions } from "./lib/formats/sheet.ts";
export { sixel } from "./lib/formats/sixel.ts";
export { readLatents, writeLatents } from "./lib/formats/latents.ts";
export type { LatentData } from "./lib/formats/latents.ts";
export { SafetensorsFile, writeSafetensors } from "./lib/formats/safetensors.ts";
export type { TensorData, TensorEntry } from "./lib/formats/safetensors.ts";
