import assert from "node:assert/strict";
import { loadFirstStage } from "../../lib/engine/load.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { writeComponent } from "../../lib/formats/diffusers_folder.ts";
import { inFolder } from "../folders.ts";
import { readGolden } from "../golden.ts";
import { channelsLast } from "../models/tiny.ts";
import { nmse } from "../tolerance.ts";

const PICTURE = { height: 12, width: 12 };
const LATENTS = { height: 6, width: 6, channels: 3 };
/** 0 … 1 and back, and some twenty layers in f32. */
const BOUND = 1e-9;

const JSON = {
  _class_name: "VQModel",
  block_out_channels: [8, 8],
  down_block_types: Array(2).fill("DownEncoderBlock2D"),
  up_block_types: Array(2).fill("UpDecoderBlock2D"),
  latent_channels: 3,
  layers_per_block: 1,
  norm_num_groups: 4,
  num_vq_embeddings: 16,
  vq_embed_dim: 3,
  scaling_factor: 2,
};

Deno.test("a VQModel's folder encodes to latents and decodes their nearest codes, whole and in tiles", async () => {
  const { tensors } = await readGolden("first_stage_vq");
  /** The first picture of two. */
  const golden = (name: string) => {
    const both = tensors.get(name) ?? assert.fail(name);
    return Float32Array.from(both.subarray(0, both.length / 2));
  };
  await inFolder(async (folder) => {
    const start = [...tensors].filter(([name]) => name.startsWith("vae.start."));
    await using device = await openDevice();
    // the golden's shapes are lost in reading: those of this model follow from names and sizes
    const weights = start.map(([name, values]) => {
      const bare = name.slice("vae.start.".length);
      return {
        name: bare,
        dtype: "F32" as const,
        shape: shapeOf(bare, values.length),
        data: new Uint8Array(Float32Array.from(values).buffer),
      };
    });
    await writeComponent(folder, JSON, weights, "diffusion_pytorch_model");
    using stage = await loadFirstStage(device, folder, { weights: "f32" });
    assert.equal(stage.latentChannels, 3);
    const data = channelsLast(golden("picture"), [1, 3, 12, 12]).map((v) => (v + 1) / 2);
    const { data: latents } = await stage.encode({ ...PICTURE, data });
    const scaled = golden("latents").map((v) => v * JSON.scaling_factor);
    assert.ok(nmse(latents, scaled) <= BOUND, `latents: ${nmse(latents, scaled)}`);
    const expected = channelsLast(golden("reconstruction"), [1, 3, 12, 12]);
    for (const tiling of ["off", "on"] as const) {
      const options = { tiling, bandPixels: 48 };
      const made = await stage.decode({ ...LATENTS, data: scaled }, options);
      const pixels = made.data.map((v) => v * 2 - 1);
      assert.ok(nmse(pixels, expected) <= BOUND, `tiling ${tiling}: ${nmse(pixels, expected)}`);
    }
  });
});

/** Of a weight in checkpoint order. */
function shapeOf(name: string, size: number): number[] {
  if (name === "quantize.embedding.weight") return [16, 3];
  if (!name.endsWith("weight") || /norm/.test(name)) return [size];
  if (/\.(to_[qkv]|to_out\.0)\.weight$/.test(name)) return [8, 8];
  if (/quant_conv/.test(name)) return [3, 3, 1, 1];
  if (/encoder\.conv_in/.test(name) || /decoder\.conv_in/.test(name)) return [8, 3, 3, 3];
  if (/conv_out/.test(name)) return [3, 8, 3, 3];
  return [8, 8, 3, 3];
}
