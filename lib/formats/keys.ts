/**
 * The two ways in which the world names Stable Diffusion's tensors: the original names (CompVis,
 * Stability AI, OpenCLIP; one file) and diffusers' names (this program's). Both directions are read
 * off the same tables. How many levels and layers there are is read off the keys themselves, so any
 * width, depth or pruning maps.
 */

/** A part of a model, as diffusers names it. */
export type ComponentName =
  | "text_encoder"
  | "text_encoder_2"
  | "unet"
  | "vae"
  | "taesd_encoder"
  | "taesd_decoder"
  | "conditioner";

/** What happens to a tensor besides its name. */
export type Change =
  /** The original is a 1×1 convolution [o, i, 1, 1], diffusers has a linear layer [o, i]. */
  | "squeeze"
  /** The original is [in, out], diffusers has [out, in]. */
  | "transpose"
  /**
   * The original holds the rows of query, key and value one after another; this is that third of
   * them.
   */
  | 0
  | 1
  | 2;

/** One tensor under both names, without the component's prefix in a single file. */
export interface Relation {
  readonly original: string;
  readonly diffusers: string;
  readonly change?: Change;
}

export interface Mapping {
  readonly relations: readonly Relation[];
  /** Keys that no rule knows. */
  readonly unknown: readonly string[];
}

/** How the tensors of a component are named in a file. */
export type Naming =
  | "unet"
  | "vae"
  | "openclip"
  | "clip"
  | "taesd_encoder"
  | "taesd_decoder"
  | "diffusers"
  | "diffusers vae";

// ---- single files: what stands before the names of each component

export type Family = "sd1" | "sd2" | "sdxl";
interface Place {
  readonly prefix: string;
  readonly component: ComponentName;
  /** The naming by which a single file of each of these families is written. */
  readonly written: { readonly naming: Naming; readonly families: readonly Family[] };
}

const ALL: readonly Family[] = ["sd1", "sd2", "sdxl"];

/** Longer prefixes stand before their own beginnings. */
export const PLACES: readonly Place[] = [
  {
    prefix: "model.diffusion_model.",
    component: "unet",
    written: { naming: "unet", families: ALL },
  },
  { prefix: "first_stage_model.", component: "vae", written: { naming: "vae", families: ALL } },
  { prefix: "vae.", component: "vae", written: { naming: "vae", families: [] } },
  {
    prefix: "cond_stage_model.transformer.",
    component: "text_encoder",
    written: { naming: "clip", families: ["sd1"] },
  },
  {
    prefix: "cond_stage_model.model.",
    component: "text_encoder",
    written: { naming: "openclip", families: ["sd2"] },
  },
  {
    prefix: "conditioner.embedders.0.transformer.",
    component: "text_encoder",
    written: { naming: "clip", families: ["sdxl"] },
  },
  {
    prefix: "conditioner.embedders.1.model.",
    component: "text_encoder_2",
    written: { naming: "openclip", families: ["sdxl"] },
  },
  { // the refiner has only the second text encoder
    prefix: "conditioner.embedders.0.model.",
    component: "text_encoder_2",
    written: { naming: "openclip", families: [] },
  },
];

/**
 * Keys that no model reads: moving averages, buffers of the training schedule, constants, loss
 * networks, markers.
 */
const IGNORED: readonly RegExp[] = [
  /(^|\.)model_ema\./,
  /(^|\.)(position_ids|logit_scale|attn_mask)$/,
  /^(betas|alphas_cumprod|alphas_cumprod_prev|lvlb_weights|logvar|scale_factor|global_step)$/,
  /^(sqrt|log_one_minus|posterior)_\w+$/,
  /^(first_stage_model\.)?loss\./,
  /^denoiser\.sigmas$/,
  /^(v_pred|ztsnr)$/,
];

export function isIgnored(key: string): boolean {
  return IGNORED.some((pattern) => pattern.test(key));
}

