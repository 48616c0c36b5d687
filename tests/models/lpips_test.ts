import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import type { Shape } from "../../lib/base/shape.ts";
import { SafetensorsFile } from "../../lib/formats/safetensors.ts";
import { gradients } from "../../lib/graph/grad.ts";
import { interpret } from "../../lib/graph/interpret.ts";
import { Graph } from "../../lib/graph/tensor.ts";
import { verify } from "../../lib/graph/verify.ts";
import { lpips, lpipsFromShapes } from "../../lib/models/lpips.ts";
import { paramsOf } from "../../lib/nn/params.ts";
import { nmse } from "../tolerance.ts";
import { channelsFirst, channelsLast } from "./tiny.ts";

/** Torch's own f32 against f64, of a dozen convolutions and of unit vectors. */
const BOUND = 1e-11;
const F64 = { precision: "f64" } as const;

/** Tensors of a golden of fixtures/make/perceptual.py. */
async function read(network: "vgg" | "alex") {
  const path = `../../fixtures/goldens/lpips_${network}.safetensors`;
  using file = await SafetensorsFile.open(fileURLToPath(new URL(path, import.meta.url)));
  const shapes = new Map<string, Shape>();
  const values = new Map<string, Float32Array<ArrayBuffer>>();
  for (const { name, shape } of file.tensors.values()) {
    shapes.set(name, shape);
    const read = await file.readTensor(name);
    values.set(name, shape.length === 4 ? channelsLast(read, shape) : read);
  }
  return { shapes, valueOf: (name: string) => values.get(name) ?? assert.fail(name) };
}

for (const network of ["vgg", "alex"] as const) {
  Deno.test(`lpips of ${network} and its gradient by the second picture equal torch's`, async () => {
    const { shapes, valueOf } = await read(network);
    const { config, names } = lpipsFromShapes(shapes, "the golden");
    assert.equal(config.network, network);
    const graph = new Graph();
    const shape = shapes.get("a") ?? assert.fail();
    const [n, , h, w] = shape;
    const [a, b] = ["a", "b"].map((name) => graph.input(name, [n, h, w, 3]));
    const distance = lpips(paramsOf(graph, "lpips"), config, a, b);
    assert.deepEqual(distance.shape, [n, 1, 1, 1]);
    const [gradient] = gradients(distance.sum([0]).reshape([]), [b]);
    verify([distance, gradient]);
    const weights = [...names].map(([key, name]) => [`lpips.${name}`, valueOf(key)] as const);
    const values = { ...Object.fromEntries(weights), a: valueOf("a"), b: valueOf("b") };
    const [far, change] = interpret([distance, gradient], values, F64);
    assert.ok(nmse(far, valueOf("distance")) < BOUND);
    const expected = channelsFirst(Float64Array.from(valueOf("gradient")), [n, h, w, 3]);
    const error = nmse(channelsFirst(change, [n, h, w, 3]), expected);
    assert.ok(error < BOUND, `gradient: NMSE ${error.toExponential(2)}`);
    const [none] = interpret([lpips(paramsOf(graph, "lpips"), config, a, a)], values, F64);
    assert.deepEqual([...none], [0, 0]);
  });
}

Deno.test("lpips has finite gradients where a network sees nothing", async () => {
  const { shapes, valueOf } = await read("vgg");
  const { config, names } = lpipsFromShapes(shapes, "the golden");
  const graph = new Graph();
  const [a, b] = ["a", "b"].map((name) => graph.input(name, [1, 16, 16, 1])); // grey
  const distance = lpips(paramsOf(graph, "lpips"), config, a, b);
  const [gradient] = gradients(distance.reshape([]), [b]);
  const blind = [...names].map(([key, name]) =>
    [`lpips.${name}`, valueOf(key).map((value) => name.endsWith("bias") ? -100 : value)] as const
  );
  const pictures = { a: new Float32Array(256).fill(1), b: new Float32Array(256) };
  const values = { ...Object.fromEntries(blind), ...pictures };
  for (const result of interpret([distance, gradient], values, F64)) {
    assert.ok(result.every((value) => value === 0));
  }
});

Deno.test("lpipsFromShapes knows the package's names, its list's, torchvision's, and names under a prefix", async () => {
  const { shapes } = await read("vgg");
  const renamed = (rename: (name: string) => string) =>
    new Map([...shapes].map(([name, shape]) => [rename(name), shape]));
  const known = new Set(lpipsFromShapes(shapes, "it").names.values());
  assert.equal(known.size, 2 * 13 + 5);
  for (
    const rename of [
      (name: string) => name.replace(/^lin/, "lins."),
      (name: string) => name.replace(/^net\.slice\d/, "features").replace("model.1", "model.0"),
      (name: string) => `loss.perceptual_loss.${name}`,
    ]
  ) {
    assert.deepEqual(new Set(lpipsFromShapes(renamed(rename), "it").names.values()), known);
  }
  const others = [new Map([["conv_in.weight", [4, 3, 3, 3]]]), renamed((name) => `x${name}`)];
  for (const other of [...others, new Map([...shapes, ["net.slice2.3.squeeze.weight", [1]]])]) {
    assert.throws(
      () => lpipsFromShapes(other, `"x.safetensors"`),
      /^FormatError: Cannot use "x\.safetensors" for a perceptual loss: it is neither VGG16 nor/,
    );
  }
});
