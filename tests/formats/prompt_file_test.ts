import { deepEqual, equal, match } from "node:assert/strict";
import {
  decodePromptFile,
  isPromptTable,
  parsePromptFile,
  parsePromptLines,
} from "../../lib/formats/prompt_file.ts";
import type { Recipe } from "../../lib/formats/recipe.ts";

/** The recipes of a text that has no bad line. */
function recipes(text: string): Recipe[] {
  const { items, bad } = parsePromptFile(text);
  deepEqual(bad, []);
  return items.map(({ recipe }) => recipe);
}

Deno.test("parsePromptFile reads one prompt a line, and knows comments, blank lines, a mark and CRLF", () => {
  const text = "\uFEFF# foxes\r\n\r\na red fox, snow\r\n  a (grey:1.2) fox [at night]  \r\n#end";
  deepEqual(parsePromptFile(text), {
    items: [
      { line: 3, recipe: { prompt: "a red fox, snow" } },
      { line: 4, recipe: { prompt: "a (grey:1.2) fox [at night]" } },
    ],
    bad: [],
  });
  deepEqual(parsePromptFile(""), { items: [], bad: [] });
});

Deno.test("parsePromptFile takes for prompts what only looks like another form", () => {
  const prompts = [
    "{red|grey} fox",
    "[a fox:a dog:0.5]",
    "[{red|grey} fox:a dog:0.5]",
    '"a fox"',
    '"Fox" - an etching',
    "a fox -- in snow",
    "a fox, prompt, steps",
    "state-of-the-art, 8k",
  ];
  deepEqual(recipes(prompts.join("\n")).map(({ prompt }) => prompt), prompts);
});

Deno.test("parsePromptFile reads AUTOMATIC1111's prompts from file", () => {
  const text = `--prompt "a red fox" --steps 20 --cfg_scale 5.5 --seed -1 --sampler_name "DPM++ 2M"
--prompt a grey fox --negative_prompt blurry, bad --width 512 --height 768 --batch_size 2 --n_iter 3
--seed 4 --prompt --tiling false --restore_faces False --outpath_samples foxes --prompt_for_display x`;
  deepEqual(recipes(text), [
    { prompt: "a red fox", steps: 20, cfgScale: 5.5, seed: -1, sampler: "DPM++ 2M" },
    {
      prompt: "a grey fox",
      negativePrompt: "blurry, bad",
      width: 512,
      height: 768,
      batchCount: 6,
    },
    { prompt: "", seed: 4 },
  ]);
  equal(parsePromptFile(text).items[2].output, "foxes");
});

Deno.test("parsePromptFile reads kohya's prompts, with several seeds as several requests", () => {
  const text = `a fox --n low quality, worst -- quality --w 512 --h 768 --d 1 --l 7.5 --s 28
a fox in the snow --d 3,4 --ss euler_a --steps 9`;
  deepEqual(recipes(text), [
    {
      prompt: "a fox",
      negativePrompt: "low quality, worst -- quality",
      width: 512,
      height: 768,
      seed: 1,
      cfgScale: 7.5,
      steps: 28,
    },
    { prompt: "a fox in the snow", seed: 3, sampler: "euler_a", steps: 9 },
    { prompt: "a fox in the snow", seed: 4, sampler: "euler_a", steps: 9 },
  ]);
  deepEqual(parsePromptFile(text).items.map(({ line }) => line), [1, 2, 2]);
});

Deno.test("parsePromptFile reads InvokeAI's dream commands", () => {
  const text = `"a fox, \\"red\\" [blurry] [dark]" -n4 -H512 -W 640 -S1234 -s50 -C7.5 -A k_lms -g
"a fox" --steps=20 --cfg_scale 6`;
  deepEqual(recipes(text), [
    {
      prompt: 'a fox, "red"',
      negativePrompt: "blurry dark",
      batchCount: 4,
      height: 512,
      width: 640,
      seed: 1234,
      steps: 50,
      cfgScale: 7.5,
      sampler: "k_lms",
    },
    { prompt: "a fox", steps: 20, cfgScale: 6 },
  ]);
});