/** Models of other kinds, by a key that only they have. */
const OTHERS: readonly (readonly [RegExp, string])[] = [
  [
    /lora_unet_|lora_te|\.lora_(up|down|A|B)\.|\.lora\.(up|down)\.|\.hada_w/,
    "a LoRA, which is an addition to a model",
  ],
  [
    /^control_model\.|(^|\.)input_hint_block\.|controlnet_cond_embedding|controlnet_down_blocks/,
    "a ControlNet",
  ],
  [/double_blocks\.\d+\.img_attn/, "a FLUX model"],
  [/joint_blocks\.\d+\./, "a Stable Diffusion 3 model"],
  [/clip_txt_mapper|channelwise\.0\.weight/, "a Stable Cascade model"],
  [/motion_modules\.|temporal_transformer|time_stack\.|time_mixer/, "a video model"],
  [/adaln_single|adaLN_modulation|caption_projection|cap_embedder/, "a diffusion transformer"],
  [/^(emb_params|string_to_param|clip_[lg])$|^<.+>$/, "a textual inversion embedding"],
  [/^encoder\.block\.\d+\.layer\.\d+\.SelfAttention/, "a T5 text encoder"],
  [/(^|\.)(RDB1|rdb1)\.|^conv_first\.|^(params_ema\.)?body\.\d+\./, "a picture upscaler"],
  [/^vision_model\.|^visual\./, "an image encoder"],
];

/**
 * What kind of model other than Stable Diffusion 1, 2 or XL the keys belong to, as "a …";
 * `undefined` for none that is known.
 */
export function otherKind(keys: Iterable<string>): string | undefined {
  for (const key of keys) {
    const found = OTHERS.find(([pattern]) => pattern.test(key));
    if (found) return found[1];
  }
  return undefined;
}

// ---- modules: a prefix on either side, and the names within

type Side = "original" | "diffusers";

interface Module {
  readonly original: string;
  readonly diffusers: string;
  /** Names within the module; left out where both sides use the same. */
  readonly leaves?: readonly Relation[];
}

const pairs = (table: Readonly<Record<string, string>>): Relation[] =>
  Object.entries(table).map(([original, diffusers]) => ({ original, diffusers }));

const UNET_ENDS: readonly Module[] = pairs({
  "time_embed.0": "time_embedding.linear_1",
  "time_embed.2": "time_embedding.linear_2",
  "time_embed.cond_proj": "time_embedding.cond_proj",
  "label_emb.0.0": "add_embedding.linear_1",
  "label_emb.0.2": "add_embedding.linear_2",
  "label_emb": "class_embedding",
  "input_blocks.0.0": "conv_in",
  "out.0": "conv_norm_out",
  "out.2": "conv_out",
});

const UNET_RESNET = pairs({
  "in_layers.0": "norm1",
  "in_layers.2": "conv1",
  "emb_layers.1": "time_emb_proj",
  "out_layers.0": "norm2",
  "out_layers.3": "conv2",
  "skip_connection": "conv_shortcut",
});

const VAE_RESNET = pairs({
  norm1: "norm1",
  conv1: "conv1",
  norm2: "norm2",
  conv2: "conv2",
  nin_shortcut: "conv_shortcut",
});

const VAE_ATTENTION: readonly Relation[] = [
  { original: "norm", diffusers: "group_norm" },
  ...pairs({ q: "to_q", k: "to_k", v: "to_v", proj_out: "to_out.0" }).flatMap((
    { original, diffusers },
  ) => [
    {
      original: `${original}.weight`,
      diffusers: `${diffusers}.weight`,
      change: "squeeze" as const,
    },
    { original: `${original}.bias`, diffusers: `${diffusers}.bias` },
  ]),
];

const THIRDS = ["q_proj", "k_proj", "v_proj"] as const;
const OPENCLIP_LAYER: readonly Relation[] = [
  ...pairs({
    ln_1: "layer_norm1",
    ln_2: "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
  }),
  ...(["weight", "bias"] as const).flatMap((end) =>
    THIRDS.map((third, i) => ({
      original: `attn.in_proj_${end}`,
      diffusers: `self_attn.${third}.${end}`,
      change: i as 0 | 1 | 2,
    }))
  ),
];

/** Names that are renamed whole; looked up before the modules, the first match counts. */
const OPENCLIP_EXACT: readonly Relation[] = [
  {
    original: "positional_embedding",
    diffusers: "text_model.embeddings.position_embedding.weight",
  },
  { original: "text_projection", diffusers: "text_projection.weight", change: "transpose" },
  { original: "text_projection.weight", diffusers: "text_projection.weight" },
];

/** Children of every dotted prefix: "a.b" → {"weight", …}. */
type Tree = ReadonlyMap<string, ReadonlySet<string>>;

function treeOf(keys: Iterable<string>): Tree {
  const tree = new Map<string, Set<string>>();
  for (const key of keys) {
    const parts = key.split(".");
    let prefix = "";
    for (const part of parts) {
      if (!tree.has(prefix)) tree.set(prefix, new Set());
      tree.get(prefix)!.add(part);
      prefix = prefix === "" ? part : `${prefix}.${part}`;
    }
  }
  return tree;
}

