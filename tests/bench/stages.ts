/**
 * A checkpoint's stages one at a time (text encoder, denoiser, decoder) and whole pictures, beside the peers that make the
 * same from the same file, all taking turns.
 */

import { join } from "node:path";
import type { Section } from "../../lib/cli/bench/report.ts";
import {
  architectureAt,
  coldTimes,
  type Inputs,
  PROMPT,
  type Stage,
  STAGES,
  type Stages,
  stagesOf,
  workOf,
} from "../../lib/cli/bench/stages.ts";
import {
  type Contender,
  type Seconds,
  type Taken,
  takeTurns,
  timed,
} from "../../lib/cli/bench/turns.ts";
import { loadModel } from "../../lib/engine/load.ts";
import type { Model } from "../../lib/engine/model.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { textToImage } from "../../lib/pipelines/text_to_image.ts";
import { temporaryFolder } from "../folders.ts";
import type { Answer, Peer } from "./peers.ts";

export interface StageOptions {
  /** Pixels. */
  readonly width: number;
  readonly height: number;
  readonly rounds: number;
  /** Sampling steps of whole pictures. */
  readonly steps: number;
  readonly peers: readonly Peer[];
  readonly progress: (what: string) => void;
}

const CFG = 7;
/** Peers that make whole pictures only take part in so many rounds of the stages. */
const MOST_STAGES = 2;
/** Turns of whole pictures: each is many runs of the denoiser. */
const PICTURE_TURNS = 1;

/** Sections of the stages and of whole pictures. */
export async function* stageSections(
  device: Device,
  path: string,
  options: StageOptions,
): AsyncGenerator<Section, void, undefined> {
  const { progress, width, height, rounds, steps } = options;
  progress("loading");
  const load = performance.now();
  await using model = await loadModel(device, path);
  const loaded = (performance.now() - load) / 1e3;
  const weights = device.memory.live;
  await using temporary = await temporaryFolder();
  const folder = temporary.path;
  const architecture = await architectureAt(path);
  const channels = architecture.unet?.inChannels ?? model.latentChannels;
  using ours = stagesOf(model, channels, { width, height });
  const { inputs, names } = ours;
  const first = await coldTimes(ours, (what) => progress(`${what}, ldm`));
  await write(folder, inputs, await ours.context());
  const seconds = await takeTurns([
    ...names.map((stage): Contender => ({
      name: OURS,
      turn: async () => {
        progress(`${STAGES[stage]}, ldm`);
        return { [stage]: await timed(() => ours.run(stage)) };
      },
    })),
    ...options.peers.flatMap((peer) => peerTurns(peer, folder, ours, progress)),
  ], rounds);
  const work = workOf(architecture, options);
  const errors = await distances(folder, ours.results);
  yield {
    title: `Stages at ${width}×${height}`,
    notes: [
      "Seconds: medians of turns taken with the peers. CPU: had all cores been the process's own. First: shaders " +
      "compiled. Distance: normalised mean square of the difference from diffusers' f32. Ratios above 1 are ours.",
    ],
    rows: names.map((stage) => ({
      "stage": STAGES[stage],
      ...columns(seconds, OURS, stage),
      "first": first.get(stage),
      "GFLOP": work[stage],
      "GFLOP/s": work[stage] / (seconds.get(OURS)?.get(stage)?.median ?? NaN),
      "distance": errors.get(stage),
      ...comparison(seconds, options.peers, stage),
    })),
  };
  ours[Symbol.dispose]();
  device.resetPeak();
  const pictures = await pictureTurns(model, inputs, folder, options);
  yield {
    title: `Pictures at ${width}×${height}`,
    notes: [`Seconds from prompt to pixels: ${steps} steps of Euler, cfg ${CFG}; one turn each.`],
    rows: [{
      "picture": `${steps} steps`,
      ...columns(pictures, OURS, "picture"),
      ...comparison(pictures, options.peers, "picture"),
    }],
  };
  yield {
    title: "Loading and memory",
    notes: ["MiB; a software device's memory is in the process's own."],
    rows: [
      {
        "who": OURS,
        "load s": loaded,
        "device, weights": weights / 2 ** 20,
        "device, most": device.memory.peak / 2 ** 20,
        "process, most": peakResident(),
      },
      ...options.peers.map((peer) => ({
        "who": peer.name,
        "load s": peer.load,
        "process, most": peaks.get(peer),
      })),
    ],
  };
}

const OURS = "ldm";

function columns(
  seconds: ReadonlyMap<string, ReadonlyMap<string, Seconds>>,
  name: string,
  piece: string,
) {
  const found = seconds.get(name)?.get(piece);
  return { "ldm s": found?.median, "best": found?.best, "CPU": found?.cpu };
}

