/**
 * Attention whose heads fit registers: online softmax, no matrix of scores. Other heads are lowered
 * to operators that have kernels (lower.ts).
 */

import {
  type Binding,
  type Dispatch,
  type Kernel,
  MAX_ITERATIONS,
  type NodeOf,
  type Profile,
  type Residence,
  residencesOf,
  splitRows,
  TEXTURE_WIDTH,
  type Variant,
  WINDOW_ALIGNMENT,
  windowOn,
} from "./kernel.ts";
import { WIDEST_HEAD } from "./lower.ts";
import packSource from "../../wgsl/attention_pack.wgsl" with { type: "text" };
import registersSource from "../../wgsl/attention.wgsl" with { type: "text" };
import tilesSource from "../../wgsl/attention_tiles.wgsl" with { type: "text" };
import subgroupsSource from "../../wgsl/attention_subgroups.wgsl" with { type: "text" };

/** One shape of the work of an invocation. */
interface Tile {
  readonly name: string;
  readonly lanes: number;
  /** Queries of an invocation. */
  readonly rows: number;
}

/** Keys and values are read as they lie, by every invocation or, where `shared`, once for a workgroup. */
interface Direct extends Tile {
  /** Keys of a step. */
  readonly keys: number;
  readonly shared: boolean;
}

/** Keys and values are packed first, and passed on by subgroups: a step takes a key for each lane. */
interface Packed extends Tile {
  readonly packed: true;
}

const isPacked = (tile: Direct | Packed): tile is Packed => "packed" in tile;

/** So many multiplications of queries and keys take less time in any tile than the text of a large one takes to compile. */
const LITTLE_WORK = 2 ** 21;

/** The tiles worth trying for heads of d4 vec4s, the best first. What is summed up takes rows · d4 registers of four. */
function tilesFor(d4: number, work: number, profile: Profile): (Direct | Packed)[] {
  const registers = { name: "registers", shared: false };
  if (profile.kind === "gpu") {
    const alone = { ...registers, lanes: 64, rows: d4 <= 16 ? 2 : 1, keys: 4 };
    if (d4 > 20) return [alone]; // a query and its sums would not fit the registers
    return [{ name: "tiles", shared: true, lanes: 64, rows: 1, keys: 8 }, alone];
  }
  const portable = d4 <= 20
    ? { ...registers, lanes: 8, rows: 4, keys: 8 }
    : { ...registers, lanes: 8, rows: 2, keys: 4 };
  if (profile.subgroups !== true) return [portable];
  const packed = {
    name: "subgroups",
    lanes: 8,
    rows: d4 <= 10 ? 4 : d4 <= 20 ? 3 : 2,
    packed: true,
  } as const;
  const few = { ...packed, name: "few rows", rows: 1 };
  return work <= LITTLE_WORK ? [few, packed, portable] : [packed, portable];
}

/** Queries of one or all samples that one dispatch computes. */
interface Part {
  readonly sample: number;
  readonly samples: number;
  readonly begin: number;
  readonly end: number;
}

/** Everything at once where the operands fit bindings, else blocks of queries of one sample. */
function partsOf(
  node: NodeOf<"attention">,
  residences: readonly Residence[],
  profile: Profile,
): Part[] {
  const [n, t] = node.shape;
  const bound = node.inputs.filter((_, i) => residences[i] === "buffer"); // and the result
  const bytes = 4 * Math.max(node.size, ...bound.map(({ size }) => size));
  if (bytes <= profile.maxBinding) return [{ sample: 0, samples: n, begin: 0, end: t }];
  const keys = 4 / n *
    Math.max(0, ...node.inputs.slice(1).filter((x) => bound.includes(x)).map(({ size }) => size));
  if (keys + WINDOW_ALIGNMENT > profile.maxBinding) {
    throw new RangeError(
      `Attention over ${node.inputs[1].shape[1]} keys needs ${keys} bytes in one binding, ` +
        `but the device binds ${profile.maxBinding}`,
    );
  }
  const widest = Math.max(node.size, residences[0] === "buffer" ? node.inputs[0].size : 0) / n / t;
  return Array.from(
    { length: n },
    (_, sample) => splitRows(t, widest, profile).map((rows) => ({ sample, samples: 1, ...rows })),
  ).flat();
}

/** The fewest vec4s of a dot product to write out so that no invocation runs too many rounds. */
export function depthFor(d4: number, steps: number): number {
  for (let depth = 1; depth <= d4; depth++) {
    if (d4 % depth === 0 && steps * (d4 / depth + 1) <= MAX_ITERATIONS) return depth;
  }
  return d4;
}

