/** One half of a first stage as one program for a whole input, which several inputs of a size use one after another. */

import { MemoryError } from "../base/errors.ts";
import { readBack, release, storageBuffer } from "../gpu/buffers.ts";
import { peakOf } from "../gpu/compile.ts";
import type { Device } from "../gpu/device.ts";
import type { Program } from "../gpu/program.ts";
import { Graph, type Tensor } from "../graph/tensor.ts";
import type { StageOptions } from "./model.ts";
import type { Programs } from "./programs.ts";
import type { Extent, HostPlane } from "./tiles.ts";

/** How one half is going to be run on inputs of some size. */
export interface StagePlan {
  /** The most that it takes on the device for one of them. */
  readonly bytes: number;
  run(inputs: readonly HostPlane[], progress: StageOptions["progress"]): Promise<HostPlane[]>;
}

/** `undefined` where the device cannot bind an operand. */
export function wholeIfAny(...of: Parameters<typeof planWhole>): StagePlan | undefined {
  try {
    return planWhole(...of);
  } catch (error) {
    if (error instanceof MemoryError) return undefined;
    throw error;
  }
}

/** Throws `MemoryError` where the device cannot bind an operand. */
export function planWhole(
  programs: Programs,
  half: string,
  { height, width, channels }: Extent,
  build: (x: Tensor) => Tensor,
): StagePlan {
  const key = `${half} ${height}×${width}`;
  const outputs = () => {
    const graph = new Graph();
    return new Map([["result", build(graph.input("x", [1, height, width, channels]))]]);
  };
  const assembly = programs.assembly(key, outputs);
  const shape = assembly.outputs.get("result")?.shape;
  if (!shape) throw new TypeError("The first stage returns nothing");
  const [, rows, columns, numbers] = shape;
  return {
    bytes: peakOf(assembly).peak,
    async run(inputs, progress) {
      using program = await programs.compile(key, outputs, { label: "the first stage" });
      const bytes = rows * columns * numbers * 4;
      const results = await runAll(programs.device, program, inputs, bytes);
      progress?.(1, 1);
      return results.map((data) => ({ data, height: rows, width: columns, channels: numbers }));
    },
  };
}

/**
 * Results of so many bytes. Waiting for the device takes milliseconds, so it is waited for once for as many inputs as their
 * results have room for.
 */
async function runAll(
  device: Device,
  program: Program,
  inputs: readonly HostPlane[],
  bytes: number,
): Promise<Float32Array<ArrayBuffer>[]> {
  const { budget, memory: { live } } = device;
  const most = Math.max(1, Math.floor((budget - live) / (2 * bytes))); // there, and on their way back
  const results: Float32Array<ArrayBuffer>[] = [];
  for (let begin = 0; begin < inputs.length; begin += most) {
    results.push(...await together(device, program, inputs.slice(begin, begin + most), bytes));
  }
  return results;
}

/** The same, for few enough. */
async function together(
  device: Device,
  program: Program,
  inputs: readonly HostPlane[],
  bytes: number,
): Promise<Float32Array<ArrayBuffer>[]> {
  if (inputs.length === 1) return [...(await program.run({ x: inputs[0].data })).values()];
  const buffer = storageBuffer(device, inputs.length * bytes, "results of the first stage");
  try {
    for (const [i, { data: x }] of inputs.entries()) {
      await program.run({ x }, { result: { buffer, offset: i * bytes } });
    }
    const [all] = await readBack(device, [{ buffer, bytes: inputs.length * bytes }]);
    return inputs.map((_, i) => new Float32Array(all, i * bytes, bytes / 4));
  } finally {
    release(device, { kind: "buffer", buffer });
  }
}
