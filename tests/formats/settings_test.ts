import { deepEqual, equal, match, throws } from "node:assert/strict";
import {
  choice,
  flag,
  list,
  number,
  parseSetting,
  parseSettings,
  printSettings,
  readSettings,
  readSettingsFile,
  requiredText,
  type Settings,
  type Source,
  text,
  whole,
} from "../../lib/formats/settings.ts";
import { temporaryFolder } from "../folders.ts";
import { failure } from "./made.ts";

const schema = {
  run: {
    folder: requiredText("where everything is put"),
    steps: whole(10, { least: 1 }, "how many"),
    width: whole(3, { least: 1, most: 9 }, ""),
  },
  model: {
    lr: number(0.1, { above: 0 }, "rate"),
    width: whole(128, {}, "channels"),
    name: text("x", "its name"),
    is_new: flag(true, "whether"),
    f: choice([2, 4, 8], 8, "factor"),
    loss: choice(["l1", "l2"], "l1", "distance"),
    layers: list(whole(0, { least: 0 }, ""), [1, 2], "levels"),
    betas: list(number(0, { least: 0, below: 1 }, ""), [0.9, 0.99], "decay", 2),
    tags: list(text("", ""), [], "words"),
  },
};
const file = (values: Source["values"]): Source => ({ name: `"a.toml"`, isTyped: false, values });
const folder = file({ run: { folder: "f" } });
const set = (word: string) => parseSetting(schema, word);

const DEFAULTS: Settings<typeof schema> = {
  run: { folder: "f", steps: 10, width: 3 },
  model: {
    lr: 0.1,
    width: 128,
    name: "x",
    is_new: true,
    f: 8,
    loss: "l1",
    layers: [1, 2],
    betas: [0.9, 0.99],
    tags: [],
  },
};

Deno.test("readSettings takes what sources say, later before earlier, and else what the table has", () => {
  deepEqual(readSettings(schema, [folder]), DEFAULTS);
  const sources = [
    parseSettings(
      `run.folder = "f" # here\n[model]\nlr = 1\nf = 4\nlayers = 7\ntags = ["a"]\n`,
      "x",
    ),
    set("model.lr=1e-4"),
    set("is_new=False"),
    set("loss=l2"),
    set("f=2"),
    set(`tags=["a b", c,1]`),
    set("betas=0.5,0"),
    set("name=1e4"),
    set("model.width = 64"),
  ];
  deepEqual(readSettings(schema, sources).model, {
    lr: 1e-4,
    width: 64,
    name: "1e4",
    is_new: false,
    f: 2,
    loss: "l2",
    layers: [7],
    betas: [0.5, 0],
    tags: ["a b", "c", "1"],
  });
  deepEqual(readSettings(schema, [folder, set("layers=[]")]).model.layers, []);
  deepEqual(parseSettings(`\uFEFF {"run": {"steps": 3}}`, "x").values, { run: { steps: 3 } });
});

