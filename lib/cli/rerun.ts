/** `ldm rerun IMAGE`: a picture again, from what its own file says. */

import type { Command } from "commander";
import { basename, dirname, extname, join } from "node:path";
import { FormatError, UsageError } from "../base/errors.ts";
import { parseSampler, parseSchedule } from "../diffusion/names.ts";
import { fileError } from "../formats/files.ts";
import { decodePicture, pngDepth } from "../formats/png.ts";
import {
  defined,
  type FileRole,
  type Recipe,
  type Remembered,
  type Tool,
  TOOLS,
} from "../formats/recipe.ts";
import { readRecipe } from "../formats/remember.ts";
import type { MatchName } from "../pipelines/events.ts";
import { BUILT_IN_NAME, builtInPath } from "./built_in.ts";
import {
  addDrawingOptions,
  type DrawingOptions,
  drawingOptions,
  isJpeg,
  withDrawing,
} from "./drawing.ts";
import { lorasOf } from "./loras.ts";
import { hashOf } from "./model_hash.ts";
import { newCommand, parse, progressOptions } from "./options.ts";
import { progressTo } from "./progress.ts";
import { isOfRecipe, overlay } from "./request.ts";
import { addSecondOptions } from "./second.ts";
import { checkDrawBoxes } from "./telling.ts";
import { printJson } from "./terminal.ts";

/** Whose conventions come nearest to a tool's; our own pictures say themselves. */
const NEAREST: Readonly<Record<Tool, MatchName | undefined>> = {
  ldm: undefined,
  a1111: "a1111",
  comfyui: "comfyui",
  fooocus: "comfyui",
  sdcpp: "sdcpp",
  invokeai: "diffusers",
  kohya: "diffusers",
};

/** Options without which it is as the picture says, beside those that describe a picture. */
const OTHERS: readonly string[] = ["class", "model", "vae", "taesd", "tokenizer", "dtype", "bits"];

/** Says in the help of what a picture may say that this is its default. */
function tellDefaults(command: Command): void {
  for (const option of command.options) {
    const name = option.attributeName();
    if (!isOfRecipe(name) && !OTHERS.includes(name)) continue;
    option.description = `${
      option.description.replace(/ \(default: [^)]*\)$/, "")
    } (default: the picture's)`;
  }
}

export async function rerun(argv: readonly string[]): Promise<number> {
  const command = addDrawingOptions(addSecondOptions(
    newCommand("rerun", "Makes a picture again from what its file says; options override it.")
      .argument("<image>")
      .option("-p, --prompt <text>", "what to show"),
  ));
  tellDefaults(command);
  parse(command, argv);
  const [path] = command.args;
  const options = await drawingOptions(command);
  const bytes = await Deno.readFile(path).catch((error) => {
    throw fileError("read the picture", path, error);
  });
  const { remembered, recipe } = await recipeOf(bytes, path);
  const known = understood(recipe, remembered.tool);
  const files = await filesOf(remembered, options, path);
  const { prompt } = command.opts<{ readonly prompt?: string }>();
  const loras = await lorasOf(prompt === undefined ? remembered.networks ?? [] : [], options);
  const { strength = 1 } = recipe;
  const unmatched = [
    ...(strength < 1 && recipe.sees === undefined && files.found.image === undefined
      ? [`the picture that it was made of, at strength ${strength}; -i names it`]
      : []),
    ...remembered.unmatched,
    ...known.unmatched,
    ...files.missing,
    ...loras.missing,
  ];
  const { hash, warnings: changed } = await hashed(remembered, files.model);
  const warnings = [...unmatched.map((what) => `cannot match ${what}`), ...changed];
  const progress = progressTo(progressOptions(options));
  if (remembered.tool !== "ldm") progress.say(`made by ${TOOLS[remembered.tool]}`);
  for (const message of warnings) {
    progress.warn(message);
    if (options.json) await printJson({ event: "warning", message });
  }
  const match = NEAREST[remembered.tool];
  // a picture's own prompts have had their choices made, and may hold braces that are none
  const { negativePrompt, style, wildcards } = options;
  const isResolved = [prompt, negativePrompt, style, wildcards].every((one) => one === undefined);
  const dtype = options.dtype ?? remembered.dtype;
  const isDeep = pngDepth(bytes) === 16 && !isJpeg(options.output ?? "");
  const bits = options.bits ?? (isDeep ? 16 : 8);
  const said = overlay({ ...(match && { match }) }, known.recipe, options, defined({ prompt }));
  const asked = withPictures(said, files.found, path);
  checkDrawBoxes(options, [asked]);
  await withDrawing(
    {
      ...options,
      ...files.found,
      ...(loras.found.length > 0 && { lora: [...options.lora ?? [], ...loras.found] }),
      bits,
      ...(dtype && { dtype }),
      ...(hash !== undefined && { modelHash: hash }),
    },
    (draw) => draw(asked, { isResolved }),
  );
  return 0;
}

