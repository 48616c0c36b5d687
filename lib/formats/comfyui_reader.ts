/**
 * ComfyUI's "prompt", read: the graph of nodes that made a picture (`nodes.py`, `SaveImage`). Links are followed back from
 * a KSampler to texts, size and checkpoint; a node on the way that does more than a recipe can say is named.
 */

import { isObject, type Json, type JsonObject, parseJson, textOf } from "./json.ts";
import { defined, fileName, loraTag, type Remembered, seedOf } from "./recipe.ts";

interface Node {
  readonly id: string;
  readonly type: string;
  /** A link is [node, output]; everything else is a value. */
  readonly inputs: JsonObject;
}

/** A graph, and what has been seen in it that cannot be matched. */
interface Graph {
  readonly nodes: ReadonlyMap<string, Node>;
  readonly unmatched: Set<string>;
  /** Nodes that load LoRAs. */
  readonly loras: Set<Node>;
}

/** Samplers that are understood, and what they call the seed. */
const SAMPLERS: Readonly<Record<string, string>> = {
  KSampler: "seed",
  KSamplerAdvanced: "noise_seed",
};

/** Nodes that load a checkpoint, and the input that names it. */
const CHECKPOINTS: Readonly<Record<string, string>> = {
  CheckpointLoaderSimple: "ckpt_name",
  CheckpointLoader: "ckpt_name",
};

/** Texts, and the input that holds them. */
const TEXTS: Readonly<Record<string, string>> = {
  CLIPTextEncode: "text",
  CLIPTextEncodeSDXL: "text_g",
};

/** Nodes that may stand on the way: they hand on what they are given, or are looked at by themselves. */
const PASSED: ReadonlySet<string> = new Set([
  "Reroute",
  "CLIPSetLastLayer",
  "RescaleCFG",
  "ImageScale",
  "VAEEncode",
]);

/** Nodes that add a LoRA to a model, and to its text encoder if that is handed through them as well. */
const LORAS: ReadonlySet<string> = new Set(["LoraLoader", "LoraLoaderModelOnly"]);

/** The inputs by which a value goes on through a node, in the order in which they are tried. */
const ONWARD = {
  latent: ["latent_image", "samples", "latent", "pixels", "image"],
  positive: ["positive", "conditioning", "conditioning_1", "conditioning_to"],
  negative: ["negative", "conditioning", "conditioning_1", "conditioning_to"],
  model: ["model", "model1"],
  clip: ["clip", "clip1"],
  vae: ["vae"],
  value: ["value", "text", "string", "seed", "noise_seed", "int", "Number", "Text"],
} as const;
type Kind = keyof typeof ONWARD;

/**
 * What a graph says, where it has a KSampler; `undefined` for any other text. What could not be followed is named by its
 * node's class and number.
 */
export function readComfyGraph(text: string): Remembered | undefined {
  const graph: Graph = { nodes: nodesOf(parseJson(text)), unmatched: new Set(), loras: new Set() };
  const last = lastSampler(graph);
  if (last === undefined) return undefined;
  const { sampler, latent } = firstPass(graph, last);
  const positive = writtenIn(graph, sampler, "positive");
  const negative = writtenIn(graph, sampler, "negative");
  const loader = follow(graph, sampler, "model", "model", isCheckpoint);
  const rescale = above(graph, sampler, "model", "RescaleCFG");
  const skip = positive && above(graph, positive.node, "clip", "CLIPSetLastLayer");
  const lastLayer = skip && numberAt(graph, skip, "stop_at_clip_layer");
  const checkpoint = loader && textAt(graph, loader, CHECKPOINTS[loader.type]);
  const image = latent && isPicture(latent) ? textAt(graph, latent, "image") : undefined;
  const sized = image === undefined
    ? latent
    : follow(scratchOf(graph), sampler, "latent_image", "latent", ({ type }) =>
      type === "ImageScale");
  const { seed, unmatched } = seedOf(valueAt(graph, sampler, SAMPLERS[sampler.type]), "cpu");
  noteParts(graph, sampler, image !== undefined);
  const vae = otherVae(graph, last);
  const name = textAt(graph, sampler, "sampler_name");
  return defined({
    tool: "comfyui" as const,
    recipe: defined({
      prompt: positive?.text,
      negativePrompt: negative?.text,
      width: sized && numberAt(graph, sized, "width"),
      height: sized && numberAt(graph, sized, "height"),
      batchCount: latent && numberAt(graph, latent, "batch_size"),
      sees: image === undefined ? undefined : "start" as const,
      strength: image === undefined ? undefined : numberAt(graph, sampler, "denoise"),
      steps: numberAt(graph, sampler, "steps"),
      cfgScale: numberAt(graph, sampler, "cfg"),
      guidanceRescale: rescale && numberAt(graph, rescale, "multiplier"),
      sampler: name,
      samplerRng: name?.endsWith("_gpu") ? "cuda" as const : undefined,
      schedule: textAt(graph, sampler, "scheduler"),
      seed,
      clipSkip: lastLayer === undefined ? undefined : -lastLayer,
    }),
    files: defined({
      model: checkpoint && fileName(checkpoint),
      vae: vae && fileName(vae),
      image: image && fileName(image),
    }),
    networks: graph.loras.size > 0
      ? [...graph.loras].map((node) => loraOf(graph, node))
      : undefined,
    unmatched: [...graph.unmatched, ...unmatched],
  });
}

