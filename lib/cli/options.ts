/** The options that commands share, and how their values are read. The names are a contract: scripts rely on them. */

import { Command, CommanderError } from "commander";
import { UsageError } from "../base/errors.ts";
import type { Tiling } from "../engine/model.ts";
import type { ProgressOptions } from "./progress.ts";
import { writeStdoutSync } from "./terminal.ts";

/** How a command is told what happens. */
export interface ReportOptions {
  readonly json?: true;
  readonly quiet?: true;
  readonly verbose?: true;
}

export interface ModelOptions extends ReportOptions {
  readonly model?: string;
  readonly vae?: string;
  readonly taesd?: string;
  readonly vaeTiling: Tiling;
  /** MiB. */
  readonly memoryBudget?: number;
  readonly dtype?: "f16" | "f32";
  readonly tuned?: true;
}

export interface SaveOptions {
  readonly output?: string;
  readonly overwrite?: true;
}

/** A command that throws instead of exiting, and says what it has to say in one sentence. */
export function newCommand(name: string, summary: string): Command {
  return new Command(name)
    .description(summary)
    .helpOption("-h, --help", "show this help")
    .configureHelp({ commandUsage: (command) => `ldm ${command.name()} ${command.usage()}` })
    .exitOverride((error) => {
      throw error;
    })
    .configureOutput({ writeOut: writeStdoutSync, writeErr: () => {} });
}

/** Parses arguments; what the parser refuses becomes a `UsageError`. Help that was asked for stays a `CommanderError`. */
export function parse(command: Command, argv: readonly string[]): void {
  try {
    command.parse(argv, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError) || error.exitCode === 0) throw error;
    const [what, ...hints] = error.message.replace(/^error: |\.$/g, "").split("\n");
    const hint = hints.map((text) => text.replace(/^\((.*)\)$/, " ($1)")).join("");
    throw new UsageError(
      `Cannot run ${command.name()}: ${what}${hint}; \`ldm ${command.name()} --help\` lists the options`,
    );
  }
}

export function addReportOptions(command: Command): Command {
  return command
    .option("--json", "one JSON object a line on stdout")
    .option("-q, --quiet", "no progress")
    .option("-v, --verbose", "timings, memory and kernel choices");
}

export function addModelOptions(command: Command): Command {
  return command
    .option(
      "-m, --model <path>",
      "a .safetensors file or a diffusers folder (default: the built-in model, emoji)",
    )
    .option("--vae <path>", "another autoencoder")
    .option("--taesd <path>", "a TAESD in place of the autoencoder")
    .option(
      "--vae-tiling <mode>",
      "auto, on or off: the first stage in tiles, same picture",
      choice("--vae-tiling", ["auto", "on", "off"]),
      "auto",
    )
    .option("--memory-budget <MiB>", "ceiling for GPU allocations", integer("--memory-budget", 1))
    .option(
      "--dtype <type>",
      "f16 or f32: weights and arithmetic",
      choice("--dtype", ["f16", "f32"]),
    )
    .option("--tuned", "kernels as `ldm tune` chose them for this device");
}

/** `usual`: where results go when nothing is said; `forms`: what may be said. */
export function addSaveOptions(command: Command, usual: string, forms: string): Command {
  return command
    .option("-o, --output <pattern>", `${forms} (default: ${usual})`)
    .option("--overwrite", "replace files instead of taking the next free name");
}

export function progressOptions({ quiet, verbose, json }: ReportOptions): ProgressOptions {
  return { quiet: quiet === true, verbose: verbose === true, json: json === true };
}

/** A reader of whole numbers from `least` to `most`. */
export function integer(
  option: string,
  least: number,
  most = Number.MAX_SAFE_INTEGER,
): (text: string) => number {
  return (text) => {
    const value = /^[+-]?\d+$/.test(text.trim()) ? Number(text) : NaN;
    if (value >= least && value <= most) return value;
    const range = most === Number.MAX_SAFE_INTEGER
      ? `of at least ${least}`
      : `from ${least} to ${most}`;
    throw new UsageError(`Cannot use ${option} ${show(text)}: a whole number ${range} was needed`);
  };
}

/** A reader of numbers from `least` to `most`. */
export function decimal(option: string, least: number, most = Infinity): (text: string) => number {
  return (text) => {
    const value = /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(text) ? Number(text) : NaN;
    if (Number.isFinite(value) && value >= least && value <= most) return value;
    const range = most === Infinity ? `of at least ${least}` : `from ${least} to ${most}`;
    throw new UsageError(`Cannot use ${option} ${show(text)}: a number ${range} was needed`);
  };
}

/** A reader of one of some words. */
export function choice<Name extends string>(
  option: string,
  names: readonly Name[],
): (text: string) => Name {
  return (text) => {
    const name = names.find((name) => name === text.toLowerCase());
    if (name !== undefined) return name;
    throw new UsageError(
      `Cannot use ${option} ${show(text)}: one of ${names.join(", ")} was needed`,
    );
  };
}

function show(text: string): string {
  return JSON.stringify(text);
}
