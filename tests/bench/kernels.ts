/**
 * Single operators at the models' real shapes, as the engine would compute them: products, convolutions and attention in
 * GFLOP/s (of the plain algorithm's work, whatever the kernel's), norms and moves in GB/s (of the least traffic). Every
 * variant is timed. Copies of operands into textures are left out of the main figures, as readers share them, and shown
 * beside; copies of what a variant computes on its way count.
 */

import {
  encodeStage,
  release,
  storageBuffer,
  storageTexture,
  type StoredParameter,
  storeWeight,
} from "../../lib/gpu/buffers.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { compile, type HostArray, type Program } from "../../lib/gpu/program.ts";
import { type Task, tasksOf } from "../../lib/gpu/tune.ts";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { choiceOf } from "../../lib/kernels/table.ts";
import { silu } from "../../lib/nn/layers.ts";
import type { Answer, Peer } from "./peers.ts";
import type { Section } from "./report.ts";
import { type Contender, type Seconds, takeTurns, timed } from "./turns.ts";

interface Case {
  readonly build: (g: Graph) => Tensor;
  /** Multiplications and additions of the plain algorithm, or bytes of values read and written once. */
  readonly work: { readonly flops: number } | { readonly bytes: number };
  /** The same for peers/torch_kernels.py. */
  readonly torch: Readonly<Record<string, unknown>>;
}

const weight = (g: Graph, n: number, k: number) => g.parameter("w", [n, k], "linear");

/** [m, k] by a weight [n, k]; `fused` with a bias and a residual. */
function linear(m: number, n: number, k: number, fused = false): Case {
  return {
    build: (g) => {
      const y = g.input("x", [m, k]).matmul(weight(g, n, k), { transposeB: true });
      if (!fused) return y;
      return y.add(g.parameter("b", [n], "vector")).add(g.input("residual", [m, n]));
    },
    work: { flops: 2 * m * n * k },
    torch: { op: "matmul", batch: 1, m, n, k, fused },
  };
}

/** Activations by activations: [batch, m, k] by [batch, n, k] or, as values are read, [batch, k, n]. */
function product(batch: number, m: number, n: number, k: number, transposeB: boolean): Case {
  return {
    build: (g) =>
      g.input("a", [batch, m, k]).matmul(
        g.input("b", transposeB ? [batch, n, k] : [batch, k, n]),
        { transposeB },
      ),
    work: { flops: 2 * batch * m * n * k },
    torch: { op: "matmul", batch, m, n, k, fused: false },
  };
}

/** A 3×3 convolution of a square picture, given by the side of what it reads. */
function conv(side: number, ci: number, co: number, { stride = 1, upsample = 1 } = {}): Case {
  const out = side * upsample / stride;
  const padding = { top: 1, bottom: 1, left: 1, right: 1 };
  return {
    build: (g) =>
      g.node("conv2d", [
        g.input("x", [1, side, side, ci]),
        g.parameter("w", [co, 3, 3, ci], "conv"),
      ], { stride, padding, upsample }),
    work: { flops: 2 * out * out * ci * co * 9 },
    torch: { op: "conv2d", height: side, width: side, ci, co, kernel: 3, stride, upsample },
  };
}

function attention(tokens: number, keys: number, heads: number, d: number): Case {
  return {
    build: (g) => {
      const of = (name: string, n: number) => g.input(name, [1, n, heads, d]);
      const options = { scale: d ** -0.5, causal: false };
      return of("q", tokens).attention(of("k", keys), of("v", keys), options);
    },
    work: { flops: 4 * heads * tokens * keys * d },
    torch: { op: "attention", tokens, keys, heads, d },
  };
}

/** Statistics read x once, the normalisation once more. */
function groupNormSilu(side: number, channels: number): Case {
  return {
    build: (g) => {
      const x = g.input("x", [1, side, side, channels]);
      const vector = (name: string) => g.parameter(name, [channels], "vector");
      const moments = x.groupMoments(32);
      return silu(x.groupNormalize(moments, vector("w"), vector("b"), { groups: 32, eps: 1e-5 }));
    },
    work: { bytes: 3 * 4 * side * side * channels },
    torch: { op: "group_norm", height: side, width: side, channels },
  };
}

/** Work over rows of channels that reads `reads` times as many values as it writes. */
function rowwise(
  op: string,
  rows: number,
  channels: number,
  reads: number,
  build: (g: Graph, rows: number, channels: number) => Tensor,
): Case {
  return {
    build: (g) => build(g, rows, channels),
    work: { bytes: (reads + 1) * 4 * rows * channels },
    torch: { op, rows, channels },
  };
}

