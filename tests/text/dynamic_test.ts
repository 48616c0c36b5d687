import assert from "node:assert/strict";
import { UsageError } from "../../lib/base/errors.ts";
import { drawsOf, resolveDynamic, wildcardsOf } from "../../lib/text/dynamic.ts";

const WILDCARDS = wildcardsOf(
  new Map([
    ["colours", "# cold and warm\nred\nblue\n\n  green  \r\nred\n"],
    ["clothes/hat", "bowler hat"],
    ["clothes/old/shoe", "clog"],
    ["person", "{a|a} man in a __hat__"],
    ["season", "In ${season:summer} I wear ${item}"],
    ["loop", "a __loop__"],
    ["odd(name)", "never"],
  ]),
);

const resolve = (text: string, seed = 1) => resolveDynamic(text, drawsOf(seed), WILDCARDS);

/** All that a prompt becomes for some seeds. */
function outcomes(text: string): string[] {
  const draw = drawsOf(7);
  const all = Array.from({ length: 300 }, () => resolveDynamic(text, draw, WILDCARDS));
  return [...new Set(all)].sort();
}

/** Prompt → what it becomes whatever is drawn, as dynamicprompts 0.31 has it unless a note says otherwise. */
const CERTAIN: Readonly<Record<string, string>> = {
  "": "",
  "a fox": "a fox",
  "{ a }": "a ",
  "x{ a | a }y": "xa y",
  "x{2$$a|a}y": "xa,ay",
  "x{2$$ and $$a|a}": "xa and a",
  "{2$$ | $$a|a}": "a | a",
  "{3$$a|a}": "a,a",
  "{1-2$$a}": "a",
  "{0$$a|b}": "",
  "{2$$|a}": "a",
  "{5$$ $$a|a|a}": "a a a",
  "{2$$x$$a|a|a}": "axa",
  "{2$$ $$ a | a }": "a  a",
  "{}": "",
  "x{|}y": "xy",
  "{a}b}": "ab}",
  "a}|b": "a}|b",
  "{~a|a}{@b|b}{!c|c}": "abc",
  "{0.5::a|.5::a}": "a",
  "{1::a::b}": "a::b",
  "{-1::a}": "-1::a",
  "{ 2 :: a}": "2 :: a",
  "{0::a|1::b}": "b",
  "{{a|a}|{a}}": "a",
  "${x=a}${x}": "a",
  "${x = a }<${ x }>": "<a >",
  "${x=!{a}} <${x}>": " <a>",
  "${x} ${x=b}": "b ",
  "${x:d} ${x : d}": "d d",
  "${x=a}${x?=b}${y?=c}${x}${y}": "ac",
  "${a=!x}${b=!${a}}${b}": "x", // there, an error: variables do not see those before them
  "__hat__": "bowler hat",
  "__clothes/hat__, __clothes\\hat__": "bowler hat, bowler hat",
  "__clothes/old/*__ __shoe__": "clog clog",
  "__clothes/h?t__ __clothes/[h]at__ __clothes/[!s]at__": "bowler hat bowler hat bowler hat",
  "__nope__ __CLOTHES/HAT__ __../hat__": "__nope__ __CLOTHES/HAT__ __../hat__",
  "__person__": "a man in a bowler hat",
  "${item=clogs}__season__": "In summer I wear clogs",
  "__season(season=hot days, item = a __hat__)__": "In hot days I wear a bowler hat",
  "${k=hat}__clothes/${k}__ __clothes/${z}__": "bowler hat __clothes/z__",
  "{2$$__hat__}": "bowler hat",
  "{2$$__hat__|__hat__}": "bowler hat,bowler hat",
  "__hat": "__hat",
  "____ __ _": "____ __ _",
  "@__@ ^__^ __~nope(a=b)__": "@__@ ^__^ __~nope(a=b)__", // there, what is not known loses signs
  "%{a ... b$$c}": "a c b",
  "%{a b$$c}": "a bc",
};

