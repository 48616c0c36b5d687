import assert from "node:assert/strict";
import type { Shape } from "../../lib/base/shape.ts";
import { openCheckpoint, requireComponent } from "../../lib/formats/checkpoint.ts";
import { LoraFile } from "../../lib/formats/lora.ts";
import type { LoraComponent } from "../../lib/formats/lora_names.ts";
import { LORA_NAMINGS, type LoraLayerData, writeLora } from "../../lib/formats/lora_writer.ts";
import { type TensorData, writeSafetensors } from "../../lib/formats/safetensors.ts";
import { fixture } from "../fixture.ts";
import { inFolder } from "../folders.ts";
import { nmse } from "../tolerance.ts";

/** The layers of a component, without ".weight", and their weights' shapes. */
async function shapesOf(component: LoraComponent): Promise<Map<string, Shape>> {
  await using checkpoint = await openCheckpoint(fixture("tiny/sd1"));
  const { infos } = requireComponent(checkpoint, component);
  return layersIn([...infos.values()].map(({ name, shape }) => [name, shape]));
}

const layersIn = (shapes: readonly (readonly [string, Shape])[]) =>
  new Map(
    shapes.flatMap(([name, shape]) =>
      name.endsWith(".weight") ? [[name.slice(0, -".weight".length), shape] as const] : []
    ),
  );

async function inFile(work: (path: string) => Promise<void>): Promise<void> {
  await inFolder((folder) => work(`${folder}/lora.safetensors`));
}

for (const naming of ["kohya", "diffusers", "diffusers_old"]) {
  Deno.test(`LoraFile reads what is named as ${naming} writes: every layer, its scale`, async () => {
    using kohya = await LoraFile.open(fixture("lora/kohya.safetensors"));
    using file = await LoraFile.open(fixture(`lora/${naming}.safetensors`));
    const used = new Set<string>();
    for (const component of ["unet", "text_encoder"] as const) {
      const shapes = await shapesOf(component);
      const layers = file.layersOf(component, shapes);
      const others = kohya.layersOf(component, shapes);
      assert.deepEqual([...layers.keys()], [...others.keys()]);
      for (const [name, { source, read }] of layers) {
        used.add(source);
        const [own, expected] = [await read(), await others.get(name)?.read() ?? assert.fail()];
        assert.equal(expected.scale, 0.5);
        assert.equal(own.rank, 4);
        const scaled = (up: Float32Array, scale: number) => up.map((value) => value * scale);
        assert.deepEqual(own.down, expected.down);
        assert.ok(nmse(scaled(own.up, own.scale), scaled(expected.up, 0.5)) < 1e-6, name);
      }
    }
    assert.equal(used.size, 88);
    assert.deepEqual(file.sourcesBut(used), []);
  });
}

Deno.test("writeLora in kohya's names calls the UNet of an SDXL as its makers do, and its encoders te1 and te2", async () => {
  await using checkpoint = await openCheckpoint(fixture("tiny/sdxl"));
  const { infos } = requireComponent(checkpoint, "unet");
  const unet = layersIn([...infos.values()].map(({ name, shape }) => [name, shape]));
  const layer = (component: LoraComponent, name: string): LoraLayerData => {
    const matrix = { shape: [1, 1], data: new Float32Array(1) };
    return { component, name, down: matrix, up: matrix, alpha: 1 };
  };
  const query = "transformer_blocks.0.attn1.to_q";
  const layers = [
    layer("unet", `down_blocks.1.attentions.0.${query}`),
    layer("unet", `mid_block.attentions.0.${query}`),
    layer("unet", `up_blocks.0.attentions.1.${query}`),
    layer("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj"),
    layer("text_encoder_2", "text_model.encoder.layers.1.self_attn.q_proj"),
  ];
  await inFile(async (path) => {
    const sdxl = { unet: [...unet.keys()] };
    await writeLora(path, layers, { naming: "kohya", sdxl, dtype: "f32", metadata: {} });
    using file = await LoraFile.open(path);
    const spelt = "transformer_blocks_0_attn1_to_q";
    assert.deepEqual(file.sourcesBut(new Set()).sort(), [
      "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
      "lora_te2_text_model_encoder_layers_1_self_attn_q_proj",
      `lora_unet_input_blocks_3_1_${spelt}`,
      `lora_unet_middle_block_1_${spelt}`,
      `lora_unet_output_blocks_1_1_${spelt}`,
    ]);
  });
});

for (const naming of LORA_NAMINGS) {
  Deno.test(`writeLora in ${naming}'s names gives back what was written`, async () => {
    const values = (n: number) => Float32Array.from({ length: n }, (_, i) => i / 7 - 1);
    const attention = "down_blocks.0.attentions.0";
    const layers: LoraLayerData[] = [
      {
        component: "unet",
        name: `${attention}.transformer_blocks.0.attn1.to_out.0`,
        down: { shape: [2, 8], data: values(16) },
        up: { shape: [8, 2], data: values(16) },
        alpha: 3,
      },
      {
        component: "unet",
        name: `${attention}.proj_in`,
        down: { shape: [3, 8, 1, 1], data: values(24) },
        up: { shape: [8, 3, 1, 1], data: values(24) },
        alpha: 3,
      },
      {
        component: "text_encoder",
        name: "text_model.encoder.layers.1.self_attn.q_proj",
        down: { shape: [2, 32], data: values(64) },
        up: { shape: [32, 2], data: values(64) },
        alpha: 1,
      },
    ];
    await inFile(async (path) => {
      const metadata = { ss_network_dim: "2" };
      await writeLora(path, layers, { naming, sdxl: undefined, dtype: "f32", metadata });
      using file = await LoraFile.open(path);
      assert.equal(file.size, 3);
      assert.equal(file.metadata.get("ss_network_dim"), "2");
      for (const { component, name, down, up, alpha } of layers) {
        const found = file.layersOf(component, await shapesOf(component)).get(name);
        const { scale, ...read } = await found?.read() ?? assert.fail(name);
        const [rank] = down.shape;
        assert.deepEqual(read.down, down.data);
        assert.ok(
          nmse(read.up.map((v) => v * scale), up.data.map((v) => v * alpha / rank)) < 1e-13,
        );
      }
      await writeLora(path, layers, { naming, sdxl: undefined, dtype: "f16", metadata });
      using half = await LoraFile.open(path);
      const [{ component, name, down }] = layers;
      const found = half.layersOf(component, await shapesOf(component)).get(name);
      assert.deepEqual((await found?.read())?.down, Float32Array.from(down.data, Math.f16round));
    });
  });
}

