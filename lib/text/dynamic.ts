/**
 * Prompts with choices in them, as the dynamicprompts package writes them: `{a|b}`, `{0.5::a|2::b}`, `{2$$ and $$a|b|c}`,
 * `{1-2$$…}`, wildcards `__name__` and `__name(variable=value)__`, variables `${name=value}`, `${name=!value}` (drawn once),
 * `${name?=value}` (unless it is set), `${name}`, `${name:default}`, and `%{around ... it$$inner}`. All may be nested.
 * Every draw is a random one: the signs of other samplers (`{~a|b}`, `{@a|b}`, `{!a|b}`) change nothing. Comments are not
 * read: a `#` is a `#`. `\{`, `\}` and `\__` are the signs themselves; `\|` parts nothing and stays.
 */

import { UsageError } from "../base/errors.ts";
import { torchCpu } from "../base/random.ts";

/** The next number of a stream, 0 ≤ x < 1. */
export type Draw = () => number;

/** The texts that a wildcard's name, or a glob of names, stands for; none where there is no such wildcard. */
export type Wildcards = (name: string) => readonly string[];

/** The stream of a seed. */
export function drawsOf(seed: number): Draw {
  const source = torchCpu(seed);
  return () => source.uniform(1)[0];
}

/**
 * A prompt with its choices made. What is not of the grammar, and a wildcard that `wildcards` does not know, stays as it
 * stands. Throws `UsageError` for a variable without a value and where things are nested without end.
 */
export function resolveDynamic(text: string, draw: Draw, wildcards: Wildcards): string {
  let left = MOST;
  const spend = (depth: number) => {
    left--;
    if (depth <= DEEPEST && left >= 0) return;
    throw new UsageError(
      "Cannot resolve the prompt: its choices, variables and wildcards are nested too deep, or name " +
        "themselves and go on without end",
    );
  };
  return resolve(text, { draw, wildcards, spend, variables: new Map(), depth: 0 });
}

const DEEPEST = 64;
/** Parts that are resolved for one prompt, at most. */
const MOST = 100_000;

/** What a part of a prompt is resolved in. */
interface Scope {
  readonly draw: Draw;
  readonly wildcards: Wildcards;
  /** Throws where there is no end. */
  readonly spend: (depth: number) => void;
  readonly variables: ReadonlyMap<string, Resolve>;
  readonly depth: number;
}

/** A part of a prompt, resolved in the scope of its use. */
type Resolve = (scope: Scope) => string;

interface Assignment {
  readonly name: string;
  readonly value: Resolve;
  readonly overwrites: boolean;
  readonly isImmediate: boolean;
}

type Piece = string | Resolve | Assignment;

/** Puts the pieces of a text together when all variables among them are set, wherever they stand. */
function resolve(text: string, outer: Scope): string {
  outer.spend(outer.depth);
  const variables = new Map(outer.variables);
  const scope = { ...outer, variables, depth: outer.depth + 1 };
  const pieces = [...piecesOf(text)];
  for (const piece of pieces) {
    if (typeof piece !== "object") continue;
    const { name, value, overwrites, isImmediate } = piece;
    if (!overwrites && variables.has(name)) continue;
    const drawn = isImmediate ? value(scope) : undefined;
    variables.set(name, drawn === undefined ? value : () => drawn);
  }
  return pieces.map((piece) => {
    if (typeof piece === "string") return piece;
    return typeof piece === "function" ? piece(scope) : "";
  }).join("");
}

/** A part that is a text of its own. */
const lazily = (text: string): Resolve => (scope) => resolve(text, scope);