Deno.test("resolveDynamic gives what dynamicprompts gives where nothing is left to chance", () => {
  for (const [prompt, expected] of Object.entries(CERTAIN)) {
    assert.equal(resolve(prompt), expected, JSON.stringify(prompt));
  }
});

Deno.test("resolveDynamic leaves what is no choice", () => {
  const texts = [
    "{a",
    "a}",
    "{a {b",
    "50% off",
    "$5",
    "#1",
    "a # b // c",
    "a | b",
    "$$",
    "{{{",
    "_",
  ];
  for (const text of [...texts, "\\(a\\)", "a\\\\b", "[a|b]", "(a:1.2)", "\n", "__a\nb__", "\\"]) {
    assert.equal(resolve(text), text);
  }
  assert.equal(resolve("\\{a|b\\} \\__hat__ {a\\|b}"), "{a|b} __hat__ a\\|b");
  assert.equal(resolve("{a\\}"), "{a}");
  assert.equal(resolve("${5} %{a}"), "$5 %a");
  assert.equal(resolve("{2 $$a}"), "2 $$a");
});

Deno.test("resolveDynamic draws every choice, several without repetition, in any order", () => {
  assert.deepEqual(outcomes("{a|b|c}"), ["a", "b", "c"]);
  assert.deepEqual(outcomes("{2$$a|b|c}"), ["a,b", "a,c", "b,a", "b,c", "c,a", "c,b"]);
  assert.deepEqual(outcomes("{1-2$$ & $$a|b}"), ["a", "a & b", "b", "b & a"]);
  assert.deepEqual(outcomes("{-2$$a|b}"), ["a", "a,b", "b", "b,a"]);
  assert.deepEqual(outcomes("{2-$$a|b|c}").filter((text) => text.length < 5).length, 6);
  assert.deepEqual(outcomes("{2-1$$a|a}"), ["a", "a,a"]);
  assert.deepEqual(outcomes("__colours__"), ["blue", "green", "red"]);
  assert.deepEqual(outcomes("__c*o*__"), ["blue", "bowler hat", "clog", "green", "red"]);
  assert.equal(outcomes("{2$$__colours__}").length, 6);
  assert.equal(outcomes("{0::a|0::b}").length, 2);
});

Deno.test("resolveDynamic draws by weight", () => {
  const draw = drawsOf(3);
  const texts = Array.from({ length: 4000 }, () => resolveDynamic("{3::a|b}", draw, WILDCARDS));
  const share = texts.filter((text) => text === "a").length / texts.length;
  assert.ok(Math.abs(share - 0.75) < 0.03, `${share}`); // four standard deviations
});

Deno.test("resolveDynamic draws a variable once with !, else at each use", () => {
  assert.deepEqual(outcomes("${x=!{a|b}}${x}${x}"), ["aa", "bb"]);
  assert.deepEqual(outcomes("${x={a|b}}${x}${x}"), ["aa", "ab", "ba", "bb"]);
});

Deno.test("drawsOf gives a seed the same prompt each time", () => {
  const text = "{a|b|c|d}{a|b|c|d}{a|b|c|d}{a|b|c|d}";
  assert.equal(resolve(text, 5), resolve(text, 5));
  assert.equal(resolve(text, 5), "dadd"); // torch.rand(1) four times after manual_seed(5), times 4
  assert.notEqual(resolve(text, 5), resolve(text, 6));
});

Deno.test("resolveDynamic refuses a variable without a value and what has no end", () => {
  const refuses = (text: string, message: RegExp) =>
    assert.throws(() => resolve(text), (error) => {
      return error instanceof UsageError && message.test(error.message);
    });
  refuses("${x}", /variable "x" has no value; \$\{x=…\}/);
  refuses("__loop__", /go on without end/);
  refuses("${x=a ${x}}${x}", /go on without end/);
  const doubled = Array.from({ length: 40 }, (_, i) => `\${v${i + 1}=\${v${i}}\${v${i}}}`).join("");
  refuses(`\${v0=a}${doubled}\${v40}`, /go on without end/);
  refuses("{".repeat(5000) + "}".repeat(5000), /go on without end/);
});
