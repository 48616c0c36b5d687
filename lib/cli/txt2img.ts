/** `ldm txt2img`, the command that may be left out: pictures from a prompt. */

import { basename, extname } from "node:path";
import project from "../../deno.json" with { type: "json" };
import { FileError, UsageError } from "../base/errors.ts";
import {
  parseSampler,
  parseSchedule,
  SAMPLER_LABELS,
  SCHEDULE_LABELS,
} from "../diffusion/names.ts";
import { loadModel } from "../engine/load.ts";
import { readTokenizer, type TokenizerFiles } from "../formats/checkpoint.ts";
import { writeInfotext } from "../formats/infotext.ts";
import { encodePng } from "../formats/png.ts";
import type { PipelineEvent, Rng, Settings } from "../pipelines/events.ts";
import { textToImage } from "../pipelines/text_to_image.ts";
import { describeMemory, modelPath, seconds, withLoaded } from "./loading.ts";
import {
  addModelOptions,
  addReportOptions,
  addSaveOptions,
  choice,
  decimal,
  integer,
  type ModelOptions,
  newCommand,
  parse,
  progressOptions,
  type SaveOptions,
} from "./options.ts";
import { openOutput, type Output, saveBytes } from "./output.ts";
import { duration, type Progress, progressTo } from "./progress.ts";
import { printJson, printLine } from "./terminal.ts";

interface Options extends ModelOptions, SaveOptions {
  readonly negativePrompt?: string;
  readonly width?: number;
  readonly height?: number;
  readonly steps?: number;
  readonly cfgScale?: number;
  readonly guidanceRescale?: number;
  readonly sampler?: string;
  readonly schedule?: string;
  readonly eta?: number;
  readonly seed?: number;
  readonly batchCount: number;
  readonly rng: Rng;
  readonly clipSkip?: number;
  readonly tokenizer?: string;
  /** False with --no-metadata. */
  readonly metadata: boolean;
}

const USUAL_OUTPUT = "{index}-{seed}.png";
const SEED_MAX = 2 ** 32 - 1;

function definition() {
  const command = newCommand("txt2img", "Makes a picture from a prompt.")
    .argument("[prompt...]", "what to show; several words are one prompt")
    .option("-n, --negative-prompt <text>", "what not to show", "")
    .option("-W, --width <n>", "pixels (default: the checkpoint's)", integer("--width", 1))
    .option("-H, --height <n>", "pixels (default: the checkpoint's)", integer("--height", 1))
    .option("--steps <n>", "sampling steps (default: the family's)", integer("--steps", 1))
    .option(
      "--cfg-scale <x>",
      "guidance, 1 is off (default: the family's)",
      decimal("--cfg-scale", 0),
    )
    .option("--guidance-rescale <x>", "from 0, off, to 1", decimal("--guidance-rescale", 0, 1))
    .option(
      "--sampler <name>",
      "as any tool spells it (default: the family's)",
      spelt(parseSampler),
    )
    .option(
      "--schedule <name>",
      "as any tool spells it (default: the checkpoint's)",
      spelt(parseSchedule),
    )
    .option("--eta <x>", "share of fresh noise (default: the sampler's)", decimal("--eta", 0, 1))
    .option("-s, --seed <n>", "-1 draws one (default: -1)", integer("--seed", -1, SEED_MAX))
    .option("-b, --batch-count <n>", "pictures, seeds counting up", integer("--batch-count", 1), 1)
    .option("--rng <name>", "cpu or cuda: whose noise", choice("--rng", ["cpu", "cuda"]), "cpu")
    .option(
      "--clip-skip <n>",
      "text encoder layers from the top (default: 1)",
      integer("--clip-skip", 1),
    )
    .option("--tokenizer <folder>", "vocab.json and merges.txt (default: the checkpoint's)")
    .option("--no-metadata", "no generation parameters in the picture");
  return addReportOptions(addModelOptions(addSaveOptions(command, USUAL_OUTPUT)));
}

/** Refuses a name that nobody knows before anything is loaded. */
function spelt(check: (name: string) => unknown): (name: string) => string {
  return (name) => {
    check(name);
    return name;
  };
}

export async function txt2img(argv: readonly string[]): Promise<number> {
  const command = definition();
  parse(command, argv);
  const options = command.opts<Options>();
  const prompt = promptOf(command.args);
  const path = modelPath(options);
  const pattern = options.output ?? USUAL_OUTPUT;
  if (pattern === "-" && options.json) {
    throw new UsageError("Cannot use --json with -o -: both write to stdout");
  }
  if (pattern === "-" && options.batchCount > 1) {
    throw new UsageError("Cannot write several pictures to stdout: -o - takes one, leave out -b");
  }
  const output = await openOutput(pattern, {
    extension: ".png",
    name: USUAL_OUTPUT,
    overwrite: options.overwrite === true,
  });
  const tokenizer = options.tokenizer === undefined
    ? undefined
    : await tokenizerIn(options.tokenizer);
  const progress = progressTo(progressOptions(options));
  try {
    await withLoaded(loadModel, path, options, progress, async (model) => {
      const request = { ...options, prompt, tokenizer, tiling: options.vaeTiling };
      const listener = listen(options, output, path, progress);
      for await (const event of textToImage(model, request)) await listener(event);
    });
  } finally {
    progress.clear();
  }
  return 0;
}

