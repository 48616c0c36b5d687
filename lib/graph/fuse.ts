/**
 * Three rules, no more, applied until they find nothing:
 * (a) elementwise chains become one `map`, and views that feed it become its strides;
 * (b) a `map` that follows a contraction or a norm becomes its epilogue;
 * (c) a view folds into its reader: upsampling into conv2d, a transposed factor into matmul, a slice into attention.
 * A reshape stays a node: it costs nothing. Any other move that nobody takes becomes a `map` that copies.
 */

import { type Shape, sizeOf } from "../base/shape.ts";
import { type Expression, isElementwise, sizeOfExpression, substitute } from "./expression.ts";
import { BASE_INPUTS, type EpilogueOp, hasEpilogue, type OpName, type View } from "./ops.ts";
import {
  combined,
  type Form,
  nodeOf,
  type Operand,
  reshaped,
  sliced,
  spread,
  stored,
  transposed,
  viewed,
} from "./form.ts";
import { reachable, readersOf, rebuild, rewrite } from "./rewrite.ts";
import type { Tensor } from "./tensor.ts";
import {
  broadcastView,
  canonicalView,
  isWhole,
  reshapeView,
  sameView,
  sliceView,
  VIEWS,
  wholeView,
} from "./view.ts";

/** Tensors that a fused operator reads: with the result and a spare one, the 8 bindings that every device has. */
const MAX_INPUTS = 6;
/** Operators in one body. */
const MAX_OPERATORS = 48;
/** A body this small is computed again by each reader rather than stored, or again for each element it is spread over. */
const CHEAP = { operators: 2, inputs: 2 } as const;
/** Rounds in which the rules feed each other; two or three suffice for models. */
const MAX_ROUNDS = 16;

/** The outputs in a fresh graph, fused. Apply to simplified graphs; labels of what was fused away are gone. */
export function fuse(outputs: readonly Tensor[]): Tensor[] {
  let fused = fuseReaders(outputs).outputs;
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const maps = fuseMaps(fused);
    const epilogues = fuseEpilogues(maps.outputs);
    fused = epilogues.outputs;
    if (!maps.changed && !epilogues.changed) break;
  }
  return rebuild(fused, (node) => node);
}

type Rewritten = ReturnType<typeof rewrite>;

// ---- (c) views that a contraction reads

function fuseReaders(outputs: readonly Tensor[]): Rewritten {
  const readers = readersOf(outputs);
  const isConvolved = (x: Tensor) =>
    !outputs.includes(x) && readers.get(x)?.every((r) => r.op === "conv2d" && r.inputs[1] !== x);
  return rewrite(outputs, (node, original) => {
    const { graph } = node;
    if (node.op === "conv2d") {
      const [x, ...rest] = node.inputs;
      if (x.op !== "upsample") return node;
      const upsample = node.attrs.upsample * x.attrs.factor;
      return graph.copy(node, [x.inputs[0], ...rest], { ...node.attrs, upsample });
    }
    if (node.op === "matmul") {
      const [a, b, ...rest] = node.inputs;
      if (b.op !== "transpose" || !swapsLastTwo(b.attrs.order)) return node;
      const transposeB = !node.attrs.transposeB;
      return graph.copy(node, [a, b.inputs[0], ...rest], { ...node.attrs, transposeB });
    }
    if (node.op === "attention") return withSlices(node);
    if (node.op === "upsample" && !isConvolved(original)) {
      const [n, h, w, c] = node.inputs[0].shape;
      const { factor } = node.attrs;
      const spread = node.inputs[0].reshape([n, h, 1, w, 1, c])
        .broadcast([n, h, factor, w, factor, c]);
      return spread.reshape(node.shape);
    }
    return node;
  });
}

/** Attention whose operands are some heads of wider tensors, read where they lie. */
function withSlices(node: Of<"attention">): Tensor {
  const found = node.inputs.map((x, i) => headsOf(x, node.attrs.heads?.first[i] ?? 0));
  if (found.every(({ tensor }, i) => tensor === node.inputs[i])) return node;
  const [q, k, v] = found.map(({ first }) => first);
  const heads = { count: node.shape[2], first: [q, k, v] as const };
  return node.graph.copy(node, found.map(({ tensor }) => tensor), { ...node.attrs, heads });
}

/**
 * The tensor [n, t, more heads, d] of which `x` [n, t, heads, d] is a part, and the place in it of head `first` of x;
 * x itself where the heads of a token do not lie side by side in whole heads.
 */
function headsOf(x: Tensor, first: number): { readonly tensor: Tensor; readonly first: number } {
  const [n, t, heads, d] = x.shape;
  const { tensor, view } = placeOf(x);
  const width = tensor.size / (n * t); // of a token
  const { offset } = view;
  const within = canonicalView({ offset, strides: [t * width, width, d, 1] }, x.shape);
  const isPart = width > heads * d && width % d === 0 && offset % d === 0 &&
    offset + heads * d <= width && sameView(view, within);
  if (!isPart) return { tensor: x, first };
  return { tensor: tensor.reshape([n, t, width / d, d]), first: first + offset / d };
}

