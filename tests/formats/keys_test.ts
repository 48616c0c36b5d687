import assert from "node:assert/strict";
import { SafetensorsFile } from "../../lib/formats/safetensors.ts";
import {
  bareComponents,
  type Family,
  isIgnored,
  type Mapping,
  type Naming,
  namingOf,
  otherKind,
  PLACES,
  type Relation,
  toDiffusers,
  toOriginal,
} from "../../lib/formats/keys.ts";

const TINY = new URL("../../fixtures/tiny/", import.meta.url).pathname;

async function namesIn(path: string): Promise<string[]> {
  using file = await SafetensorsFile.open(TINY + path);
  return [...file.tensors.keys()].filter((key) => !isIgnored(key));
}

const original = ({ relations }: Mapping) => relations.map((relation) => relation.original);
const diffusers = ({ relations }: Mapping) => relations.map((relation) => relation.diffusers);

/** original name → diffusers name, with enough of the surrounding blocks for the structure to be read off. */
function renamed(naming: Naming, table: Readonly<Record<string, string>>): void {
  const mapping = toDiffusers(naming, Object.keys(table));
  const found = Object.fromEntries(mapping.relations.map((r) => [r.original, r.diffusers]));
  assert.deepEqual(found, table);
  assert.deepEqual(mapping.unknown, []);
}

const UNET = "diffusion_pytorch_model.safetensors";
const COMPONENTS: readonly (readonly [naming: Naming, path: string])[] = [
  ...["sd1", "sd2", "sdxl", "lcm", "pruned"].map((n) => ["unet", `${n}/unet/${UNET}`] as const),
  ...["sd1/vae", "sd2/vae", "sdxl/vae", "lcm/vae", "vae_f16", "vae_f2"].map((n) =>
    ["vae", `${n}/${UNET}`] as const
  ),
  ["openclip", "sd2/text_encoder/model.safetensors"],
  ["openclip", "sdxl/text_encoder_2/model.safetensors"],
  ["clip", "sd1/text_encoder/model.safetensors"],
];

Deno.test("toOriginal then toDiffusers gives back every name of every tiny model, and each original is one tensor", async () => {
  for (const [naming, path] of COMPONENTS) {
    const names = await namesIn(path);
    const there = toOriginal(naming, names);
    assert.deepEqual(there.unknown, [], path);
    const keys = [...new Set(original(there))];
    const back = toDiffusers(naming, keys);
    assert.deepEqual(back.unknown, [], path);
    assert.deepEqual(diffusers(back).sort(), [...names].sort(), path);
    // only query, key and value share an original
    const fused = there.relations.filter(({ change }) => typeof change === "number").length;
    assert.equal(keys.length, names.length - (fused * 2) / 3, path);
  }
});

Deno.test("toDiffusers names the blocks of SD 1.5's UNet", () => {
  renamed("unet", {
    "time_embed.0.weight": "time_embedding.linear_1.weight",
    "time_embed.2.bias": "time_embedding.linear_2.bias",
    "input_blocks.0.0.weight": "conv_in.weight",
    "input_blocks.1.0.in_layers.0.weight": "down_blocks.0.resnets.0.norm1.weight",
    "input_blocks.1.1.proj_in.weight": "down_blocks.0.attentions.0.proj_in.weight",
    "input_blocks.2.0.in_layers.2.bias": "down_blocks.0.resnets.1.conv1.bias",
    "input_blocks.2.1.proj_in.bias": "down_blocks.0.attentions.1.proj_in.bias",
    "input_blocks.3.0.op.weight": "down_blocks.0.downsamplers.0.conv.weight",
    "input_blocks.4.0.in_layers.0.weight": "down_blocks.1.resnets.0.norm1.weight",
    "input_blocks.4.0.emb_layers.1.weight": "down_blocks.1.resnets.0.time_emb_proj.weight",
    "input_blocks.4.0.out_layers.0.weight": "down_blocks.1.resnets.0.norm2.weight",
    "input_blocks.4.0.out_layers.3.weight": "down_blocks.1.resnets.0.conv2.weight",
    "input_blocks.4.0.skip_connection.weight": "down_blocks.1.resnets.0.conv_shortcut.weight",
    "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight":
      "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    "input_blocks.4.1.proj_in.weight": "down_blocks.1.attentions.0.proj_in.weight",
    "middle_block.0.in_layers.0.weight": "mid_block.resnets.0.norm1.weight",
    "middle_block.1.proj_in.weight": "mid_block.attentions.0.proj_in.weight",
    "middle_block.2.in_layers.0.weight": "mid_block.resnets.1.norm1.weight",
    "output_blocks.0.0.in_layers.0.weight": "up_blocks.0.resnets.0.norm1.weight",
    "output_blocks.1.0.in_layers.0.weight": "up_blocks.0.resnets.1.norm1.weight",
    "output_blocks.1.1.conv.weight": "up_blocks.0.upsamplers.0.conv.weight",
    "output_blocks.2.0.in_layers.0.weight": "up_blocks.1.resnets.0.norm1.weight",
    "output_blocks.2.1.proj_in.weight": "up_blocks.1.attentions.0.proj_in.weight",
    "output_blocks.2.2.conv.weight": "up_blocks.1.upsamplers.0.conv.weight",
    "output_blocks.3.0.in_layers.0.weight": "up_blocks.2.resnets.0.norm1.weight",
    "out.0.weight": "conv_norm_out.weight",
    "out.2.weight": "conv_out.weight",
    "label_emb.0.0.weight": "add_embedding.linear_1.weight",
    "label_emb.0.2.bias": "add_embedding.linear_2.bias",
    "time_embed.cond_proj.weight": "time_embedding.cond_proj.weight",
  });
});

