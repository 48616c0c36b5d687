/**
 * stable-diffusion.cpp's settings: infotext in which sampler and schedule are one value in its own names, and, in newer
 * files, behind it the same as JSON (`examples/common/common.cpp`, `get_image_params`), which its own reader prefers.
 */

import { type ReadInfotext, readInfotext } from "./infotext.ts";
import { remembered, withoutNetworks } from "./infotext_recipe.ts";
import { fieldOf, isObject, type JsonObject, numberOf, parseJson, textOf } from "./json.ts";
import { defined, loraTag, type Remembered, seedOf } from "./recipe.ts";

const MARK = ", SDCPP: ";

/** Schedules that may stand behind the sampler, after a space. */
const SCHEDULE = /^(\S+) ([\w+]+)$/;

/** What a text says, where it is stable-diffusion.cpp's; `undefined` for any other text. */
export function readSdcpp(text: string): Remembered | undefined {
  const at = text.lastIndexOf(MARK);
  const json = at < 0 ? undefined : parseJson(text.slice(at + MARK.length));
  const infotext = readInfotext(at < 0 ? text : text.slice(0, at));
  const isIt = infotext.entries.get("Version")?.includes("stable-diffusion.cpp");
  if (!isIt && !isObject(json)) return undefined;
  const said = remembered(normal(infotext), "sdcpp");
  return isObject(json) ? withJson(said, json) : said;
}

/** Its entries in the words of AUTOMATIC1111; those that mean nothing to these models are left out. */
function normal(infotext: ReadInfotext): ReadInfotext {
  const entries = new Map(infotext.entries);
  const [, sampler, schedule] = SCHEDULE.exec(entries.get("Sampler") ?? "") ?? [];
  if (sampler !== undefined) entries.set("Sampler", sampler).set("Schedule type", schedule);
  entries.delete("Guidance"); // of distilled models alone
  const eta = Number(entries.get("Eta"));
  if (!(eta > 0 && eta <= 1)) entries.delete("Eta"); // 0 and infinity are the sampler's own
  return { ...infotext, entries };
}

/** Prompts with their line breaks, numbers with all their digits and what the text above does not say. */
function withJson(said: Remembered, json: JsonObject): Remembered {
  const rng = textOf(json, "rng") === "cpu" ? "cpu" : "cuda";
  const seed = seedOf(fieldOf(json, "seed"), rng);
  const sampling = fieldOf(json, "sampling");
  const prompts = withoutNetworks({
    prompt: textOf(fieldOf(json, "prompt"), "positive") ?? said.recipe.prompt ?? "",
    negativePrompt: textOf(fieldOf(json, "prompt"), "negative") ?? said.recipe.negativePrompt ?? "",
  });
  const { networks, stray = [], ...texts } = prompts;
  const loras = fieldOf(json, "loras");
  const named = Array.isArray(loras) && loras.length > 0
    ? loras.map((lora) => loraTag(textOf(lora, "name") ?? "", numberOf(lora, "multiplier")))
    : undefined;
  const mode = textOf(json, "mode") ?? "img_gen";
  return {
    ...said,
    // the list has what was loaded, those of prompts among them
    ...defined({ networks: named ?? networks }),
    recipe: {
      ...said.recipe,
      ...texts,
      ...defined({
        seed: seed.seed,
        steps: numberOf(sampling, "steps"),
        cfgScale: numberOf(fieldOf(sampling, "guidance"), "txt_cfg"),
        sampler: textOf(sampling, "method"),
        schedule: textOf(sampling, "scheduler"),
      }),
      rng,
    },
    unmatched: [
      ...new Set([
        ...said.unmatched,
        ...seed.unmatched,
        ...stray,
        ...(mode === "img_gen" ? [] : [`mode ${mode}`]),
      ]),
    ],
  };
}

const XMP = /<sdcpp:parameters>([^]*?)<\/sdcpp:parameters>/;
const ESCAPES: Readonly<Record<string, string>> = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
};

/** The text in the XMP of its WebP files. */
export function sdcppInXmp(xmp: string): string | undefined {
  return XMP.exec(xmp)?.[1].replaceAll(/&(amp|lt|gt|quot|apos);/g, (_, name) => ESCAPES[name]);
}