Deno.test("parsePromptFile reads JSON lines with the names of A1111's API, sd.cpp's and ours", () => {
  const lines = [
    {
      prompt: "a fox",
      negative_prompt: "",
      steps: 20,
      cfg_scale: 7,
      width: 512,
      height: 512,
      seed: 3,
      sampler_name: "Euler a",
      scheduler: "Karras",
      batch_size: 2,
      n_iter: 2,
      restore_faces: false,
      enable_hr: false,
      styles: [],
      subseed: -1,
      override_settings: { CLIP_stop_at_last_layers: 2 },
    },
    {
      prompt: "a fox",
      batch_count: 2,
      sample_params: {
        sample_method: "euler",
        sample_steps: 8,
        scheduler: "simple",
        guidance: { txt_cfg: 3 },
      },
    },
    {
      prompt: "狐",
      cfgScale: 4,
      clipSkip: 2,
      rng: "NV",
      weighting: "comfy",
      match: "a1111",
      output: "fox.png",
      "cfg-scale": 5,
      eta: null,
    },
  ];
  const text = lines.map((line) => JSON.stringify(line)).join("\n");
  deepEqual(recipes(text), [
    {
      prompt: "a fox",
      negativePrompt: "",
      steps: 20,
      cfgScale: 7,
      width: 512,
      height: 512,
      seed: 3,
      sampler: "Euler a",
      schedule: "Karras",
      batchCount: 4,
      clipSkip: 2,
    },
    { prompt: "a fox", batchCount: 2, sampler: "euler", steps: 8, schedule: "simple", cfgScale: 3 },
    { prompt: "狐", cfgScale: 5, clipSkip: 2, rng: "cuda", weighting: "comfy", match: "a1111" },
  ]);
  equal(parsePromptFile(text).items[2].output, "fox.png");
});

Deno.test("parsePromptFile reads a table with a header", () => {
  const text = `# my foxes
Prompt, Steps ,cfg_scale,#remark
"a fox, red",20,,first
# not this one
"a ""grey""
fox",,6.5,second
`;
  deepEqual(parsePromptFile(text), {
    items: [
      { line: 3, recipe: { prompt: "a fox, red", steps: 20 } },
      { line: 5, recipe: { prompt: 'a "grey"\nfox', cfgScale: 6.5 } },
    ],
    bad: [],
  });
  deepEqual(recipes("prompt\tseed\na fox, red\t3"), [{ prompt: "a fox, red", seed: 3 }]);
});

Deno.test("parsePromptFile reads classes and boxes in every form, with a prompt or without", () => {
  const fox = { label: "fox", left: 0.1, top: 0.2, right: 0.5, bottom: 0.9 };
  const cat = { label: "cat", left: 0, top: 0, right: 1, bottom: 1 };
  const boxes = [fox, cat];
  const text =
    `{"label": "fox", "boxes": ["fox@0.1,0.2,0.5,0.9", {"label": "cat", "box": [0, 0, 1, 1]}]}
{"prompt": "", "class": 7}
a fox --class fox --box fox@0.1,0.2,0.5,0.9 --box cat@0,0,1,1 --s 3
--class red fox --boxes "fox@0.1,0.2,0.5,0.9; cat@0,0,1,1"
"a fox" --class=fox --box fox@0.1,0.2,0.5,0.9`;
  deepEqual(recipes(text), [
    { label: "fox", boxes },
    { prompt: "", label: "7" },
    { prompt: "a fox", label: "fox", boxes, steps: 3 },
    { label: "red fox", boxes },
    { prompt: "a fox", label: "fox", boxes: [fox] },
  ]);
  const table = `class,boxes,seed
fox,"fox@0.1,0.2,0.5,0.9; cat@0,0,1,1",3
,"[""cat@0,0,1,1""]",
`;
  deepEqual(recipes(table), [{ label: "fox", boxes, seed: 3 }, { boxes: [cat] }]);
  // words that are no names of settings are prompts
  deepEqual(recipes("class, dog\nboxes, and more"), [
    { prompt: "class, dog" },
    { prompt: "boxes, and more" },
  ]);
});

Deno.test("parsePromptFile reads pictures that are to be changed, in every form", () => {
  const recipes = (text: string) => parsePromptFile(text).items.map(({ recipe }) => recipe);
  const changed = { image: "a.png", strength: 0.5 };
  deepEqual(
    recipes(
      '{"prompt": "a", "init_images": ["a.png"], "mask": "m.png", "denoising_strength": 0.5, "mask_blur": 4}\n' +
        '"a fox" -Ia.png -f0.5\na fox --image_path a.png --t 0.5\n{"init_image": "a.png"}',
    ),
    [
      { prompt: "a", ...changed, mask: "m.png", maskBlur: 4 },
      { prompt: "a fox", ...changed },
      { prompt: "a fox", ...changed },
      { image: "a.png" },
    ],
  );
  deepEqual(recipes("image,strength,prompt\na.png,0.5,a\n,,b"), [
    { ...changed, prompt: "a" },
    { prompt: "b" },
  ]);
});

