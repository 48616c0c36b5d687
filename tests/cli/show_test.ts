// deno-lint-ignore-file no-control-regex -- control sequences are what is tested
import { deepEqual, equal, match, ok } from "node:assert/strict";
import { join } from "node:path";
import { cellsOf, type Environment, parseAnswer, protocolBy } from "../../lib/cli/graphics.ts";
import { decodePicture } from "../../lib/formats/png.ts";
import { inFolder } from "../folders.ts";
import { FIXTURES, inTerminal, ldm } from "./ldm.ts";

const REQUEST = ["a fox", "-m", `${FIXTURES}/tiny/sd1`, "--steps", "2", "-W", "32", "-H", "48"];
const QUICK = [...REQUEST, "-s", "5"];

const UNKNOWN: Environment = {
  TERM: "xterm-256color",
  TERM_PROGRAM: undefined,
  LC_TERMINAL: undefined,
  KITTY_WINDOW_ID: undefined,
  GHOSTTY_RESOURCES_DIR: undefined,
  TMUX: undefined,
};

Deno.test("protocolBy knows terminals by their signs, through ssh and tmux where these hand some on", () => {
  const by = (signs: Partial<Environment>) => protocolBy({ ...UNKNOWN, ...signs });
  equal(by({ TERM: "xterm-kitty" }), "kitty");
  equal(by({ TERM: "tmux-256color", TMUX: "/tmp/x,1,0", KITTY_WINDOW_ID: "1" }), "kitty");
  equal(by({ TERM: "xterm-ghostty" }), "kitty");
  equal(by({ TERM_PROGRAM: "iTerm.app" }), "iterm2");
  equal(by({ TERM_PROGRAM: "WezTerm" }), "iterm2");
  equal(by({ TERM_PROGRAM: "tmux", LC_TERMINAL: "iTerm2" }), "iterm2");
  equal(by({}), undefined);
  equal(by({ KITTY_WINDOW_ID: "", TERM_PROGRAM: "vscode" }), undefined);
});

Deno.test("parseAnswer finds sixels and a character's size in what terminals answer, whole or in parts", () => {
  const foot = "\x1b[6;21;9t\x1b[?62;4;22;28c";
  deepEqual(parseAnswer(foot), { complete: true, sixel: true, cell: { width: 9, height: 21 } });
  for (let n = 0; n < foot.length; n++) equal(parseAnswer(foot.slice(0, n)).complete, false);
  deepEqual(parseAnswer("typed\x1b[?64;1;2;6;9;14;15;18;21;22c"), {
    complete: true,
    sixel: false,
    cell: undefined,
  });
  equal(parseAnswer("\x1b[?4c").sixel, false); // the first number is the terminal's class
  equal(parseAnswer("\x1b[6;0;0t").cell, undefined);
  deepEqual(cellsOf({ width: 32, height: 48 }, { width: 10, height: 20 }), { columns: 4, rows: 3 });
});

Deno.test("ldm draws a bar with steps, pace and time left in a terminal, as wide as that is", () =>
  inFolder(async (cwd) => {
    const { code, stdout } = await inTerminal([...QUICK, "-b", "2"], { cwd, columns: 50 });
    equal(code, 0, stdout);
    const drawn = stdout.split("\r").map((part) => part.replace(/\x1b\[K|\n/g, ""));
    const bars = drawn.filter((text) => /[█░]/.test(text));
    ok(bars.some((text) => /^sampling [█░]+ 2\/2, [\d.]+ s left/.test(text)), bars.join("\n"));
    ok(bars.every((text) => text.length < 50), "a bar ends before the last column");
    match(stdout, /\x1b\[K0-5\.png\r\n/);
    ok(!/^picture 1 of 2/m.test(stdout), "the plain line is for those who see no bar");
    ok(!/\x1b\[[\d;]*m/.test(stdout), "no colours");

    const dumb = await inTerminal(QUICK, { cwd, env: { TERM: "dumb" } });
    ok(!/█|\x1b\[K/.test(dumb.stdout), dumb.stdout);
    match(dumb.stdout, /^picture, seed 5: 2 steps in [\d.]+ s \([\d.]+ \S+\), [\d.]+ s in all/m);
  }));

Deno.test("ldm --show draws what it saved by the terminal's protocol", () =>
  inFolder(async (cwd) => {
    const kitty = await inTerminal([...QUICK, "--show", "-o", "k.png"], {
      cwd,
      env: { TERM: "xterm-kitty" },
      answer: "\x1b[6;20;10t\x1b[?62c",
    });
    equal(kitty.code, 0, kitty.stdout);
    const chunks = [...kitty.stdout.matchAll(/\x1b_G(?:a=T,f=100,)?q=2,m=\d;([^\x1b]*)\x1b\\/g)];
    const data = chunks.map(([, part]) => part).join("");
    const saved = await decodePicture(await Deno.readFile(join(cwd, "k.png")));
    deepEqual(await decodePicture(Uint8Array.fromBase64(data)), saved);

    // a terminal of 24 rows of one pixel: the picture shrinks to what text leaves
    const answer = "\x1b[6;1;1t\x1b[?63;4c";
    const sixel = await inTerminal([...QUICK, "--show", "-o", "s.png"], { cwd, answer });
    match(sixel.stdout, /\x1bP0;1;0q"1;1;14;21#0;2;/);
  }));

Deno.test("ldm --show says in a sentence why it cannot, and goes on", () =>
  inFolder(async (cwd) => {
    const plain = await ldm([...QUICK, "--show", "-q"], { cwd });
    equal(plain.code, 0);
    equal(plain.stderr, "warning: The pictures cannot be shown: stderr is no terminal\n");
    const unable = await inTerminal([...QUICK, "--show"], { cwd, answer: "\x1b[?1;2c" });
    equal(unable.code, 0);
    match(unable.stdout, /cannot be shown: this terminal tells of no graphics; [^\n]*LDM_GRAPHICS/);
    const typo = await inTerminal([...QUICK, "--show"], { cwd, env: { LDM_GRAPHICS: "sixels" } });
    equal(typo.code, 2);
    match(typo.stdout, /LDM_GRAPHICS "sixels": one of kitty, iterm2, sixel, none was needed/);
  }));