/** The numbered children of a prefix, ascending. */
function numbered(tree: Tree, prefix: string): number[] {
  return [...tree.get(prefix) ?? []].filter((s) => /^\d+$/.test(s)).map(Number).sort((a, b) =>
    a - b
  );
}

/** A block of the original UNet is told by a child that only its kind has. */
const UNET_KINDS: readonly (readonly [child: string, kind: Kind])[] = [
  ["in_layers", "resnets"],
  ["proj_in", "attentions"],
  ["op", "downsamplers"],
  ["conv", "upsamplers"],
];
type Kind = "resnets" | "attentions" | "downsamplers" | "upsamplers";

function unetFromOriginal(tree: Tree): Module[] {
  const modules: Module[] = [...UNET_ENDS];
  /**
   * Walks blocks in order; a sampler closes its level. `level` gives the diffusers prefix of a
   * level.
   */
  const walk = (blocks: readonly string[], prefix: (level: number) => string) => {
    let level = 0;
    const next = { resnets: 0, attentions: 0 };
    for (const block of blocks) {
      const [child, kind] = UNET_KINDS.find(([child]) => tree.get(block)?.has(child)) ?? [];
      if (kind === "resnets" || kind === "attentions") {
        modules.push({
          original: block,
          diffusers: `${prefix(level)}.${kind}.${next[kind]++}`,
          ...(kind === "resnets" ? { leaves: UNET_RESNET } : {}),
        });
      } else if (kind) {
        modules.push({
          original: `${block}.${child}`,
          diffusers: `${prefix(level)}.${kind}.0.conv`,
        });
        level++;
        next.resnets = next.attentions = 0;
      }
    }
  };
  const within = (prefix: string) => numbered(tree, prefix).map((i) => `${prefix}.${i}`);
  walk(within("input_blocks").flatMap(within), (level) => `down_blocks.${level}`);
  walk(within("middle_block"), () => "mid_block");
  walk(within("output_blocks").flatMap(within), (level) => `up_blocks.${level}`);
  return modules;
}

function unetFromDiffusers(tree: Tree): Module[] {
  const modules: Module[] = [...UNET_ENDS];
  const resnet = (original: string, diffusers: string) =>
    modules.push({ original, diffusers, leaves: UNET_RESNET });
  const has = (prefix: string) => tree.has(prefix);
  let block = 1;
  for (const level of numbered(tree, "down_blocks")) {
    const at = `down_blocks.${level}`;
    for (const i of numbered(tree, `${at}.resnets`)) {
      resnet(`input_blocks.${block}.0`, `${at}.resnets.${i}`);
      modules.push({ original: `input_blocks.${block}.1`, diffusers: `${at}.attentions.${i}` });
      block++;
    }
    const sampler = `${at}.downsamplers.0.conv`;
    if (has(sampler)) {
      modules.push({ original: `input_blocks.${block++}.0.op`, diffusers: sampler });
    }
  }
  let place = 0;
  for (const i of numbered(tree, "mid_block.resnets")) {
    resnet(`middle_block.${place++}`, `mid_block.resnets.${i}`);
    const attention = `mid_block.attentions.${i}`;
    if (has(attention)) modules.push({ original: `middle_block.${place++}`, diffusers: attention });
  }
  block = 0;
  for (const level of numbered(tree, "up_blocks")) {
    const at = `up_blocks.${level}`;
    const resnets = numbered(tree, `${at}.resnets`);
    for (const i of resnets) {
      let sub = 0;
      resnet(`output_blocks.${block}.${sub++}`, `${at}.resnets.${i}`);
      for (const diffusers of [`${at}.attentions.${i}`, `${at}.upsamplers.0.conv`]) {
        const isSampler = diffusers.endsWith(".conv");
        if (!has(diffusers) || (isSampler && i !== resnets.at(-1))) continue;
        const original = `output_blocks.${block}.${sub++}${isSampler ? ".conv" : ""}`;
        modules.push({ original, diffusers });
      }
      block++;
    }
  }
  return modules;
}

/**
 * The original numbers the decoder's levels from the picture inwards, diffusers in the order of
 * computation.
 */
