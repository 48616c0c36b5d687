/** What every command that makes pictures does around them: checks its options, opens output, device and model. */

import type { Command } from "commander";
import { UsageError } from "../base/errors.ts";
import { USUAL_WEIGHTS } from "../engine/builder.ts";
import { loadModel } from "../engine/load.ts";
import type { Model } from "../engine/model.ts";
import { PICTURE_EXTENSIONS } from "../formats/picture_file.ts";
import { defined, type Recipe } from "../formats/recipe.ts";
import type { PipelineEvent } from "../pipelines/events.ts";
import { matchOf, type TextToImage } from "../pipelines/settings.ts";
import { textToImage, textToImagePipeline } from "../pipelines/text_to_image.ts";
import { type About, type Listener, listenersOf, listenTo } from "./listening.ts";
import { modelPath, withLoaded } from "./loading.ts";
import { addLoraOptions, type LoraOptions, loraReader, tagsOf } from "./loras.ts";
import { hashOf } from "./model_hash.ts";
import {
  addModelOptions,
  addReportOptions,
  addSaveOptions,
  integer,
  type ModelOptions,
  progressOptions,
  type ReportOptions,
  type SaveOptions,
} from "./options.ts";
import { type Earlier, openOutput, type Output, type OutputOptions, tryFolder } from "./output.ts";
import { paceOf } from "./pace.ts";
import { openPreview, previewing } from "./preview.ts";
import { type Progress, progressTo } from "./progress.ts";
import {
  addPromptOptions,
  mayDiffer,
  type PromptOptions,
  readPromptOptions,
  recipesOf,
} from "./prompting.ts";
import {
  addPictureOptions,
  type PictureOptions,
  readTokenizerOption,
  requestOf,
} from "./request.ts";
import { type FileOptions, saver, saving } from "./saving.ts";
import { SecondReader } from "./second.ts";
import {
  addToldOptions,
  boxDrawer,
  checkDrawBoxes,
  readTold,
  type ToldOptions,
} from "./telling.ts";
import { addWatchOptions, checkWatch, openWatch, type WatchOptions } from "./watching.ts";

/** Options of every command that makes pictures. */
export interface DrawingOptions
  extends PictureOptions, PromptOptions, LoraOptions, ModelOptions, SaveOptions, WatchOptions {
  /** A copy of each picture with its boxes. */
  readonly drawBoxes?: true;
  readonly tokenizer?: string;
  /** False with --no-metadata. */
  readonly metadata: boolean;
  /** Put into the picture; the hash itself where it is known. */
  readonly modelHash?: true | string;
  readonly bits?: 8 | 16;
  readonly quality?: number;
}

/** The file name of a picture where no other is asked for. */
const USUAL_OUTPUT = "{index}-{seed}.png";

const OUTPUT_FORMS =
  "a file, a folder or a pattern with %d, {index}, {seed}, {prompt}; - is stdout";

/** Adds the options of `DrawingOptions`, but those of second pictures, which commands name as they need them. */
export function addDrawingOptions(
  command: Command,
  size: string | false = "the checkpoint's",
): Command {
  addLoraOptions(addPromptOptions(addToldOptions(addPictureOptions(command, size))))
    .option("--tokenizer <folder>", "vocab.json and merges.txt (default: the checkpoint's)")
    .option("--no-metadata", "no generation parameters in the picture")
    .option("--model-hash", "put the checkpoint's hash into the picture; reads all of it first")
    .option("--bits <n>", "8 or 16: of a PNG (default: 8)", bits)
    .option("--quality <n>", "of a .jpg (default: 95)", integer("--quality", 1, 100));
  addWatchOptions(command);
  return addReportOptions(addModelOptions(addSaveOptions(command, USUAL_OUTPUT, OUTPUT_FORMS)));
}

/** The options of a command that was parsed, with what lies in files. Throws `FileError` and `FormatError`. */
export async function drawingOptions(command: Command): Promise<DrawingOptions> {
  type Typed = Omit<DrawingOptions, "label" | "boxes"> & ToldOptions;
  const { class: label, box, boxes, ...options } = command.opts<Typed>();
  return { ...options, ...await readTold(defined({ class: label, box, boxes })) };
}

function bits(text: string): 8 | 16 {
  if (text === "8" || text === "16") return text === "8" ? 8 : 16;
  throw new UsageError(`Cannot use --bits ${JSON.stringify(text)}: 8 or 16 was needed`);
}

