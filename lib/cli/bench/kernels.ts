/**
 * Single operators at the models' real shapes, as the engine would compute them: products, convolutions and attention in
 * GFLOP/s, norms and moves in GB/s. Copies of operands into textures are left out of the main figures, as readers share
 * them, and shown beside; copies of what a variant computes on its way count.
 */

import { MemoryError } from "../../base/errors.ts";
import { release, type StoredParameter, storeWeight } from "../../gpu/buffers.ts";
import type { Device } from "../../gpu/device.ts";
import { compile, type HostArray, type Program } from "../../gpu/program.ts";
import { type Task, tasksOf } from "../../gpu/tune.ts";
import { Graph, type Tensor } from "../../graph/tensor.ts";
import { choiceOf } from "../../kernels/table.ts";
import { type Case, CASES } from "./cases.ts";
import { copyRows } from "./copies.ts";
import { rate, rates } from "./rates.ts";
import type { Section } from "./report.ts";
import { type Contender, takeTurns, timed } from "./turns.ts";

/** Another program that computes the same in turns with this one. */
export interface Rival {
  readonly name: string;
  /** Its turns at a case, each with seconds of one dispatch under "work"; about as long as `turnSeconds`. */
  contender(request: Case["request"], turnSeconds: number): Promise<Contender>;
}

export interface KernelOptions {
  /** Which cases, by their names. */
  readonly isWanted: (name: string) => boolean;
  /** Every variant, or the one that the device's table chooses. */
  readonly variants: "all" | "chosen";
  readonly weights: "f16" | "f32";
  readonly rounds: number;
  readonly rival: Rival | undefined;
  /** Told what is going to be timed. */
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
      if (!options.isWanted(name)) continue;
      options.progress(name);
      rows.push(...await caseRows(device, name, found, options).catch(doesNotFit(name)));
    }
    if (rows.length > 0) {
      yield { title, notes: [unitNote(Object.values(cases)[0], hasCopies(device))], rows };
    }
  }
  const copies = await copyRows(device, options);
  if (copies.length > 0) {
    const notes = ["GB/s of what is copied, as the host sees it."];
    yield { title: "Copies into textures", notes, rows: copies };
  }
}

function unitNote({ work }: Case, copies: boolean): string {
  const what = "flops" in work
    ? "GFLOP/s of the plain algorithm's work"
    : "GB/s of the least traffic";
  return `${what}: median and best of several turns; "CPU" had all cores been the process's own` +
    (copies ? `; "with copies" counts those of operands into textures, which readers share.` : ".");
}

/** Software devices read operands from textures; others from where they are. */
function hasCopies({ profile }: Device): boolean {
  return profile.kind === "software";
}

/** A row that says so in place of figures. */
function doesNotFit(kernel: string): (error: unknown) => Section["rows"] {
  return (error) => {
    if (error instanceof MemoryError) return [{ kernel, variant: "does not fit" }];
    throw error;
  };
}

/** One row for each variant of a case, the default first. */
async function caseRows(
  device: Device,
  name: string,
  { build, work, request }: Case,
  options: KernelOptions,
): Promise<Section["rows"]> {
  const { rounds, rival } = options;
  const output = build(new Graph());
  using owned = new DisposableStack();
  const { parameters, values } = madeUp(device, output, options.weights, owned);
  const programs: { variant: string; program: Program }[] = [];
  for (const { variant, task } of variantsOf(device, output, options)) {
    const choice = task
      ? choiceOf(device.profile, new Map([[task.shapeClass, variant]]))
      : device.choice;
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
    for (const copies of hasCopies(device) ? [false, true] : [false]) {
      contenders.push({
        name: `${variant}${copies ? " with copies" : ""}`,
        turn: async () => {
          const { wall, cpu = 0 } = await timed(() => program.time(times, { copies }));
          return { work: { wall: Math.max(1e-9, wall - idle) / times, cpu: cpu / times } };
        },
      });
    }
  }
  if (rival) contenders.push(await rival.contender(request, TURN));
  const seconds = await takeTurns(
    contenders,
    slowest < 1 ? rounds : Math.min(rounds, SLOW_ROUNDS),
  );
  const of = (contender: string) => seconds.get(contender)?.get("work");
  const native = rival && of(rival.name);
  return programs.map(({ variant }, i) => {
    const mine = of(variant);
    return {
      "kernel": i === 0 ? name : "",
      "variant": variant,
      ...rates(work, mine),
      ...(hasCopies(device) && {
        "with copies": rate(work, of(`${variant} with copies`)?.median),
      }),
      "first ms": first[i] * 1e3,
      ...(rival && {
        [rival.name]: rate(work, native?.median),
        "ratio": mine && native ? native.median / mine.median : undefined,
      }),
    };
  });
}

/** What the device's table chooses, and every other variant of the operators that an output takes. */
function variantsOf(
  device: Device,
  output: Tensor,
  { weights, variants }: KernelOptions,
): { variant: string; task?: Task }[] {
  const tasks = tasksOf([[output]], device.profile, {
    weights,
    most: Infinity,
    approximate: true,
  });
  const standard = tasks.map(({ shapeClass, names }) => device.choice(shapeClass) ?? names[0]);
  const chosen = { variant: standard.join(", ") || "the only one" };
  if (variants === "chosen") return [chosen];
  const others = tasks.flatMap((task, i) =>
    task.names.filter((name) => name !== standard[i]).map((variant) => ({ variant, task }))
  );
  return [chosen, ...others];
}

/** Weights on the device and inputs on the host for a graph; the former are freed with `owned`. */
function madeUp(
  device: Device,
  output: Tensor,
  weights: KernelOptions["weights"],
  owned: DisposableStack,
) {
  const parameters = new Map<string, StoredParameter>();
  const values: Record<string, HostArray> = {};
  for (const node of output.graph.nodes) {
    if (node.op === "input") values[node.attrs.name] = numbers(node.size, 1);
    if (node.op !== "parameter") continue;
    const source = { dtype: "f32", data: new Uint8Array(numbers(node.size, 0.05).buffer) } as const;
    const stored = storeWeight(device, source, node.attrs, weights);
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
