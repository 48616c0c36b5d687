/**
 * A checkpoint, however it is stored, as named tensors under the names that diffusers gives them: a
 * diffusers folder, one file with the original names of Stable Diffusion 1, 2 or XL, or a single
 * component.
 */
import { basename, dirname, join } from "node:path";
import { counted } from "../base/counted.ts";
import {
  Builder,
  type Checkpoint,
  nameOfConfig,
  type Place,
  refuse,
  type Weights,
} from "./checkpoint_parts.ts";
import { fileError } from "./files.ts";
import { bareComponents, type ComponentName, otherKind, PLACES } from "./keys.ts";
import { AGAIN, field, isFile, listFolder, readJson } from "./reading.ts";

export type { TokenizerFiles } from "../base/tokenizer_files.ts";
export type { Checkpoint, WeightInfo, Weights } from "./checkpoint_parts.ts";
export type { ComponentName } from "./keys.ts";

/** How a checkpoint is opened. */
export interface OpenOptions {
  /**
   * Which weights of a folder are taken where it holds several, as "fp16". Otherwise the full ones
   * are preferred, then fp16.
   */
  readonly variant?: string;
}

/**
 * Opens and checks every file of a checkpoint; reads no tensor. Throws `FileError` for what cannot
 * be read and `FormatError`, with the remedy, for what is not a checkpoint of this kind.
 */
export async function openCheckpoint(path: string, options: OpenOptions = {}): Promise<Checkpoint> {
  let info: Deno.FileInfo;
  try {
    info = await Deno.stat(path);
  } catch (error) {
    throw fileError("open the checkpoint", path, error);
  }
  using builder = new Builder(path);
  if (info.isDirectory) await openFolder(builder, path, options.variant);
  else await openFile(builder, path);
  return builder.finish();
}

/**
 * A component that the work at hand cannot do without. Throws `FormatError`, saying what the
 * checkpoint has.
 */
export function requireComponent(checkpoint: Checkpoint, name: ComponentName): Weights {
  const weights = checkpoint.components.get(name);
  if (weights) return weights;
  const has = [...checkpoint.components.keys()].join(", ");
  throw refuse(
    checkpoint.path,
    `it has no ${TITLES[name]} (${name}), which is needed, only ${has}`,
  );
}

const TITLES: Readonly<Record<ComponentName, string>> = {
  text_encoder: "text encoder",
  text_encoder_2: "second text encoder",
  unet: "denoiser",
  vae: "autoencoder",
  taesd_encoder: "tiny encoder",
  taesd_decoder: "tiny decoder",
  conditioner: "conditioner",
};

const SUPPORTED = "a Stable Diffusion 1, 2 or XL checkpoint was needed";

// ---- files

/**
 * Opens whatever a path to a file may be: a whole checkpoint, a component, a shard index, one half
 * of a TAESD.
 */
async function openFile(builder: Builder, path: string): Promise<void> {
  const files = path.endsWith(".json")
    ? await builder.openShards(path)
    : [await builder.open(path)];
  for (const file of files) {
    for (const [key, value] of file.metadata) builder.metadata.set(key, value);
  }
  const keys = builder.useful(files);
  if (keys.size === 0) throw refuse(path, `it holds no weights; ${SUPPORTED}`);
  const other = otherKind(keys.keys());
  if (other) throw refuse(path, `it is ${other}; ${SUPPORTED}`);

  const components = new Map<ComponentName, Map<string, Place>>();
  for (const [key, place] of keys) {
    const found = PLACES.find(({ prefix }) => key.startsWith(prefix));
    if (!found) {
      builder.unexpected.push(key);
      continue;
    }
    const { component, prefix } = found;
    if (!components.has(component)) components.set(component, new Map());
    components.get(component)!.set(key.slice(prefix.length), place);
  }
  if (components.size === 0) {
    builder.unexpected.length = 0;
    const found = await addBare(builder, path, keys);
    const config = join(dirname(path), "config.json");
    if (await isFile(config)) {
      const value = await readJson(config);
      const name = nameOfConfig(found[0]);
      if (componentOf(value)?.config === name) {
        builder.configs.set(name, value);
        builder.folders.set(name, dirname(path));
      }
    }
    return;
  }
  for (const [component, places] of components) builder.add(component, places);
  builder.kind = components.size > 1 ? "file" : "component";
}

/**
 * Adds the component(s) of a file without prefixes; for half a TAESD, also the other half from the
 * file next to it.
 */
