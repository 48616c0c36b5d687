/** Sections of a checkpoint: its stages at the size that it was trained at, and what a picture comes to. */

import { counted } from "../../base/counted.ts";
import type { Model, Tiling } from "../../engine/model.ts";
import { type Device, mib } from "../../gpu/device.ts";
import type { Section } from "./report.ts";
import {
  architectureAt,
  coldTimes,
  type Stage,
  STAGES,
  type Stages,
  stagesOf,
  workOf,
} from "./stages.ts";
import { type Seconds, takeTurns, timed } from "./turns.ts";

export interface ModelBenchOptions {
  /** The checkpoint, and what replaces its first stage. */
  readonly path: string;
  readonly vae: string | undefined;
  /** A TAESD decodes: its arithmetic is not counted. */
  readonly taesd: boolean;
  /** Pixels; the model's own where absent. */
  readonly width: number | undefined;
  readonly height: number | undefined;
  readonly tiling: Tiling;
  readonly rounds: number;
  readonly progress: (what: string) => void;
}

/** Seconds after which a stage gets no further round. */
const ENOUGH = 20;

/** Throws `UsageError` for a size that the model cannot have, `MemoryError` where it does not fit. */
export async function* modelSections(
  device: Device,
  model: Model,
  options: ModelBenchOptions,
): AsyncGenerator<Section, void, undefined> {
  const { path, vae, taesd, progress } = options;
  const { width = model.defaults.width, height = model.defaults.height } = options;
  const size = { width, height };
  const architecture = await architectureAt(path, vae);
  const channels = architecture.unet?.inChannels ?? model.latentChannels;
  const work = workOf(taesd ? { ...architecture, vae: undefined } : architecture, size);
  using stages = stagesOf(model, channels, size, options.tiling);
  const rows: Section["rows"][number][] = [];
  const found = new Map<Stage, Seconds>();
  for (const stage of stages.names) {
    stages.release(); // what was planned is room for one
    const [first, taken] = await timesOf(stages, stage, options.rounds, progress);
    found.set(stage, taken);
    const milliseconds = (seconds: number | undefined) => seconds && seconds * 1e3;
    rows.push({
      "stage": STAGES[stage],
      "ms": milliseconds(taken.median),
      "best": milliseconds(taken.best),
      "CPU": milliseconds(taken.cpu),
      "first": milliseconds(first),
      ...(work[stage] > 0 && { "GFLOP": work[stage], "GFLOP/s": work[stage] / taken.median }),
    });
  }
  yield {
    title: `Stages at ${width}×${height}`,
    notes: [
      `"first" reads weights that are not there yet and compiles shaders; "CPU" had all cores been the process's own.`,
      aboutPicture(model, found),
      `At most ${mib(device.memory.peak)} MiB on the device.`,
    ],
    rows,
  };
}

/** Seconds of the first run, and of those after it. */
async function timesOf(
  stages: Stages,
  stage: Stage,
  rounds: number,
  progress: (what: string) => void,
): Promise<[first: number, taken: Seconds]> {
  const run = (which: Stage) => stages.run(which);
  const first = (await coldTimes({ names: [stage], run }, progress)).get(stage) ?? NaN;
  const turn = async () => {
    progress(STAGES[stage]);
    return { [stage]: await timed(() => run(stage)) };
  };
  const most = Math.max(1, Math.min(rounds, Math.floor(ENOUGH / first)));
  const taken = (await takeTurns([{ name: stage, turn }], most)).get(stage)?.get(stage);
  if (!taken) throw new TypeError(`There is no time of "${stage}"`);
  return [first, taken];
}

/** What a picture of the usual steps takes of these. */
function aboutPicture(
  { defaults: { steps, cfgScale }, guidanceWidth }: Model,
  found: ReadonlyMap<Stage, Seconds>,
): string {
  const isGuided = cfgScale !== 1 && guidanceWidth === undefined;
  const of = (stage: Stage) => found.get(stage)?.median ?? 0;
  const step = of(isGuided ? "guided" : "unet");
  const whole = (isGuided ? 2 : 1) * of("clip") + steps * step + of("vae");
  return `${digits(1 / step)} ${isGuided ? "guided " : ""}steps a second; a picture of ${
    counted(steps, "step")
  } ` +
    `takes ${digits(whole)} s of these.`;
}

function digits(value: number): string {
  return Number(value.toPrecision(3)).toString();
}
