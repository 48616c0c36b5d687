import { deepEqual } from "node:assert/strict";
import {
  clipConfigFromJson,
  taesdConfigFromJson,
  unetConfigFromJson,
  vaeConfigFromJson,
} from "../../lib/models/config_from_json.ts";
import { clipJson, taesdJson, unetJson, vaeJson } from "../../lib/models/diffusers_json.ts";
import { TAESD } from "../../lib/models/taesd.ts";
import { fixture } from "../fixture.ts";

type Json = Readonly<Record<string, unknown>>;

const read = async (path: string): Promise<Record<string, Json>> =>
  JSON.parse(await Deno.readTextFile(fixture(path)));
const published = ["sd15", "sd2_inpainting", "sdxl"];

/** As SSD-1B, a pruned SDXL: each resnet has a transformer of its own depth, and the middle is one resnet. */
const UNEVEN = {
  addition_embed_type: "text_time",
  addition_time_embed_dim: 8,
  projection_class_embeddings_input_dim: 68,
  attention_head_dim: [1, 2, 4],
  block_out_channels: [8, 16, 16],
  cross_attention_dim: 40,
  down_block_types: ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
  up_block_types: ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
  layers_per_block: 2,
  mid_block_type: "UNetMidBlock2D",
  norm_num_groups: 4,
  sample_size: 16,
  transformer_layers_per_block: [1, [2, 2], [4, 6]],
  reverse_transformer_layers_per_block: [[4, 4, 10], [2, 1, 1], 1],
  use_linear_projection: true,
};

Deno.test("unetJson says all of a UNet that its config.json said", async () => {
  const tiny = ["sd1", "sd2", "sdxl", "lcm", "pruned", "inpaint"].map((name) =>
    read(`tiny/${name}/unet/config.json`)
  );
  const real = published.map(async (name) => (await read(`configs/${name}.json`)).unet);
  for (const json of [...await Promise.all([...tiny, ...real]), UNEVEN]) {
    const config = unetConfigFromJson(json);
    deepEqual(unetConfigFromJson(unetJson(config)), config);
  }
});

Deno.test("vaeJson, clipJson and taesdJson say all that config.json said", async () => {
  for (const name of published) {
    const { vae, text_encoder: text, text_encoder_2: second = text } = await read(
      `configs/${name}.json`,
    );
    const config = vaeConfigFromJson(vae);
    deepEqual(vaeConfigFromJson(vaeJson(config, 512)), config);
    for (const json of [text, second]) {
      const clip = clipConfigFromJson(json);
      deepEqual(clipConfigFromJson(clipJson(clip, { start: 0, padding: 1 })), clip);
    }
  }
  deepEqual(taesdConfigFromJson(taesdJson(TAESD)), TAESD);
});