Deno.test("toDiffusers orders numbered blocks as numbers: the tenth comes after the ninth", () => {
  const keys = Array.from({ length: 12 }, (_, i) => `input_blocks.${i + 1}.0.in_layers.0.weight`);
  const names = diffusers(toDiffusers("unet", keys.toReversed())).toReversed();
  assert.deepEqual(names, keys.map((_, i) => `down_blocks.0.resnets.${i}.norm1.weight`));
});

Deno.test("toDiffusers names the VAE's levels from the latent outwards in the decoder", () => {
  renamed("vae", {
    "encoder.conv_in.weight": "encoder.conv_in.weight",
    "encoder.down.0.block.1.norm1.weight": "encoder.down_blocks.0.resnets.1.norm1.weight",
    "encoder.down.0.downsample.conv.bias": "encoder.down_blocks.0.downsamplers.0.conv.bias",
    "encoder.down.3.block.0.nin_shortcut.weight":
      "encoder.down_blocks.3.resnets.0.conv_shortcut.weight",
    "encoder.down.3.attn.0.q.weight": "encoder.down_blocks.3.attentions.0.to_q.weight",
    "encoder.mid.block_1.conv1.weight": "encoder.mid_block.resnets.0.conv1.weight",
    "encoder.mid.block_2.conv2.bias": "encoder.mid_block.resnets.1.conv2.bias",
    "encoder.mid.attn_1.norm.weight": "encoder.mid_block.attentions.0.group_norm.weight",
    "encoder.mid.attn_1.proj_out.bias": "encoder.mid_block.attentions.0.to_out.0.bias",
    "encoder.norm_out.weight": "encoder.conv_norm_out.weight",
    "decoder.up.0.block.2.conv1.weight": "decoder.up_blocks.3.resnets.2.conv1.weight",
    "decoder.up.3.block.0.conv1.weight": "decoder.up_blocks.0.resnets.0.conv1.weight",
    "decoder.up.1.upsample.conv.weight": "decoder.up_blocks.2.upsamplers.0.conv.weight",
    "decoder.mid.attn_1.v.weight": "decoder.mid_block.attentions.0.to_v.weight",
    "quant_conv.weight": "quant_conv.weight",
    "post_quant_conv.bias": "post_quant_conv.bias",
  });
});

Deno.test("toDiffusers accepts the VAE attention's old diffusers names", () => {
  const at = "decoder.mid_block.attentions.0";
  renamed("diffusers vae", {
    [`${at}.query.weight`]: `${at}.to_q.weight`,
    [`${at}.key.bias`]: `${at}.to_k.bias`,
    [`${at}.value.weight`]: `${at}.to_v.weight`,
    [`${at}.proj_attn.weight`]: `${at}.to_out.0.weight`,
    [`${at}.group_norm.weight`]: `${at}.group_norm.weight`,
  });
});

Deno.test("toDiffusers splits OpenCLIP's fused projection and turns its text projection", () => {
  const mapping = toDiffusers("openclip", [
    "transformer.resblocks.11.attn.in_proj_weight",
    "transformer.resblocks.11.mlp.c_proj.bias",
    "text_projection",
    "positional_embedding",
  ]);
  const at = "text_model.encoder.layers.11";
  assert.deepEqual(mapping.relations.map(({ diffusers, change }) => [diffusers, change]), [
    [`${at}.self_attn.q_proj.weight`, 0],
    [`${at}.self_attn.k_proj.weight`, 1],
    [`${at}.self_attn.v_proj.weight`, 2],
    [`${at}.mlp.fc2.bias`, undefined],
    ["text_projection.weight", "transpose"],
    ["text_model.embeddings.position_embedding.weight", undefined],
  ]);
});