const input = (g: Graph, name: string, rows: number, channels: number) =>
  g.input(name, [rows, channels]);
const layerNorm = (rows: number, channels: number) =>
  rowwise("layer_norm", rows, channels, 1, (g, m, n) => {
    const vector = (name: string) => g.parameter(name, [n], "vector");
    return input(g, "x", m, n).layerNorm(vector("w"), vector("b"), { eps: 1e-5 });
  });
const softmax = (rows: number, channels: number) =>
  rowwise("softmax", rows, channels, 1, (g, m, n) => input(g, "x", m, n).softmax());
const activation = (rows: number, channels: number) =>
  rowwise("silu", rows, channels, 1, (g, m, n) => silu(input(g, "x", m, n)));
const add = (rows: number, channels: number) =>
  rowwise("add", rows, channels, 2, (g, m, n) => input(g, "x", m, n).add(input(g, "y", m, n)));
const concat = (rows: number, channels: number) =>
  rowwise(
    "concat",
    rows,
    channels,
    2,
    (g, m, n) => g.concat([input(g, "x", m, n), input(g, "y", m, n)], 1),
  );
/** The product is not counted: GEGLU's halves come from one that is timed by itself. */
const gates = (rows: number, channels: number) =>
  rowwise("geglu", rows, channels, 2, (g, m, n) => {
    const both = input(g, "x", m, 2 * n);
    const gate = both.slice(-1, n, 2 * n);
    return both.slice(-1, 0, n).mul(gate.mul(0.5).mul(gate.mul(Math.SQRT1_2).erf().add(1)));
  });

/** By family, as Stable Diffusion 1.5 has them at 512². */
const CASES: Readonly<Record<string, Readonly<Record<string, Case>>>> = {
  "Products": {
    "product 4096×320×320": linear(4096, 320, 320),
    "product 4096×320×320, bias and residual": linear(4096, 320, 320, true),
    "product 4096×2560×320": linear(4096, 2560, 320),
    "product 4096×320×1280": linear(4096, 320, 1280),
    "product 1024×640×640": linear(1024, 640, 640),
    "product 1024×5120×640": linear(1024, 5120, 640),
    "product 1024×640×2560": linear(1024, 640, 2560),
    "product 256×1280×1280": linear(256, 1280, 1280),
    "product 256×10240×1280": linear(256, 10240, 1280),
    "product 64×1280×1280": linear(64, 1280, 1280),
    "product 77×3072×768": linear(77, 3072, 768),
    "product 154×640×768": linear(154, 640, 768),
    "product 2×1280×1280": linear(2, 1280, 1280),
    "scores 4096×4096×512": product(1, 4096, 4096, 512, true),
    "values 4096×512×4096": product(1, 4096, 512, 4096, false),
  },
  "Convolutions": {
    "conv 320→320 64²": conv(64, 320, 320),
    "conv 640→320 64²": conv(64, 640, 320),
    "conv 640→640 32²": conv(32, 640, 640),
    "conv 1280→1280 16²": conv(16, 1280, 1280),
    "conv 2560→1280 16²": conv(16, 2560, 1280),
    "conv 1280→1280 8²": conv(8, 1280, 1280),
    "conv 320→320 64² stride 2": conv(64, 320, 320, { stride: 2 }),
    "conv 640→640 16² enlarged": conv(16, 640, 640, { upsample: 2 }),
    "conv 4→320 64²": conv(64, 4, 320),
    "conv 320→4 64²": conv(64, 320, 4),
    "conv 512→512 64²": conv(64, 512, 512),
    "conv 512→512 128²": conv(128, 512, 512),
    "conv 256→256 256²": conv(256, 256, 256),
    "conv 128→128 512²": conv(512, 128, 128),
    "conv 128→3 512²": conv(512, 128, 3),
    "conv 3→128 512²": conv(512, 3, 128),
  },
  "Attention": {
    "attention 4096, 8 heads of 40": attention(4096, 4096, 8, 40),
    "attention 1024, 8 heads of 80": attention(1024, 1024, 8, 80),
    "attention 256, 8 heads of 160": attention(256, 256, 8, 160),
    "attention 4096×77, 8 heads of 40": attention(4096, 77, 8, 40),
    "attention 1024×77, 8 heads of 80": attention(1024, 77, 8, 80),
    "attention 4096, 1 head of 512": attention(4096, 4096, 1, 512),
  },
  "Norms and maps": {
    "group norm, SiLU 64²×320": groupNormSilu(64, 320),
    "group norm, SiLU 16²×1280": groupNormSilu(16, 1280),
    "group norm, SiLU 512²×128": groupNormSilu(512, 128),
    "layer norm 4096×320": layerNorm(4096, 320),
    "softmax 4096×4096": softmax(4096, 4096),
    "SiLU 4096×320": activation(4096, 320),
    "GEGLU 4096×1280": gates(4096, 1280),
    "sum 4096×320": add(4096, 320),
    "concatenation 4096×320": concat(4096, 320),
  },
};