/** What one recipe of several has of its own. */
export interface DrawOptions {
  /** Hear of everything after the usual listeners. */
  readonly listeners?: readonly Listener[];
  /** Where its pictures go, if not where the others do. */
  readonly output?: Output;
  /** Pictures of the recipes before it, for names. */
  readonly firstIndex?: number;
  /** What earlier attempts at its pictures may have left. */
  readonly earlier?: (index: number) => Earlier;
  /** Told with each of its JSON events. */
  readonly about?: About;
  /** Its prompts are what was made of others already: no styles, no choices. */
  readonly isResolved?: boolean;
}

/** Makes, saves and tells of the pictures of one recipe. */
export type Draw = (recipe: Recipe, options?: DrawOptions) => Promise<void>;

/** Encodes the prompts of recipes that come next, all at once. */
export type Encode = (recipes: readonly Recipe[]) => Promise<void>;

/** What is known of a run beforehand. */
export interface Run {
  /** How many pictures all its recipes make together; as many as one recipe does where it is left out. */
  readonly pictures?: number;
  /** The same as far as it is known by now, where more may follow. */
  readonly expected?: () => number;
  /** Where pictures go; what the options say where it is left out. */
  readonly output?: Output;
  /** How pictures become files; what the options say where it is left out. */
  readonly file?: FileOptions;
  /** True where there are several recipes: then the model stays. */
  readonly several?: boolean;
  /** Tells a person; what the options say where it is left out. */
  readonly progress?: Progress;
}

/** Whether pictures of a pattern are JPEGs. */
export function isJpeg(pattern: string): boolean {
  return /\.jpe?g$/i.test(pattern);
}

/** Throws `UsageError` for a quality of what has none. */
export function checkQuality({ quality, output = USUAL_OUTPUT }: DrawingOptions): void {
  if (quality === undefined || isJpeg(output)) return;
  throw new UsageError(
    `Cannot use --quality with -o ${JSON.stringify(output)}: only a .jpg has a quality; name one`,
  );
}

/** Opens the place where pictures go, as options say. Throws `UsageError` and `FileError` where they cannot. */
export async function outputOf(
  { output: pattern = USUAL_OUTPUT, json, overwrite, bits }:
    & Pick<DrawingOptions, "bits">
    & SaveOptions
    & ReportOptions,
  options: Partial<OutputOptions> = {},
): Promise<Output> {
  if (pattern === "-" && json) {
    throw new UsageError("Cannot use --json with -o -: both write to stdout");
  }
  if (bits === 16 && isJpeg(pattern)) {
    throw new UsageError(`Cannot write 16 bits into "${pattern}": a JPEG has 8; name a .png`);
  }
  const [extension, ...otherExtensions] = PICTURE_EXTENSIONS;
  return await openOutput(pattern, {
    extension,
    otherExtensions,
    name: USUAL_OUTPUT,
    overwrite: overwrite === true,
    ...options,
  });
}

/**
 * Opens everything that pictures need, runs `work` and closes it. What cannot be used is told before the model is read.
 * Throws what is in lib/base/errors.ts.
 */
