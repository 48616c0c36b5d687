/** TAESD: its receptive field, its parameters, and a picture against fixtures/make/taesd.py. */

import assert from "node:assert/strict";
import { sizeOf } from "../../lib/base/shape.ts";
import { decodePicture } from "../../lib/formats/png.ts";
import { SafetensorsFile } from "../../lib/formats/safetensors.ts";
import { interpret, type Values } from "../../lib/graph/interpret.ts";
import { Graph } from "../../lib/graph/tensor.ts";
import { taesdConfigFromShapes } from "../../lib/models/config_from_shapes.ts";
import {
  decoderHalo,
  encoderHalo,
  TAESD,
  taesdDecode,
  taesdEncode,
} from "../../lib/models/taesd.ts";
import { manifestOf, paramsOf } from "../../lib/nn/params.ts";
import { fixture } from "../fixture.ts";
import { nmse } from "../tolerance.ts";
import { channelsLast, readTiny } from "./tiny.ts";

/** As TAESD, with two channels inside: the same receptive field, and quick. */
const NARROW = { ...TAESD, channels: 2 };

/**
 * Values of a labelled tensor where every weight is 1 and every bias 0, so that ReLUs stay open and
 * a pixel is above 0 exactly where it depends on a pixel that is.
 */
function spread(
  graph: Graph,
  label: string,
  inputs: Record<string, ArrayLike<number>>,
): Float64Array {
  const values: Record<string, ArrayLike<number>> = { ...inputs };
  for (const { name, shape } of manifestOf(graph).values()) {
    values[name] = new Float64Array(sizeOf(shape)).fill(name.endsWith("weight") ? 1 : 0);
  }
  return runNamed(graph, label, values);
}

/** First and last column above 0 among rows of `width` pixels. */
function extent(x: Float64Array, width: number, channels: number): [number, number] {
  const lit = x.keys().filter((i) => x[i] > 0).map((i) => Math.floor(i / channels) % width)
    .toArray();
  return [Math.min(...lit), Math.max(...lit)];
}

Deno.test("decoderHalo is how far the decoder looks, to the pixel", () => {
  const halo = decoderHalo(TAESD);
  assert.equal(halo, 19);
  const [width, at] = [60, 30];
  const graph = new Graph();
  taesdDecode(paramsOf(graph), NARROW, graph.input("z", [1, 1, width, 4]));
  const z = Float64Array.from({ length: width * 4 }, (_, i) => Math.floor(i / 4) === at ? 1 : 0);
  const [first, last] = extent(spread(graph, "decoder.layers.18", { z }), 8 * width, 3);
  // The tiles (of whole latent pixels) that see this pixel, on both sides.
  const [before, after] = [at - Math.floor(first / 8), Math.floor(last / 8) - at];
  assert.equal(Math.max(before, after), halo);
});

Deno.test("encoderHalo is how far the encoder looks, to the pixel", () => {
  const halo = encoderHalo(TAESD);
  assert.equal(halo, 145);
  const [latents, tile] = [44, 20];
  const width = 8 * latents;
  const lit = (distance: number) => {
    const graph = new Graph();
    taesdEncode(paramsOf(graph), NARROW, graph.input("x", [1, 8, width, 3]));
    const dot = 8 * tile - distance; // −1 is black
    const x = Float64Array.from(
      { length: 8 * width * 3 },
      (_, i) => Math.floor(i / 3) % width === dot ? 1 : -1,
    );
    return extent(spread(graph, "encoder.layers.14", { x }), latents, 4)[1] >= tile;
  };
  assert.ok(lit(halo));
  assert.ok(!lit(halo + 1));
});

Deno.test("taesdDecode and taesdEncode have as many parameters as diffusers' AutoencoderTiny", () => {
  const graph = new Graph();
  taesdDecode(paramsOf(graph), TAESD, graph.input("z", [1, 8, 8, 4]));
  taesdEncode(paramsOf(graph), TAESD, graph.input("x", [1, 64, 64, 3]));
  const entries = manifestOf(graph).values().toArray();
  assert.equal(entries.reduce((sum, { shape }) => sum + sizeOf(shape), 0), 2_445_063);
});

/** fixtures/pictures/fox.png, [128, 128, 3] in −1 … 1. */
async function readFox(): Promise<Float64Array> {
  const path = new URL("../../fixtures/pictures/fox.png", import.meta.url);
  const { data, width, height, channels } = await decodePicture(
    await Deno.readFile(path),
    "fox.png",
  );
  assert.deepEqual([width, height, channels], [128, 128, 3]);
  return Float64Array.from(data, (byte) => byte / 127.5 - 1);
}

Deno.test("taesdEncode and taesdDecode equal the reference on a picture, with trained weights", async () => {
  const path = fixture("goldens/taesd.safetensors");
  using golden = await SafetensorsFile.open(path);
  const latents = await golden.readTensor("taesd.fox.latents");
  const decoded = await golden.readTensor("taesd.fox.decoded");

  const encoder = await readTiny("taesd/taesd_encoder.safetensors", "taesd_encoder");
  const config = taesdConfigFromShapes(encoder.shapes);
  assert.deepEqual(config, TAESD);
  const there = new Graph();
  taesdEncode(paramsOf(there, "taesd_encoder"), config, there.input("x", [1, 128, 128, 3]));
  assert.deepEqual(new Set(manifestOf(there).keys()), new Set(Object.keys(encoder.values)));
  const z = runNamed(there, "taesd_encoder.encoder", { ...encoder.values, x: await readFox() });
  const latentError = nmse(z, channelsLast(latents, [1, 4, 16, 16]));
  assert.ok(latentError < 1e-12, `latents: NMSE ${latentError}`);

  const decoder = await readTiny("taesd/taesd_decoder.safetensors", "taesd_decoder");
  assert.deepEqual(taesdConfigFromShapes(decoder.shapes), TAESD);
  const back = new Graph();
  taesdDecode(paramsOf(back, "taesd_decoder"), config, back.input("z", [1, 16, 16, 4]));
  assert.deepEqual(new Set(manifestOf(back).keys()), new Set(Object.keys(decoder.values)));
  const y = runNamed(back, "taesd_decoder.decoder", { ...decoder.values, z });
  const picture = channelsLast(decoded, [1, 3, 128, 128]).map((v) => 2 * v - 1);
  const pictureError = nmse(y, picture);
  assert.ok(pictureError < 1e-12, `picture: NMSE ${pictureError}`);
});

function runNamed(graph: Graph, label: string, values: Values): Float64Array {
  const tensor = graph.labels.get(label);
  assert.ok(tensor, label);
  return interpret([tensor], values, { precision: "f64" })[0];
}
