/** What `ldm inspect` tells of files that are no model: latents, tokenizers, and tensors of any other kind. */

import { dirname } from "node:path";
import { counted } from "../base/counted.ts";
import { show, sizeOf } from "../base/shape.ts";
import { bareComponents, isIgnored, otherKind, PLACES } from "../formats/keys.ts";
import { SafetensorsFile } from "../formats/safetensors.ts";
import { readTokenizer } from "../formats/tokenizer_folder.ts";
import { folderTokenizer } from "../text/tokenizer.ts";
import { aligned, count, type Report, shortened, tallied, tally } from "./listing.ts";
import { fileSize } from "./progress.ts";

/** What a file or folder is that is no checkpoint; `undefined` for anything that may be one. */
export async function describeOther(path: string): Promise<Report | undefined> {
  const info = await Deno.stat(path).catch(() => undefined);
  if (info?.isDirectory) return await describeTokenizer(path, path);
  if (/(^|[\\/])(vocab\.json|merges\.txt)$/.test(path)) {
    return await describeTokenizer(path, dirname(path));
  }
  if (!info?.isFile || path.endsWith(".json")) return undefined;
  using file = await SafetensorsFile.open(path);
  const kind = kindOf(file);
  return kind === undefined ? undefined : await describeTensors(path, kind);
}

/** What a file holds, in words; `undefined` where that is a part of a model that is known. */
function kindOf({ tensors }: SafetensorsFile): string | undefined {
  const latents = tensors.size === 1 ? tensors.get("latents") : undefined;
  if (latents) return "latents, which `ldm decode` makes a picture of";
  const names = new Set(tensors.keys().filter((name) => !isIgnored(name)));
  const isPart = names.values().some((name) =>
    PLACES.some(({ prefix }) => name.startsWith(prefix))
  );
  const other = otherKind(names);
  if (other === undefined && (isPart || bareComponents(names).length > 0)) return undefined;
  return `${other ?? "tensors"}, no part of Stable Diffusion 1, 2 or XL`;
}

/** A folder with a vocabulary and merges, and no model. */
async function describeTokenizer(path: string, folder: string): Promise<Report | undefined> {
  const names = (await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name);
  const files = names.includes("config.json") || names.includes("model_index.json")
    ? undefined
    : await readTokenizer(folder);
  if (!files) return undefined;
  const { start, end, padding, length, piece } = folderTokenizer(files);
  const size = Object.keys(JSON.parse(files.vocab)).length;
  const special = { start, end, padding };
  const told = Object.entries(special).map(([name, id]) => `${name} ${piece(id)} (${id})`);
  return {
    json: { kind: "tokenizer", path, tokens: size, length, ...special },
    text: `${path}: a CLIP tokenizer of ${counted(size, "token")}, prompts of ${length}\n  ${
      told.join(", ")
    }`,
  };
}

/** Tensors that are shown one by one; of more, only how many there are. */
const FEW = 8;

/** A file of tensors of any kind. `problem` is why it is of no use here. */
export async function describeTensors(
  path: string,
  kind: string,
  problem?: string,
): Promise<Report> {
  using file = await SafetensorsFile.open(path);
  const tensors = [...file.tensors.values()];
  const { size } = await Deno.stat(path);
  const parameters = tensors.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  const dtypes = tally(tensors.map(({ dtype }) => dtype));
  const shown = tensors.slice(0, FEW);
  return {
    json: {
      kind: "tensors",
      path,
      what: kind,
      problem,
      bytes: size,
      parameters,
      dtypes,
      tensors: Object.fromEntries(
        tensors.map(({ name, dtype, shape }) => [name, { dtype, shape }]),
      ),
      metadata: Object.fromEntries(file.metadata),
    },
    text: [
      `${path}: ${kind}`,
      `  ${counted(parameters, "number", count(parameters))}, ${
        counted(tensors.length, "tensor")
      }, ${fileSize(size)}, ${tallied(dtypes)}`,
      ...aligned(shown.map(({ name, dtype, shape }) => [name, show(shape), dtype])),
      ...(tensors.length > FEW ? [`  … and ${tensors.length - FEW} more`] : []),
      ...[...file.metadata].map(([key, value]) => `metadata ${key}: ${shortened(value)}`),
      ...(problem === undefined ? [] : [`not usable: ${problem}`]),
    ].join("\n"),
  };
}
