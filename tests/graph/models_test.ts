/** What simplification and fusion make of whole models: the same numbers, and few nodes. */

import assert from "node:assert/strict";
import { fuse } from "../../lib/graph/fuse.ts";
import { interpret, type Values } from "../../lib/graph/interpret.ts";
import { print, printNode } from "../../lib/graph/print.ts";
import { reachable } from "../../lib/graph/rewrite.ts";
import { simplify } from "../../lib/graph/simplify.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { verify } from "../../lib/graph/verify.ts";
import { clipInputs, clipText } from "../../lib/models/clip.ts";
import {
  clipConfigFromJson,
  unetConfigFromJson,
  vaeConfigFromJson,
} from "../../lib/models/config_from_json.ts";
import { clipOutput } from "../../lib/models/family.ts";
import { unet, unetInputs } from "../../lib/models/unet.ts";
import { decode, encode } from "../../lib/models/vae.ts";
import { paramsOf } from "../../lib/nn/params.ts";
import { nmse } from "../tolerance.ts";
import { readTiny } from "../models/tiny.ts";

interface Built {
  readonly outputs: readonly Tensor[];
  readonly weights: Values;
}

async function buildUnet(path: string, height: number, width: number): Promise<Built> {
  const { config: json, values: weights } = await readTiny(path, "unet");
  const config = unetConfigFromJson(json);
  const graph = new Graph();
  const inputs = unetInputs(graph, config, { batch: 2, height, width, tokens: 7 });
  return { outputs: [unet(paramsOf(graph, "unet"), config, inputs)], weights };
}

async function buildVae(way: typeof encode, shape: readonly number[]): Promise<Built> {
  const { config: json, values: weights } = await readTiny("tiny/sd1", "vae");
  const graph = new Graph();
  const config = vaeConfigFromJson(json);
  return { outputs: [way(paramsOf(graph, "vae"), config, graph.input("x", shape))], weights };
}

async function buildClip(): Promise<Built> {
  const { config: json, values: weights } = await readTiny("tiny/sd1", "text_encoder");
  const graph = new Graph();
  const config = clipConfigFromJson(json);
  const { tokens } = clipInputs(graph, 2, 9);
  const output = clipOutput("sd1", config, 1);
  const { hidden } = clipText(paramsOf(graph, "text_encoder"), config, tokens, output);
  return { outputs: [hidden], weights };
}

/** Each model, and the maps that fusion leaves of it: how many times which kind. */
const MODELS: Readonly<Record<string, readonly [() => Promise<Built>, Record<string, number>]>> = {
  "SD 1 UNet": [() => buildUnet("tiny/sd1", 8, 8), { angle: 2 }],
  "SD 1 UNet, odd sizes": [() => buildUnet("tiny/sd1", 9, 7), { angle: 2, copy: 2 }],
  "SD 2 UNet": [() => buildUnet("tiny/sd2", 8, 8), { angle: 2 }],
  "SDXL UNet": [() => buildUnet("tiny/sdxl", 8, 12), { angle: 4 }],
  "LCM UNet": [() => buildUnet("tiny/lcm", 8, 8), { angle: 2 }],
  "pruned UNet": [() => buildUnet("tiny/pruned/unet", 8, 8), { angle: 2 }],
  "decoder": [() => buildVae(decode, [1, 4, 4, 4]), {}],
  "encoder": [() => buildVae(encode, [1, 16, 16, 3]), {}],
  "text encoder": [buildClip, { sum: 1 }],
};

/** What a map is for, told from its body. */
const KINDS: readonly (readonly [kind: string, body: RegExp])[] = [
  ["angle", /(sin|cos)\(/],
  ["copy", /body: \$0,/],
  ["sum", /body: add\(\$0, \$1\),/],
];

function kindOf(node: Tensor): string {
  const text = printNode(node);
  return KINDS.find(([, body]) => body.test(text))?.[0] ?? text;
}

/** Moderate numbers for every input; whole numbers for tokens. */
function inputsOf(outputs: readonly Tensor[]): Values {
  const values: Record<string, number[]> = {};
  for (const { attrs, dtype, size, op } of reachable(outputs)) {
    if (op !== "input" || !("name" in attrs)) continue;
    const draw = (i: number) => dtype === "i32" ? i * 7 % 11 : Math.sin(3 * i + size);
    values[attrs.name] = Array.from({ length: size }, (_, i) => draw(i));
  }
  return values;
}

for (const [name, [build, maps]] of Object.entries(MODELS)) {
  Deno.test(`fuse after simplify leaves the ${name} its numbers and few nodes`, async () => {
    const { outputs, weights } = await build();
    const fused = fuse(simplify(outputs));
    verify(fused);
    const values = { ...weights, ...inputsOf(outputs) };
    const [expected] = interpret(outputs, values, { precision: "f64" });
    const [actual] = interpret(fused, values, { precision: "f64" });
    assert.ok(nmse(actual, expected) < 1e-24, `${nmse(actual, expected)}`);

    const left: Record<string, number> = {};
    for (const node of reachable(fused)) {
      if (node.op !== "map") continue;
      left[kindOf(node)] = (left[kindOf(node)] ?? 0) + 1;
    }
    assert.deepEqual(left, maps);
    const strays = ["slice", "transpose", "broadcast", "upsample", "pad", "add", "mul", "sigmoid"];
    const stray = reachable(fused).find(({ op }) => strays.includes(op));
    assert.equal(stray, undefined, print(fused));
  });
}