Deno.test("toDiffusers numbers the TAESD decoder without the clamp that the original begins with", () => {
  renamed("taesd_encoder", {
    "0.weight": "encoder.layers.0.weight",
    "12.conv.4.bias": "encoder.layers.12.conv.4.bias",
  });
  renamed("taesd_decoder", {
    "1.weight": "decoder.layers.0.weight",
    "3.conv.0.weight": "decoder.layers.2.conv.0.weight",
    "19.bias": "decoder.layers.18.bias",
  });
  assert.deepEqual(original(toOriginal("taesd_decoder", ["decoder.layers.18.bias"])), ["19.bias"]);
});

Deno.test("toDiffusers returns what no rule knows", () => {
  const keys = [
    "input_blocks.1.0.in_layers.7.weight",
    "output_blocks.0.3.what",
    "extra",
    "out.1.weight",
  ];
  const { relations, unknown } = toDiffusers("unet", keys);
  assert.deepEqual([relations, unknown], [[], keys]);
});

Deno.test("namingOf and bareComponents tell originals from diffusers' names", () => {
  const bare = (...keys: string[]) => bareComponents(new Set(keys));
  assert.deepEqual(bare("1.weight", "3.conv.0.weight"), ["taesd_decoder"]);
  assert.deepEqual(bare("0.weight", "1.conv.0.weight"), ["taesd_encoder"]);
  assert.deepEqual(
    bare("encoder.layers.1.conv.0.weight", "decoder.layers.2.conv.0.weight"),
    ["taesd_encoder", "taesd_decoder"],
  );
  assert.deepEqual(bare("conv_in.weight", "down_blocks.0.resnets.0.norm1.weight"), ["unet"]);
  assert.deepEqual(bare("input_blocks.0.0.weight"), ["unet"]);
  assert.deepEqual(bare("decoder.conv_in.weight"), ["vae"]);
  assert.deepEqual(bare("text_model.embeddings.token_embedding.weight"), ["text_encoder"]);
  assert.deepEqual(bare("weight"), []);
  const naming = (component: Parameters<typeof namingOf>[0], key: string) =>
    namingOf(component, new Set([key]));
  assert.equal(naming("unet", "input_blocks.0.0.weight"), "unet");
  assert.equal(naming("unet", "down_blocks.0.resnets.0.norm1.weight"), "diffusers");
  assert.equal(naming("vae", "encoder.mid.block_1.norm1.weight"), "vae");
  assert.equal(naming("vae", "encoder.mid_block.resnets.0.norm1.weight"), "diffusers vae");
  assert.equal(naming("text_encoder", "transformer.resblocks.0.ln_1.weight"), "openclip");
});

Deno.test("isIgnored skips averages and buffers and no weight", async () => {
  const skipped = [
    "model_ema.diffusion_modelinput_blocks00weight",
    "first_stage_model.model_ema.decay",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "conditioner.embedders.1.model.logit_scale",
    "betas",
    "alphas_cumprod_prev",
    "sqrt_one_minus_alphas_cumprod",
    "posterior_mean_coef1",
    "log_one_minus_alphas_cumprod",
    "first_stage_model.loss.logvar",
    "denoiser.sigmas",
    "v_pred",
  ];
  for (const key of skipped) assert.ok(isIgnored(key), key);
  for (const [, path] of COMPONENTS) {
    using file = await SafetensorsFile.open(TINY + path);
    const lost = [...file.tensors.keys()].filter(isIgnored);
    assert.deepEqual(lost.filter((key) => !key.endsWith("position_ids")), []);
  }
});

Deno.test("otherKind names models of other kinds and none of the supported ones", async () => {
  const kinds: Record<string, RegExp> = {
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": /LoRA/,
    "unet.down_blocks.0.attentions.0.proj_in.lora_A.weight": /LoRA/,
    "control_model.input_blocks.0.0.weight": /ControlNet/,
    "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": /FLUX/,
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": /Stable Diffusion 3/,
    "down_blocks.0.motion_modules.0.temporal_transformer.norm.bias": /video/,
    "emb_params": /textual inversion/,
    "encoder.block.0.layer.0.SelfAttention.q.weight": /T5/,
  };
  for (const [key, expected] of Object.entries(kinds)) {
    assert.match(otherKind(["a", key]) ?? "", expected);
  }
  for (const [naming, path] of COMPONENTS) {
    const names = await namesIn(path);
    assert.equal(otherKind(names), undefined);
    assert.equal(otherKind(original(toOriginal(naming, names))), undefined);
  }
});

