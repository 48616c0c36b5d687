/** The files of a tokenizer, where checkpoints keep them. */

import { join } from "node:path";
import { FormatError } from "../base/errors.ts";
import type { TokenizerFiles } from "../base/tokenizer_files.ts";
import { fieldOf, parseJson, textOf } from "./json.ts";
import { isFile, readJson, readText } from "./reading.ts";

/** The files of a tokenizer in a folder; `undefined` where vocab.json or merges.txt is missing. */
export async function readTokenizer(folder: string): Promise<TokenizerFiles | undefined> {
  const at = (name: string) => join(folder, name);
  if (!await isFile(at("vocab.json")) || !await isFile(at("merges.txt"))) return undefined;
  const json = async (name: string) =>
    await isFile(at(name)) ? await readJson(at(name)) : undefined;
  const config = await json("tokenizer_config.json");
  const specialTokens = await json("special_tokens_map.json");
  return {
    vocab: await readText(at("vocab.json")),
    merges: await readText(at("merges.txt")),
    ...settingsOf(config, specialTokens),
  };
}

/** What is there of them. */
function settingsOf(
  config: unknown,
  specialTokens: unknown,
): Pick<TokenizerFiles, "config" | "specialTokens"> {
  return {
    ...(config === undefined ? {} : { config }),
    ...(specialTokens === undefined ? {} : { specialTokens }),
  };
}

/** What a single file's metadata calls the files of a tokenizer that is not CLIP's: JSON of `TokenizerFiles`. */
export const tokenizerKey = (component: "tokenizer" | "tokenizer_2") => `${component}_files`;

/** The tokenizer in a single file's metadata; `undefined` where there is none. Throws `FormatError`. */
export function tokenizerIn(
  metadata: ReadonlyMap<string, string>,
  component: "tokenizer" | "tokenizer_2",
  path: string,
): TokenizerFiles | undefined {
  const key = tokenizerKey(component);
  const text = metadata.get(key);
  if (text === undefined) return undefined;
  const json = parseJson(text);
  const [vocab, merges] = [textOf(json, "vocab"), textOf(json, "merges")];
  if (vocab === undefined || merges === undefined) {
    throw new FormatError(
      `Cannot use the "${key}" in the metadata of "${path}": a vocabulary and merges were needed`,
    );
  }
  const settings = settingsOf(fieldOf(json, "config"), fieldOf(json, "specialTokens"));
  return { vocab, merges, ...settings };
}