/** One prompt of several words. Lists of prompts are not read yet. */
function promptOf(words: readonly string[]): string {
  if (words.length === 1 && words[0] === "-") {
    throw new UsageError("Cannot read prompts from stdin yet: give one prompt as an argument");
  }
  const prompt = words.join(" ");
  if (words.length === 0) throw new UsageError("Nothing to draw: a prompt was needed");
  return prompt;
}

/** Throws `FileError` where there is no tokenizer. */
async function tokenizerIn(folder: string): Promise<TokenizerFiles> {
  const files = await readTokenizer(folder);
  if (files) return files;
  throw new FileError(`Cannot read the tokenizer "${folder}": it needs vocab.json and merges.txt`);
}

/** Saves pictures, and tells person and machine what happens. */
function listen(
  options: Options,
  output: Output,
  path: string,
  progress: Progress,
): (event: PipelineEvent) => Promise<void> {
  const start = performance.now();
  let since = start; // when the current picture began
  let first = start; // when its first step was done: the model may have been read before
  let saved = 0;
  let count = 1;
  const tell = (event: Readonly<Record<string, unknown>>) =>
    options.json ? printJson(event) : Promise.resolve();

  return async (event) => {
    switch (event.kind) {
      case "warning":
        progress.warn(event.message);
        return await tell({ event: "warning", message: event.message });
      case "plan": {
        const { settings, seeds } = event;
        count = seeds.length;
        progress.say(summary(settings, seeds));
        for (const line of describeMemory(event.memory)) progress.detail(line);
        progress.show("reading the prompt", 0, settings.steps);
        return await tell({
          event: "plan",
          model: path,
          ...settings,
          seeds,
          sigmas: event.sigmas,
          timesteps: event.timesteps,
          memory: event.memory,
        });
      }
      case "step": {
        const { image, index, of, sigma } = event;
        const now = performance.now();
        const elapsed = now - since;
        if (index === 0) first = now;
        const each = index === 0 ? elapsed : (now - first) / index;
        const left = each * (of - index - 1);
        const which = count > 1 ? `picture ${image + 1} of ${count}, ` : "";
        progress.show(
          "sampling",
          index + 1,
          of,
          `${which}${index + 1}/${of}, ${duration(left)} left`,
        );
        if (index + 1 === of) {
          progress.detail(`${of} steps in ${duration(elapsed)}, one in ${duration(each)}`);
        }
        return await tell({ event: "step", image, index, of, sigma, seconds: seconds(elapsed) });
      }
      case "decode":
        return progress.show("decoding", event.done, event.of);
      case "image": {
        const { image, seed, index, settings } = event;
        const text = writeInfotext(infotextOf(settings, seed, path));
        const png = await encodePng(
          image,
          options.metadata ? { text: [["parameters", text]] } : {},
        );
        const file = await output.next({ index, seed, prompt: settings.prompt });
        await saveBytes(file, png);
        saved += 1;
        const elapsed = performance.now() - since;
        since = performance.now();
        progress.detail(`picture of seed ${seed} in ${duration(elapsed)}`);
        progress.clear();
        if (!options.json && file !== "-") await printLine(file);
        return await tell({ event: "saved", path: file, index, seed, seconds: seconds(elapsed) });
      }
      case "done":
        return await tell({
          event: "done",
          images: saved,
          seconds: seconds(performance.now() - start),
        });
      default:
        return event satisfies never;
    }
  };
}

/** "512×512, 20 steps of dpmpp_2m karras, cfg 7, seed 42". */
function summary(
  { width, height, steps, sampler, schedule, cfgScale }: Settings,
  seeds: readonly number[],
) {
  const seed = seeds.length > 1 ? `seeds ${seeds[0]} to ${seeds.at(-1)}` : `seed ${seeds[0]}`;
  const walk = schedule === undefined ? sampler : `${sampler} ${schedule}`;
  return `${width}×${height}, ${steps} steps of ${walk}, cfg ${cfgScale}, ${seed}`;
}

/** In AUTOMATIC1111's order and words. */
function infotextOf(settings: Settings, seed: number, path: string) {
  const { sampler, schedule, width, height, clipSkip, guidanceRescale } = settings;
  return {
    prompt: settings.prompt,
    negativePrompt: settings.negativePrompt,
    entries: {
      "Steps": settings.steps,
      "Sampler": SAMPLER_LABELS[sampler],
      "Schedule type": schedule && SCHEDULE_LABELS[schedule],
      "CFG scale": settings.cfgScale,
      "Seed": seed,
      "Size": `${width}x${height}`,
      "Model": basename(
        path.replace(/[\\/]+$/, ""),
        extname(path) === ".safetensors" ? extname(path) : "",
      ),
      "Clip skip": clipSkip > 1 ? clipSkip : undefined,
      "RNG": settings.rng === "cpu" ? "CPU" : undefined,
      "Eta": settings.eta,
      "CFG Rescale": guidanceRescale > 0 ? guidanceRescale : undefined,
      "Version": `ldm ${project.version}`,
    },
  };
}
