/**
 * Weights in prompts. AUTOMATIC1111: `(x)` is ×1.1, `[x]` ÷1.1, `(x:w)` ×w, nested ones multiply, brackets after a backslash
 * are themselves, openers that nothing closes count to the end (modules/prompt_parser.py).
 * ComfyUI: `(x)` is ×1.1, `(x:w)` is w whatever stands around it, square brackets mean nothing, `\(` and `\)` are themselves
 * (comfy/sd1_clip.py). The same prompt so gives different pictures in the two.
 */

import { finite, pythonFloat, SPACE, splitAtWord, trimEnd, trimStart } from "./python.ts";

/** Whose rules a prompt is read by; "none" takes it as it stands. */
export type Weighting = "a1111" | "comfy" | "none";

/** A piece of a prompt and how much it counts, 1 as it is. */
export interface Segment {
  /** Without the signs of emphasis. */
  readonly text: string;
  /** 1 is as it is. */
  readonly weight: number;
}

/**
 * A prompt's pieces, in order, without the signs that gave them their weights. A1111's `BREAK` separates the outer lists.
 * Nothing is an error: what is no emphasis is text. Two things that the references do otherwise: a number that is none
 * (`(a:1.2.3)`), which ends A1111 with an error, is text; weights stay within f32, and `inf` and `nan` are not numbers.
 */
export function parseEmphasis(text: string, weighting: Weighting): Segment[][] {
  return READERS[weighting](text);
}

const READERS: Readonly<Record<Weighting, (text: string) => Segment[][]>> = {
  a1111: readA1111,
  comfy: (text) => [readComfy(text)],
  none: (text) => [[{ text, weight: 1 }]],
};

/** In groups: the number of `:1.2)`. */
const A1111 = new RegExp(
  String.raw`\\[()[\]\\]?|[([]|:${SPACE}*([+-]?[.\p{Nd}]+)${SPACE}*\)|[)\]]|[^\\()[\]:]+|:`,
  "gu",
);
const ROUND = 1.1;
const SQUARE = 1 / 1.1;
const BREAK = "BREAK";
/** What a break weighs. Emphasis around it changes that, and it is text: so it is in A1111, where pictures depend on it. */
const BREAK_WEIGHT = -1;

function readA1111(text: string): Segment[][] {
  const segments: { text: string; weight: number }[] = [];
  const rounds: number[] = []; // where what is inside the bracket begins
  const squares: number[] = [];
  const scale = (from: number, factor: number) => {
    for (const segment of segments.slice(from)) segment.weight = finite(segment.weight * factor);
  };
  const add = (text: string) => {
    const parts = splitAtWord(text, BREAK);
    parts.forEach((part, i) => {
      if (i > 0) segments.push({ text: BREAK, weight: BREAK_WEIGHT });
      const started = i > 0 ? trimStart(part) : part;
      segments.push({ text: i + 1 < parts.length ? trimEnd(started) : started, weight: 1 });
    });
  };
  const close = (openers: number[], factor: number, sign: string) => {
    const from = openers.pop();
    if (from === undefined) add(sign);
    else scale(from, factor);
  };
  for (const [sign, number] of text.matchAll(A1111)) {
    const factor = number === undefined ? undefined : pythonFloat(number);
    if (sign.startsWith("\\")) segments.push({ text: sign.slice(1), weight: 1 });
    else if (sign === "(") rounds.push(segments.length);
    else if (sign === "[") squares.push(segments.length);
    else if (factor !== undefined) close(rounds, factor, sign);
    else if (number !== undefined && rounds.length > 0) {
      add(sign.slice(0, -1));
      close(rounds, ROUND, ")");
    } else if (sign === ")") close(rounds, ROUND, sign);
    else if (sign === "]") close(squares, SQUARE, sign);
    else add(sign);
  }
  for (const from of rounds) scale(from, ROUND);
  for (const from of squares) scale(from, SQUARE);
  return brokenUp(merged(segments.length > 0 ? segments : [{ text: "", weight: 1 }]));
}

/** Neighbours of one weight are one piece: a word may go on where brackets end. */
function merged(segments: readonly Segment[]): Segment[] {
  const out: { text: string; weight: number }[] = [];
  for (const { text, weight } of segments) {
    const last = out.at(-1);
    if (last?.weight === weight) last.text += text;
    else out.push({ text, weight });
  }
  return out;
}

function brokenUp(segments: readonly Segment[]): Segment[][] {
  const parts: Segment[][] = [[]];
  for (const segment of segments) {
    if (segment.text === BREAK && segment.weight === BREAK_WEIGHT) parts.push([]);
    else parts[parts.length - 1].push(segment);
  }
  return parts;
}

/** Stands for a bracket that a backslash made text. */
const ESCAPED = { open: "\0\x02", close: "\0\x01" };

function readComfy(prompt: string): Segment[] {
  const hidden = prompt.replaceAll("\\)", ESCAPED.close).replaceAll("\\(", ESCAPED.open);
  const shown = (text: string) => text.replaceAll(ESCAPED.close, ")").replaceAll(ESCAPED.open, "(");
  const out: Segment[] = [];
  const todo = groupsOf(hidden, 1);
  for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
    const { text, weight } = next;
    if (text.length < 2 || !text.startsWith("(") || !text.endsWith(")")) {
      out.push({ text: shown(text), weight });
      continue;
    }
    const inside = text.slice(1, -1);
    const colon = inside.lastIndexOf(":");
    const number = colon > 0 ? pythonFloat(inside.slice(colon + 1)) : undefined;
    const groups = number === undefined
      ? groupsOf(inside, finite(weight * ROUND))
      : groupsOf(inside.slice(0, colon), number);
    for (const group of groups) todo.push(group);
  }
  return out;
}

/** The outermost brackets with what is in them, and what stands between them, last first. Closers alone count as −1. */
function groupsOf(text: string, weight: number): Segment[] {
  const out: string[] = [];
  let from = 0;
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    if (text[i] === "(") {
      if (depth === 0) {
        out.push(text.slice(from, i));
        from = i;
      }
      depth++;
    } else if (text[i] === ")") {
      depth--;
      if (depth === 0) {
        out.push(text.slice(from, i + 1));
        from = i + 1;
      }
    }
  }
  out.push(text.slice(from));
  return out.filter((group) => group !== "").reverse().map((group) => ({ text: group, weight }));
}
