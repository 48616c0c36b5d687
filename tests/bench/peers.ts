/** Programs that users would pick instead, each in a process that works only when it is asked (peers/serve.py). */

import { fileURLToPath } from "node:url";
import type { Rival } from "../../lib/cli/bench/kernels.ts";
import type { Taken } from "../../lib/cli/bench/turns.ts";

/** What a peer answers to a request. */
export interface Answer extends Taken {
  /** MiB that the process has taken at most. */
  readonly peak: number;
  /** Seconds of parts of the work, as the peer itself tells them. */
  readonly parts?: Readonly<Record<string, number>>;
}

/** A peer that is ready. Dispose of it to end its process. */
export interface Peer extends AsyncDisposable {
  /** Name and version, e.g. "torch 2.13.0+cpu, f32". */
  readonly name: string;
  /** It makes whole pictures only. */
  readonly wholePictures: boolean;
  /** Seconds that it took to load what it works on, where it loads something. */
  readonly load: number | undefined;
  /** Does a piece of work. Throws what the peer says where it cannot. */
  ask(request: Readonly<Record<string, unknown>>): Promise<Answer>;
}

/** Starts peers/`script`. Throws `Error` with one sentence where it is not installed. */
export async function startPeer(
  script: string,
  args: readonly string[],
  { python = "python3", path }: { readonly python?: string; readonly path?: string } = {},
): Promise<Peer> {
  const file = fileURLToPath(new URL(`peers/${script}`, import.meta.url));
  const command = new Deno.Command(python, {
    args: ["-u", file, ...args],
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
    ...(path !== undefined && { env: { PYTHONPATH: path } }),
  });
  const process = spawned(command, python);
  const writer = process.stdin.getWriter();
  const lines = linesOf(process.stdout);
  const next = async (): Promise<Record<string, unknown>> => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`${script} ended without an answer`);
    const answer: Record<string, unknown> = JSON.parse(value);
    if (typeof answer.error === "string") throw new Error(`${script}: ${answer.error}`);
    return answer;
  };
  const end = async () => {
    await writer.close().catch(() => {});
    await lines.return(undefined);
    await process.status;
  };
  let about: Record<string, unknown>;
  try {
    about = await next();
  } catch (error) {
    await end();
    throw error;
  }
  return {
    name: String(about.name),
    wholePictures: about.whole === true,
    load: numberIn(about, "load"),
    async ask(request) {
      await writer.write(new TextEncoder().encode(JSON.stringify(request) + "\n"));
      const answer = await next();
      const parts = answer.parts;
      return {
        wall: numberIn(answer, "wall") ?? NaN,
        cpu: numberIn(answer, "cpu"),
        peak: numberIn(answer, "peak") ?? 0,
        ...(isNumbers(parts) && { parts }),
      };
    },
    [Symbol.asyncDispose]: end,
  };
}

function spawned(command: Deno.Command, program: string): Deno.ChildProcess {
  try {
    return command.spawn();
  } catch (cause) {
    throw new Error(`there is no program "${program}"`, { cause });
  }
}

function numberIn(record: Readonly<Record<string, unknown>>, key: string): number | undefined {
  const value = record[key];
  return typeof value === "number" ? value : undefined;
}

function isNumbers(value: unknown): value is Record<string, number> {
  return typeof value === "object" && value !== null &&
    Object.values(value).every((part) => typeof part === "number");
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string, void, void> {
  let rest = "";
  for await (const text of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
}

/** A peer that computes single operators; it has no figures for what it refuses. */
export function rivalOf(peer: Peer): Rival {
  const name = peer.name.split(" ")[0];
  return {
    name,
    async contender(request, turnSeconds) {
      const once = await peer.ask({ ...request, times: 1 }).catch(() => undefined);
      if (!once) return { name, turn: () => Promise.resolve({}) };
      const { wall } = await peer.ask({ ...request, times: 1 });
      const times = Math.max(1, Math.min(1000, Math.ceil(turnSeconds / Math.max(1e-5, wall))));
      return {
        name,
        turn: async () => {
          const { wall, cpu = 0 } = await peer.ask({ ...request, times });
          return { work: { wall: wall / times, cpu: cpu / times } };
        },
      };
    },
  };
}