function vaeModules(tree: Tree, side: Side): Module[] {
  const modules: Module[] = pairs({
    quant_conv: "quant_conv",
    post_quant_conv: "post_quant_conv",
    quantize: "quantize", // a VQModel's
  });
  const halves = [["encoder", "down", "downsample"], ["decoder", "up", "upsample"]] as const;
  for (const [half, way, sample] of halves) {
    const add = (original: string, diffusers: string, leaves?: readonly Relation[]) =>
      modules.push({
        original: `${half}.${original}`,
        diffusers: `${half}.${diffusers}`,
        ...(leaves ? { leaves } : {}),
      });
    add("conv_in", "conv_in");
    add("conv_out", "conv_out");
    add("norm_out", "conv_norm_out");
    add("mid.block_1", "mid_block.resnets.0", VAE_RESNET);
    add("mid.attn_1", "mid_block.attentions.0", VAE_ATTENTION);
    add("mid.block_2", "mid_block.resnets.1", VAE_RESNET);
    const blocks = side === "original" ? `${half}.${way}` : `${half}.${way}_blocks`;
    const inner = side === "original" ? ["block", "attn"] : ["resnets", "attentions"];
    const levels = numbered(tree, blocks);
    const flip = (i: number) => way === "up" ? (levels.at(-1) ?? 0) - i : i;
    for (const level of levels) {
      const [from, to] = side === "original" ? [level, flip(level)] : [flip(level), level];
      for (const i of numbered(tree, `${blocks}.${level}.${inner[0]}`)) {
        add(`${way}.${from}.block.${i}`, `${way}_blocks.${to}.resnets.${i}`, VAE_RESNET);
      }
      for (const i of numbered(tree, `${blocks}.${level}.${inner[1]}`)) {
        add(`${way}.${from}.attn.${i}`, `${way}_blocks.${to}.attentions.${i}`, VAE_ATTENTION);
      }
      add(`${way}.${from}.${sample}.conv`, `${way}_blocks.${to}.${sample}rs.0.conv`);
    }
  }
  return modules;
}

function openclipModules(tree: Tree, side: Side): Module[] {
  const layers = { original: "transformer.resblocks", diffusers: "text_model.encoder.layers" };
  return [
    ...pairs({
      token_embedding: "text_model.embeddings.token_embedding",
      ln_final: "text_model.final_layer_norm",
    }),
    ...numbered(tree, layers[side]).map((i) => ({
      original: `${layers.original}.${i}`,
      diffusers: `${layers.diffusers}.${i}`,
      leaves: OPENCLIP_LAYER,
    })),
  ];
}

/**
 * TAESD is an nn.Sequential; the original decoder's begins with a clamp, which diffusers' has not.
 */
function taesdModules(tree: Tree, side: Side, half: "encoder" | "decoder"): Module[] {
  const shift = half === "decoder" ? 1 : 0;
  return numbered(tree, side === "original" ? "" : `${half}.layers`).map((i) => {
    const number = side === "original" ? i : i + shift;
    return { original: `${number}`, diffusers: `${half}.layers.${number - shift}` };
  });
}

// ---- renaming

type Rule = (key: string, side: Side) => readonly Relation[];

/** Renames by exact name, else by the longest module prefix; one original may become several. */
function byModules(modules: readonly Module[], side: Side, exact: readonly Relation[] = []): Rule {
  const other: Side = side === "original" ? "diffusers" : "original";
  const prefixes = new Map(modules.map((module) => [module[side], module]));
  return (key) => {
    const whole = exact.find((relation) => relation[side] === key);
    if (whole) return [whole];
    for (let end = key.length; end > 0; end = key.lastIndexOf(".", end - 1)) {
      const module = prefixes.get(key.slice(0, end));
      if (!module) continue;
      const rest = key.slice(end + 1);
      const leaves = module.leaves?.filter((leaf) =>
        rest === leaf[side] || rest.startsWith(`${leaf[side]}.`)
      ) ?? [{ original: "", diffusers: "" }];
      return leaves.map((leaf) => {
        const tail = leaf[side] === "" ? rest : rest.slice(leaf[side].length + 1);
        const name = [module[other], leaf[other], tail].filter((s) => s !== "").join(".");
        return {
          original: side === "original" ? key : name,
          diffusers: side === "original" ? name : key,
          ...(leaf.change === undefined ? {} : { change: leaf.change }),
        };
      });
    }
    return [];
  };
}

const same: Rule = (key) => [{ original: key, diffusers: key }];

/**
 * diffusers before 0.13 named the VAE's attention otherwise, and some files keep its 1×1
 * convolutions.
 */