function comparison(
  seconds: ReadonlyMap<string, ReadonlyMap<string, Seconds>>,
  peers: readonly Peer[],
  piece: string,
) {
  const mine = seconds.get(OURS)?.get(piece)?.median;
  return Object.fromEntries(peers.flatMap(({ name }) => {
    const found = seconds.get(name)?.get(piece)?.median;
    const short = name.split(" ")[0];
    return [[`${short} s`, found], [`ratio to ${short}`, mine && found && found / mine]];
  }));
}

/** Files that peers read; `context` is the text's states [tokens, width]. */
async function write(folder: string, inputs: Inputs, context: Float32Array): Promise<void> {
  const files = { ids: inputs.ids[0], sample: inputs.sample, context: context.slice() };
  for (const [name, { buffer }] of Object.entries(files)) {
    await Deno.writeFile(join(folder, name), new Uint8Array(buffer));
  }
}

/** MiB that each peer's process has taken. */
const peaks = new Map<Peer, number>();

async function asked(peer: Peer, request: Readonly<Record<string, unknown>>): Promise<Answer> {
  const answer = await peer.ask(request);
  peaks.set(peer, answer.peak);
  return answer;
}

/** A peer's turns; a peer that fails at something has no figure for it. */
function peerTurns(
  peer: Peer,
  folder: string,
  { inputs: { height, width }, names }: Pick<Stages, "inputs" | "names">,
  progress: StageOptions["progress"],
): Contender[] {
  const attempt = (what: string, ask: () => Promise<Record<string, Taken>>) => () => {
    progress(`${what}, ${peer.name}`);
    return ask().catch((error): Record<string, Taken> => {
      progress(`${peer.name}: ${error instanceof Error ? error.message : error}`);
      return {};
    });
  };
  if (peer.wholePictures) {
    const request = { op: "picture", prompt: PROMPT, height, width, steps: 2, cfg: 1 };
    const turn = attempt("stages", async () => {
      const { parts = {} } = await asked(peer, request);
      const seconds = {
        clip: parts.clip,
        unet: parts.sampling === undefined ? undefined : parts.sampling / request.steps,
        vae: parts.vae,
      };
      return Object.fromEntries(
        Object.entries(seconds).flatMap(([stage, wall]) =>
          wall === undefined ? [] : [[stage, { wall }]]
        ),
      );
    });
    return [{ name: peer.name, most: MOST_STAGES, turn }];
  }
  const requests: Readonly<Record<Stage, Readonly<Record<string, unknown>>>> = {
    clip: { op: "clip" },
    unet: { op: "unet", batch: 1 },
    guided: { op: "unet", batch: 2 },
    vae: { op: "vae" },
  };
  return names.map((stage) => ({
    name: peer.name,
    turn: attempt(STAGES[stage], async () => ({
      [stage]: await asked(peer, { ...requests[stage], folder, height, width }),
    })),
  }));
}

async function pictureTurns(
  model: Model,
  { height, width }: Inputs,
  folder: string,
  { steps, peers, progress, rounds, ...size }: StageOptions,
) {
  const request = { op: "picture", prompt: PROMPT, steps, cfg: CFG, folder, height, width };
  return await takeTurns([
    {
      name: OURS,
      turn: async () => {
        progress("picture, ldm");
        const settings = { prompt: PROMPT, steps, cfgScale: CFG, sampler: "euler", seed: 7 };
        const picture = textToImage(model, { ...settings, width: size.width, height: size.height });
        return {
          picture: await timed(async () => {
            for await (const _ of picture);
          }),
        };
      },
    },
    ...peers.map((peer): Contender => ({
      name: peer.name,
      turn: async () => {
        progress(`picture, ${peer.name}`);
        const answer = await asked(peer, request).catch(() => undefined);
        return answer ? { picture: answer } : {};
      },
    })),
  ], Math.min(rounds, PICTURE_TURNS));
}

/** How far our results are from what a peer left in the folder. */
async function distances(
  folder: string,
  results: ReadonlyMap<Stage, Float32Array>,
): Promise<Map<Stage, number>> {
  const found = new Map<Stage, number>();
  for (const [stage, mine] of results) {
    const bytes = await Deno.readFile(join(folder, `${stage}.peer`)).catch(() => undefined);
    if (!bytes) continue;
    const theirs = new Float32Array(bytes.buffer);
    let [error, power] = [0, 0];
    theirs.forEach((v, i) => {
      error += (v - mine[i]) ** 2;
      power += v * v;
    });
    found.set(stage, error / power);
  }
  return found;
}

/** Largest resident set of this process so far, in MiB (Linux). */
function peakResident(): number | undefined {
  try {
    const status = Deno.readTextFileSync("/proc/self/status");
    return Math.round(Number(/VmHWM:\s+(\d+)/.exec(status)?.[1]) / 1024);
  } catch {
    return undefined;
  }
}
