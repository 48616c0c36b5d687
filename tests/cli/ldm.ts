/** The program as a user meets it: a process of its own. */

import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { PERMISSIONS } from "../../lib/build/permissions.ts";

const CLI = fileURLToPath(new URL("../../cli.ts", import.meta.url));
/** Of a JavaScript file that has to bring everything with it. */
const ALONE = ["--no-config", "--no-lock", "--no-remote", "--no-npm"];

/**
 * The command that stands for `ldm`: cli.ts, or what the environment variable LDM_CLI names. That is a JavaScript file,
 * which gets the executable's permissions and no other module, or the executable.
 */
const [PROGRAM, ...FIRST] = programOf(Deno.env.get("LDM_CLI"));

/** The same as words of a command line. */
export const COMMAND: readonly string[] = [PROGRAM, ...FIRST];

/** Whether it has the executable's permissions: to Deno, devices such as /dev/full are more than files. */
export const IS_SANDBOXED = Deno.env.get("LDM_CLI") !== undefined;

function programOf(path: string | undefined): [string, ...string[]] {
  if (path === undefined) return [Deno.execPath(), "run", "-A", CLI];
  if (!path.endsWith(".js")) return [resolve(path)];
  return [Deno.execPath(), "run", ...PERMISSIONS, ...ALONE, resolve(path)];
}

/** Where fixtures stand, for arguments. */
export const FIXTURES = fileURLToPath(new URL("../../fixtures", import.meta.url));

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** stdout before it was taken for text. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

export interface LdmOptions {
  /** Working folder. */
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/** Runs `ldm` with arguments. */
export async function ldm(args: readonly string[], options: LdmOptions = {}): Promise<Outcome> {
  return await finished(PROGRAM, [...FIRST, ...args], options);
}

/** Starts `ldm`; its stdout can be read while it works. */
export function start(
  args: readonly string[],
  cwd: string,
  env: Readonly<Record<string, string>> = {},
): Deno.ChildProcess {
  const streams = { stdin: "null", stdout: "piped", stderr: "null" } as const;
  return new Deno.Command(PROGRAM, { args: [...FIRST, ...args], cwd, env, ...streams }).spawn();
}

/** Runs a bash script in which `ldm` is a function. */
export async function shell(script: string, options: LdmOptions = {}): Promise<Outcome> {
  const words = [PROGRAM, ...FIRST].map((word) => `"${word}"`).join(" ");
  const define = `ldm() { ${words} "$@"; }`;
  return await finished("bash", ["-c", `${define}\n${script}`], options);
}

async function finished(command: string, args: string[], options: LdmOptions): Promise<Outcome> {
  const env = { NO_COLOR: "1", ...options.env };
  const process = new Deno.Command(command, { args, ...options, env, stdin: "null" });
  const { code, stdout, stderr } = await process.output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr), bytes: stdout };
}

/** Whether `inTerminal` works here: other systems' `script` takes other arguments. */
export const HAS_TERMINAL: boolean = await new Deno.Command("script", { args: ["--version"] })
  .output().then(
    ({ stdout }) => new TextDecoder().decode(stdout).includes("util-linux"),
    () => false,
  );

export interface TerminalOptions extends LdmOptions {
  /** Characters in a line of the terminal. */
  readonly columns?: number;
  /** What the terminal answers when it is asked what it is. */
  readonly answer?: string;
}

/** Runs `ldm` in a terminal (util-linux's `script`); returns all that it writes there. */
export async function inTerminal(
  args: readonly string[],
  { cwd, env = {}, columns = 100, answer = "" }: TerminalOptions,
): Promise<Pick<Outcome, "code" | "stdout">> {
  const quoted = [PROGRAM, ...FIRST, ...args].map((word) => `'${word.replaceAll("'", `'\\''`)}'`);
  const line = `stty cols ${columns} rows 24; exec ${quoted.join(" ")}`;
  const process = new Deno.Command("script", {
    args: ["-qefc", line, "/dev/null"],
    ...(cwd !== undefined && { cwd }),
    env: { SHELL: "/bin/bash", ...NO_TERMINAL, ...env },
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const keyboard = process.stdin.getWriter();
  const decoder = new TextDecoder();
  let [stdout, isAsked] = ["", false];
  for await (const bytes of process.stdout) {
    stdout += decoder.decode(bytes, { stream: true });
    if (isAsked || !stdout.includes("\x1b[c")) continue;
    isAsked = true;
    await keyboard.write(new TextEncoder().encode(answer));
  }
  await keyboard.close().catch(() => {}); // nobody listens any more
  return { code: (await process.status).code, stdout };
}

/** What tells of the terminal that the tests run in, as of an unknown one. */
const NO_TERMINAL = {
  TERM: "xterm-256color",
  TERM_PROGRAM: "",
  LC_TERMINAL: "",
  KITTY_WINDOW_ID: "",
  GHOSTTY_RESOURCES_DIR: "",
  LDM_GRAPHICS: "",
  TMUX: "",
};
