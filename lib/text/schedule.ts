/**
 * Prompts that change while a picture is made, in AUTOMATIC1111's writing (modules/prompt_parser.py): `[to:when]`,
 * `[from:to:when]`, `[from::when]` change once, after step `when` (or a share of the steps, where the number has a point);
 * `[a|b|…]` takes turns. All may be nested and stand in emphasis.
 */

import { SPACE } from "./python.ts";

/** A text and the last step, counted from 1, that it is used in. */
export interface PromptSpan {
  /** The last step, from 1. */
  readonly until: number;
  /** What is read in these steps. */
  readonly text: string;
}

/** A text with what changes in it. */
type Piece = string | Piece[] | Scheduled | Alternate;
interface Scheduled {
  readonly kind: "scheduled";
  readonly before: Piece;
  readonly after: Piece;
  /** Its number, as it is written. */
  readonly when: string;
}
interface Alternate {
  readonly kind: "alternate";
  readonly options: readonly Piece[];
}

/**
 * The texts of a prompt over `steps` steps, in order; the last is until `steps`, neighbours differ. Brackets that are no
 * schedule stay, as emphasis or as text. As in A1111, a prompt in which a `|` stands outside of `[a|b]`, or a backslash
 * at the end of a line, has no schedule at all.
 */
export function schedulePrompt(text: string, steps: number): PromptSpan[] {
  const tree = parse(text);
  if (tree === undefined) return [{ until: steps, text }];
  const spans: PromptSpan[] = [];
  for (const until of endsOf(tree, steps)) {
    const text = textAt(tree, until, steps);
    if (spans.at(-1)?.text === text) spans.pop();
    spans.push({ until, text });
  }
  return spans;
}

/** The step after which a schedule is over; below 1 where it is never on. */
function stepOf({ when }: Scheduled, steps: number): number {
  const value = when.includes(".") ? Number(when) * steps : Number(when);
  return Math.min(steps, Math.trunc(value));
}

/** Every step after which the text may change, in order. */
function endsOf(tree: Piece, steps: number): number[] {
  const ends = new Set([steps]);
  const todo = [tree];
  for (let piece = todo.pop(); piece !== undefined; piece = todo.pop()) {
    if (typeof piece === "string") continue;
    if (Array.isArray(piece)) {
      for (const part of piece) todo.push(part);
    } else if (piece.kind === "scheduled") {
      todo.push(piece.before, piece.after);
      const step = stepOf(piece, steps);
      if (step >= 1) ends.add(step);
    } else {
      todo.push(...piece.options);
      for (let step = 1; step <= steps; step++) ends.add(step);
    }
  }
  return [...ends].sort((a, b) => a - b);
}

function textAt(tree: Piece, step: number, steps: number): string {
  let text = "";
  const todo = [tree];
  for (let piece = todo.pop(); piece !== undefined; piece = todo.pop()) {
    if (typeof piece === "string") text += piece;
    else if (Array.isArray(piece)) {
      for (let i = piece.length - 1; i >= 0; i--) todo.push(piece[i]);
    } else if (piece.kind === "scheduled") {
      todo.push(step <= stepOf(piece, steps) ? piece.before : piece.after);
    } else todo.push(piece.options[(step - 1) % piece.options.length]);
  }
  return text;
}

/** Signs, and what stands between them; a backslash takes the next character with it. */
const TOKEN = /[[\]():|]|(?:[^\\[\]():|]|\\[^\n])+/gu;
/** When, as lark's SIGNED_NUMBER has it. */
const WHEN = new RegExp(
  String.raw`^${SPACE}*([+-]?(?:\d+e[+-]?\d+|(?:\d+\.\d*|\.\d+)(?:e[+-]?\d+)?|\d+))${SPACE}*$`,
  "iu",
);

/** A bracket that is open: what it holds so far, between the signs that part it. */
interface Group {
  readonly open: "(" | "[";
  readonly parts: Piece[][];
  readonly signs: string[];
}

/**
 * The pieces of a prompt; `undefined` where it is not of the grammar. A bracket counts when what is in it does, to its
 * end; one that does not count, and those around it, are text, but what was complete inside remains.
 */
function parse(text: string): Piece[] | undefined {
  const out: Piece[] = [];
  let open: Group[] = [];
  let length = 0;
  const add = (piece: Piece) => (open.at(-1)?.parts.at(-1) ?? out).push(piece);
  const giveUp = () => {
    for (const group of open) {
      out.push(group.open);
      group.parts.forEach((part, i) => out.push(...(i > 0 ? [group.signs[i - 1]] : []), part));
    }
    const isAlternate = open.some(({ signs }) => signs.includes("|"));
    open = [];
    return isAlternate;
  };
  for (const [token] of text.matchAll(TOKEN)) {
    length += token.length;
    const group = open.at(-1);
    if (token === "(" || token === "[") open.push({ open: token, parts: [[]], signs: [] });
    else if (token === ")" || token === "]") {
      const piece = group && pieceOf(group, token);
      if (piece !== undefined) {
        open.pop();
        add(piece);
      } else {
        if (giveUp()) return undefined;
        out.push(token);
      }
    } else if (token === ":" || token === "|") {
      if (group) {
        group.signs.push(token);
        group.parts.push([]);
      } else if (token === "|") return undefined;
      else out.push(token);
    } else add(token);
  }
  return giveUp() || length < text.length ? undefined : out;
}

/** What a bracket is when `close` ends it; `undefined` where that is nothing. */
function pieceOf({ open, parts, signs }: Group, close: ")" | "]"): Piece | undefined {
  const kinds = new Set(signs);
  if (open === "(") {
    if (close !== ")" || kinds.has("|") || signs.length > 1) return undefined;
    return ["(", parts[0], ...(parts.length > 1 ? [":", parts[1]] : []), ")"];
  }
  if (close !== "]" || kinds.size > 1) return undefined;
  if (signs.length === 0) return ["[", parts[0], "]"];
  if (kinds.has("|")) return { kind: "alternate", options: parts };
  const [last] = parts[signs.length];
  const when = parts[signs.length].length === 1 && typeof last === "string"
    ? WHEN.exec(last)
    : null;
  if (when === null || signs.length > 2) return undefined;
  const [before, after] = signs.length === 2 ? parts : [[], parts[0]];
  return { kind: "scheduled", before, after, when: when[1] };
}
