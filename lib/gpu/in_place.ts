/** Programs of one kernel that changes the caller's buffers where they lie, which a graph cannot say. */

import type { Dispatch } from "../kernels/kernel.ts";
import type { Device } from "./device.ts";
import { type Assembly, Shaders, type Source, type Step } from "./emit.ts";
import { type Life, planSlots } from "./plan.ts";
import { type BoundSet, type Program, realise } from "./program.ts";
import { bufferBytes, textureBytes } from "./work.ts";

/** What a binding of the kernel stands for: a buffer of the caller's, or what each run is given from the host. */
export interface Operand {
  readonly name: string;
  /** Of f32 numbers. */
  readonly size: number;
  readonly isInput?: boolean;
}

/** What is copied into textures is copied anew in each run, before the kernel. */
function assemblyOf(dispatch: Dispatch, operands: readonly Operand[], label: string): Assembly {
  const shaders = new Shaders();
  const staged = dispatch.shader.bindings.filter(({ residence }) => residence === "texture").length;
  const lives: Life[] = [];
  const inputs: [string, { value: number; shape: readonly number[]; dtype: "f32" }][] = [];
  const sources = operands.map(({ name, size, isInput }): Source => {
    if (!isInput) return { kind: "bound", name };
    const value = lives.push({
      ...{ bytes: bufferBytes(size * 4), kind: "buffer", first: 0, last: staged },
    }) - 1;
    inputs.push([name, { value, shape: [size], dtype: "f32" }]);
    return { kind: "value", value };
  });
  const steps: Step[] = [];
  const read = dispatch.shader.bindings.map(({ source: place, residence }) => {
    if (typeof place !== "number") throw new TypeError(`${label} has operands alone`);
    const source = sources[place];
    const bytes = operands[place].size * 4;
    if (residence === "buffer") return { source, bytes };
    const to = lives.push({
      ...{ bytes: textureBytes(bytes), kind: "texture", first: steps.length, last: staged },
    }) - 1;
    steps.push({ kind: "stage", label: `stage for ${label}`, from: source, to, bytes });
    return { source: { kind: "value", value: to } as const, bytes };
  });
  const code = shaders.textOf(dispatch);
  steps.push({ kind: "dispatch", label, dispatch, code, operands: read });
  return {
    ...{ steps, lives, plan: planSlots(lives), inputs: new Map(inputs), constants: [] },
    ...{ outputs: new Map(), pipelines: shaders.count },
  };
}

/**
 * A program of one kernel whose bindings name `operands` by their places. `sets`: where the caller's lie, several of which
 * `run` chooses from. Throws as `compile` does.
 */
export async function compileInPlace(
  device: Device,
  dispatch: Dispatch,
  operands: readonly Operand[],
  sets: readonly BoundSet[],
  label: string,
): Promise<Program> {
  const assembly = assemblyOf(dispatch, operands, label);
  return await realise(device, assembly, new Map(), { bound: sets, label });
}
