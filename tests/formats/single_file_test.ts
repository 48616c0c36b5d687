import { deepEqual, equal, throws } from "node:assert/strict";
import { bytesOf } from "../../lib/formats/changes.ts";
import type { TensorData } from "../../lib/formats/safetensors.ts";
import { originalTensors, placeOf } from "../../lib/formats/single_file.ts";

const tensor = (name: string, shape: readonly number[], values: readonly number[]): TensorData => ({
  name,
  dtype: "U8",
  shape,
  data: Uint8Array.from(values),
});

/** What is written under each key. */
async function written(tensors: readonly TensorData[]) {
  const found = tensors.map(async (each) =>
    [each.name, { shape: each.shape, values: [...await bytesOf(each)] }] as const
  );
  return Object.fromEntries(await Promise.all(found));
}

const LAYER = "text_model.encoder.layers.0.self_attn";

Deno.test("originalTensors joins query, key and value, turns projections and widens linear layers", async () => {
  const clip = originalTensors([
    tensor(`${LAYER}.v_proj.bias`, [2], [5, 6]),
    tensor(`${LAYER}.q_proj.bias`, [2], [1, 2]),
    tensor(`${LAYER}.k_proj.bias`, [2], [3, 4]),
    tensor("text_projection.weight", [2, 3], [1, 2, 3, 4, 5, 6]),
  ], { prefix: "p.", naming: "openclip" });
  deepEqual(await written(clip), {
    "p.transformer.resblocks.0.attn.in_proj_bias": { shape: [6], values: [1, 2, 3, 4, 5, 6] },
    "p.text_projection": { shape: [3, 2], values: [1, 4, 2, 5, 3, 6] },
  });
  const vae = originalTensors(
    [
      tensor("encoder.mid_block.attentions.0.to_q.weight", [1, 2], [1, 2]),
      tensor("quantize.embedding.weight", [1, 2], [3, 4]),
    ],
    { prefix: "", naming: "vae" },
  );
  deepEqual(await written(vae), {
    "encoder.mid.attn_1.q.weight": { shape: [1, 2, 1, 1], values: [1, 2] },
    "quantize.embedding.weight": { shape: [1, 2], values: [3, 4] },
  });
});

Deno.test("originalTensors refuses what has no name in a single file, and thirds that do not fit", () => {
  throws(
    () => originalTensors([tensor("position_net.x", [1], [1])], { prefix: "", naming: "unet" }),
    /Cannot put "position_net\.x" into a single file/,
  );
  const thirds = [
    tensor(`${LAYER}.q_proj.bias`, [2], [1, 2]),
    tensor(`${LAYER}.k_proj.bias`, [3], [3, 4, 5]),
    tensor(`${LAYER}.v_proj.bias`, [2], [5, 6]),
  ];
  for (const some of [thirds, thirds.slice(0, 1)]) {
    throws(
      () => originalTensors(some, { prefix: "", naming: "openclip" }),
      /query, key and value of one type and shape were needed/,
    );
  }
});

Deno.test("placeOf tells where each family's files keep a part", () => {
  equal(placeOf("text_encoder", "sd2")?.prefix, "cond_stage_model.model.");
  equal(placeOf("text_encoder_2", "sd1"), undefined);
  equal(placeOf("conditioner", "sd1"), undefined);
});
