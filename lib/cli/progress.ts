/**
 * Messages for a person on stderr, and one line of progress where stderr is a terminal that can go back to the beginning of
 * a line. No colours, NO_COLOR or not.
 */

import { writeStderr } from "./terminal.ts";

export interface ProgressOptions {
  readonly quiet: boolean;
  readonly verbose: boolean;
  /** Whether lines for a machine go to stdout meanwhile. */
  readonly json: boolean;
}

/** What commands say while they work. */
export interface Progress {
  /** Something that a person should know even when quiet: what is wrong but goes on. */
  warn(message: string): void;
  /** Something worth a line, unless quiet. */
  say(message: string): void;
  /** Something worth a line where `show` shows nothing or when verbose, unless quiet. */
  plain(message: string): void;
  /** Something worth a line when verbose. */
  detail(message: string): void;
  /**
   * How far something is; redrawn in place on a terminal, not shown elsewhere. Of several notes the first matters most: the
   * others give way where the terminal is narrow.
   */
  show(label: string, done: number, of: number, ...notes: readonly string[]): void;
  /** Removes the line that `show` drew. */
  clear(): void;
}

/** Milliseconds between two drawings. */
const INTERVAL = 80;

export function progressTo(options: ProgressOptions): Progress {
  // on one terminal a bar and lines for a machine would write into one another
  const isAlone = !(options.json && Deno.stdout.isTerminal());
  const isLive = Deno.stderr.isTerminal() && Deno.env.get("TERM") !== "dumb" && !options.quiet &&
    isAlone;
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
    plain: (message) => options.quiet || (isLive && !options.verbose) || line(message),
    detail: (message) => options.verbose && !options.quiet && line(message),
    show(label, done, of, ...notes) {
      const now = performance.now();
      if (!isLive || (now - last < INTERVAL && done < of)) return;
      last = now;
      // a character in the last column would begin a new line
      writeStderr(`\r${barLine(columns() - 1, label, done / of, notes)}\x1b[K`);
      drawn = true;
    },
  };
}

/** Characters of a bar. */
const [SHORTEST, LONGEST] = [8, 24];

/**
 * A line of at most `width` characters: a label, a bar of which `share` is filled, and notes. Where it is too narrow the last
 * notes are left out, then the bar, then what does not fit.
 */
export function barLine(
  width: number,
  label: string,
  share: number,
  notes: readonly string[],
): string {
  for (let kept = notes.length; kept >= Math.min(1, notes.length); kept--) {
    const note = notes.slice(0, kept).filter((text) => text !== "").join(", ");
    const room = width - label.length - note.length - 2;
    if (room >= SHORTEST) {
      return `${label} ${bar(Math.min(LONGEST, room), share)} ${note}`.trimEnd();
    }
  }
  return [label, ...notes.slice(0, 1)].join(" ").slice(0, Math.max(0, width));
}

function bar(length: number, share: number): string {
  const filled = Math.round(length * Math.min(1, Math.max(0, share || 0)));
  return "█".repeat(filled) + "░".repeat(length - filled);
}

/** Width of the terminal; 80 where it does not tell. */
export function columns(): number {
  try {
    return Deno.consoleSize().columns || 80;
  } catch {
    return 80;
  }
}

/** "0.4 s", "12 s", "3 min 5 s", "2 h 10 min". */
export function duration(milliseconds: number): string {
  const seconds = milliseconds / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 100) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 100) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** "812 B", "2.4 MB", "2.13 GB": powers of ten, three digits. */
export function fileSize(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, bytes < 1 ? 0 : Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** power;
  return `${power === 0 ? value : value.toPrecision(3)} ${units[power]}`;
}
