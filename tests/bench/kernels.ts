/**
 * GFLOP/s of products and convolutions at Stable Diffusion's shapes, f16 weights, on the device that tests run on:
 * `deno run -A tests/bench/kernels.ts [part of a name]`. Wall clock over n dispatches, less an empty submission, the best
 * of several; timestamp queries are not to be trusted (platform.md). The second figure counts the CPU time this process
 * used, as if all cores had been its own: the one to compare on a shared machine with a software device.
 */

import { cpuUsage } from "node:process";
import { availableParallelism } from "node:os";
import { Graph, type Tensor } from "../../lib/graph/tensor.ts";
import { conv2d } from "../../lib/kernels/conv2d.ts";
import type { LayoutOf, Profile, Variant } from "../../lib/kernels/kernel.ts";
import { matmul } from "../../lib/kernels/matmul.ts";
import { layoutFor } from "../../lib/kernels/weights.ts";
import { profileOf, testDevice } from "../gpu.ts";
import { prepare, type Values } from "../kernels/runner.ts";

const linear = (m: number, n: number, k: number) => (g: Graph) =>
  g.input("x", [m, k]).matmul(g.parameter("w", [n, k], "linear"), { transposeB: true });
const scores = (batch: number, m: number, n: number, k: number) => (g: Graph) =>
  g.input("a", [batch, m, k]).matmul(g.input("b", [batch, n, k]), { transposeB: true });
const mix = (batch: number, m: number, n: number, k: number) => (g: Graph) =>
  g.input("a", [batch, m, k]).matmul(g.input("b", [batch, k, n]), { transposeB: false });
const conv = (side: number, ci: number, co: number, stride = 1, upsample = 1) => (g: Graph) =>
  g.node("conv2d", [
    g.input("x", [1, side, side, ci]),
    g.parameter("w", [co, 3, 3, ci], "conv"),
  ], { stride, padding: { top: 1, bottom: 1, left: 1, right: 1 }, upsample });

/** The same with a bias and a residual. */
const fused = (m: number, n: number, k: number) => (g: Graph) =>
  g.node("matmul", [
    g.input("x", [m, k]),
    g.parameter("w", [n, k], "linear"),
    g.parameter("bias", [n], "vector"),
    g.input("residual", [m, n]),
  ], {
    transposeB: true,
    epilogue: {
      body: {
        op: "add",
        args: [{ op: "add", args: [{ input: 0 }, { input: 1 }] }, { input: 2 }],
      },
    },
  });

const SHAPES: Readonly<Record<string, (g: Graph) => Tensor>> = {
  "matmul 4096×320×320": linear(4096, 320, 320),
  "matmul 4096×320×320 fused": fused(4096, 320, 320),
  "matmul 4096×2560×320": linear(4096, 2560, 320),
  "matmul 1024×5120×640": linear(1024, 5120, 640),
  "matmul 1024×640×2560": linear(1024, 640, 2560),
  "matmul 256×1280×1280": linear(256, 1280, 1280),
  "matmul 64×1280×1280": linear(64, 1280, 1280),
  "matmul 77×3072×768": linear(77, 3072, 768),
  "matmul 154×640×768": linear(154, 640, 768),
  "matmul 2×1280×1280": linear(2, 1280, 1280),
  "scores 1 4096×4096×512": scores(1, 4096, 4096, 512),
  "mix 1 4096×512×4096": mix(1, 4096, 512, 4096),
  "conv 320→320 64²": conv(64, 320, 320),
  "conv 640→640 32²": conv(32, 640, 640),
  "conv 1280→1280 16²": conv(16, 1280, 1280),
  "conv 1280→1280 8²": conv(8, 1280, 1280),
  "conv 512→512 64²": conv(64, 512, 512),
  "conv 128→128 128²": conv(128, 128, 128),
  "conv 320→320 64² stride 2": conv(64, 320, 320, 2),
  "conv 640→640 16² enlarged": conv(16, 640, 640, 1, 2),
  "conv 4→320 64²": conv(64, 4, 320),
  "conv 3→128 512²": conv(512, 3, 128),
  "conv 320→4 64²": conv(64, 320, 4),
  "conv 128→3 256²": conv(256, 128, 3),
};

/** Multiplications and additions of a product or convolution. */
function flops(node: Tensor): number {
  const [a, b]: readonly Tensor[] = node.inputs;
  const reduction = node.op === "conv2d" ? b.size / b.shape[0] : a.shape[a.rank - 1];
  return 2 * node.size * reduction;
}

function variantsOf(node: Tensor, profile: Profile, layoutOf: LayoutOf): readonly Variant[] {
  if (node.op === "matmul") return matmul(node, profile, layoutOf);
  if (node.op === "conv2d") return conv2d(node, profile, layoutOf);
  throw new RangeError(`There is no benchmark of ${node.op}`);
}

const device = await testDevice();
const kind = Deno.env.get("LDM_BENCH_KIND") === "gpu" ? "gpu" : "software";
const print = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
const done = () => device.gpu.queue.onSubmittedWorkDone();
const cpuSeconds = () => {
  const { user, system } = cpuUsage();
  return (user + system) / 1e6;
};

for (const [name, build] of Object.entries(SHAPES)) {
  if (!name.includes(Deno.args[0] ?? "")) continue;
  const node = build(new Graph());
  const profile = profileOf(device, { kind });
  const layoutOf: LayoutOf = (p) =>
    p.op === "parameter"
      ? layoutFor(p.attrs.role, p.shape, "f16", profile)
      : { format: "rows32", residence: "buffer" };
  const inputs: readonly Tensor[] = node.inputs;
  const values = new Map<Tensor, Values>(inputs.map((input) => {
    const scale = input.op === "parameter" ? 0.05 : 1;
    const list = new Float32Array(input.size).map((_, i) => ((i * 7919) % 1000 / 500 - 1) * scale);
    return [input, list];
  }));
  for (const variant of variantsOf(node, profile, layoutOf)) {
    using prepared = await prepare(device, node, variant, values, layoutOf);
    const run = async (times: number) => {
      const [wall, cpu] = [performance.now(), cpuSeconds()];
      prepared.submit(times);
      await done();
      return { wall: (performance.now() - wall) / 1e3, cpu: cpuSeconds() - cpu };
    };
    const first = await run(1);
    const empty = Math.min((await run(0)).wall, (await run(0)).wall);
    const once = await run(1);
    const times = Math.max(1, Math.ceil(0.1 / Math.max(1e-4, once.wall - empty)));
    let [wall, cpu] = [Infinity, Infinity];
    for (let i = 0; i < 8; i++) {
      const took = await run(times);
      wall = Math.min(wall, (took.wall - empty) / times);
      cpu = Math.min(cpu, took.cpu / times / availableParallelism());
    }
    const rate = (seconds: number) => (flops(node) / seconds / 1e9).toFixed(1).padStart(7);
    print(
      `${name.padEnd(28)} ${variant.name.padEnd(8)} ${rate(wall)} GFLOP/s, ` +
        `${rate(cpu)} of CPU time; first ${(first.wall * 1e3).toFixed(0)} ms`,
    );
  }
}
device.check();
