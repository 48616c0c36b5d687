// deno-lint-ignore-file no-control-regex -- control sequences are what is tested
import { deepEqual, equal, match, ok } from "node:assert/strict";
import { join } from "node:path";
import { cellsOf, type Environment, parseAnswer, protocolBy } from "../../lib/cli/graphics.ts";
import { decodePicture } from "../../lib/formats/png.ts";
import { shrink } from "../../lib/formats/resize.ts";
import { inFolder } from "../folders.ts";
import { decodeKitty, decodeSixel } from "../formats/terminals.ts";
import { psnr } from "../pictures.ts";
import { FIXTURES, HAS_TERMINAL, inTerminal, ldm } from "./ldm.ts";

const REQUEST = ["a fox", "-m", `${FIXTURES}/tiny/sd1`, "--steps", "2", "-W", "32", "-H", "48"];
const QUICK = [...REQUEST, "-s", "5"];

/** A test that needs a terminal to run in. */
const terminalTest = (name: string, fn: () => Promise<void>) =>
  Deno.test({ name, ignore: !HAS_TERMINAL, fn });

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

terminalTest(
  "ldm draws a bar with steps, pace and time left in a terminal, as wide as that is",
  () =>
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
      const json = await inTerminal([...QUICK, "--json"], { cwd });
      ok(!/█|\x1b\[K/.test(json.stdout), "no bar among the lines for a machine");
      match(json.stdout, /^\{"event":"plan"/m);
      match(dumb.stdout, /^picture, seed 5: 2 steps in [\d.]+ s \([\d.]+ \S+\), [\d.]+ s in all/m);
    }),
);

/** All sequences of a pattern in what a terminal was sent. */
const found = (text: string, pattern: RegExp) => [...text.matchAll(pattern)].map(([all]) => all);
const KITTY = /\x1b_G[^\x1b]*\x1b\\/g;

terminalTest(
  "ldm --show draws what it saved by the terminal's protocol",
  () =>
    inFolder(async (cwd) => {
      const drawn = async (env: Readonly<Record<string, string>>, answer: string) => {
        const request = [...QUICK, "--show", "--overwrite", "-o", "x.png"];
        const { code, stdout } = await inTerminal(request, { cwd, env, answer });
        equal(code, 0, stdout);
        return stdout;
      };
      const cells = "\x1b[6;20;10t\x1b[?62c"; // 10×20 pixels a character, no sixels
      const kitty = await drawn({ TERM: "xterm-kitty" }, cells);
      const saved = await decodePicture(await Deno.readFile(join(cwd, "x.png")));
      deepEqual(await decodePicture(decodeKitty(found(kitty, KITTY)).file), saved);

      const tmux = await drawn(
        { TERM: "tmux-256color", TMUX: "/tmp/x,1,0", KITTY_WINDOW_ID: "1" },
        cells,
      );
      const wrapped = [...tmux.matchAll(/\x1bPtmux;((?:\x1b\x1b|[^\x1b])*)\x1b\\/g)];
      const inside = wrapped.map(([, text]) => text.replaceAll("\x1b\x1b", "\x1b"));
      const { keys, file } = decodeKitty(inside);
      deepEqual([keys.get("U"), keys.get("c"), keys.get("r")], ["1", "4", "3"]);
      deepEqual(await decodePicture(file), saved);
      equal(tmux.match(/\u{10eeee}/gu)?.length, 4 * 3, "a character stands for each cell");

      const iterm2 = await drawn({ TERM_PROGRAM: "iTerm.app" }, cells);
      const [, data] = /\x1b\]1337;File=inline=1;[^:\x07]*:([^\x07]*)\x07/.exec(iterm2) ?? [];
      deepEqual(await decodePicture(Uint8Array.fromBase64(data)), saved);

      // a terminal of 24 rows of one pixel: the picture shrinks to what text leaves
      const small = await drawn({}, "\x1b[6;1;1t\x1b[?63;4c");
      const [sequence] = found(small, /\x1bP[^\x1b]*\x1b\\/g);
      const { width, height, data: pixels } = decodeSixel(sequence);
      deepEqual([width, height], [14, 21]);
      const expected = shrink(saved, width, height).data;
      ok(psnr(pixels, expected) > 25, `${psnr(pixels, expected)} dB`);
    }),
);

terminalTest(
  "ldm --show says in a sentence why it cannot, and goes on",
  () =>
    inFolder(async (cwd) => {
      const plain = await ldm([...QUICK, "--show", "-q"], { cwd });
      equal(plain.code, 0);
      equal(plain.stderr, "warning: The pictures cannot be shown: stderr is no terminal\n");
      const unable = await inTerminal([...QUICK, "--show"], { cwd, answer: "\x1b[?1;2c" });
      equal(unable.code, 0);
      match(
        unable.stdout,
        /cannot be shown: this terminal tells of no graphics; [^\n]*LDM_GRAPHICS/,
      );
      const typo = await inTerminal([...QUICK, "--show"], { cwd, env: { LDM_GRAPHICS: "sixels" } });
      equal(typo.code, 2);
      match(typo.stdout, /LDM_GRAPHICS "sixels": one of kitty, iterm2, sixel, none was needed/);
    }),
);
