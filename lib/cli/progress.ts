/** Messages for a person on stderr, and one line of progress where stderr is a terminal. No colours, NO_COLOR or not. */

import { writeStderr } from "./terminal.ts";

export interface ProgressOptions {
  readonly quiet: boolean;
  readonly verbose: boolean;
}

/** What commands say while they work. */
export interface Progress {
  /** Something that a person should know even when quiet: what is wrong but goes on. */
  warn(message: string): void;
  /** Something worth a line, unless quiet. */
  say(message: string): void;
  /** Something worth a line when verbose. */
  detail(message: string): void;
  /** How far something is; redrawn in place on a terminal, not shown elsewhere. */
  show(label: string, done: number, of: number, note?: string): void;
  /** Removes the line that `show` drew. */
  clear(): void;
}

/** Milliseconds between two drawings. */
const INTERVAL = 80;
const BAR = 24; // characters

export function progressTo(options: ProgressOptions): Progress {
  const isLive = Deno.stderr.isTerminal() && !options.quiet;
  let drawn = false;
  let last = -Infinity; // when

  const clear = () => {
    if (drawn) writeStderr("\r\x1b[K");
    drawn = false;
  };
  const line = (message: string) => {
    clear();
    writeStderr(message + "\n");
  };
  return {
    clear,
    warn: (message) => line(`warning: ${message}`),
    say: (message) => options.quiet || line(message),
    detail: (message) => options.verbose && !options.quiet && line(message),
    show(label, done, of, note = "") {
      const now = performance.now();
      if (!isLive || (now - last < INTERVAL && done < of)) return;
      last = now;
      const filled = Math.round(BAR * Math.min(1, of > 0 ? done / of : 0));
      const bar = "█".repeat(filled) + "░".repeat(BAR - filled);
      const text = `${label} ${bar} ${note}`.slice(0, columns() - 1);
      writeStderr(`\r${text}\x1b[K`);
      drawn = true;
    },
  };
}

/** Width of the terminal; 80 where it does not tell. */
function columns(): number {
  try {
    return Deno.consoleSize().columns || 80;
  } catch {
    return 80;
  }
}

/** "0.4 s", "12 s", "3 min 5 s". */
export function duration(milliseconds: number): string {
  const seconds = milliseconds / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds) % 60} s`;
}

/** "812 B", "2.4 MB", "2.13 GB": powers of ten, three digits. */
export function fileSize(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, bytes < 1 ? 0 : Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** power;
  return `${power === 0 ? value : value.toPrecision(3)} ${units[power]}`;
}