async function addBare(
  builder: Builder,
  path: string,
  keys: ReadonlyMap<string, Place>,
): Promise<ComponentName[]> {
  const found = bareComponents(new Set(keys.keys()));
  if (found.length === 0) {
    const [first] = keys.keys();
    throw refuse(
      path,
      `it has ${
        counted(keys.size, "tensor")
      } ("${first}" …) of no known architecture; ${SUPPORTED}`,
    );
  }
  for (const component of found) builder.add(component, halfOf(component, keys));
  if (found.length > 1) {
    const stray = keys.keys().filter((key) => !/^(en|de)coder\./.test(key));
    builder.unexpected.push(...stray);
  }
  const [other, here, there] = found[0] === "taesd_encoder"
    ? ["taesd_decoder", "encoder", "decoder"] as const
    : ["taesd_encoder", "decoder", "encoder"] as const;
  if (found.length > 1 || !found[0].startsWith("taesd")) return found;
  const name = basename(path);
  const sibling = join(dirname(path), name.replace(here, there));
  if (!name.includes(here) || !await isFile(sibling)) return found;
  const rest = builder.useful([await builder.open(sibling)]);
  if (bareComponents(new Set(rest.keys()))[0] !== other) return found;
  builder.add(other, halfOf(other, rest));
  return [...found, other];
}

/**
 * The tensors of one half of a TAESD, without the prefix where they carry one in the original
 * naming.
 */
function halfOf(
  component: ComponentName,
  keys: ReadonlyMap<string, Place>,
): ReadonlyMap<string, Place> {
  const half = /^taesd_(.*)/.exec(component)?.[1];
  if (half === undefined || keys.keys().some((key) => /^\d/.test(key))) return keys;
  const mine = keys.entries().filter(([key]) => key.startsWith(`${half}.`));
  return new Map(mine.map(([key, place]) => {
    const isOriginal = /^\w+\.\d/.test(key);
    return [isOriginal ? key.slice(half.length + 1) : key, place];
  }));
}

// ---- folders

const FOLDERS = ["text_encoder", "text_encoder_2", "conditioner", "unet", "vae"] as const;
const TOKENIZERS = ["tokenizer", "tokenizer_2"] as const;

/**
 * The classes of diffusers and transformers that are supported: where their config is kept, and as
 * what they are loaded.
 */
const CLASSES: Readonly<Record<string, { config: string; component: ComponentName }>> = {
  UNet2DConditionModel: { config: "unet", component: "unet" },
  AutoencoderKL: { config: "vae", component: "vae" },
  VQModel: { config: "vae", component: "vae" },
  LatentDiffusionConditioner: { config: "conditioner", component: "conditioner" },
  AutoencoderTiny: { config: "taesd", component: "taesd_decoder" },
  CLIPTextModel: { config: "text_encoder", component: "text_encoder" },
  CLIPTextModelWithProjection: { config: "text_encoder", component: "text_encoder" },
};

/** The class that a config.json names; `undefined` where it names none. */
function classOf(config: unknown): string | undefined {
  const named = field(config, "_class_name");
  if (typeof named === "string") return named;
  const architectures = field(config, "architectures");
  const first: unknown = Array.isArray(architectures) ? architectures[0] : undefined;
  return typeof first === "string" ? first : undefined;
}

function componentOf(config: unknown) {
  const name = classOf(config);
  return name !== undefined && Object.hasOwn(CLASSES, name) ? CLASSES[name] : undefined;
}

async function openFolder(builder: Builder, path: string, variant?: string): Promise<void> {
  const names = await listFolder(path);
  if (names.includes("model_index.json") || FOLDERS.some((name) => names.includes(name))) {
    return await openPipeline(builder, path, names, variant);
  }
  if (names.includes("config.json")) {
    const config = await readJson(join(path, "config.json"));
    const known = componentOf(config);
    if (!known) {
      throw refuse(path, `its config.json is of ${classOf(config) ?? "no class"}; ${SUPPORTED}`);
    }
    return await openComponentFolder(builder, path, known.component, config, variant);
  }
  const halves = names.filter((name) => /^tae\w*_(en|de)coder\.safetensors$/.test(name));
  const models = new Set(halves.map((name) => name.replace(/_(en|de)coder\.safetensors$/, "")));
  if (models.size === 1) return await openFile(builder, join(path, halves[0]));
  const files = names.filter((name) => name.endsWith(".safetensors"));
  const advice = models.size > 1
    ? `it holds several tiny autoencoders (${[...models].join(", ")}); give one of their files`
    : files.length > 0
    ? `it has neither model_index.json nor config.json; give one of its files, as ${
      join(path, files[0])
    }`
    : `it has neither model_index.json nor config.json nor a .safetensors file; ${SUPPORTED}`;
  throw refuse(path, advice);
}

