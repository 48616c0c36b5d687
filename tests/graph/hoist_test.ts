/** What is computed once and what in every run: together the same numbers, and nothing that lasts is computed again. */

import assert from "node:assert/strict";
import { hoist } from "../../lib/graph/hoist.ts";
import { interpret, type Values } from "../../lib/graph/interpret.ts";
import { print } from "../../lib/graph/print.ts";
import { reachable } from "../../lib/graph/rewrite.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { verify } from "../../lib/graph/verify.ts";
import { unetConfigFromJson } from "../../lib/models/config_from_json.ts";
import { unet, unetInputs } from "../../lib/models/unet.ts";
import { paramsOf } from "../../lib/nn/params.ts";
import { readTiny } from "../models/tiny.ts";
import { randomGraph } from "./random_graph.ts";

const inputsOf = (outputs: readonly Tensor[]) =>
  reachable(outputs).flatMap((node) => node.op === "input" ? [node.attrs.name] : []);

Deno.test("hoist gives two graphs that compute together what the one did, on random graphs", () => {
  let cuts = 0;
  for (let seed = 0; seed < 300; seed++) {
    const { outputs, values } = randomGraph(seed);
    const names = inputsOf(outputs);
    const lasting = new Set(names.filter((_, i) => (seed + i) % 3 > 0));
    const { once, outputs: rest } = hoist(outputs, lasting);
    verify(rest);
    const kept = interpret([...once.values()], values, { precision: "f64" });
    const given: Values = {
      ...values,
      ...Object.fromEntries([...once.keys()].map((name, i) => [name, kept[i]])),
    };
    const expected = interpret(outputs, values, { precision: "f64" });
    const actual = interpret(rest, given, { precision: "f64" });
    assert.deepEqual(actual, expected, `seed ${seed}\n${print(outputs)}\n${print(rest)}`);
    cuts += once.size;
  }
  assert.ok(cuts > 100, `only ${cuts} values were hoisted`);
});

Deno.test("hoist leaves what depends on nothing, and views, to their readers", () => {
  const graph = new Graph();
  const text = graph.input("text", [2, 3]);
  const x = graph.input("x", [2, 3]);
  const weight = graph.parameter("w", [3], "vector");
  const twice = text.mul(weight).reshape([3, 2]).transpose([1, 0]);
  const { once, outputs } = hoist([x.add(twice).mul(weight.exp()).add(text)], new Set(["text"]));
  assert.deepEqual([...once.values()].map(({ op, shape }) => [op, shape]), [["mul", [2, 3]]]);
  assert.deepEqual(inputsOf(outputs).sort(), ["once 0", "text", "x"]);
});

/** The tiny models: cross-attentions, and what else the model makes of its lasting inputs. */
const UNETS: Readonly<Record<string, readonly [attentions: number, others: number]>> = {
  sd1: [6, 0],
  sdxl: [11, 1],
  lcm: [4, 1],
};

for (const [folder, [attentions, others]] of Object.entries(UNETS)) {
  Deno.test(`hoist takes all that depends on the text alone out of the ${folder} UNet`, async () => {
    const { config: json } = await readTiny(`tiny/${folder}`, "unet");
    const config = unetConfigFromJson(json);
    const graph = new Graph();
    const inputs = unetInputs(graph, config, { batch: 2, height: 8, width: 8, tokens: 7 });
    const prediction = unet(paramsOf(graph, "unet"), config, inputs);
    const lasting = ["encoderHiddenStates", "textEmbeds", "timeIds", "timestepCond"];
    const { once, outputs } = hoist([prediction], new Set(lasting));
    assert.equal(once.size, attentions + others);
    assert.deepEqual(
      inputsOf(outputs).filter((name) => !once.has(name)).sort(),
      ["sample", "timestep"],
    );
  });
}
