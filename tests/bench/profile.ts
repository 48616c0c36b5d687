/** Where the time of a denoiser and a decoder goes: every step run alone, summed by kind of operator. */

import { architectureOf, manifestsOf } from "../../lib/engine/architecture.ts";
import { programsOf } from "../../lib/engine/tuning.ts";
import { loadWeights, releaseWeights } from "../../lib/engine/weights.ts";
import { openCheckpoint } from "../../lib/formats/checkpoint.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { compile, type HostArray } from "../../lib/gpu/program.ts";
import type { Tensor } from "../../lib/graph/tensor.ts";
import type { Section } from "../../lib/cli/bench/report.ts";

/** What a program is part of, by its name in `programsOf`. */
const PROGRAMS = { "denoiser": "unet", "decoder": "vae" } as const;
/** How labels of copies into textures begin (lib/gpu/compile.ts). */
const COPY = "stage for ";
/** Operators that the rest is compared with. */
const ARITHMETIC: readonly string[] = [
  ...["matmul", "conv2d", "conv2dTranspose", "conv2dWeight"],
  ...["attention", "attentionLogSum", "attentionGradient"],
];

export interface ProfileOptions {
  readonly width: number;
  readonly height: number;
  readonly rounds: number;
  readonly progress: (what: string) => void;
}

export async function* profileSections(
  device: Device,
  path: string,
  options: ProfileOptions,
): AsyncGenerator<Section, void, undefined> {
  await using checkpoint = await openCheckpoint(path);
  const architecture = await architectureOf(checkpoint);
  const manifests = manifestsOf(architecture);
  const programs = programsOf(architecture, options);
  for (const name of ["denoiser", "decoder"] as const) {
    const component = PROGRAMS[name];
    const [weights, manifest] = [checkpoint.components.get(component), manifests.get(component)];
    const outputs = programs.get(name);
    if (!weights || !manifest || !outputs) continue;
    options.progress(`loading the ${component}`);
    const progress = () => {};
    const { parameters } = await loadWeights(device, weights, manifest, component, path, {
      weights: "f16",
      progress,
    });
    try {
      const result = new Map([["result", outputs[0]]]);
      using program = await compile(device, result, parameters, { label: name });
      program.feed(inputsOf(outputs[0]));
      options.progress(`${name}: the first run compiles its shaders`);
      await program.time(1);
      const rounds: { label: string; milliseconds: number }[][] = [];
      const wholes: number[] = [];
      for (let round = 0; round < Math.min(options.rounds, 3); round++) {
        options.progress(`${name}: round ${round + 1}`);
        wholes.push(await program.time(1));
        rounds.push(await program.profile());
      }
      yield whereTimeGoes(`${name} at ${options.width}×${options.height}`, rounds, wholes);
    } finally {
      releaseWeights(device, parameters);
    }
  }
}

/** Made-up values for every input; zeros for indices. */
function inputsOf(output: Tensor): Record<string, HostArray> {
  const values: Record<string, HostArray> = {};
  for (const node of output.graph.nodes) {
    if (node.op !== "input") continue;
    values[node.attrs.name] = node.dtype === "i32"
      ? new Int32Array(node.size)
      : new Float32Array(node.size).map((_, i) => i * 7919 % 1009 / 504.5 - 1);
  }
  return values;
}

const percent = (share: number) => `${(share * 100).toFixed(1)} %`;

/** Rounds of steps by label, and of whole runs, as a table of kinds of operators. */
export function whereTimeGoes(
  title: string,
  rounds: readonly (readonly { label: string; milliseconds: number }[])[],
  wholes: readonly number[],
): Section {
  const kinds = new Map<string, { steps: number; milliseconds: number }>();
  let [sum, others, copies] = [0, 0, 0];
  for (const [i, { label }] of rounds[0].entries()) {
    const isCopy = label.startsWith(COPY);
    const [operator] = label.replace(COPY, "").split(" ");
    const kind = isCopy ? `copy for ${operator}` : operator;
    const best = Math.min(...rounds.map((round) => round[i].milliseconds));
    const known = kinds.get(kind) ?? { steps: 0, milliseconds: 0 };
    kinds.set(kind, {
      steps: known.steps + 1,
      milliseconds: known.milliseconds + best,
    });
    sum += best;
    if (!ARITHMETIC.includes(kind)) others += best;
    if (isCopy) copies += best;
  }
  const rows = [...kinds].sort(([, a], [, b]) => b.milliseconds - a.milliseconds);
  return {
    title: `Where the time goes: ${title}`,
    notes: [
      `Every step alone, the best of ${rounds.length}; together ${(sum / 1e3).toFixed(2)} s, ` +
      `the whole at once ${(Math.min(...wholes) / 1e3).toFixed(2)} s. ` +
      `Outside products, convolutions and attention: ${percent(others / sum)}, of which ` +
      `${percent(copies / sum)} are copies into textures.`,
    ],
    rows: rows.map(([kind, { steps, milliseconds }]) => ({
      "operator": kind,
      "steps": steps,
      "ms": milliseconds,
      "%": milliseconds / sum * 100,
    })),
  };
}