const OLD_ATTENTION: Readonly<Record<string, string>> = {
  query: "to_q",
  key: "to_k",
  value: "to_v",
  proj_attn: "to_out.0",
};
const diffusersVae: Rule = (key) => {
  const name = key.replace(
    /(\.attentions\.\d+\.)(query|key|value|proj_attn)\./,
    (_, before, old) => `${before}${OLD_ATTENTION[old]}.`,
  );
  const isLinear = /\.attentions\.\d+\.to_(q|k|v|out\.0)\.weight$/.test(name);
  return [{ original: key, diffusers: name, ...(isLinear ? { change: "squeeze" } : {}) }];
};

/** Hugging Face's own names; some tools leave `text_model` out. */
const clip: Rule = (key) => {
  const bare = /^(embeddings|encoder|final_layer_norm)\./.test(key);
  return [{ original: key, diffusers: bare ? `text_model.${key}` : key }];
};

const RULES: Readonly<Record<Naming, (tree: Tree, side: Side) => Rule>> = {
  unet: (tree, side) =>
    byModules(side === "original" ? unetFromOriginal(tree) : unetFromDiffusers(tree), side),
  vae: (tree, side) => byModules(vaeModules(tree, side), side),
  openclip: (tree, side) => byModules(openclipModules(tree, side), side, OPENCLIP_EXACT),
  taesd_encoder: (tree, side) => byModules(taesdModules(tree, side, "encoder"), side),
  taesd_decoder: (tree, side) => byModules(taesdModules(tree, side, "decoder"), side),
  clip: () => clip,
  diffusers: () => same,
  "diffusers vae": () => diffusersVae,
};

function relate(naming: Naming, keys: readonly string[], side: Side): Mapping {
  const rule = RULES[naming](treeOf(keys), side);
  const relations: Relation[] = [];
  const unknown: string[] = [];
  for (const key of keys) {
    const found = rule(key, side);
    if (found.length === 0) unknown.push(key);
    relations.push(...found);
  }
  return { relations, unknown };
}

/** Names as they are in a file, without the component's prefix, to diffusers' names. */
export function toDiffusers(naming: Naming, keys: readonly string[]): Mapping {
  return relate(naming, keys, "original");
}

/** diffusers' names to those of a single file, without the component's prefix. */
export function toOriginal(naming: Naming, names: readonly string[]): Mapping {
  return relate(naming, names, "diffusers");
}

/** How a component's tensors, given without prefix, are named. */
export function namingOf(component: ComponentName, keys: ReadonlySet<string>): Naming {
  const some = (pattern: RegExp) => keys.values().some((key) => pattern.test(key));
  switch (component) {
    case "unet":
      return some(/^(input_blocks|middle_block|output_blocks)\./) ? "unet" : "diffusers";
    case "vae":
      return some(/(^|\.)(down|up|mid)_blocks?\./) ? "diffusers vae" : "vae";
    case "text_encoder":
    case "text_encoder_2":
      return some(/(^|\.)resblocks\./) ? "openclip" : "clip";
    case "taesd_encoder":
    case "taesd_decoder":
      return some(/^(en|de)coder\.layers\./) ? "diffusers" : component;
    case "conditioner":
      return "diffusers";
  }
}

/**
 * Which component a file without prefixes holds: a list, because a TAESD may hold both halves.
 * Empty for none. `taesd` keys are "0.weight", "1.conv.0.weight" … in the original,
 * "encoder.layers.0.weight" … in diffusers.
 */
export function bareComponents(keys: ReadonlySet<string>): ComponentName[] {
  const some = (pattern: RegExp) => keys.values().some((key) => pattern.test(key));
  if (some(/^\d+\.conv\.\d+\.weight$/)) {
    return [keys.has("0.weight") ? "taesd_encoder" : "taesd_decoder"];
  }
  const tiny = (["encoder", "decoder"] as const).filter((half) =>
    some(new RegExp(`^${half}\\.(layers\\.)?\\d+\\.conv\\.\\d+\\.weight$`))
  );
  if (tiny.length > 0) return tiny.map((half) => `taesd_${half}` as const);
  if (keys.has("input_blocks.0.0.weight")) return ["unet"];
  if (keys.has("conv_in.weight") && some(/^(down|up)_blocks\./)) return ["unet"];
  if (keys.has("encoder.conv_in.weight") || keys.has("decoder.conv_in.weight")) return ["vae"];
  if (some(/(^|\.)token_embedding\.weight$/)) return ["text_encoder"];
  return [];
}
