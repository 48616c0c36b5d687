/**
 * `deno task bench [SECTION …] [options]`: how fast this device is, in comparable numbers, and how fast the peers are that
 * a user would pick instead, in turns with them. README.md beside this file says what to prepare.
 */

import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { kernelSections } from "../../lib/cli/bench/kernels.ts";
import { factsOf, markdown, type Section, sectionMarkdown } from "../../lib/cli/bench/report.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { type Peer, rivalOf, startPeer } from "./peers.ts";
import { profileSections } from "./profile.ts";
import { stageSections } from "./stages.ts";
import { trainingSections } from "./training.ts";

const SECTIONS = ["kernels", "training", "profile", "stages"] as const;
const NEED_MODEL = ["profile", "stages"] as const;
type SectionName = (typeof SECTIONS)[number];

const USAGE = `deno task bench [kernels] [training] [profile] [stages] [peers] [options]

  kernels   products, convolutions, attention, norms, maps, copies
  training  steps of training, and where their time goes
  profile   where the time of the denoiser and the decoder goes
  stages    text encoder, denoiser, decoder, pictures
  peers     the same in other programs, in turns with ours

  All of them where none is named; profile and stages need --model.

  -m, --model PATH      a checkpoint; tests/bench/random_checkpoint.py makes one
  -W, --width N, -H, --height N   pixels (512)
  -f, --filter TEXT     kernels and models to train whose names contain it
  -r, --rounds N        turns of each (7; 3 of stages)
  --steps N             sampling steps of pictures (4)
  --threads N           threads of the peers and of a software device
  --kind software|gpu   kernels for this kind of device
  --configs FILE        configs of a single file, for diffusers (fixtures/configs/sd15.json)
  --python PROGRAM      Python with the peers (python3)
  --tinyblas FOLDER     where pip installed (--target) a stable-diffusion-cpp-python built with tinyBLAS
  -o, --output FOLDER   where bench.md and bench.json are written (out/)
`;

const print = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(text));
const say = (text: string) => Deno.stderr.writeSync(new TextEncoder().encode(text));
/** One line of progress, in place on a terminal. */
const progress = (what: string) => say(Deno.stderr.isTerminal() ? `\r\x1b[K${what}` : `${what}\n`);
const root = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    model: { type: "string", short: "m" },
    width: { type: "string", short: "W", default: "512" },
    height: { type: "string", short: "H", default: "512" },
    filter: { type: "string", short: "f", default: "" },
    rounds: { type: "string", short: "r" },
    steps: { type: "string", default: "4" },
    threads: { type: "string" },
    kind: { type: "string" },
    configs: { type: "string", default: root("fixtures/configs/sd15.json") },
    python: { type: "string", default: "python3" },
    tinyblas: { type: "string" },
    output: { type: "string", short: "o", default: root("out") },
    help: { type: "boolean", short: "h" },
  },
});

/** Starts peers; one that is not installed is told of and left out. */
async function started(
  script: string,
  args: readonly string[],
  others: AsyncDisposableStack,
  path?: string,
): Promise<Peer[]> {
  try {
    progress(`starting ${script}`);
    const options = { python: values.python, ...(path !== undefined && { path }) };
    return [others.use(await startPeer(script, args, options))];
  } catch (error) {
    say(`Without ${script}: ${error instanceof Error ? error.message : error}\n`);
    return [];
  }
}

async function main(): Promise<number> {
  const unknown = positionals.find((name) => ![...SECTIONS, "peers"].includes(name));
  if (values.help || unknown !== undefined) {
    if (unknown !== undefined) say(`There is no section "${unknown}"\n`);
    print(USAGE);
    return values.help ? 0 : 2;
  }
  const named = SECTIONS.filter((name) => positionals.includes(name));
  const isWanted = (name: SectionName) => named.length === 0 || named.includes(name);
  const withPeers = positionals.length === 0 || positionals.includes("peers");
  const { model, threads, kind, output } = values;
  if (model === undefined && NEED_MODEL.some((name) => named.includes(name))) {
    say("Profile and stages need a checkpoint: -m PATH (tests/bench/random_checkpoint.py)\n");
    return 2;
  }
  // llvmpipe reads it when the device is opened.
  if (threads !== undefined) Deno.env.set("LP_NUM_THREADS", threads);
  const size = { width: Number(values.width), height: Number(values.height) };
  const rounds = (usual: number) => values.rounds === undefined ? usual : Number(values.rounds);
  const count = threads === undefined ? [] : [threads];

  await using others = new AsyncDisposableStack();
  await using device = await openDevice(
    kind === "gpu" || kind === "software" ? { kind } : {},
  );
  const sections: Section[] = [];
  const keep = async (found: AsyncIterable<Section>) => {
    for await (const section of found) {
      if (Deno.stderr.isTerminal()) progress("");
      sections.push(section);
      print(sectionMarkdown(section) + "\n");
      const report = { ...factsOf(device), sections };
      await save(output, markdown(report), report);
    }
  };
  if (isWanted("kernels")) {
    const [torch] = withPeers ? await started("torch_kernels.py", count, others) : [];
    const isWanted = (name: string) => name.includes(values.filter);
    const rival = torch && rivalOf(torch);
    await keep(
      kernelSections(device, {
        isWanted,
        variants: "all",
        weights: "f16",
        rounds: rounds(7),
        rival,
        progress,
      }),
    );
  }
  if (isWanted("training")) {
    const [torch] = withPeers ? await started("torch_training.py", count, others) : [];
    const { filter } = values;
    await keep(trainingSections(device, { filter, rounds: rounds(5), torch, progress }));
  }
  if (model !== undefined && isWanted("profile")) {
    await keep(profileSections(device, model, { ...size, rounds: rounds(3), progress }));
  }
  if (model !== undefined && isWanted("stages")) {
    const peers = withPeers
      ? [
        ...await started("diffusers_stages.py", [model, values.configs, ...count], others),
        ...await started("sdcpp_stages.py", [model, threads ?? "-1", "sd.cpp"], others),
        ...values.tinyblas === undefined ? [] : await started(
          "sdcpp_stages.py",
          [model, threads ?? "-1", "sd.cpp-tinyBLAS"],
          others,
          values.tinyblas,
        ),
      ]
      : [];
    const steps = Number(values.steps);
    await keep(
      stageSections(device, model, { ...size, rounds: rounds(3), steps, peers, progress }),
    );
  }
  say(`Written to ${join(output, "bench.md")} and bench.json\n`);
  return 0;
}

async function save(folder: string, text: string, report: unknown): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  await Deno.writeTextFile(join(folder, "bench.md"), text);
  await Deno.writeTextFile(
    join(folder, "bench.json"),
    JSON.stringify(report, undefined, 2) + "\n",
  );
}

Deno.exitCode = await main();
