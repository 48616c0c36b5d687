import { deepEqual, equal, match, ok, throws } from "node:assert/strict";
import { parseSettings, type Schema, type Source } from "../../lib/formats/settings.ts";
import {
  autoencoderConfig,
  diffusionConfig,
  loraConfig,
  printConfig,
  settingOf,
} from "../../lib/train/config.ts";
import { type Kind, KINDS, SCHEMAS } from "../../lib/train/schema.ts";

const NEEDED: Readonly<Record<Kind, string>> = {
  autoencoder: `run.folder = "out"\ndata.path = "in"\n`,
  diffusion: `run.folder = "out"\ndata.path = "in"\ndiffusion.first_stage = "vae"\n`,
  lora: `run.folder = "out"\ndata.path = "in"\nlora.model = "sd1"\n`,
};
const given = (kind: Kind, ...words: string[]): Source[] => [
  parseSettings(NEEDED[kind], `"a.toml"`),
  ...words.map((word) => settingOf(kind, word)),
];
const ALL: readonly Schema[] = KINDS.map((kind) => SCHEMAS[kind]);
const READERS = {
  autoencoder: autoencoderConfig,
  diffusion: diffusionConfig,
  lora: loraConfig,
} as const;

Deno.test("a config of each kind needs few words, prints whole, and reads back the same", () => {
  const read = (text: string) => [parseSettings(text, "x")];
  const autoencoder = autoencoderConfig(given("autoencoder", "f=4"));
  const ofAutoencoder = printConfig("autoencoder", autoencoder);
  deepEqual(autoencoderConfig(read(ofAutoencoder)), autoencoder);
  const diffusion = diffusionConfig(given("diffusion", "prediction=sample"));
  const ofDiffusion = printConfig("diffusion", diffusion);
  deepEqual(diffusionConfig(read(ofDiffusion)), diffusion);
  const lora = loraConfig(given("lora", "rank=8"));
  const ofLora = printConfig("lora", lora);
  deepEqual(loraConfig(read(ofLora)), lora);
  deepEqual([autoencoder.autoencoder.f, diffusion.diffusion.prediction, lora.lora.rank], [
    4,
    "sample",
    8,
  ]);
  match(ofLora, /^kind = "lora"\n\n\[run\]\nfolder = "out" # where .*\n/);
});

Deno.test("every setting says what it is for, in a line", () => {
  for (const schema of ALL) {
    for (const [section, fields] of Object.entries(schema)) {
      for (const [key, { about }] of Object.entries(fields)) {
        ok(about.length > 5 && !/[\n#]/.test(about), `${section}.${key}: ${about}`);
        ok(/^[a-z_]+$/.test(key));
      }
    }
  }
});

Deno.test("every default is acceptable where it is not to be given", () => {
  for (const schema of ALL) {
    for (const [section, fields] of Object.entries(schema)) {
      for (const [key, field] of Object.entries(fields)) {
        if (!field.isRequired) {
          deepEqual(field.read(field.fallback), field.fallback, `${section}.${key}`);
        }
      }
    }
  }
});

Deno.test("a file of another kind, and a section of one, are refused by name", () => {
  const file = (text: string) => [parseSettings(NEEDED.autoencoder + text, `"a.toml"`)];
  equal(autoencoderConfig(file(`kind = "autoencoder"\n`)).run.folder, "out");
  throws(
    () => autoencoderConfig(file(`kind = "lora"\n`)),
    /^FormatError: Cannot use "a\.toml": its kind is "lora", and autoencoder is to be trained$/,
  );
  throws(
    () => autoencoderConfig(file(`[unet]\nwidth = 3\n`)),
    /: its section \[unet\] is for training diffusion, and autoencoder is to be trained$/,
  );
});

Deno.test("settings that do not go together are refused", () => {
  const cases: [Kind, string[], RegExp][] = [
    [
      "autoencoder",
      ["data.size=100"],
      /: data\.size, which is 100, is no multiple of autoencoder\.f, which is 8$/,
    ],
    [
      "autoencoder",
      ["f=4", "multipliers=1,2"],
      /: autoencoder\.multipliers has 2 levels, and f = 4 needs 3$/,
    ],
    [
      "autoencoder",
      ["autoencoder.width=100"],
      /: autoencoder\.width, which is 100, is no multiple of autoencoder\.groups, which is 32$/,
    ],
    [
      "autoencoder",
      ["data.size=16"],
      /: data\.size is 16, and a discriminator of 3 layers sees nothing of less than 24 pixels; /,
    ],
    ["diffusion", ["unet.multipliers=[]"], /: unet\.multipliers has no level$/],
    [
      "diffusion",
      ["unet.attention=1,4"],
      /: unet\.attention names level 4, and the levels are 0 to 3$/,
    ],
    [
      "diffusion",
      ["unet.width=96", "unet.heads=10"],
      /: the width 96 of level 0 is no multiple of unet\.heads, which is 10$/,
    ],
    [
      "diffusion",
      ["text.width=30"],
      /: text\.width, which is 30, is no multiple of text\.heads, which is 8$/,
    ],
    [
      "diffusion",
      ["conditioner=clip"],
      /: diffusion\.conditioner names clip, and clip\.path is missing$/,
    ],
    [
      "diffusion",
      ["conditioner=text,clip", "clip.path=x"],
      /names both text and clip, which read the same texts; take one of them$/,
    ],
    [
      "diffusion",
      ["beta_start=0.5"],
      /: diffusion\.beta_start is 0\.5, above beta_end, which is 0\.012$/,
    ],
    ["lora", ["targets=[]"], /: lora\.targets names no layer$/],
  ];
  for (const [kind, words, message] of cases) {
    throws(() => READERS[kind](given(kind, ...words)), (error: Error) => {
      equal(error.name, "FormatError");
      match(error.message, message);
      match(error.message, /^Cannot use "a\.toml": /);
      return true;
    });
  }
  deepEqual(diffusionConfig(given("diffusion", "conditioner=boxes")).diffusion.conditioner, [
    "boxes",
  ]);
  equal(diffusionConfig(given("diffusion", "conditioner=[]", "text.width=30")).text.width, 30);
});