export const attention: Kernel<"attention"> = (node, profile, layoutOf) => {
  const d = node.shape[3];
  if (d % 4 !== 0 || d > WIDEST_HEAD) {
    throw new RangeError(`Attention with heads of ${d} channels must be lowered before it is run`);
  }
  const residences = residencesOf(node, profile, layoutOf);
  const lying = { residences, profile };
  const parts = partsOf(node, residences, profile);
  const work = node.size * node.inputs[1].shape[1];
  const variants = tilesFor(d / 4, work, profile).flatMap((tile): Variant[] => {
    if (isPacked(tile)) return packed(node, tile, parts, lying);
    const dispatches = parts.map((part) => direct(node, tile, part, lying));
    return [{ name: tile.name, scratch: [], dispatches }];
  });
  const [first, ...rest] = variants;
  return [first, ...rest];
};

/** Where and how operands are read. */
interface Lying {
  readonly residences: readonly Residence[];
  readonly profile: Profile;
}

/** How a dispatch reads the heads of an operand, or writes those of the result. */
interface Operand {
  readonly binding: Binding;
  /** Vec4s from one token to the next. */
  readonly pitch: number;
  /** Where the heads of sample 0's token 0 begin in what is bound; below zero where that is left out. */
  readonly first: number;
}

/** The tokens `from` … `to − 1` of one sample, or of all where they fit a binding, of an operand. */
function operandOf(
  node: NodeOf<"attention">,
  source: 0 | 1 | 2 | "result",
  sample: number,
  [from, to]: readonly [number, number],
  { residences, profile }: Lying,
): Operand {
  const x = source === "result" ? node : node.inputs[source];
  const residence = source === "result" ? "buffer" : residences[source];
  const head = source === "result" ? 0 : node.attrs.heads?.first[source] ?? 0;
  const [, length, heads, d] = x.shape;
  const operand: Operand = {
    binding: {
      name: source === "result" ? source : ["q", "k", "v"][source],
      source,
      element: "vec4f",
      access: source === "result" ? "read_write" : "read",
      residence,
    },
    pitch: heads * d / 4,
    first: head * d / 4,
  };
  if (residence === "texture" || x.size * 4 <= profile.maxBinding) return operand;
  const [begin, end] = [from, to].map((token) => (sample * length + token) * heads * d);
  const { window } = windowOn(begin, end, 4);
  return {
    ...operand,
    binding: { ...operand.binding, window },
    first: operand.first - window.offset / 16,
  };
}

function assertBounded(s: number, iterations: number): void {
  if (iterations <= MAX_ITERATIONS) return;
  throw new RangeError(`Attention over ${s} keys runs too long in one invocation`);
}

function direct(
  node: NodeOf<"attention">,
  { shared, lanes, rows, keys }: Direct,
  { sample, samples, begin, end }: Part,
  lying: Lying,
): Dispatch {
  const [, t, heads, d] = node.shape;
  const s = node.inputs[1].shape[1];
  const d4 = d / 4;
  const q = operandOf(node, 0, sample, [begin, end], lying);
  const k = operandOf(node, 1, sample, [0, s], lying);
  const v = operandOf(node, 2, sample, [0, s], lying);
  const result = operandOf(node, "result", sample, [begin, end], lying);
  const steps = Math.ceil(s / keys);
  // Loops within a step: over the vec4s of a dot product, or those of a tile that are this lane's.
  const depth = shared ? d4 : depthFor(d4, steps);
  const rounds = shared ? Math.ceil(keys * d4 / lanes) : d4 / depth;
  const iterations = steps * (rounds + 1);
  assertBounded(s, iterations);
  return {
    shader: {
      source: shared ? tilesSource : registersSource,
      type: "vec4f",
      constants: {
        LANES: lanes,
        ROWS: rows,
        KEYS: keys,
        ...(shared ? { TILE: keys * d4 } : { DEPTH: depth }),
        D4: d4,
        CAUSAL: node.attrs.causal,
      },
      bindings: [q.binding, k.binding, v.binding, result.binding],
    },
    params: {
      u32: {
        queries: t,
        keys: s,
        heads,
        first_sample: sample,
        first_query: begin,
        end_query: end,
        q_pitch: q.pitch,
        q_first: q.first,
        k_pitch: k.pitch,
        k_first: k.first,
        v_pitch: v.pitch,
        v_first: v.first,
        result_first: result.first,
      },
      f32: { scale: node.attrs.scale },
    },
    grid: [Math.ceil((end - begin) / rows / lanes), heads, samples],
    iterations,
  };
}