/** The tensor that slices and reshapes are views of, as far as strides can say it. */
function placeOf(x: Tensor): Operand {
  if (x.op === "slice") {
    const { tensor, view } = placeOf(x.inputs[0]);
    return { tensor, view: sliceView(view, x.attrs.begin, x.shape) };
  }
  if (x.op === "reshape") {
    const { tensor, view } = placeOf(x.inputs[0]);
    const reshaped = reshapeView(view, x.inputs[0].shape, x.shape);
    if (reshaped) return { tensor, view: reshaped };
  }
  return { tensor: x, view: wholeView(x.shape) };
}

function swapsLastTwo(order: readonly number[]): boolean {
  const last = order.length - 1;
  return last >= 1 &&
    order.every((axis, i) => axis === (i === last ? last - 1 : i === last - 1 ? last : i));
}

// ---- (a) maps

/** True for what can be part of a map. */
function isMappable({ op, dtype }: Tensor): boolean {
  return dtype === "f32" && (op === "map" || isElementwise(op) || VIEWS.has(op));
}

/**
 * The regions that become one map each: a node belongs to the region of its readers where they all belong to one,
 * else it ends a region of its own. Also `ends` of products and norms, which are in no region: the region that reads them.
 */
function regionsOf(outputs: readonly Tensor[]) {
  const readers = readersOf(outputs);
  const region = new Map<Tensor, Tensor>(); // node → the node that ends its region
  const ends = new Map<Tensor, Tensor>();
  const inRegions = new Set<Tensor>(); // read by mappable nodes only
  for (const node of reachable(outputs).reverse()) {
    const around = outputs.includes(node) ? [] : readers.get(node) ?? [];
    const found = new Set(around.map((reader) => region.get(reader)));
    const [end] = found;
    if (around.length > 0 && !found.has(undefined)) inRegions.add(node);
    if (end && found.size === 1) (isMappable(node) ? region : ends).set(node, end);
    else if (isMappable(node) && node.op !== "reshape") region.set(node, node);
  }
  return { region, ends, inRegions };
}

function fuseMaps(outputs: readonly Tensor[]): Rewritten {
  const { region, ends, inRegions } = regionsOf(outputs);
  const forms = new Map<Tensor, Form>(); // by original
  const unfinished = new Set<Tensor>(); // products and norms that only one region reads

  /** The number of the youngest product or norm whose epilogue a form may become; -1 where there is none. */
  const finishes = ({ operands, shape }: Form): number => {
    const whole = operands.filter(({ tensor, view }) => isWhole(view, shape, tensor.size));
    return Math.max(-1, ...whole.map(({ tensor }) => unfinished.has(tensor) ? tensor.id : -1));
  };

  /** Whether a reader computes what it reads itself; `whole`: it reads all elements in order. */
  const takes = (reader: Tensor, read: Tensor, form: Form, whole: boolean): boolean => {
    const cost = sizeOfExpression(form.body);
    if (cost === 0) return true;
    if (!whole && finishes(form) >= 0) return false;
    if (reader.size > read.size && cost > CHEAP.operators) return false;
    if (region.has(read) && region.get(read) === region.get(reader)) return true;
    const isCheap = cost <= CHEAP.operators && form.operands.length <= CHEAP.inputs;
    return isCheap && inRegions.has(read) && finishes(form) < 0;
  };

  /**
   * One form of parts, each of which may be read as it is stored instead. Where the form would be too large, or would
   * stand between an older product and its epilogue, the worst part is.
   */
  const merged = (
    shape: Shape,
    parts: readonly { readonly taken: Form; readonly stored: Form }[],
    build: (part: (i: number) => Expression) => Expression,
  ): Form => {
    const form = combined(shape, parts.map(({ taken }) => taken), build);
    const youngest = finishes(form);
    const computed = parts.filter(({ taken }) => sizeOfExpression(taken.body) > 0);
    const older = computed.filter(({ taken }) =>
      finishes(taken) >= 0 && finishes(taken) < youngest
    );
    const candidates = isSmall(form.operands, form.body) ? older : computed;
    const [worst] = candidates.sort((a, b) => weightOf(b.taken) - weightOf(a.taken));
    if (!worst) return form;
    const lighter = parts.map((part) =>
      part === worst ? { taken: part.stored, stored: part.stored } : part
    );
    return merged(shape, lighter, build);
  };

  const formOf = (node: Tensor, original: Tensor): Form => {
    const { shape } = node;
    const read = (i: number, whole: boolean): Form => {
      const form = forms.get(original.inputs[i]);
      const taken = form && takes(original, original.inputs[i], form, whole);
      return taken ? form : stored(node.inputs[i]);
    };
    if (node.op === "transpose") return transposed(read(0, false), node.attrs.order);
    if (node.op === "slice") return sliced(read(0, false), node.attrs.begin, shape);
    if (node.op === "broadcast") return spread(read(0, false), shape);
    if (node.op === "reshape") {
      return reshaped(read(0, true), shape) ?? reshaped(stored(node.inputs[0]), shape) ??
        stored(node);
    }
    if (node.op === "map") {
      const { views, body } = node.attrs;
      const parts = node.inputs.map((x, i) => {
        const direct = viewed(x, views[i], shape);
        const whole = isWhole(views[i], shape, x.size);
        const taken = whole ? reshaped(read(i, true), shape) : undefined;
        return { taken: taken ?? direct, stored: direct };
      });
      return merged(shape, parts, (part) => substitute(body, part));
    }
    const { op } = node;
    if (!isElementwise(op)) return stored(node);
    const parts = node.inputs.map((x, i) => ({
      taken: spread(read(i, x.size === node.size), shape),
      stored: spread(stored(x), shape),
    }));
    return merged(shape, parts, (part) => ({ op, args: parts.map((_, i) => part(i)) }));
  };

  return rewrite(outputs, (node, original) => {
    if (node.op === "constant") forms.set(original, stored(node));
    if (hasEpilogue(node.op) && ends.has(original)) unfinished.add(node);
    if (!isMappable(node)) return node;
    const form = formOf(node, original);
    forms.set(original, form);
    return nodeOf(form, node.graph);
  });
}