/** What something may begin with. */
const SIGN = /\\__|\\[^]|[$%]?\{|__/g;
const ESCAPES: Readonly<Record<string, string>> = { "\\{": "{", "\\}": "}", "\\__": "__" };

function* piecesOf(text: string): Generator<Piece> {
  const pairs = bracesOf(text);
  let at = 0;
  for (const { 0: sign, index } of text.matchAll(SIGN)) {
    if (index < at) continue; // inside of what was read
    yield text.slice(at, index);
    at = index + sign.length;
    const close = sign.endsWith("{") ? pairs.get(at - 1) : undefined;
    if (sign === "__") {
      const { piece, length } = wildcardAt(text, index);
      yield piece;
      at = index + length;
    } else if (close === undefined || sign.startsWith("\\")) yield ESCAPES[sign] ?? sign;
    else {
      const inside = text.slice(at, close);
      const special = sign === "{" ? undefined : SPECIAL[sign](inside);
      if (special === undefined) yield sign.slice(0, -1);
      yield special ?? choiceOf(inside);
      at = close + 1;
    }
  }
  yield text.slice(at);
}

/** Braces that belong together: index of `{` → index of `}`. */
function bracesOf(text: string): Map<number, number> {
  const pairs = new Map<number, number>();
  const open: number[] = [];
  for (const { 0: sign, index } of text.matchAll(/\\[^]|[{}]/g)) {
    if (sign === "{") open.push(index);
    const start = sign === "}" ? open.pop() : undefined;
    if (start !== undefined) pairs.set(start, index);
  }
  return pairs;
}

/** The parts of a text between separators that stand in no braces. */
function splitOutside(text: string, separator: "|" | "$$"): string[] {
  const pairs = bracesOf(text);
  const parts: string[] = [];
  let from = 0;
  for (let i = 0; i < text.length; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === "{") i = pairs.get(i) ?? i;
    else if (text.startsWith(separator, i)) {
      parts.push(text.slice(from, i));
      from = i + separator.length;
      i = from - 1;
    }
  }
  return [...parts, text.slice(from)];
}

const NAME = String.raw`^\s*([A-Za-z_-][A-Za-z0-9_-]*)\s*`;
const ASSIGNMENT = new RegExp(String.raw`${NAME}(\?)?=(!)?\s*`);
const ACCESS = new RegExp(String.raw`${NAME}(?:(:)\s*|$)`);

/** What braces after a sign are; `undefined` where they are a choice after all. */
const SPECIAL: Readonly<Record<string, (inside: string) => Piece | undefined>> = {
  "${"(inside) {
    const assigned = ASSIGNMENT.exec(inside);
    if (assigned) {
      const [all, name, keeps, immediate] = assigned;
      const value = lazily(inside.slice(all.length));
      return { name, value, overwrites: keeps === undefined, isImmediate: immediate !== undefined };
    }
    const accessed = ACCESS.exec(inside);
    if (accessed === null) return undefined;
    const [all, name, colon] = accessed;
    const fallback = colon === undefined ? undefined : lazily(inside.slice(all.length));
    return (scope) => {
      const value = scope.variables.get(name) ?? fallback;
      if (value !== undefined) return value({ ...scope, depth: scope.depth + 1 });
      throw new UsageError(
        `Cannot resolve the prompt: its variable "${name}" has no value; \${${name}=…} sets one, ` +
          `\${${name}:…} stands for itself where there is none`,
      );
    };
  },
  "%{"(inside) {
    const parts = splitOutside(inside, "$$");
    if (parts.length !== 2) return undefined;
    const [around, inner] = parts.map((part) => part.trimStart());
    return (scope) => {
      const text = resolve(around, scope);
      const [gap] = /[\u1801\u2026\u22ee-\u22f0\u22f1\ufe19]+|\.{3,}/.exec(text) ?? [""];
      const at = gap === "" ? text.length : text.indexOf(gap);
      return text.slice(0, at) + resolve(inner, scope) + text.slice(at + gap.length);
    };
  },
};

/** How many, and what stands between them. */
const BOUNDS = /^\s*[~!@]?(?:(?:(\d+)-(\d+)|-(\d+)|(\d+)-|(\d+))\$\$(?:([^${}]+)\$\$)?)?/;
const WEIGHT = /^\s*(?:(\d+(?:\.\d*)?|\.\d+)::)?/;

interface Option {
  readonly text: string;
  readonly weight: number;
}

function choiceOf(inside: string): Resolve {
  const [bounds, from, to, most, least, exact, separator = ","] = BOUNDS.exec(inside) ?? [""];
  const options = splitOutside(inside.slice(bounds.length), "|").map((part) => {
    const [sign, weight] = WEIGHT.exec(part) ?? [""];
    return { text: part.slice(sign.length), weight: weight === undefined ? 1 : Number(weight) };
  });
  const counts = (available: number) => {
    const isAny = bounds.endsWith("$$");
    const first = Number(exact ?? from ?? least ?? 1);
    const last = Number(exact ?? to ?? most ?? (isAny ? options.length : 1));
    return [first, last].map((count) => Math.min(count, available)).sort((a, b) => a - b);
  };
  return (scope) => {
    const available = options.length === 1 ? valuesOf(options[0], scope) : options;
    const [first, last] = counts(available.length);
    const count = first < last ? first + Math.floor(scope.draw() * (last - first + 1)) : first;
    const texts = drawn(available, count, scope.draw).map(({ text }) => resolve(text, scope));
    return joined(texts, separator);
  };
}