function nodesOf(graph: Json | undefined): ReadonlyMap<string, Node> {
  const nodes = new Map<string, Node>();
  if (!isObject(graph)) return nodes;
  for (const [id, node] of Object.entries(graph)) {
    const type = textOf(node, "class_type");
    const inputs = isObject(node) ? node.inputs : undefined;
    if (type !== undefined && isObject(inputs)) nodes.set(id, { id, type, inputs });
  }
  return nodes;
}

/** The same graph, to be looked at without noting anything. */
function scratchOf({ nodes }: Graph): Graph {
  return { nodes, unmatched: new Set(), loras: new Set() };
}

function isSampler({ type }: Node): boolean {
  return Object.hasOwn(SAMPLERS, type);
}

function isCheckpoint({ type }: Node): boolean {
  return Object.hasOwn(CHECKPOINTS, type);
}

function isEmptyLatent({ type }: Node): boolean {
  return type === "EmptyLatentImage";
}

function isPicture({ type }: Node): boolean {
  return type === "LoadImage";
}

/** Where a first pass starts. */
function isStart(node: Node): boolean {
  return isEmptyLatent(node) || isPicture(node);
}

function titleOf({ type, id }: Node): string {
  return `${type} (node ${id})`;
}

/** The sampler whose latents no other sampler takes up. */
function lastSampler(graph: Graph): Node | undefined {
  const samplers = [...graph.nodes.values()].filter(isSampler);
  const scratch = scratchOf(graph);
  const taken = new Set(
    samplers.map((node) => follow(scratch, node, "latent_image", "latent", isSampler)),
  );
  return samplers.find((node) => !taken.has(node)) ?? samplers[0];
}

/** Of several passes the first, which starts from nothing or from a picture: the one that can be made. */
function firstPass(graph: Graph, last: Node): { sampler: Node; latent: Node | undefined } {
  const passes = new Set<Node>();
  let sampler = last;
  for (;;) {
    passes.add(sampler);
    const start = follow(
      graph,
      sampler,
      "latent_image",
      "latent",
      (node) => isSampler(node) || isStart(node),
    );
    if (start && isStart(start)) return { sampler, latent: start };
    if (start === undefined || passes.has(start)) {
      graph.unmatched.add(`what ${titleOf(sampler)} starts from`);
      return { sampler, latent: undefined };
    }
    graph.unmatched.add(`the second pass of ${titleOf(sampler)}`);
    sampler = start;
  }
}

/** The text that a sampler is given, and the node that holds it. */
function writtenIn(graph: Graph, sampler: Node, input: "positive" | "negative") {
  const node = follow(graph, sampler, input, input, ({ type }) => Object.hasOwn(TEXTS, type));
  const text = node && textAt(graph, node, TEXTS[node.type]);
  if (node === undefined || text === undefined) {
    graph.unmatched.add(`the ${input} text of ${titleOf(sampler)}`);
    return undefined;
  }
  const second = textAt(graph, node, "text_l");
  if (second !== undefined && second !== text) {
    graph.unmatched.add(`the second text of ${titleOf(node)}: ${JSON.stringify(second)}`);
  }
  return { node, text };
}

