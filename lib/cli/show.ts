/**
 * `--show`: pictures drawn in terminals that can. They go to stderr, where messages go: stdout has results alone.
 */

import { encodePng, type Picture } from "../formats/png.ts";
import { shrink, sizeWithin } from "../formats/resize.ts";
import { sixel } from "../formats/sixel.ts";
import {
  iterm2Picture,
  kittyPicture,
  kittyPlaceholders,
  PLACEHOLDER_ROWS,
  throughTmux,
} from "../formats/terminal_picture.ts";
import {
  type Answer,
  cellsOf,
  type Environment,
  GRAPHICS,
  parseAnswer,
  type Protocol,
  protocolBy,
  QUESTION,
  USUAL_CELL,
} from "./graphics.ts";
import type { Listener } from "./listening.ts";
import { choice } from "./options.ts";
import { columns, type Progress } from "./progress.ts";
import { writeStderr } from "./terminal.ts";

/** Draws a picture in the terminal. */
export type Show = (picture: Picture) => Promise<void>;

/** Milliseconds that a terminal is given to answer, far ones included. */
const PATIENCE = 500;
/** Rows of the terminal that stay for text. */
const TEXT_ROWS = 3;

/**
 * How to draw in this terminal, which may be asked what it can. `undefined`, with a warning, where it cannot. To be called
 * before the work begins: while a device computes nobody listens. Throws `UsageError` for an LDM_GRAPHICS that means nothing.
 */
export async function openShow(progress: Progress): Promise<Show | undefined> {
  const named = Deno.env.get("LDM_GRAPHICS");
  const wanted = named ? choice("LDM_GRAPHICS", GRAPHICS)(named) : undefined;
  const cannot = (why: string) => {
    progress.warn(`The pictures cannot be shown: ${why}`);
    return undefined;
  };
  if (wanted === "none") return cannot("LDM_GRAPHICS is none");
  if (!Deno.stderr.isTerminal()) return cannot("stderr is no terminal");
  const environment = surroundings();
  if (environment.TERM === "dumb") return cannot("the terminal is a dumb one (TERM)");
  const answer = await ask();
  const protocol = wanted ?? protocolBy(environment) ?? (answer.sixel ? "sixel" : undefined);
  if (protocol === undefined) {
    return cannot(
      "this terminal tells of no graphics; if it has some, LDM_GRAPHICS=kitty, iterm2 or sixel says which",
    );
  }
  const isTmux = Boolean(environment.TMUX);
  const cell = answer.cell ?? USUAL_CELL;
  let count = 0;
  return async (picture) => {
    const rows = terminalRows() - TEXT_ROWS;
    const most = protocol === "kitty" && isTmux ? Math.min(rows, PLACEHOLDER_ROWS) : rows;
    const size = sizeWithin(picture, (columns() - 1) * cell.width, Math.max(1, most) * cell.height);
    const small = shrink(picture, size.width, size.height);
    progress.clear();
    // ids are kept by the terminal: those of two runs should differ, and none may be 0
    const id = ((Deno.pid % 0xffff) + 1) * 0x100 + (count++ % 0x100);
    writeStderr(await drawing(protocol, isTmux, small, cell, id));
  };
}

/** The text that draws a picture and ends its line. */
async function drawing(
  protocol: Protocol,
  isTmux: boolean,
  picture: Picture,
  cell: { readonly width: number; readonly height: number },
  id: number,
): Promise<string> {
  // tmux draws sixels itself, or says in its answer that it cannot
  if (protocol === "sixel") return sixel(picture) + "\n";
  const png = await encodePng(picture);
  if (!isTmux) return (protocol === "kitty" ? kittyPicture : iterm2Picture)(png).join("") + "\n";
  if (protocol === "iterm2") return iterm2Picture(png, true).map(throughTmux).join("") + "\n";
  const { sequences, text } = kittyPlaceholders(png, cellsOf(picture, cell), id);
  return sequences.map(throughTmux).join("") + text;
}

/** Draws each picture once it is saved. */
export function showListener(show: Show): Listener {
  let last: Picture | undefined;
  return async (event) => {
    if (event.kind === "image") last = event.image;
    if (event.kind !== "saved" || last === undefined) return;
    await show(last);
    last = undefined;
  };
}

function surroundings(): Environment {
  return {
    TERM: Deno.env.get("TERM"),
    TERM_PROGRAM: Deno.env.get("TERM_PROGRAM"),
    LC_TERMINAL: Deno.env.get("LC_TERMINAL"),
    KITTY_WINDOW_ID: Deno.env.get("KITTY_WINDOW_ID"),
    GHOSTTY_RESOURCES_DIR: Deno.env.get("GHOSTTY_RESOURCES_DIR"),
    TMUX: Deno.env.get("TMUX"),
  };
}

/** What the terminal says of itself, where stdin comes from it. */
async function ask(): Promise<Answer> {
  let text = "";
  if (!Deno.stdin.isTerminal()) return parseAnswer(text);
  Deno.stdin.setRaw(true, { cbreak: true });
  const patience = new AbortController();
  const timer = setTimeout(() => patience.abort(), PATIENCE);
  try {
    writeStderr(QUESTION);
    const late = new Promise<null>((resolve) => patience.signal.onabort = () => resolve(null));
    const buffer = new Uint8Array(256);
    while (!parseAnswer(text).complete) {
      // where nothing comes the read stays behind, and takes the next thing that is typed
      const read = await Promise.race([Deno.stdin.read(buffer), late]);
      if (read === null) break;
      text += new TextDecoder().decode(buffer.subarray(0, read));
    }
  } finally {
    clearTimeout(timer);
    Deno.stdin.setRaw(false);
  }
  return parseAnswer(text);
}

function terminalRows(): number {
  try {
    return Deno.consoleSize().rows || 24;
  } catch {
    return 24;
  }
}