/**
 * Keys and values are packed by head, then read by subgroups; nothing where those of a sample exceed a binding or a
 * texture.
 */
function packed(
  node: NodeOf<"attention">,
  tile: Packed,
  parts: readonly Part[],
  lying: Lying,
): Variant[] {
  const [, , heads, d] = node.shape;
  const { maxBinding, maxTextureSide } = lying.profile;
  const blocks = Math.ceil(node.inputs[1].shape[1] / tile.lanes); // of keys
  const bytes = heads * blocks * tile.lanes * d * 4; // of a sample
  const most = Math.min(maxBinding, 16 * TEXTURE_WIDTH * maxTextureSide);
  if (bytes > most) return [];
  const fitting = parts.flatMap((part) =>
    bytes * part.samples <= most ? [part] : Array.from(
      { length: part.samples },
      (_, i): Part => ({ ...part, sample: part.sample + i, samples: 1 }),
    )
  );
  const dispatches = fitting.flatMap((part, i) => {
    const known = i > 0 && fitting[i - 1].sample === part.sample;
    const attended = attend(node, tile, part, blocks, lying);
    return known ? [attended] : [pack(node, tile, part, blocks, lying), attended];
  });
  const size = bytes * Math.max(...fitting.map(({ samples }) => samples));
  return [{ name: tile.name, scratch: [size, size], dispatches }];
}

/** The dispatch that packs what `attend` reads, into two pieces of scratch memory. */
function pack(
  node: NodeOf<"attention">,
  { lanes }: Packed,
  { sample, samples }: Part,
  blocks: number,
  lying: Lying,
): Dispatch {
  const [, , heads, d] = node.shape;
  const s = node.inputs[1].shape[1];
  const THREADS = 64;
  const k = operandOf(node, 1, sample, [0, s], lying);
  const v = operandOf(node, 2, sample, [0, s], lying);
  const to = (name: string, scratch: number): Binding => ({
    name,
    source: { scratch },
    element: "vec4f",
    access: "read_write",
    residence: "buffer",
  });
  return {
    name: "keys and values",
    shader: {
      source: packSource,
      type: "vec4f",
      constants: { LANES: lanes, THREADS },
      bindings: [k.binding, v.binding, to("packed_k", 0), to("packed_v", 1)],
    },
    params: {
      u32: {
        keys: s,
        blocks,
        heads,
        width: d / 4,
        first_sample: sample,
        k_pitch: k.pitch,
        k_first: k.first,
        v_pitch: v.pitch,
        v_first: v.first,
      },
    },
    grid: [Math.ceil(blocks * lanes * d / 4 / THREADS), heads, samples],
    iterations: 0,
  };
}

function attend(
  node: NodeOf<"attention">,
  { lanes, rows }: Packed,
  { sample, samples, begin, end }: Part,
  blocks: number,
  lying: Lying,
): Dispatch {
  const [, t, heads, d] = node.shape;
  const s = node.inputs[1].shape[1];
  const d4 = d / 4;
  const q = operandOf(node, 0, sample, [begin, end], lying);
  const result = operandOf(node, "result", sample, [begin, end], lying);
  const from = (name: string, scratch: number): Binding => ({
    name,
    source: { scratch },
    element: "vec4f",
    access: "read",
    residence: "texture",
  });
  const roundsOf = (few: number) => blocks * (1 + lanes / few);
  const few = [1, 2, 4].find((few) => roundsOf(few) <= MAX_ITERATIONS) ?? lanes;
  assertBounded(s, roundsOf(few));
  return {
    shader: {
      source: subgroupsSource,
      type: "vec4f",
      constants: {
        LANES: lanes,
        ROWS: rows,
        FEW: few,
        KEPT: lanes - few,
        KEY_READS: Math.ceil(few * d4 / lanes),
        D4: d4,
        CAUSAL: node.attrs.causal,
      },
      bindings: [q.binding, from("k", 0), from("v", 1), result.binding],
    },
    params: {
      u32: {
        queries: t,
        keys: s,
        blocks,
        heads,
        first_sample: sample,
        first_query: begin,
        end_query: end,
        q_pitch: q.pitch,
        q_first: q.first,
        result_first: result.first,
      },
      f32: { scale: node.attrs.scale * Math.LOG2E },
    },
    grid: [Math.ceil((end - begin) / rows / lanes), heads, samples],
    iterations: roundsOf(few),
  };
}