function isSmall(operands: readonly unknown[], body: Expression): boolean {
  return operands.length <= MAX_INPUTS && sizeOfExpression(body) <= MAX_OPERATORS;
}

/** Orders forms by what they add to their reader: operands first, then operators. */
function weightOf({ operands, body }: Form): number {
  return operands.length * MAX_OPERATORS + sizeOfExpression(body);
}

// ---- (b) epilogues

function fuseEpilogues(outputs: readonly Tensor[]): Rewritten {
  const readers = readersOf(outputs);
  const isOnlyReader = (x: Tensor) => readers.get(x)?.length === 1 && !outputs.includes(x);
  return rewrite(outputs, (node, original) => {
    if (node.op !== "map") return node;
    const candidates = node.inputs
      .map((tensor, i) => ({ tensor, i }))
      .filter(({ i }) => isOnlyReader(original.inputs[i]))
      .sort((a, b) => b.tensor.id - a.tensor.id); // the youngest: the others are then older than it
    for (const { tensor, i } of candidates) {
      const finished = isFinishable(tensor) ? finish(tensor, node, i) : undefined;
      if (finished) return finished;
    }
    return node;
  });
}

type Of<K extends OpName> = Extract<Tensor, { op: K }>;
const isFinishable = (tensor: Tensor): tensor is Of<EpilogueOp> => hasEpilogue(tensor.op);

/** `tensor` with the map that reads it as input `at` in its epilogue; nothing where an operand does not fit there. */
function finish(tensor: Of<EpilogueOp>, map: Of<"map">, at: number): Tensor | undefined {
  const { views, body } = map.attrs;
  if (!isWhole(views[at], map.shape, tensor.size)) return undefined;
  const base = BASE_INPUTS[tensor.op];
  const inputs: Tensor[] = [...tensor.inputs];
  const places = new Map<number, number>(); // input of the map → operand of the epilogue
  for (const [i, operand] of map.inputs.entries()) {
    if (i === at) continue;
    const view = reshapeView(views[i], map.shape, tensor.shape);
    const shape = view && reachOf(operand, view, tensor.shape);
    if (!shape) return undefined;
    const fitting = operand.reshape(shape);
    const known = inputs.indexOf(fitting, base);
    places.set(i, (known >= 0 ? known : inputs.push(fitting) - 1) - base + 1);
  }
  const before: Expression = tensor.attrs.epilogue?.body ?? { input: 0 };
  const whole = substitute(body, (i) => i === at ? before : { input: places.get(i) ?? 0 });
  if (!isSmall(inputs, whole)) return undefined;
  const attrs = { ...tensor.attrs, epilogue: { body: whole } };
  return map.graph.copy(tensor, inputs, attrs).reshape(map.shape);
}

/** The shape in which an operand broadcasts to a result as its view says: a number, per channel, per sample and channel, full. */
function reachOf(operand: Tensor, view: View, result: Shape): Shape | undefined {
  const [n, c] = [result[0], result[result.length - 1]];
  const sample = [n, ...result.slice(1, -1).map(() => 1), c];
  return [[], [c], sample, result].find((shape) =>
    sizeOf(shape) === operand.size && shape.length <= result.length &&
    sameView(canonicalView(view, result), broadcastView(wholeView(shape), shape, result))
  );
}