/** What a picture says; a size that it leaves out is its own. Throws `FormatError` where it says nothing. */
async function recipeOf(
  bytes: Uint8Array<ArrayBuffer>,
  path: string,
): Promise<{ remembered: Remembered; recipe: Recipe }> {
  const remembered = await readRecipe(bytes, `"${path}"`);
  if (remembered === undefined) {
    throw new FormatError(
      `Cannot make "${path}" again: nothing in it says how it was made, as ${
        Object.values(TOOLS).join(", ")
      } write it; it may have been saved anew by another program`,
    );
  }
  const { width, height } = remembered.recipe;
  if (width !== undefined && height !== undefined) return { remembered, recipe: remembered.recipe };
  const picture = await decodePicture(bytes, `"${path}"`);
  const size = { width: picture.width, height: picture.height };
  return { remembered, recipe: { ...size, ...remembered.recipe } };
}

/** A recipe without the samplers and schedules that are not known here, which are named. */
function understood(recipe: Recipe, tool: Tool): { recipe: Recipe; unmatched: readonly string[] } {
  const { sampler, schedule, ...rest } = recipe;
  const isKnown = (check: (name: string) => unknown, name: string | undefined) => {
    try {
      return name !== undefined && Boolean(check(name));
    } catch (error) {
      if (error instanceof UsageError) return false;
      throw error;
    }
  };
  const knowsSampler = isKnown(parseSampler, sampler);
  const knowsSchedule = isKnown(parseSchedule, schedule);
  const instead = `of ${TOOLS[tool]}; the checkpoint's own is used`;
  return {
    recipe: {
      ...rest,
      ...(knowsSampler && sampler !== undefined && { sampler }),
      ...(knowsSchedule && schedule !== undefined && { schedule }),
    },
    unmatched: [
      ...(sampler === undefined || knowsSampler ? [] : [`the sampler "${sampler}" ${instead}`]),
      ...(schedule === undefined || knowsSchedule ? [] : [`the schedule "${schedule}" ${instead}`]),
    ],
  };
}

/**
 * A recipe with the pictures that it is made of; without a strength where there is none. Throws `UsageError` where one is
 * needed and not there.
 */
function withPictures(
  { strength, maskBlur, ...recipe }: Recipe,
  { image, mask }: Files,
  path: string,
): Recipe {
  if (image !== undefined) return { ...recipe, ...defined({ strength, maskBlur, image, mask }) };
  if (recipe.sees === undefined) return recipe;
  throw new UsageError(
    `Cannot make "${path}" again: the picture that it was made of is neither beside it nor in this folder; ` +
      `-i PATH says where it is`,
  );
}

type Files = { -readonly [Role in FileRole]?: string };

/**
 * Where the files are that made a picture: as options say, else beside the picture or in the working folder. Throws
 * `UsageError` where there is no checkpoint; other files that are not found are named.
 */
async function filesOf(
  { files, tuned }: Remembered,
  options: DrawingOptions,
  picture: string,
): Promise<{ model: string; found: Files; missing: readonly string[] }> {
  const found: Files = {};
  const missing: string[] = [];
  // one first stage replaces the other
  const chosen = options.vae ?? options.taesd;
  for (const role of ["model", "vae", "taesd", "tokenizer", "image", "mask"] as const) {
    const name = files[role];
    const isReplaced = chosen !== undefined && (role === "vae" || role === "taesd");
    const path = options[role] ??
      (name === undefined || isReplaced ? undefined : await look(name, dirname(picture))) ??
      (role === "model" && name === BUILT_IN_NAME ? builtInPath() : undefined);
    if (path !== undefined) found[role] = path;
    else if (name !== undefined && !isReplaced && role !== "model" && role !== "image") {
      missing.push(
        `the ${role} "${name}", which is neither beside the picture nor here; --${role} names it`,
      );
    }
  }
  if (tuned && !options.tuned) missing.push("tuned kernels to the last bit; --tuned uses some");
  if (found.model === undefined) throw noModel(picture, files.model);
  return { model: found.model, found, missing };
}

/** A file or folder by its name, with the extension of checkpoints where it has none, beside a picture or here. */
async function look(name: string, beside: string): Promise<string | undefined> {
  for (const folder of new Set([beside, "."])) {
    for (
      const candidate of [
        name,
        `${name}.safetensors`,
        basename(name, extname(name)) + ".safetensors",
      ]
    ) {
      const path = join(folder, candidate);
      if (await Deno.stat(path).then(() => true, () => false)) return path;
    }
  }
  return undefined;
}

function noModel(picture: string, name: string | undefined): UsageError {
  return new UsageError(
    name === undefined
      ? `Cannot make "${picture}" again: it does not say with which checkpoint; -m PATH names one`
      : `Cannot make "${picture}" again: the checkpoint "${name}" is neither beside it nor in this ` +
        `folder; -m PATH says where it is`,
  );
}

/** The hash of a checkpoint whose picture tells one, and a warning where it is another. Throws `FileError`. */
async function hashed(
  { modelHash }: Remembered,
  path: string,
): Promise<{ hash: string | undefined; warnings: readonly string[] }> {
  const isHash = modelHash !== undefined && /^[0-9a-f]{10}$/i.test(modelHash);
  const hash = isHash ? await hashOf(path) : undefined;
  const isSame = hash === undefined || hash === modelHash?.toLowerCase();
  return {
    hash,
    warnings: isSame ? [] : [
      `"${path}" is another checkpoint than the picture's: its hash is ${hash}, not ${modelHash}`,
    ],
  };
}