/** The values of an option that is nothing but a wildcard: several are drawn from one wildcard without repetition. */
function valuesOf(option: Option, scope: Scope): readonly Option[] {
  const { piece, length, values } = wildcardAt(option.text, 0);
  if (typeof piece === "string" || length < option.text.length) return [option];
  const texts = values(scope);
  return texts.length > 0 ? texts.map((text) => ({ text, weight: 1 })) : [option];
}

/** Options by their weights, without repetition; where no weight is left, any. */
function drawn(options: readonly Option[], count: number, draw: Draw): Option[] {
  const left = [...options];
  return Array.from({ length: count }, () => {
    const total = left.reduce((sum, { weight }) => sum + weight, 0);
    let rest = draw() * (total > 0 ? total : left.length);
    const found = left.findIndex(({ weight }) => (rest -= total > 0 ? weight : 1) < 0);
    return left.splice(found < 0 ? left.length - 1 : found, 1)[0];
  });
}

/** Several texts as one; an empty one at an end leaves no separator. */
function joined(texts: readonly string[], separator: string): string {
  if (texts.length === 1) return texts[0];
  const text = texts.join(separator);
  const start = text.startsWith(separator) ? separator.length : 0;
  const isOver = text.endsWith(separator) && text.length >= start + separator.length;
  return text.slice(start, isOver ? -separator.length : undefined);
}

const WILDCARD = /__[~!@]?((?:\$\{[^{}]*\}|(?!__)[^(){}$#|\n])+)(?:\s*\(([^()]+)\))?__/y;

interface WildcardFound {
  readonly piece: string | Resolve;
  /** Characters that it takes. */
  readonly length: number;
  /** What it stands for. */
  readonly values: (scope: Scope) => readonly string[];
}

/** The wildcard that begins at an index, and an underscore where none does. */
function wildcardAt(text: string, index: number): WildcardFound {
  WILDCARD.lastIndex = index;
  const match = WILDCARD.exec(text);
  if (match === null) return { piece: "_", length: 1, values: () => [] };
  const [all, path, spec] = match;
  const given = new Map(
    (spec ?? "").split(",").filter((pair) => pair.includes("=")).map((pair) => {
      const [name] = pair.split("=", 1);
      return [name.trim(), lazily(pair.slice(name.length + 1).trim())];
    }),
  );
  const named = path.replaceAll(/\$\{\s*([\w-]+)\s*\}/g, "${$1:$1}"); // in a path, an unknown variable is its name
  const nameIn = (scope: Scope) => resolve(named, scope);
  const piece = (scope: Scope) => {
    const name = nameIn(scope);
    const values = scope.wildcards(name);
    if (values.length === 0) return path === named ? all : `__${name}__`;
    const value = values[Math.floor(scope.draw() * values.length)];
    return resolve(value, { ...scope, variables: new Map([...scope.variables, ...given]) });
  };
  return { piece, length: all.length, values: (scope) => scope.wildcards(nameIn(scope)) };
}

/**
 * Wildcards of texts with a value a line, by their names, such as "clothes/hats". Empty lines and lines that begin with
 * `#` are none; of several that a glob names, each value counts once. `*` and `**` match slashes too. A name that matches
 * nothing is looked for in every folder.
 */
export function wildcardsOf(files: ReadonlyMap<string, string>): Wildcards {
  const named = (glob: string) => {
    const pattern = globPattern(glob);
    const lines = [...files].filter(([name]) => pattern.test(name)).flatMap(([, text]) =>
      text.split(/\r?\n/).map((line) => line.trim())
    );
    return [...new Set(lines.filter((line) => line !== "" && !line.startsWith("#")))].sort();
  };
  return (name) => {
    const path = name.replaceAll(/[\\/]+/g, "/").replaceAll(/^\/|\/$/g, "");
    if (path === "" || path.includes("..")) return [];
    const values = named(path);
    return values.length > 0 || path.startsWith("**") ? values : named(`**/${path}`);
  };
}

/** As Python's fnmatch reads a glob. */
function globPattern(glob: string): RegExp {
  const source = glob.replaceAll(/\*+|\?|\[(!?)(\]?[^\]]*)\]|[^]/g, (sign, not, members) => {
    if (sign.startsWith("*")) return ".*";
    if (sign === "?") return ".";
    if (typeof members !== "string") return sign.replace(/[\\^$.*+?()[\]{}|/-]/, "\\$&");
    return `[${not === "" ? "" : "^"}${members.replaceAll(/[\\\]^[]/g, "\\$&")}]`;
  });
  return new RegExp(`^${source}$`, "s");
}