export interface KernelOptions {
  /** Part of the names of cases. */
  readonly filter: string;
  readonly rounds: number;
  readonly torch: Peer | undefined;
  /** Told when a section's row is found. */
  readonly progress: (name: string) => void;
}

/** Seconds that a turn should last at least. */
const TURN = 0.1;
/** Where a single dispatch takes a second, fewer rounds do. */
const SLOW_ROUNDS = 3;

export async function* kernelSections(
  device: Device,
  options: KernelOptions,
): AsyncGenerator<Section, void, undefined> {
  for (const [title, cases] of Object.entries(CASES)) {
    const rows: Section["rows"][number][] = [];
    for (const [name, found] of Object.entries(cases)) {
      if (!name.includes(options.filter)) continue;
      options.progress(name);
      rows.push(...await caseRows(device, name, found, options));
    }
    if (rows.length > 0) yield { title, notes: [unitNote(Object.values(cases)[0])], rows };
  }
  const copies = await copyRows(device, options);
  if (copies.length > 0) {
    const notes = ["GB/s of what is copied, as the host sees it."];
    yield { title: "Copies into textures", notes, rows: copies };
  }
}

function unitNote({ work }: Case): string {
  const what = "flops" in work
    ? "GFLOP/s of the plain algorithm's work"
    : "GB/s of the least traffic";
  return `${what}: median and best of turns taken with the others; "CPU" had all cores been the process's own; ` +
    `"with copies" counts those of operands into textures, which readers share.`;
}

/** One row for each variant of a case, the default first. */
async function caseRows(
  device: Device,
  name: string,
  { build, work, torch }: Case,
  { rounds, torch: peer }: KernelOptions,
): Promise<Section["rows"]> {
  const output = build(new Graph());
  using owned = new DisposableStack();
  const { parameters, values } = madeUp(device, output, owned);
  const programs: { variant: string; program: Program }[] = [];
  for (const { variant, task } of variantsOf(device, output)) {
    const choice = choiceOf(device.profile, task && new Map([[task.shapeClass, variant]]));
    const outputs = new Map([["y", output]]);
    const program = owned.use(await compile(device, outputs, parameters, { choice }));
    program.feed(values);
    programs.push({ variant, program });
  }
  const contenders: Contender[] = [];
  const first: number[] = [];
  let slowest = 0;
  const idle = await programs[0].program.idle() / 1e3;
  for (const { variant, program } of programs) {
    first.push((await timed(() => program.time(1))).wall);
    const once = (await timed(() => program.time(1))).wall - idle;
    const times = Math.max(1, Math.min(1000, Math.ceil(TURN / Math.max(1e-5, once))));
    slowest = Math.max(slowest, once);
    for (const copies of [false, true]) {
      contenders.push({
        name: `${variant}${copies ? " with copies" : ""}`,
        turn: async () => {
          const { wall, cpu = 0 } = await timed(() => program.time(times, { copies }));
          return { work: { wall: Math.max(1e-9, wall - idle) / times, cpu: cpu / times } };
        },
      });
    }
  }
  if (peer) contenders.push(await peerContender(peer, torch));
  const seconds = await takeTurns(
    contenders,
    slowest < 1 ? rounds : Math.min(rounds, SLOW_ROUNDS),
  );
  const of = (contender: string) => seconds.get(contender)?.get("work");
  const native = of(PEER);
  return programs.map(({ variant }, i) => {
    const mine = of(variant);
    return {
      "kernel": i === 0 ? name : "",
      "variant": variant,
      ...rates(work, mine),
      "with copies": rate(work, of(`${variant} with copies`)?.median),
      "first ms": first[i] * 1e3,
      ...(peer && {
        "torch": rate(work, native?.median),
        "ratio": mine && native ? native.median / mine.median : undefined,
      }),
    };
  });
}

const PEER = "peer";