/** The key lists of real checkpoints: names and shapes, no data. */
interface KeyLists {
  readonly diffusers: Readonly<Record<string, Readonly<Record<string, number[]>>>>;
  readonly original: Readonly<Record<string, number[]>>;
  readonly ignored: Readonly<Record<string, number[]>>;
}

async function readKeys(name: string): Promise<KeyLists> {
  const file = await Deno.readFile(new URL(`../../fixtures/keys/${name}.json.gz`, import.meta.url));
  const stream = new Blob([file]).stream().pipeThrough(new DecompressionStream("gzip"));
  const lists: KeyLists = await new Response(stream).json();
  // diffusers ignores SD 2's last layer and projection as well; here the reader gives all that a model could use
  const given = Object.entries(lists.ignored).filter(([key]) => UNUSED.test(key));
  return {
    diffusers: lists.diffusers,
    original: { ...lists.original, ...Object.fromEntries(given) },
    ignored: Object.fromEntries(
      Object.entries(lists.ignored).filter(([key]) => !UNUSED.test(key)),
    ),
  };
}

const UNUSED = /^cond_stage_model\.model\.(transformer\.resblocks\.23\.|text_projection$)/;

/** The shape that diffusers gives a tensor of this original shape. */
function shapeAfter(change: Relation["change"], shape: readonly number[]): readonly number[] {
  if (change === undefined) return shape;
  if (change === "squeeze") return shape.slice(0, 2);
  return change === "transpose" ? shape.toReversed() : [shape[0] / 3, ...shape.slice(1)];
}

const REAL: readonly (readonly [file: string, family: Family])[] = [
  ["sd15", "sd1"],
  ["sd21", "sd2"],
  ["sdxl", "sdxl"],
];

Deno.test("toDiffusers maps every key of the real checkpoints to diffusers' name and shape", async () => {
  for (const [file, family] of REAL) {
    const lists = await readKeys(file);
    assert.deepEqual(Object.keys(lists.ignored).filter((key) => !isIgnored(key)), []);
    assert.deepEqual(Object.keys(lists.original).filter(isIgnored), []);
    assert.equal(otherKind(Object.keys(lists.original)), undefined);
    const found = new Map<string, Record<string, readonly number[]>>();
    const rest = new Set(Object.keys(lists.original));
    for (const { prefix, component, written } of PLACES) {
      const keys = [...rest].filter((key) => key.startsWith(prefix));
      if (keys.length === 0) continue;
      keys.forEach((key) => rest.delete(key));
      const short = keys.map((key) => key.slice(prefix.length));
      assert.ok(written.families.includes(family), `${prefix} is written for ${family}`);
      assert.equal(namingOf(component, new Set(short)), written.naming);
      const { relations, unknown } = toDiffusers(written.naming, short);
      assert.deepEqual(unknown, []);
      const shapes = relations.map(({ original, diffusers, change }) =>
        [diffusers, shapeAfter(change, lists.original[prefix + original])] as const
      );
      assert.equal(new Set(shapes.map(([name]) => name)).size, relations.length);
      found.set(component, Object.fromEntries(shapes));
    }
    assert.deepEqual([...rest], []);
    assert.deepEqual([...found.keys()].sort(), Object.keys(lists.diffusers).sort());
    for (const [component, expected] of Object.entries(lists.diffusers)) {
      const mine = found.get(component)!;
      if (family === "sd2" && component === "text_encoder") {
        const extra = Object.keys(mine).filter((name) => !Object.hasOwn(expected, name));
        assert.equal(extra.length, 17);
        for (const name of extra) {
          assert.match(name, /^(text_model\.encoder\.layers\.23\.|text_projection\.weight$)/);
          delete mine[name];
        }
      }
      assert.deepEqual(mine, expected, `${file} ${component}`);
    }
  }
});

Deno.test("toOriginal maps every name of the real checkpoints to a key of the single file", async () => {
  for (const [file, family] of REAL) {
    const lists = await readKeys(file);
    const found = new Set<string>();
    for (const { prefix, component, written } of PLACES) {
      if (!written.families.includes(family)) continue;
      const names = Object.keys(lists.diffusers[component]);
      const { relations, unknown } = toOriginal(written.naming, names);
      assert.deepEqual(unknown, []);
      for (const { original, diffusers, change } of relations) {
        const key = prefix + original;
        assert.ok(Object.hasOwn(lists.original, key), `${file} has no ${key}`);
        const shape = shapeAfter(change, lists.original[key]);
        assert.deepEqual(shape, lists.diffusers[component][diffusers], key);
        found.add(key);
      }
    }
    const left = Object.keys(lists.original).filter((key) => !found.has(key));
    assert.deepEqual(left.filter((key) => !UNUSED.test(key)), []);
    assert.equal(left.length, family === "sd2" ? 13 : 0);
  }
});
