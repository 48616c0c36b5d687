/** What a terminal can draw, by its environment and by what it answers. Pure. */

import type { Cells } from "../formats/terminal_picture.ts";

/** A way to draw pictures in a terminal. */
export type Protocol = "kitty" | "iterm2" | "sixel";

/** Words that LDM_GRAPHICS may say. */
export const GRAPHICS = ["kitty", "iterm2", "sixel", "none"] as const;

/** Environment variables that tell of a terminal. */
export type Environment = Readonly<Record<Variable, string | undefined>>;
type Variable =
  | "TERM"
  | "TERM_PROGRAM"
  | "LC_TERMINAL"
  | "KITTY_WINDOW_ID"
  | "GHOSTTY_RESOURCES_DIR"
  | "TMUX";

/** Signs of terminals that have a protocol of their own. Those with sixels alone say so when they are asked. */
const SIGNS: readonly (readonly [variable: Variable, value: RegExp, protocol: Protocol])[] = [
  ["KITTY_WINDOW_ID", /./, "kitty"],
  ["GHOSTTY_RESOURCES_DIR", /./, "kitty"],
  ["TERM", /kitty|ghostty/, "kitty"],
  ["LC_TERMINAL", /^iTerm2$/, "iterm2"],
  ["TERM_PROGRAM", /^(iTerm\.app|WezTerm)$/, "iterm2"],
];

/** The protocol that the environment tells of. */
export function protocolBy(environment: Environment): Protocol | undefined {
  return SIGNS.find(([variable, value]) => value.test(environment[variable] ?? ""))?.[2];
}

/** Asks for a character's size in pixels (XTWINOPS 16) and, which every terminal answers, for what it is (DA1). */
export const QUESTION = "\x1b[16t\x1b[c";

export interface Answer {
  /** DA1 has come: nothing else will. */
  readonly complete: boolean;
  /** DA1 lists sixel graphics. */
  readonly sixel: boolean;
  /** Pixels of a character. */
  readonly cell: { readonly width: number; readonly height: number } | undefined;
}

/** What a terminal has answered so far. */
export function parseAnswer(text: string): Answer {
  // deno-lint-ignore no-control-regex -- control sequences
  const [, attributes] = /\x1b\[\?([\d;]*)c/.exec(text) ?? [];
  // deno-lint-ignore no-control-regex -- control sequences
  const [, height, width] = /\x1b\[6;(\d+);(\d+)t/.exec(text) ?? [];
  const isSize = Number(width) > 0 && Number(height) > 0;
  return {
    complete: attributes !== undefined,
    sixel: attributes?.split(";").slice(1).includes("4") ?? false,
    cell: isSize ? { width: Number(width), height: Number(height) } : undefined,
  };
}

/** Pixels of a character where a terminal does not tell: the VT340's. */
export const USUAL_CELL = { width: 10, height: 20 } as const;

/** The cells that a picture covers. */
export function cellsOf(
  picture: { readonly width: number; readonly height: number },
  cell: { readonly width: number; readonly height: number },
): Cells {
  return {
    columns: Math.ceil(picture.width / cell.width),
    rows: Math.ceil(picture.height / cell.height),
  };
}