export async function withDrawing(
  options: DrawingOptions,
  work: (draw: Draw, encode: Encode) => Promise<void>,
  run: Run = {},
): Promise<void> {
  const path = modelPath(options);
  checkWatch(options);
  if (!run.output) checkQuality(options);
  const output = run.output ?? await outputOf(options);
  if (options.preview !== undefined) await tryFolder(options.preview);
  const { vaeTiling } = options;
  const file = run.file ?? await fileOptions(options, path);
  const tokenizer = await readTokenizerOption(options.tokenizer);
  const seconds = new SecondReader();
  await seconds.read(options);
  const progress = run.progress ?? progressTo(progressOptions(options));
  const prompting = await readPromptOptions(options, (message) => progress.warn(message));
  const loras = loraReader(options, (message) => progress.warn(message));
  const lorasOf = async ({ prompt, weighting, match }: TextToImage) =>
    await loras.of(prompt, (weighting ?? matchOf(match).weighting) === "a1111");
  const load: typeof loadModel = (device, path, others) =>
    loadModel(device, path, { ...others, ...(options.lora && { loras: options.lora }) });
  const requestsOf = async (model: Model, recipe: Recipe, isResolved = false) => {
    const weighting = recipe.weighting ?? matchOf(recipe.match).weighting;
    const recipes = isResolved ? [recipe] : recipesOf(recipe, prompting, weighting);
    const second = await seconds.of(recipe, model);
    const others = { vaeTiling, second, ...(tokenizer && { tokenizer }) };
    return recipes.map((each) => requestOf(each, others));
  };
  const pace = paceOf(run.expected ?? (() => run.pictures ?? 0));
  const pictures = run.several ? run.pictures : options.batchCount ?? 1;
  const watch = await openWatch(options, { output, makers: file.makers, progress }, pictures);
  try {
    await withLoaded(load, path, options, progress, async (model, device) => {
      using preview = await openPreview(options, model, device);
      using lasting = run.several ? renewed(() => textToImagePipeline(model)) : undefined;
      let used = JSON.stringify(options.lora ?? []);
      const make = async function* (request: TextToImage) {
        const choices = await lorasOf(request);
        if (JSON.stringify(choices) !== used) {
          lasting?.renew();
          for (const message of await model.useLoras(choices)) progress.warn(message);
          used = JSON.stringify(choices);
        }
        yield* lasting?.now.run(request) ?? textToImage(model, request);
      };
      const draw: Draw = async (recipe, { listeners = [], about, isResolved, ...place } = {}) => {
        const save = saver({ output, file: ofSecond(file, recipe), ...place });
        const requests = await requestsOf(model, recipe, isResolved);
        const all = [
          ...listenersOf(options, path, progress, pace, about),
          ...watch.listeners,
          ...(options.drawBoxes ? [boxDrawer()] : []),
          ...listeners,
        ];
        const events = saving(inTurn(requests, make), save);
        await listenTo(preview ? previewing(events, preview) : events, all);
      };
      await work(draw, async (recipes) => {
        const same: TextToImage[] = [];
        // those made of pictures would need all of these at once
        const plain = lasting ? recipes.filter(({ image }) => image === undefined) : [];
        const requests = plain.map((recipe) => requestsOf(model, recipe));
        for (const request of (await Promise.all(requests)).flat()) {
          const choices = await lorasOf(request).catch(() => undefined); // is told when it is drawn
          if (JSON.stringify(choices) === used) same.push(request);
        }
        await lasting?.now.encode(same);
      });
      await watch.finish();
    }, run.several ? "model" : "run");
  } finally {
    progress.clear();
  }
}

/** Makes the pictures of one recipe; returns the exit code. Throws what `withDrawing` throws. */
export async function drawOne(options: DrawingOptions, recipe: Recipe): Promise<number> {
  const { output, batchCount: pictures = 1 } = options;
  if (output === "-" && pictures > 1) {
    throw new UsageError("Cannot write several pictures to stdout: -o - takes one, leave out -b");
  }
  checkDrawBoxes(options, [recipe]);
  await withDrawing(options, (draw) => draw(recipe), { pictures, several: mayDiffer(recipe) });
  return 0;
}

/** A pipeline in whose place a new one can be put. */
function renewed<T extends Disposable>(make: () => T) {
  let now = make();
  return {
    get now() {
      return now;
    },
    renew() {
      now[Symbol.dispose]();
      now = make();
    },
    [Symbol.dispose]: () => now[Symbol.dispose](),
  };
}

/** What happens while requests are done one after another, as if they were one. */
async function* inTurn(
  requests: readonly TextToImage[],
  make: (request: TextToImage) => AsyncIterable<PipelineEvent>,
): AsyncGenerator<PipelineEvent, void, undefined> {
  let images = 0;
  for (const request of requests) {
    for await (const event of make(request)) {
      if (event.kind === "done") images += event.images;
      else yield event;
    }
  }
  yield { kind: "done", images };
}

/** How pictures become files, and what they say. Throws `FileError` where the checkpoint cannot be read. */
export async function fileOptions(
  options: DrawingOptions,
  model: string,
): Promise<FileOptions> {
  const { metadata, bits = 8, quality, vae, taesd, tokenizer } = options;
  const form = { bits, ...(quality !== undefined && { quality }) };
  if (!metadata) return { makers: undefined, ...form };
  const makers = {
    files: defined({ model, vae, taesd, tokenizer }),
    modelHash: options.modelHash === true ? await hashOf(model) : options.modelHash,
    dtype: options.dtype ?? USUAL_WEIGHTS,
    tuned: options.tuned === true,
    loras: tagsOf(options.lora ?? []),
  };
  return { makers, ...form };
}

/** The same for what is made of second pictures, whose names its pictures tell. */
function ofSecond({ makers, ...form }: FileOptions, { image, mask }: Recipe): FileOptions {
  if (!makers) return { makers, ...form };
  return {
    makers: { ...makers, files: { ...makers.files, ...defined({ image, mask }) } },
    ...form,
  };
}
