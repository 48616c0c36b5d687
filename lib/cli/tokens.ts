/** `ldm tokens PROMPT`: what a prompt is read as: its parts, schedule, chunks, tokens and weights. Needs no GPU. */

import { counted } from "../base/counted.ts";
import { UsageError } from "../base/errors.ts";
import { architectureOf } from "../engine/architecture.ts";
import { openCheckpoint } from "../formats/checkpoint.ts";
import { FAMILIES } from "../models/family.ts";
import { composePrompt } from "../text/compose.ts";
import { chunkPrompt, type PromptChunk, type Weighting } from "../text/prompt.ts";
import { schedulePrompt } from "../text/schedule.ts";
import { type ClipTokenizer, clipTokenizer, folderTokenizer } from "../text/tokenizer.ts";
import { checkpointPath } from "./built_in.ts";
import {
  addReportOptions,
  choice,
  integer,
  newCommand,
  parse,
  type ReportOptions,
} from "./options.ts";
import { progressTo } from "./progress.ts";
import { addPromptOptions, type PromptOptions, readPromptOptions, recipesOf } from "./prompting.ts";
import { readTokenizerOption } from "./request.ts";
import { printJson, printLine } from "./terminal.ts";

interface TokensOptions extends PromptOptions, ReportOptions {
  readonly model?: string;
  readonly tokenizer?: string;
  readonly steps: number;
  readonly seed: number;
  readonly weighting: Weighting;
}

/** Steps that a schedule is shown for. */
const STEPS = 20;

function definition() {
  const command = newCommand("tokens", "Shows what a prompt is read as: chunks, tokens, weights.")
    .argument("<prompt...>", "several words are one prompt")
    .option("-m, --model <path>", "whose tokenizer (default: CLIP's)")
    .option("--tokenizer <folder>", "vocab.json and merges.txt (default: the checkpoint's)")
    .option(
      "--weighting <name>",
      "a1111, comfy or none: how the prompt is read",
      choice("--weighting", ["a1111", "comfy", "none"]),
      "a1111",
    )
    .option("--steps <n>", "steps of a schedule", integer("--steps", 1), STEPS)
    .option("-s, --seed <n>", "what choices are drawn from", integer("--seed", 0, 2 ** 32 - 1), 0);
  return addReportOptions(addPromptOptions(command));
}

export async function tokens(argv: readonly string[]): Promise<number> {
  const command = definition();
  parse(command, argv);
  const options = command.opts<TokensOptions>();
  const { weighting, steps, seed, json } = options;
  const progress = progressTo({ quiet: true, verbose: false, json: false });
  const prompting = await readPromptOptions(options, (message) => progress.warn(message));
  const written = command.args.join(" ");
  if (written === "-") {
    throw new UsageError("Cannot read a prompt from stdin here: give it as an argument");
  }
  const asked = { prompt: written, negativePrompt: "", seed };
  const [{ prompt = "" }] = recipesOf(asked, prompting, weighting);
  const tokenizer = await tokenizerFor(options);
  const parts = readParts(tokenizer, prompt, weighting, steps);
  if (json) await printJson({ event: "tokens", prompt, weighting, steps, parts });
  else await printLine([...describe(written, prompt, parts)].join("\n"));
  return 0;
}

/** The tokenizer of a checkpoint's first text encoder. The second of SDXL differs in its padding alone. */
async function tokenizerFor({ model, tokenizer }: TokensOptions): Promise<ClipTokenizer> {
  const chosen = await readTokenizerOption(tokenizer);
  if (chosen) return folderTokenizer(chosen);
  if (model === undefined) return clipTokenizer("<|endoftext|>");
  await using checkpoint = await openCheckpoint(checkpointPath(model));
  const files = await checkpoint.tokenizerFiles("tokenizer");
  if (files) return folderTokenizer(files);
  const { family } = await architectureOf(checkpoint);
  const isBang = family !== undefined && FAMILIES[family].padTokens[0] === 0;
  return clipTokenizer(isBang ? "!" : "<|endoftext|>");
}

interface Token {
  readonly id: number;
  /** With a hyphen where the word goes on. */
  readonly text: string;
  readonly weight: number;
}

interface Span {
  /** Steps, counted from 1. */
  readonly from: number;
  readonly until: number;
  readonly text: string;
  /** The tokens between start and end. */
  readonly chunks: readonly (readonly Token[])[];
  readonly cut: string;
}

interface Part {
  readonly weight: number;
  readonly spans: readonly Span[];
}

function readParts(
  tokenizer: ClipTokenizer,
  prompt: string,
  weighting: Weighting,
  steps: number,
): Part[] {
  const isA1111 = weighting === "a1111";
  const parts = isA1111 ? composePrompt(prompt) : [{ text: prompt, weight: 1 }];
  return parts.map(({ text, weight }) => {
    const spans = isA1111 ? schedulePrompt(text, steps) : [{ until: steps, text }];
    return {
      weight,
      spans: spans.map(({ until, text }, i) => {
        const { chunks, cut } = chunkPrompt(tokenizer, text, weighting);
        const from = i === 0 ? 1 : spans[i - 1].until + 1;
        return { from, until, text, chunks: chunks.map((each) => tokensOf(tokenizer, each)), cut };
      }),
    };
  });
}

function tokensOf(tokenizer: ClipTokenizer, { ids, weights, count }: PromptChunk): Token[] {
  return Array.from(ids.subarray(1, count - 1), (id, i) => {
    const piece = tokenizer.piece(id);
    const decoded = tokenizer.decode([id]).trimEnd();
    const isWhole = piece.endsWith("</w>") || piece.startsWith("<|");
    const said = decoded === "" || decoded.includes("\ufffd") ? piece.replace("</w>", "") : decoded;
    return { id, text: isWhole ? said : `${said}-`, weight: rounded(weights[i + 1]) };
  });
}

/** A weight without what f32 adds to it. */
const rounded = (weight: number) => Number(weight.toPrecision(6));

function* describe(written: string, prompt: string, parts: readonly Part[]): Generator<string> {
  if (prompt !== written) yield `prompt: ${prompt}`;
  for (const [i, { weight, spans }] of parts.entries()) {
    if (parts.length > 1) yield `part ${i + 1} of ${parts.length}, weight ${weight}`;
    for (const { from, until, text, chunks, cut } of spans) {
      const when = from === until ? `step ${from}` : `steps ${from} to ${until}`;
      if (spans.length > 1 || parts.length > 1) yield `${when}: ${text.trim()}`;
      for (const [j, chunk] of chunks.entries()) {
        yield `chunk ${j + 1} of ${chunks.length}: ${counted(chunk.length, "token")}`;
        for (const { id, text, weight } of chunk) {
          yield `${String(id).padStart(7)}  ${
            weight === 1 ? text : `${text.padEnd(20)} ${weight}`
          }`;
        }
      }
      if (cut !== "") yield `cut: ${cut}`;
    }
  }
}