Deno.test("readSettings refuses what is misspelt, of another kind, out of range or missing, and says what was needed", () => {
  const model = (values: Record<string, unknown>) => [folder, file({ model: values })];
  const cases: [Source[], RegExp][] = [
    [
      [folder, file({ modle: { lr: 1 } })],
      /: there is no section \[modle\]; did you mean model\?$/,
    ],
    [model({ Ir: 1 }), /: there is no model\.Ir; did you mean lr\?$/],
    [model({ entirely_other: 1 }), /: there is no model\.entirely_other$/],
    [[folder, file({ lr: 1 })], /: lr stands outside of its section \[model\]$/],
    [[folder, file({ model: 1 })], /: model is no section, and \[model\] was needed$/],
    [[folder, file({ step: 1 })], /: there is no section of step; did you mean steps\?$/],
    [model({ lr: "1" }), /: model\.lr is "1", and a number above 0 was needed$/],
    [model({ lr: 0 }), /: model\.lr is 0, and a number above 0 was needed$/],
    [model({ width: 1.5 }), /: model\.width is 1\.5, and a whole number was needed$/],
    [model({ is_new: "no" }), /: model\.is_new is "no", and true or false was needed$/],
    [model({ f: 3 }), /: model\.f is 3, and one of 2, 4, 8 was needed$/],
    [model({ layers: [1, -1] }), /is \[1,-1\], and a list, each a whole number of at least 0 was/],
    [model({ betas: [0.9, 1] }), /: model\.betas is \[0\.9,1\], and a list of 2, /],
    [model({ betas: [0.9] }), /, and a list of 2, each a number of at least 0 and below 1 was/],
    [
      [folder, file({ run: { width: 10 } })],
      /, and a whole number of at least 1 and at most 9 was/,
    ],
    [[file({})], /: run\.folder is missing \(where everything is put\); add it, or --set run\.fo/],
    [[file({ run: { folder: "" } })], /: run\.folder is missing/],
  ];
  for (const [sources, message] of cases) {
    throws(() => readSettings(schema, sources), (error: Error) => {
      equal(error.name, "FormatError");
      match(error.message, message);
      match(error.message, /^Cannot use "a\.toml": /);
      return true;
    });
  }
});

Deno.test("what was typed is a usage error, and a key alone must be in one section", () => {
  const cases: [string, RegExp][] = [
    ["lr", /^Cannot use --set lr: section\.key=value was needed, such as optimizer\.lr=1e-4$/],
    ["width=3", /: width is in several sections: run\.width, model\.width$/],
    ["model.rl=3", /: there is no model\.rl; did you mean model\.lr\?$/],
    ["stpes=3", /: there is no stpes; did you mean steps\?$/],
    ["lr=", /^Cannot use --set lr=: model\.lr is "", and a number above 0 was needed$/],
    ["lr=fast", /: model\.lr is "fast", and a number above 0 was needed$/],
    ["steps=1.5", /: run\.steps is 1\.5, and a whole number of at least 1 was needed$/],
    ["is_new=yes", /: model\.is_new is "yes", and true or false was needed$/],
  ];
  for (const [word, message] of cases) {
    throws(() => readSettings(schema, [folder, set(word)]), (error: Error) => {
      equal(error.name, "UsageError");
      match(error.message, message);
      return true;
    });
  }
  throws(() => readSettings(schema, []), /^UsageError: Cannot train: run\.folder is missing/);
});

Deno.test("parseSettings says where a text is neither TOML nor JSON", () => {
  throws(() => parseSettings("a = 1\nb = [1,\n", "x"), (error: Error) => {
    match(error.message, /^Cannot read x: it is not TOML \(line \d+: [^\n]*\)$/);
    return true;
  });
  throws(() => parseSettings("{", "x"), /^FormatError: Cannot read x: it is not JSON \(.*\)$/);
});

Deno.test("readSettingsFile names the file", async () => {
  await using at = await temporaryFolder();
  match(
    await failure(readSettingsFile(at.at("no")), "FileError"),
    /^Cannot read the settings ".*no"/,
  );
  await Deno.writeTextFile(at.at("a.json"), `{"run": {"steps": 0, "folder": "f"}}`);
  const source = await readSettingsFile(at.at("a.json"));
  throws(
    () => readSettings(schema, [source]),
    /^FormatError: Cannot use ".*a\.json": run\.steps is 0/,
  );
});

Deno.test("printSettings writes everything with what it is for, and what it writes reads as the same", () => {
  const settings: Settings<typeof schema> = {
    run: { ...DEFAULTS.run, folder: `a "b"\n\\c\u007f` },
    model: { ...DEFAULTS.model, lr: 1e-10, tags: ["a, b", "]", "#"], layers: [] },
  };
  const printed = printSettings(schema, settings);
  deepEqual(readSettings(schema, [parseSettings(printed, "x")]), settings);
  match(printed, /^\[run\]\nfolder = .*\nsteps = 10 # how many\n/);
  match(printed, /\n\n\[model\]\nlr = 1e-10 # rate\n/);
});