async function openPipeline(
  builder: Builder,
  path: string,
  names: readonly string[],
  variant?: string,
): Promise<void> {
  builder.kind = "folder";
  if (names.includes("model_index.json")) {
    const index = await readJson(join(path, "model_index.json"));
    builder.configs.set("model_index", index);
    const transformer = field(index, "transformer");
    if (Array.isArray(transformer) && transformer[1] && !names.includes("unet")) {
      throw refuse(
        path,
        `it is a ${classOf(index) ?? "pipeline"} around ${transformer[1]}; ${SUPPORTED}`,
      );
    }
  }
  for (const name of FOLDERS.filter((name) => names.includes(name))) {
    const folder = join(path, name);
    if (!await isFile(join(folder, "config.json"))) {
      throw refuse(path, `its folder "${name}" has no config.json; ${AGAIN}`);
    }
    const config = await readJson(join(folder, "config.json"));
    const known = componentOf(config);
    const title = classOf(config);
    if (title !== undefined && !(known && (known.config === name || isAlike(known.config, name)))) {
      throw refuse(path, `its ${name} is a ${title}; ${SUPPORTED}`);
    }
    const component = known?.config === "taesd" ? known.component : name;
    await openComponentFolder(builder, folder, component, config, variant);
  }
  if (builder.isEmpty) {
    throw refuse(path, `it has none of the folders ${FOLDERS.join(", ")}; ${AGAIN}`);
  }
  const scheduler = join(path, "scheduler", "scheduler_config.json");
  if (await isFile(scheduler)) builder.configs.set("scheduler", await readJson(scheduler));
  for (const name of TOKENIZERS) {
    if (!names.includes(name)) continue;
    builder.folders.set(name, join(path, name));
    const config = join(path, name, "tokenizer_config.json");
    if (await isFile(config)) builder.configs.set(name, await readJson(config));
  }
}

/**
 * Either text encoder may stand in either folder, and a tiny autoencoder in the place of the large
 * one.
 */
function isAlike(config: string, folder: string): boolean {
  return config === "text_encoder" && folder === "text_encoder_2" ||
    config === "taesd" && folder === "vae";
}

/** One component's folder: its config is known, its weights are looked for. */
async function openComponentFolder(
  builder: Builder,
  folder: string,
  component: ComponentName,
  config: unknown,
  variant?: string,
): Promise<void> {
  const path = join(folder, await chooseWeights(folder, variant));
  const files = path.endsWith(".json")
    ? await builder.openShards(path)
    : [await builder.open(path)];
  const keys = builder.useful(files);
  builder.configs.set(nameOfConfig(component), config);
  builder.folders.set(nameOfConfig(component), folder);
  if (component.startsWith("taesd")) await addBare(builder, path, keys);
  else builder.add(component, keys);
}

/**
 * diffusers' and transformers' names for weights: whole or sharded, with a variant before the last
 * dot or before the shard index.
 */
const WEIGHTS =
  /^(?:diffusion_pytorch_model|model|pytorch_model)(?:\.safetensors\.index(?:\.([\w-]+))?\.json|(?:\.([\w-]+?))?\.safetensors(\.index\.json)?)$/;

/** The file in a component's folder that holds its weights, or the index of its shards. */
async function chooseWeights(folder: string, variant?: string): Promise<string> {
  const names = await listFolder(folder);
  const found = names.flatMap((name) => {
    const match = WEIGHTS.exec(name);
    if (!match || /-\d+-of-\d+/.test(name)) return [];
    return [{ name, variant: match[1] ?? match[2] ?? "", sharded: name.endsWith(".json") }];
  });
  found.sort((a, b) => Number(a.sharded) - Number(b.sharded)); // a whole file first
  const wanted = variant === undefined ? ["", "fp16"] : [variant, "", "fp16"];
  for (const choice of wanted) {
    const match = found.find((weights) => weights.variant === choice);
    if (match) return match.name;
  }
  const others = names.filter((name) => name.endsWith(".safetensors"));
  if (found.length === 1) return found[0].name;
  if (others.length === 1 && !/-\d+-of-\d+/.test(others[0])) return others[0];
  const pickle = names.find((name) => /\.(bin|ckpt|pt|pth)$/.test(name));
  throw refuse(
    folder,
    others.length > 0
      ? `it holds ${
        others.join(", ")
      }, of which none is the obvious one; name it diffusion_pytorch_model.safetensors`
      : pickle !== undefined
      ? `its weights are a pickle ("${pickle}"), which can run any code when it is opened; get the .safetensors`
      : `it has no .safetensors file; ${AGAIN}`,
  );
}