/** Notes a sampler that does not go all the way from noise to picture. */
function noteParts(graph: Graph, sampler: Node, hasPicture: boolean): void {
  const steps = numberAt(graph, sampler, "steps") ?? 0;
  const [start, end] = [
    numberAt(graph, sampler, "start_at_step") ?? 0,
    numberAt(graph, sampler, "end_at_step") ?? steps,
  ];
  const denoise = numberAt(graph, sampler, "denoise") ?? 1;
  if (start > 0 || end < steps) {
    graph.unmatched.add(`${titleOf(sampler)} from step ${start} to ${end} of ${steps} alone`);
  }
  if (denoise !== 1 && !hasPicture) {
    graph.unmatched.add(`denoise ${denoise} of ${titleOf(sampler)}`);
  }
}

function loraOf(graph: Graph, node: Node): string {
  const name = textAt(graph, node, "lora_name") ?? "";
  const multiplier = numberAt(graph, node, "strength_model") ?? 1;
  const isWhole = node.type === "LoraLoader";
  const text = isWhole ? numberAt(graph, node, "strength_clip") ?? 1 : 0;
  return loraTag(name, multiplier, text);
}

/** The file name of an autoencoder that is not the checkpoint's. */
function otherVae(graph: Graph, last: Node): string | undefined {
  const decoders = [...graph.nodes.values()].filter(({ type }) => type.startsWith("VAEDecode"));
  const decoder = decoders.find((node) => source(graph, node, "samples") === last) ?? decoders[0];
  const loader = decoder && follow(
    graph,
    decoder,
    "vae",
    "vae",
    (node) => node.type === "VAELoader" || isCheckpoint(node),
  );
  return loader?.type === "VAELoader" ? textAt(graph, loader, "vae_name") : undefined;
}

// ---- links

/** The node that an input is linked to; `undefined` where it is a value or leads nowhere. */
function source({ nodes }: Graph, node: Node, input: string): Node | undefined {
  const link = Object.hasOwn(node.inputs, input) ? node.inputs[input] : undefined;
  return Array.isArray(link) ? nodes.get(String(link[0])) : undefined;
}

/** Walks back from an input to a node that `stop` takes, and notes the nodes on the way that do something. */
function follow(
  graph: Graph,
  start: Node,
  input: string,
  kind: Kind,
  stop: (node: Node) => boolean,
): Node | undefined {
  const seen = new Set<Node>();
  let node = source(graph, start, input);
  while (node && !stop(node)) {
    if (seen.has(node)) return undefined; // a circle
    seen.add(node);
    if (LORAS.has(node.type)) graph.loras.add(node);
    else if (!PASSED.has(node.type)) graph.unmatched.add(titleOf(node));
    const from: Node = node;
    const inputs = from.type === "Reroute" ? Object.keys(from.inputs) : ONWARD[kind];
    node = inputs.map((name) => source(graph, from, name)).find((next) => next !== undefined);
  }
  return node;
}

/** A node of a class on the way back from an input, through inputs of the same name. */
function above(graph: Graph, start: Node, input: string, type: string): Node | undefined {
  const seen = new Set<Node>();
  let node = source(graph, start, input);
  while (node && !seen.has(node) && node.type !== type) {
    seen.add(node);
    node = source(graph, node, input);
  }
  return node?.type === type ? node : undefined;
}

/** The value of an input; where it is linked, that of the node it is linked to. */
function valueAt(graph: Graph, node: Node, input: string): Json | undefined {
  const seen = new Set<Node>();
  let [holder, name]: [Node, string] = [node, input];
  while (!seen.has(holder)) {
    seen.add(holder);
    const value = Object.hasOwn(holder.inputs, name) ? holder.inputs[name] : undefined;
    if (!Array.isArray(value)) return value;
    const next = source(graph, holder, name);
    const field = ONWARD.value.find((field) => next && Object.hasOwn(next.inputs, field));
    if (next === undefined || field === undefined) return undefined;
    [holder, name] = [next, field];
  }
  return undefined;
}

function numberAt(graph: Graph, node: Node, input: string): number | undefined {
  const value = valueAt(graph, node, input);
  return typeof value === "number" ? value : undefined;
}

function textAt(graph: Graph, node: Node, input: string): string | undefined {
  const value = valueAt(graph, node, input);
  return typeof value === "string" ? value : undefined;
}