/** A peer's turns at one request; none where it refuses. */
async function peerContender(
  peer: Peer,
  request: Readonly<Record<string, unknown>>,
): Promise<Contender> {
  const once = await peer.ask({ ...request, times: 1 }).catch((): Answer | undefined => undefined);
  if (!once) return { name: PEER, turn: () => Promise.resolve({}) };
  const { wall } = await peer.ask({ ...request, times: 1 });
  const times = Math.max(1, Math.min(1000, Math.ceil(TURN / Math.max(1e-5, wall))));
  return {
    name: PEER,
    turn: async () => {
      const { wall, cpu = 0 } = await peer.ask({ ...request, times });
      return { work: { wall: wall / times, cpu: cpu / times } };
    },
  };
}

function rates(work: Case["work"], seconds: Seconds | undefined) {
  return {
    ["flops" in work ? "GFLOP/s" : "GB/s"]: rate(work, seconds?.median),
    "best": rate(work, seconds?.best),
    "CPU": rate(work, seconds?.cpu),
  };
}

function rate(work: Case["work"], seconds: number | undefined): number | undefined {
  if (seconds === undefined) return undefined;
  return ("flops" in work ? work.flops : work.bytes) / seconds / 1e9;
}

/** The default, and every other variant of the operators that an output takes. */
function variantsOf(device: Device, output: Tensor): { variant: string; task?: Task }[] {
  const tasks = tasksOf([[output]], device.profile, {
    weights: "f16",
    most: Infinity,
    approximate: true,
  });
  const standard = tasks.map(({ shapeClass, names }) =>
    choiceOf(device.profile)(shapeClass) ?? names[0]
  );
  const others = tasks.flatMap((task, i) =>
    task.names.filter((name) => name !== standard[i]).map((variant) => ({ variant, task }))
  );
  return [{ variant: standard.join(", ") || "default" }, ...others];
}

/** Weights on the device and inputs on the host for a graph; the former are freed with `owned`. */
function madeUp(device: Device, output: Tensor, owned: DisposableStack) {
  const parameters = new Map<string, StoredParameter>();
  const values: Record<string, HostArray> = {};
  for (const node of output.graph.nodes) {
    if (node.op === "input") values[node.attrs.name] = numbers(node.size, 1);
    if (node.op !== "parameter") continue;
    const source = { dtype: "f32", data: new Uint8Array(numbers(node.size, 0.05).buffer) } as const;
    const stored = storeWeight(device, source, node.attrs, "f16");
    parameters.set(node.attrs.name, stored);
    owned.defer(() => release(device, stored.resource));
  }
  return { parameters, values };
}

/** Numbers between −scale and scale. */
function numbers(count: number, scale: number): Float32Array<ArrayBuffer> {
  const list = new Float32Array(count);
  for (let i = 0; i < count; i++) list[i] = (i * 7919 % 1009 / 504.5 - 1) * scale;
  return list;
}

/** Sizes whose copies are timed, in values. */
const COPIES: Readonly<Record<string, number>> = {
  "copy 4096×320": 4096 * 320,
  "copy 4096×2560": 4096 * 2560,
  "copy 512²×128": 512 ** 2 * 128,
};

async function copyRows(
  device: Device,
  { filter, rounds, progress }: KernelOptions,
): Promise<Section["rows"]> {
  if (device.profile.kind !== "software") return []; // others read buffers
  const rows: Section["rows"][number][] = [];
  for (const [name, size] of Object.entries(COPIES)) {
    if (!name.includes(filter)) continue;
    progress(name);
    const buffer = storageBuffer(device, size * 4, name);
    const texture = storageTexture(device, size * 4, "rgba32float", name);
    if (texture.kind !== "texture") throw new TypeError("A texture was expected");
    const turn = async (times: number) => {
      const encoder = device.gpu.createCommandEncoder();
      for (let i = 0; i < times; i++) encodeStage(encoder, buffer, texture.texture, size * 4);
      device.gpu.queue.submit([encoder.finish()]);
      await device.finish();
    };
    await turn(1);
    const times = Math.ceil(2 ** 28 / size / 4);
    let idle = Infinity;
    for (let i = 0; i < 5; i++) idle = Math.min(idle, (await timed(() => turn(0))).wall);
    const mine: Contender = {
      name,
      turn: async () => {
        const { wall, cpu = 0 } = await timed(() => turn(times));
        return { work: { wall: Math.max(1e-9, wall - idle) / times, cpu: cpu / times } };
      },
    };
    const seconds = (await takeTurns([mine], rounds)).get(name)?.get("work");
    rows.push({ "copy": name, ...rates({ bytes: size * 4 }, seconds) });
    release(device, { kind: "buffer", buffer });
    release(device, texture);
  }
  return rows;
}
