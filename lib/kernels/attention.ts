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
  type Variant,
  WINDOW_ALIGNMENT,
  windowOn,
} from "./kernel.ts";
import { WIDEST_HEAD } from "./lower.ts";
import registersSource from "../../wgsl/attention.wgsl" with { type: "text" };
import tilesSource from "../../wgsl/attention_tiles.wgsl" with { type: "text" };
import subgroupsSource from "../../wgsl/attention_subgroups.wgsl" with { type: "text" };

/** One shape of the work of an invocation. */
interface Tile {
  readonly name: string;
  readonly source: string;
  readonly lanes: number;
  /** Queries of an invocation. */
  readonly rows: number;
  /** Keys of a step. */
  readonly keys: number;
}

/** The tiles worth trying for heads of d4 vec4s, the best first. What is summed up takes rows · d4 registers of four. */
function tilesFor(d4: number, profile: Profile): [Tile, ...Tile[]] {
  const registers = { name: "registers", source: registersSource };
  if (profile.kind === "gpu") {
    const alone = { ...registers, lanes: 64, rows: d4 <= 16 ? 2 : 1, keys: 4 };
    if (d4 > 20) return [alone]; // a query and its sums would not fit the registers
    return [{ name: "tiles", source: tilesSource, lanes: 64, rows: 1, keys: 8 }, alone];
  }
  const portable = d4 <= 20
    ? { ...registers, lanes: 8, rows: 4, keys: 8 }
    : { ...registers, lanes: 8, rows: 2, keys: 4 };
  if (profile.subgroups !== true) return [portable];
  const shared = { name: "subgroups", source: subgroupsSource, lanes: 8 };
  return [{ ...shared, rows: d4 <= 10 ? 3 : 2, keys: d4 <= 10 ? 16 : 8 }, portable];
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
function depthFor(d4: number, steps: number): number {
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
  const [first, ...rest] = tilesFor(d / 4, profile);
  const residences = residencesOf(node, profile, layoutOf);
  const variantOf = (tile: Tile): Variant => {
    const dispatches = partsOf(node, residences, profile).map((part) =>
      dispatchOf(node, tile, part, { residences, profile })
    );
    return { name: tile.name, scratch: [], dispatches };
  };
  return [variantOf(first), ...rest.map(variantOf)];
};

/** Where and how operands are read. */
interface Lying {
  readonly residences: readonly Residence[];
  readonly profile: Profile;
}

function dispatchOf(
  node: NodeOf<"attention">,
  { source, lanes, rows, keys }: Tile,
  { sample, samples, begin, end }: Part,
  { residences, profile }: Lying,
): Dispatch {
  const [, t, heads, d] = node.shape;
  const s = node.inputs[1].shape[1];
  const d4 = d / 4;
  /** An operand's vec4s from one token to the next, where its heads begin, and the window on its tokens, if any. */
  const part = (index: 0 | 1 | 2 | "result", from: number, to: number) => {
    const x = index === "result" ? node : node.inputs[index];
    const head = index === "result" ? 0 : node.attrs.heads?.first[index] ?? 0;
    const [, length, all] = x.shape;
    const lies = { pitch: all * d4, first: head * d4 };
    const inTexture = index !== "result" && residences[index] === "texture";
    if (inTexture || x.size * 4 <= profile.maxBinding) return lies;
    const [first, last] = [from, to].map((token) => (sample * length + token) * all * d);
    const { window } = windowOn(first, last, 4);
    return { ...lies, first: lies.first - window.offset / 16, window };
  };
  const parts = {
    q: part(0, begin, end),
    k: part(1, 0, s),
    v: part(2, 0, s),
    result: part("result", begin, end),
  };
  const binding = (name: keyof typeof parts, index: number | "result"): Binding => ({
    name,
    source: index,
    element: "vec4f",
    access: index === "result" ? "read_write" : "read",
    residence: index === "result" ? "buffer" : residences[index],
    ...("window" in parts[name] ? { window: parts[name].window } : {}),
  });
  const steps = Math.ceil(s / keys);
  // Loops within a step: over the vec4s of a dot product, or those of a tile that are this lane's.
  const isTiled = source === tilesSource;
  const depth = isTiled ? d4 : depthFor(d4, steps);
  const rounds = isTiled ? Math.ceil(keys * d4 / lanes) : d4 / depth;
  if (steps * (rounds + 1) > MAX_ITERATIONS) {
    throw new RangeError(`Attention over ${s} keys runs too long in one invocation`);
  }
  return {
    shader: {
      source,
      type: "vec4f",
      constants: {
        LANES: lanes,
        ROWS: rows,
        KEYS: keys,
        ...(source === subgroupsSource ? { BLOCKS: keys / lanes } : {}),
        ...(isTiled ? { TILE: keys * d4 } : { DEPTH: depth }),
        D4: d4,
        CAUSAL: node.attrs.causal,
      },
      bindings: [binding("q", 0), binding("k", 1), binding("v", 2), binding("result", "result")],
    },
    params: {
      u32: {
        queries: t,
        keys: s,
        heads,
        first_sample: sample,
        first_query: begin,
        end_query: end,
        q_pitch: parts.q.pitch,
        q_first: parts.q.first,
        k_pitch: parts.k.pitch,
        k_first: parts.k.first,
        v_pitch: parts.v.pitch,
        v_first: parts.v.first,
        result_first: parts.result.first,
      },
      f32: { scale: node.attrs.scale },
    },
    grid: [Math.ceil((end - begin) / rows / lanes), heads, samples],
    iterations: steps * (rounds + 1),
  };
}