Deno.test("parsePromptLines reads the middle of a file, isPromptTable its beginning", () => {
  deepEqual(parsePromptLines("prompt,seed\n--steps 2\nlast", 8), {
    items: [
      { line: 8, recipe: { prompt: "prompt,seed" } },
      { line: 10, recipe: { prompt: "last" } },
    ],
    bad: [{ line: 9, message: "it has no prompt" }],
  });
  equal(isPromptTable("# foxes\n\nprompt,seed\na fox,3"), true);
  equal(isPromptTable("# foxes\n\na fox\nprompt,seed"), false);
  equal(isPromptTable("# foxes\n\n"), undefined);
});

/** Lines that cannot be followed, and what is said of them. */
const BAD: readonly (readonly [line: string, said: RegExp])[] = [
  ['{"prompt": "a fox"', /JSON cannot be read/],
  ['{"steps": 3}', /it has no prompt/],
  ['{"prompt": 7}', /sets prompt to 7, and a text was needed/],
  ['{"prompt": "a", "steps": 2.5}', /sets steps to 2\.5, and a whole number of at least 1/],
  ['{"prompt": "a", "enable_hr": true}', /sets "enable_hr", which there is not/],
  ['{"prompt": "a", "override_settings": {"sd_model_checkpoint": "x"}}', /sd_model_checkpoint/],
  ['{"prompt": "a", "match": "invoke"}', /"invoke", and one of diffusers, a1111, comfyui, sdcpp/],
  ['{"prompt": "a", "seed": 4294967296}', /from -1 to 4294967295/],
  ["[", /JSON document of several lines/],
  ['[{"prompt": "a"}]', /JSON document of several lines/],
  ["--prompt a cat's hat --steps 3", /quote is not closed/],
  ["--steps 20", /it has no prompt/],
  ["--prompt a --steps many", /sets steps to "many"/],
  ["--prompt a --restore_faces true", /"restore_faces"/],
  ["--prompt a --restore_faces", /"restore_faces"/],
  ["a fox --w wide", /sets w to "wide"/],
  ["a fox --ar 16:9", /sets "ar", which there is not/],
  ["a fox --d 1,x", /sets d to "x"/],
  ['"a fox" -s0', /sets s to "0"/],
  ['"a fox" -U2', /sets "U"/],
  ['{"prompt": "a", "init_images": ["a.png", "b.png"]}', /and the path of one picture was needed/],
  ['{"prompt": "a", "init_images": ["data:image/png;base64,"]}', /the path of one picture was/],
  ["a fox --t 2", /sets t to "2", and a number from 0 to 1/],
  ['"a fox" -s20 30', /"30" is no option/],
  ["a \0 fox", /not text/],
  ["a \uFFFD fox", /not text/],
];

Deno.test("parsePromptFile tells every bad line with its number and goes on with the others", () => {
  const text = BAD.map(([line]) => `a fox\n${line}`).join("\n");
  const { items, bad } = parsePromptFile(text);
  deepEqual(items.map(({ line }) => line), BAD.map((_, i) => 2 * i + 1));
  deepEqual(bad.map(({ line }) => line), BAD.map((_, i) => 2 * i + 2));
  for (const [i, [line, said]] of BAD.entries()) match(bad[i].message, said, line);
});

Deno.test("parsePromptFile tells bad rows of a table", () => {
  const text = 'prompt,steps\na,1\nb\n"c,2\nd,many\ne,5\n,3';
  const { items, bad } = parsePromptFile(text);
  deepEqual(items.map(({ recipe }) => recipe.prompt), ["a", "e"]);
  deepEqual(bad.map(({ line }) => line), [3, 4, 5, 7]);
  match(bad[0].message, /it has 1 cell, and the header 2/);
  const { items: none, bad: all } = parsePromptFile("prompt,stepz\na,1\nb,");
  deepEqual([none.length, all.length], [1, 1]);
  match(all[0].message, /"stepz"/);
});

Deno.test("decodePromptFile reads UTF-8 and, by its mark, UTF-16", () => {
  const text = "é 狐";
  const units = [0xfeff, ...Array.from(text, (c) => c.charCodeAt(0))];
  const little = Uint8Array.from(units.flatMap((u) => [u & 255, u >> 8]));
  const big = Uint8Array.from(units.flatMap((u) => [u >> 8, u & 255]));
  for (const bytes of [new TextEncoder().encode(text), little, big]) {
    equal(decodePromptFile(bytes), text);
  }
  equal(decodePromptFile(Uint8Array.of(0x61, 0xff)), "a\uFFFD");
});