/** A file with a pair of matrices for each layer, all zeros. */
const pairs = (layers: Readonly<Record<string, readonly [out: number, width: number]>>) =>
  Object.entries(layers).flatMap(([name, [out, width]]): TensorData[] => [
    {
      name: `${name}.lora_down.weight`,
      dtype: "F32",
      shape: [1, width],
      data: new Uint8Array(4 * width),
    },
    {
      name: `${name}.lora_up.weight`,
      dtype: "F32",
      shape: [out, 1],
      data: new Uint8Array(4 * out),
    },
  ]);

Deno.test("LoraFile knows SDXL's layers by their original names and by diffusers'", async () => {
  const gz = await Deno.open(fixture("keys/sdxl.json.gz"));
  const text = await new Response(gz.readable.pipeThrough(new DecompressionStream("gzip"))).text();
  const keys: { diffusers: Record<string, Record<string, number[]>> } = JSON.parse(text);
  const down = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";
  const up = "up_blocks.0.attentions.2.transformer_blocks.9.ff.net.0.proj";
  const known: readonly [LoraComponent, string, string][] = [
    ["unet", "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", down],
    ["unet", "lora_unet_output_blocks_2_1_transformer_blocks_9_ff_net_0_proj", up],
    ["unet", "lora_unet_middle_block_1_proj_in", "mid_block.attentions.0.proj_in"],
    [
      "unet",
      "lora_unet_down_blocks_1_attentions_0_proj_out",
      "down_blocks.1.attentions.0.proj_out",
    ],
    [
      "text_encoder",
      "lora_te1_text_model_encoder_layers_11_mlp_fc1",
      "text_model.encoder.layers.11.mlp.fc1",
    ],
    [
      "text_encoder_2",
      "lora_te2_text_model_encoder_layers_31_mlp_fc2",
      "text_model.encoder.layers.31.mlp.fc2",
    ],
  ];
  const shapes = (component: LoraComponent) => layersIn(Object.entries(keys.diffusers[component]));
  await inFile(async (path) => {
    const layers = known.map(([component, source, name]) => {
      const [out, width] = shapes(component).get(name) ?? assert.fail(name);
      return [source, [out, width] as const] as const;
    });
    await writeSafetensors(path, pairs(Object.fromEntries(layers)));
    using file = await LoraFile.open(path);
    for (const component of ["unet", "text_encoder", "text_encoder_2"] as const) {
      const expected = known.filter(([where]) => where === component)
        .map(([, source, name]) => `${name} ${source}`);
      const found = file.layersOf(component, shapes(component));
      assert.deepEqual(
        [...found].map(([name, { source }]) => `${name} ${source}`).sort(),
        expected.sort(),
      );
    }
  });
});

Deno.test("LoraFile refuses what is no pair of matrices, in a sentence", async () => {
  const layer = "lora_unet_mid_block_attentions_0_proj_in";
  const one = (name: string, shape: Shape = [1]): TensorData => ({
    name,
    dtype: "F32",
    shape,
    data: new Uint8Array(4 * shape.reduce((a, b) => a * b, 1)),
  });
  const cases: readonly [readonly TensorData[], RegExp][] = [
    [[one("conv_in.weight")], /"….lora_down.weight", and holds only others \("conv_in.weight" …\)/],
    [[one(`${layer}.hada_w1_a`)], /it is a LoHa, a product of products/],
    [[...pairs({ [layer]: [2, 2] }), one(`${layer}.dora_scale`)], /it is a DoRA/],
    [[one(`${layer}.lora_up.weight`, [2, 1])], /proj_in" lacks the first of two matrices/],
    [pairs({ lora_transformer_x: [2, 2] }), /is no layer of a UNet or text encoder/],
    [
      [one(`${layer}.lora_up.weight`, [2, 3]), one(`${layer}.lora_down.weight`, [4, 2])],
      /\[2, 3\] and \[4, 2\], do not fit each other/,
    ],
  ];
  for (const [tensors, message] of cases) {
    await inFile(async (path) => {
      await writeSafetensors(path, tensors);
      await assert.rejects(LoraFile.open(path), message);
    });
  }
  await inFile(async (path) => {
    await writeSafetensors(path, pairs({ [layer]: [4, 4] }));
    using file = await LoraFile.open(path);
    const shapes = await shapesOf("unet");
    assert.throws(
      () => file.layersOf("unet", shapes),
      /proj_in" is \[4, 1\] by \[1, 4\], and that layer's weight is \[16, 16, 1, 1\]; was it trained for another family/,
    );
  });
});
