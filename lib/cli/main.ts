/** From arguments to a command and from what it throws to an exit code: 0 done, 1 the work failed, 2 usage. */

import { CommanderError } from "commander";
import {
  DeviceError,
  FileError,
  FormatError,
  MemoryError,
  OverflowError,
  UsageError,
} from "../base/errors.ts";
import project from "../../deno.json" with { type: "json" };
import { batch } from "./batch.ts";
import { bench } from "./bench.ts";
import { convert } from "./convert.ts";
import { decode } from "./decode.ts";
import { doctor } from "./doctor.ts";
import { encode } from "./encode.ts";
import { describeEvents } from "./events.ts";
import { img2img } from "./img2img.ts";
import { inpaint } from "./inpaint.ts";
import { inspect } from "./inspect.ts";
import { rerun } from "./rerun.ts";
import { printJson, printLine, writeStderr } from "./terminal.ts";
import { tokens } from "./tokens.ts";
import { train } from "./train.ts";
import { tune } from "./tune.ts";
import { txt2img } from "./txt2img.ts";
import { upscale } from "./upscale.ts";

/** A word that may come first on the command line. */
interface Subcommand {
  readonly summary: string;
  /** Runs it; returns the exit code. Throws what is in lib/base/errors.ts. */
  readonly run: (argv: readonly string[]) => Promise<number>;
}

const COMMANDS: Readonly<Record<string, Subcommand>> = {
  txt2img: { summary: "a picture from a prompt; the word may be left out", run: txt2img },
  batch: {
    summary: "many pictures, from a file or stdin; what is done is not done again",
    run: batch,
  },
  img2img: { summary: "a picture changed as a prompt says, a little or a lot", run: img2img },
  inpaint: { summary: "a hole in a picture, filled", run: inpaint },
  upscale: { summary: "a small picture made large, by a model for that", run: upscale },
  rerun: { summary: "a picture again, from what its own file says", run: rerun },
  encode: { summary: "a picture to latents: the first stage alone", run: encode },
  decode: { summary: "latents to a picture", run: decode },
  inspect: {
    summary: "what a checkpoint, a LoRA, a picture or a training run holds",
    run: inspect,
  },
  convert: {
    summary: "a checkpoint as one file or a diffusers folder, in another type",
    run: convert,
  },
  tokens: { summary: "what a prompt is read as: chunks, tokens, weights", run: tokens },
  train: { summary: "a model from pictures: an autoencoder, a denoiser, a LoRA", run: train },
  doctor: { summary: "what this device can do, and whether it computes correctly", run: doctor },
  bench: { summary: "how fast this device is, in figures to compare", run: bench },
  tune: { summary: "the fastest kernels on this device, for --tuned", run: tune },
};

/** What `ldm help TOPIC` explains beside commands. */
const TOPICS: Readonly<Record<string, { readonly summary: string; readonly text: () => string }>> =
  {
    json: { summary: "the events of --json and their fields", text: describeEvents },
  };

/** Runs the program on its arguments; returns its exit code. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    return await dispatch(argv);
  } catch (error) {
    return await report(error, argv);
  }
}

async function dispatch(argv: readonly string[]): Promise<number> {
  const [first, ...rest] = argv;
  if (first === undefined) {
    throw new UsageError(
      "Nothing to do: a prompt or a command was needed; `ldm --help` lists them",
    );
  }
  if (first === "help") {
    const [name] = rest;
    if (name !== undefined && Object.hasOwn(TOPICS, name)) {
      await printLine(TOPICS[name].text());
      return 0;
    }
    return await dispatch(name === undefined ? ["--help"] : [name, "--help"]);
  }
  if (first === "-h" || first === "--help") {
    await printLine(help());
    return 0;
  }
  if (first === "-V" || first === "--version") {
    await printLine(`ldm ${project.version}`);
    return 0;
  }
  if (Object.hasOwn(COMMANDS, first)) return await COMMANDS[first].run(rest);
  return await txt2img(argv);
}

function help(): string {
  const width = Math.max(...Object.keys(COMMANDS).map((name) => name.length));
  const lines = Object.entries(COMMANDS).map(([name, { summary }]) =>
    `  ${name.padEnd(width)}  ${summary}`
  );
  const topics = Object.entries(TOPICS).map(([name, { summary }]) => `${name}\` tells ${summary}.`);
  return `ldm ${project.version}: latent diffusion on WebGPU

  ldm "a red fox" -m CHECKPOINT     makes a picture, the same as ldm txt2img

Commands:
${lines.join("\n")}

${topics.map((text) => `\`ldm help ${text}`).join("\n")}
\`ldm COMMAND --help\` lists the command's options.`;
}

const EXPECTED = [
  DeviceError,
  FileError,
  FormatError,
  MemoryError,
  OverflowError,
  UsageError,
];

/** One sentence on stderr (and an event with --json), and the exit code. */
async function report(error: unknown, argv: readonly string[]): Promise<number> {
  if (error instanceof CommanderError && error.exitCode === 0) return 0; // help was printed
  const code = error instanceof UsageError ? 2 : 1;
  const message = error instanceof Error ? error.message : String(error);
  const isExpected = EXPECTED.some((kind) => error instanceof kind);
  const sentence = (isExpected ? message : `Something unforeseen happened: ${message}`)
    .replaceAll(/\s*\n\s*/g, " ");
  if (argv.includes("--json")) {
    await printJson({ event: "error", message: sentence, code }).catch(() => {});
  }
  writeStderr(`ldm: ${sentence}\n`);
  const isVerbose = argv.includes("-v") || argv.includes("--verbose");
  if (error instanceof Error && error.stack && isVerbose) writeStderr(error.stack + "\n");
  return code;
}
